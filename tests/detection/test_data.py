from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detection.config import Config
from detection.data import Split, open_data, open_split
from detection.pictures import draw_boxes, draw_run
from detection.toy import CLASSES, shape_mask, toy_image, write_toy


def open_train(toy: Path, **options: Any) -> Split:
    options = {"bad_boxes": "clip"} | options
    boxes = toy / "annotations" / "instances_train2017.json"
    return open_split(boxes, toy / "train2017", toy / "copy.json", **options)


def read(toy: Path) -> dict[str, Any]:
    return json.loads((toy / "annotations" / "instances_train2017.json").read_text())


def changed(toy: Path, change: Any) -> None:
    content = read(toy)
    change(content)
    (toy / "annotations" / "instances_train2017.json").write_text(json.dumps(content))


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("side", [16, 17])
def test_a_shape_touches_all_edges_of_its_box(kind: str, side: int) -> None:
    mask = shape_mask(kind, side)
    assert all(edge.any() for edge in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))


@pytest.mark.parametrize("seed", range(5))
def test_toy_boxes_are_where_the_bright_pixels_are(seed: int) -> None:
    image, shapes = toy_image((64, 80), torch.Generator().manual_seed(seed))
    bright = image.amax(2) == 255
    inside = torch.zeros_like(bright)
    for kind, left, top, side in shapes:
        box = (slice(top, top + side), slice(left, left + side))
        assert torch.equal(bright[box], shape_mask(CLASSES[kind], side))
        assert (image[box][bright[box]].argmax(1) == kind).all()
        inside[box] = True
    assert not bright[~inside].any()


