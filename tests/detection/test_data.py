from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from detection.config import Config
from detection.data import Split, mended_box, open_data, open_split
from detection.pictures import draw_boxes, draw_run
from detection.toy import CLASSES, shape_mask, toy_image, write_toy


def open_train(toy: Path, **options: Any) -> Split:
    options = {"bad_boxes": "clip"} | options
    boxes = toy / "annotations" / "instances_train2017.json"
    return open_split(boxes, toy / "train2017", toy / "copy.json", **options)


def changed(toy: Path, change: Any) -> None:
    path = toy / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


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


def test_a_sound_set_stays_as_it_is(toy: Path) -> None:
    split = open_train(toy)
    assert split.classes == CLASSES
    assert split.boxes == toy / "annotations" / "instances_train2017.json"
    assert not split.rewritten
    assert set(split.changes.values()) == {0}
    assert split.with_boxes == 6
    split.write()
    assert not (toy / "copy.json").exists()


def box(*bbox: float) -> dict[str, Any]:
    return {"id": 1, "bbox": list(bbox), "area": 10_000, "iscrowd": 0}


@pytest.mark.parametrize(
    ("bbox", "fault", "left"),
    [
        ((10, 20, 30, 40), "", (10, 20, 30, 40)),
        ((-0.5, 0, 81, 60), "", (-0.5, 0, 81, 60)),  # rounding stays
        ((-10, -20, 30, 40), "clipped", (0, 0, 20, 20)),
        ((70, 50, 30, 40), "clipped", (70, 50, 10, 10)),
        ((-9, -9, 200, 200), "clipped", (0, 0, 80, 60)),
        ((90, 10, 5, 5), "outside", None),
        ((10, 70, 5, 5), "outside", None),
        ((10, 10, 0, 5), "empty", None),
        ((10, 10, 5, -1), "empty", None),
    ],
)
def test_boxes_at_the_edge_of_an_image_of_60_by_80(
    bbox: tuple[float, ...], fault: str, left: tuple[float, ...] | None
) -> None:
    word, mended = mended_box(box(*bbox), (60, 80))
    assert word == fault
    if left is None:
        assert mended is None
    else:
        assert mended is not None and tuple(mended["bbox"]) == left
        assert mended["area"] == (left[2] * left[3] if fault else 10_000)


@given(*[st.floats(-200, 200) for _ in range(4)])
def test_mended_boxes_are_in_their_image_and_mending_ends(
    left: float, top: float, width: float, height: float
) -> None:
    _, mended = mended_box(box(left, top, width, height), (60, 80))
    if mended is not None:
        x, y, w, h = mended["bbox"]
        assert w > 0 and h > 0
        assert x >= -1 and y >= -1 and x + w <= 81.001 and y + h <= 61.001
        assert mended_box(mended, (60, 80)) == ("", mended)


def test_missing_fields_are_filled_in_and_counted() -> None:
    word, mended = mended_box({"id": 1, "bbox": [1, 2, 3, 4]}, (60, 80))
    assert word == "completed"
    assert mended == {"id": 1, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}


@pytest.mark.parametrize("bbox", [None, [1, 2, 3], [1, 2, 3, float("nan")], ["a", 1, 2, 3]])
def test_a_box_of_no_four_numbers_is_refused(bbox: Any) -> None:
    with pytest.raises(ValueError, match="the bbox of box 1 is not"):
        mended_box({"id": 1, "bbox": bbox}, (60, 80))


def test_bad_boxes_are_mended_in_a_copy_or_refused(toy: Path) -> None:
    def spoil(content: dict[str, Any]) -> None:
        for which, bbox in enumerate(([-50, 0, 90, 30], [500, 0, 9, 9], [5, 5, 0, 9])):
            content["annotations"][which]["bbox"] = bbox
        content["annotations"][3]["segmentation"] = [[0, 0, 1, 0, 1, 1]]

    before = len(open_train(toy).content["annotations"])
    changed(toy, spoil)
    split = open_train(toy)
    assert split.changes == {"clipped": 1, "outside": 1, "empty": 1, "completed": 0}
    assert split.boxes == toy / "copy.json"
    split.write()
    written = json.loads((toy / "copy.json").read_text())
    assert len(written["annotations"]) == before - 2
    assert written["annotations"][0]["bbox"] == [0, 0, 40, 30]
    assert not any("segmentation" in each for each in written["annotations"])
    with pytest.raises(ValueError, match="3 boxes are outside their image or empty"):
        open_train(toy, bad_boxes="refuse")


def test_crowds_are_not_learnt_from(toy: Path) -> None:
    def crowd(content: dict[str, Any]) -> None:
        for each in content["annotations"]:
            each["iscrowd"] = int(each["image_id"] <= 2)

    changed(toy, crowd)
    assert open_train(toy).with_boxes == 4


def set_category(content: dict[str, Any]) -> None:
    content["annotations"][0]["category_id"] = 99


def set_image(content: dict[str, Any]) -> None:
    content["annotations"][0]["image_id"] = 99


def repeat_id(content: dict[str, Any]) -> None:
    content["annotations"][0]["id"] = content["annotations"][1]["id"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_category, r"no category has the numbers of some boxes: \{99: 1\}"),
        (set_image, r"1 boxes are of no image in it, first \[1\]"),
        (repeat_id, "share their id"),
        (lambda content: content.pop("categories"), "not in COCO's format: KeyError"),
        (lambda content: content["images"][0].pop("height"), "an image has no 'height'"),
        (lambda content: content["annotations"][0].pop("image_id"), "not in COCO's format"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(toy: Path, change: Any, message: str) -> None:
    changed(toy, change)
    with pytest.raises(ValueError, match=message):
        open_train(toy)


def test_a_missing_image_is_named(toy: Path) -> None:
    (toy / "train2017" / "000000000003.png").unlink()
    with pytest.raises(ValueError, match="1 of the 6 images .* first 000000000003.png"):
        open_train(toy)
    with pytest.raises(ValueError, match="no boxes at .* --dataset toy"):
        open_split(toy / "none.json", toy, toy / "copy.json", bad_boxes="clip")


def test_a_subset_follows_from_its_seed(toy: Path) -> None:
    def ids(**options: Any) -> list[int]:
        return [image["id"] for image in open_train(toy, **options).content["images"]]

    assert ids() == [1, 2, 3, 4, 5, 6]
    assert ids(subset=3) == ids(subset=3) == sorted(ids(subset=3))
    assert len({tuple(ids(subset=3, seed=seed)) for seed in range(8)}) > 1
    split = open_train(toy, subset=2)
    assert {box["image_id"] for box in split.content["annotations"]} <= set(ids(subset=2))
    assert split.rewritten


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
