from __future__ import annotations

import random
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import pytest
import torch

from detection.evaluation import image_precisions

pytest.importorskip("pycocotools", reason="it comes with Detectron2 (make detectron2)")
from pycocotools.coco import COCO  # noqa: E402
from pycocotools.cocoeval import COCOeval  # noqa: E402


def evaluated(
    boxes: list[dict[str, Any]], predictions: list[dict[str, Any]], images: int
) -> COCOeval:
    """COCO's evaluation of images 1, 2, ... of 100 pixels a side with three classes."""
    truth = COCO()
    truth.dataset = {
        "images": [{"id": n, "width": 100, "height": 100} for n in range(1, images + 1)],
        "categories": [{"id": n, "name": str(n)} for n in (1, 2, 3)],
        "annotations": [
            {"id": n, "iscrowd": 0, "area": box["bbox"][2] * box["bbox"][3], **box}
            for n, box in enumerate(boxes, 1)
        ],
    }
    truth.createIndex()
    found = COCOeval(truth, truth.loadRes(predictions), "bbox")
    found.evaluate()
    found.accumulate()
    found.summarize()
    return found


def box(image: int, kind: int, bbox: list[float], **more: Any) -> dict[str, Any]:
    return {"image_id": image, "category_id": kind, "bbox": bbox, **more}


def test_an_image_has_the_mean_over_its_classes_by_hand() -> None:
    square, beside = [0.0, 0.0, 50.0, 50.0], [50.0, 50.0, 50.0, 50.0]
    boxes = [
        box(1, 1, square),
        box(2, 1, square), box(2, 2, beside),
        box(3, 1, square),
        box(5, 3, square, iscrowd=1),
    ]  # fmt: skip
    predictions = [
        box(1, 1, square, score=0.1),  # right, though a wrong one elsewhere is surer
        box(1, 2, beside, score=0.9),  # of a class that the image has not
        box(2, 1, square, score=0.9),
        box(3, 1, beside, score=0.9), box(3, 1, square, score=0.8),  # the second is right
        box(4, 1, square, score=0.9),  # no objects there
    ]  # fmt: skip
    with redirect_stdout(StringIO()):
        found = evaluated(boxes, predictions, 5)
    pooled = found.stats[0]
    values = image_precisions(found)
    assert values.tolist() == pytest.approx([1.0, 0.5, 0.5], abs=1e-12)
    assert pooled == found.stats[0] and abs(pooled - values.mean()) > 0.1


def test_images_get_what_cocos_own_evaluation_gives_each_alone() -> None:
    draw = random.Random(0)
    boxes, predictions = [], []
    for image in range(1, 31):
        for _ in range(draw.randint(0, 5)):
            kind, place = draw.choice((1, 2, 3)), [*(draw.uniform(0, 60) for _ in "xy"), 30.0, 20.0]
            boxes.append(box(image, kind, place, iscrowd=int(draw.random() < 0.1)))
            for _ in range(draw.randint(0, 3)):
                moved = [each + draw.gauss(0, 2) for each in place]
                predictions.append(box(image, kind, moved, score=draw.random()))
    with redirect_stdout(StringIO()):
        found = evaluated(boxes, predictions, 30)
        values, alone = image_precisions(found), []
        for image in found.params.imgIds:
            one = COCOeval(found.cocoGt, found.cocoDt, "bbox")
            one.params.imgIds = [image]
            one.evaluate()
            one.accumulate()
            one.summarize()
            alone += [one.stats[0]] if one.stats[0] >= 0 else []
        found.accumulate()
        before = found.stats[0]
        found.summarize()
    assert 20 < len(values) < 30 and 0.2 < values.mean() < 0.8
    assert values.equal(torch.tensor(alone, dtype=torch.float64))
    assert found.stats[0] == before