def test_a_toy_set_follows_from_its_seed(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_toy(tmp_path / name, train=2, test=1, seed=seed)
    texts = {n: (tmp_path / n / "annotations/instances_train2017.json").read_text() for n in "abc"}
    assert texts["a"] == texts["b"] != texts["c"]
    with pytest.raises(ValueError, match="48 pixels"):
        write_toy(tmp_path / "d", size=(20, 64))


def test_what_detectron2_reads_is_a_copy_without_what_it_would_stumble_over(toy: Path) -> None:
    def outlines(content: dict[str, Any]) -> None:
        for number, outline in enumerate(([[1, 1, 5, 5]], [[]], [[1, 2, 3]], [], None, "x")):
            content["annotations"][number]["segmentation"] = outline
        content["info"] = {"year": 2017}

    before = read(toy)
    changed(toy, outlines)
    split = open_train(toy)
    assert split.classes == CLASSES and split.with_boxes == 6
    assert set(split.changes.values()) == {0} and split.note() == ""
    split.write()
    written = json.loads((toy / "copy.json").read_text())
    assert written == before


def test_bad_boxes_are_mended_and_counted_or_refused(toy: Path) -> None:
    def spoil(content: dict[str, Any]) -> None:
        for which, bbox in enumerate(([-50, 0, 90, 30], [500, 0, 9, 9], [5, 5, 0, 9])):
            content["annotations"][which]["bbox"] = bbox
        del content["annotations"][3]["area"]
        content["annotations"][4] |= {"area": None, "iscrowd": None}

    before = len(read(toy)["annotations"])
    changed(toy, spoil)
    split = open_train(toy)
    assert split.note().endswith("boxes 1 clipped, 1 outside, 1 empty, 2 completed")
    assert len(split.content["annotations"]) == before - 2
    assert split.content["annotations"][0]["bbox"] == [0, 0, 40, 30]
    with pytest.raises(ValueError, match="3 boxes are outside their image or empty"):
        open_train(toy, bad_boxes="refuse")


def test_no_box_has_the_number_that_pycocotools_takes_for_none(toy: Path) -> None:
    def from_zero(content: dict[str, Any]) -> None:
        for number, each in enumerate(content["annotations"]):
            each["id"] = number

    changed(toy, from_zero)
    split = open_train(toy)
    assert split.changes["renumbered"] == 1
    numbers = [each["id"] for each in split.content["annotations"]]
    assert numbers == list(range(1, len(numbers) + 1))


def test_crowds_are_not_learnt_from(toy: Path) -> None:
    def crowd(content: dict[str, Any], last: int = 2) -> None:
        for each in content["annotations"]:
            each["iscrowd"] = int(each["image_id"] <= last)

    changed(toy, crowd)
    assert open_train(toy).with_boxes == 4
    changed(toy, lambda content: crowd(content, 6))
    with pytest.raises(ValueError, match="none that is not of a crowd in 6 images"):
        open_train(toy)
    changed(toy, lambda content: content["annotations"].clear())
    with pytest.raises(ValueError, match="no boxes in 6 images"):
        open_train(toy)


def test_a_subset_follows_from_its_seed(toy: Path) -> None:
    def ids(**options: Any) -> list[int]:
        return [image["id"] for image in open_train(toy, **options).content["images"]]

    assert ids() == [1, 2, 3, 4, 5, 6]
    assert ids(subset=3) == ids(subset=3) == sorted(ids(subset=3))
    assert len({tuple(ids(subset=3, seed=seed)) for seed in range(8)}) > 1
    split = open_train(toy, subset=2)
    assert {box["image_id"] for box in split.content["annotations"]} <= set(ids(subset=2))


@pytest.mark.parametrize("kind", ["a box", "an image", "a class"])
def test_what_a_set_holds_tells_that_it_changed(kind: str, toy: Path) -> None:
    def rename(content: dict[str, Any]) -> None:
        content["categories"][0]["name"] = "star"

    def move(content: dict[str, Any]) -> None:
        content["annotations"][0]["bbox"][0] += 1

    before = [*open_train(toy).contents()]
    assert [*open_train(toy).contents()] == before
    if kind == "an image":
        path = next((toy / "train2017").iterdir())
        Image.open(path).rotate(90).save(path)
    else:
        changed(toy, {"a box": move, "a class": rename}[kind])
    assert [*open_train(toy).contents()] != before


def test_an_image_outside_the_subset_may_be_missing(toy: Path) -> None:
    kept = {image["id"] for image in open_train(toy, subset=5).content["images"]}
    (gone,) = {1, 2, 3, 4, 5, 6} - kept
    (toy / "train2017" / f"{gone:012d}.png").unlink()
    assert len(open_train(toy, subset=5).content["images"]) == 5


def test_training_and_testing_have_the_same_classes(toy: Path, tmp_path: Path) -> None:
    config = Config(data=str(toy), backbone="none")
    train, test = open_data(config, tmp_path)
    assert (len(train.content["images"]), len(test.content["images"])) == (6, 4)
    assert open_data(replace(config, test_on_train=True), tmp_path)[1].boxes == train.boxes
    changed(toy, lambda content: content["categories"].append({"id": 9, "name": "star"}))
    with pytest.raises(ValueError, match=r"different classes: \['star'\]"):
        open_data(config, tmp_path)


def test_a_box_is_drawn_around_its_pixels() -> None:
    image = np.zeros((40, 60, 3), dtype=np.uint8)
    boxes = [{"bbox": [10, 20, 30, 15], "category_id": 3, "score": 0.5}]
    figure = draw_boxes(image, {"truth": [], "predicted": boxes}, {3: "cat"})
    left, right = figure.axes
    assert not left.patches and len(right.patches) == 1
    assert right.patches[0].get_bbox().extents.tolist() == [10, 20, 40, 35]
    assert right.texts[0].get_text() == "cat 0.50"
    assert right.images[0].get_extent() == [0, 60, 40, 0]  # pixel 10 begins at 10


def test_predictions_below_half_are_not_drawn(toy: Path, tmp_path: Path) -> None:
    split = open_train(toy)
    predictions = tmp_path / "found.json"
    found = [
        {"image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "score": score}
        for score in (0.9, 0.4)
    ]
    predictions.write_text(json.dumps(found))
    written = draw_run(split, predictions, tmp_path / "pictures", 2)
    assert [path.name for path in written] == ["1.png", "2.png"]
    with Image.open(written[0]) as one, Image.open(written[1]) as two:
        assert one.size[0] > 900 and two.size[0] > 900
