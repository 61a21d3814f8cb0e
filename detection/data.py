"""Images with boxes in COCO's format, checked before anything is trained.

Detectron2 finds a missing image when a worker gets to it, and pycocotools a missing field after
the first epoch. Here a set is read and checked whole, and what had to be changed is counted.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from detection.config import Config

TOY = "toy"
"""Folder of generated images in that of their run."""
EDGE = 1.0
"""Pixels that a box may stand over its image's edge: rounding, as in COCO's own files."""

Content = dict[str, Any]


@dataclass(frozen=True)
class Split:
    """A training or test set.

    Attributes:
        boxes: the file in COCO's format that Detectron2 is to read.
        images: folder of its images.
        content: of the file, as it was changed.
        changes: how many boxes were clipped, dropped or completed; all 0 if the file is as it was.
        classes: names, in the order of their category's number.
        rewritten: whether `boxes` is not the file that was read, but a copy to be written.
    """

    boxes: Path
    images: Path
    content: Content
    changes: dict[str, int]
    classes: tuple[str, ...]
    rewritten: bool

    @property
    def with_boxes(self) -> int:
        """Images that Detectron2 trains on: those with a box that is not of a crowd."""
        return len({a["image_id"] for a in self.content["annotations"] if not a["iscrowd"]})

    def write(self) -> None:
        """Write the copy, if one is needed, without outlines: only boxes are learnt."""
        if not self.rewritten:
            return
        plain = [
            {name: value for name, value in each.items() if name != "segmentation"}
            for each in self.content["annotations"]
        ]
        self.boxes.parent.mkdir(parents=True, exist_ok=True)
        self.boxes.write_text(json.dumps(self.content | {"annotations": plain}))


def _read(path: Path) -> Content:
    """A file of COCO's format, whose parts belong together."""
    if not path.is_file():
        raise ValueError(f"no boxes at {path}; give --data, or --dataset toy for generated images")
    try:
        content = json.loads(path.read_text())
        images, boxes = content["images"], content["annotations"]
        known = {image["id"] for image in images}
        categories = {each["id"]: each["name"] for each in content["categories"]}
        orphans = [box["id"] for box in boxes if box["image_id"] not in known]
        strange = Counter(b["category_id"] for b in boxes if b["category_id"] not in categories)
        numbers = Counter(box["id"] for box in boxes)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not in COCO's format: {error!r}") from None
    if orphans:
        raise ValueError(f"{path}: {len(orphans)} boxes are of no image in it, first {orphans[:4]}")
    if strange:
        raise ValueError(f"{path}: no category has the numbers of some boxes: {dict(strange)}")
    if len(numbers) < len(boxes) or len(known) < len(images):
        raise ValueError(f"{path}: images or boxes share their id")
    return content


def _take(content: Content, subset: int, seed: int) -> Content:
    """As many images, at random but the same for a seed, with their boxes."""
    images = sorted(content["images"], key=lambda image: image["id"])
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    taken = [images[i] for i in sorted(order[:subset].tolist())]
    known = {image["id"] for image in taken}
    boxes = [box for box in content["annotations"] if box["image_id"] in known]
    return content | {"images": taken, "annotations": boxes}


def _check_files(path: Path, folder: Path, content: Content) -> None:
    """Raise ValueError if an image is missing."""
    here = set(os.listdir(folder)) if folder.is_dir() else set()
    names = [image["file_name"] for image in content["images"]]
    missing = [name for name in names if name not in here and not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{len(missing)} of the {len(names)} images of {path} are not in {folder}, "
            f"first {', '.join(missing[:4])}"
        )


def mended_box(box: dict[str, Any], size: tuple[int, int]) -> tuple[str, dict[str, Any] | None]:
    """What is wrong with a box, in a word, and the box that it becomes; None if it is dropped.

    A box over its image's edge by more than `EDGE` is clipped to the image. One without area, or
    wholly outside, is dropped. A missing area or crowd mark is filled in.

    Args:
        box: of COCO's format; `bbox` is (left, top, width, height) in pixels.
        size: (H, W) of its image.

    Raises:
        ValueError: `bbox` is not four finite numbers.
    """
    numbers = box.get("bbox")
    if not isinstance(numbers, list) or len(numbers) != 4:
        raise ValueError(f"the bbox of box {box['id']} is not four numbers: {numbers}")
    if not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers):
        raise ValueError(f"the bbox of box {box['id']} is not finite: {numbers}")
    left, top, width, height = numbers
    if width <= 0 or height <= 0:
        return "empty", None
    right, bottom = left + width, top + height
    if min(left, top, size[1] - right, size[0] - bottom) < -EDGE:
        left, top = max(left, 0), max(top, 0)
        width, height = min(right, size[1]) - left, min(bottom, size[0]) - top
        if width <= 0 or height <= 0:
            return "outside", None
        area = min(box.get("area", math.inf), width * height)
        crowd = box.get("iscrowd", 0)
        return "clipped", box | {
            "bbox": [left, top, width, height], "area": area, "iscrowd": crowd
        }  # fmt: skip
    if "area" in box and "iscrowd" in box:
        return "", box
    return "completed", {"area": width * height, "iscrowd": 0} | box


def _mend(path: Path, content: Content, bad_boxes: str) -> tuple[Content, dict[str, int]]:
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    counts = dict.fromkeys(("clipped", "outside", "empty", "completed"), 0)
    boxes = []
    for box in content["annotations"]:
        fault, mended = mended_box(box, sizes[box["image_id"]])
        if fault:
            counts[fault] += 1
        if mended is not None:
            boxes.append(mended)
    bad = sum(counts.values()) - counts["completed"]
    if bad and bad_boxes == "refuse":
        raise ValueError(f"{path}: {bad} boxes are outside their image or empty: {counts}")
    return content | {"annotations": boxes}, counts


def open_split(
    boxes: Path, images: Path, copy: Path, *, subset: int = 0, seed: int = 0, bad_boxes: str
) -> Split:
    """Read and check a set.

    Args:
        boxes: its file.
        images: its folder of images.
        copy: where a changed file would be written.
        subset: as many images only; 0 is all.
        seed: of the subset.
        bad_boxes: "clip" mends boxes as `mended_box` does, "refuse" does not go on.

    Raises:
        ValueError: A missing file or image, boxes of unknown images or categories, or bad ones.
    """
    content = _read(boxes)
    taken = _take(content, subset, seed) if subset else content
    if not taken["images"]:
        raise ValueError(f"{boxes} has no images")
    try:
        mended, counts = _mend(boxes, taken, bad_boxes)
    except KeyError as error:
        raise ValueError(f"{boxes}: an image has no {error}") from None
    _check_files(boxes, images, mended)
    categories = sorted(content["categories"], key=lambda each: each["id"])
    rewritten = bool(subset) or any(counts.values())
    return Split(
        boxes=copy if rewritten else boxes,
        images=images,
        content=mended,
        changes=counts,
        classes=tuple(each["name"] for each in categories),
        rewritten=rewritten,
    )


def open_data(config: Config, folder: Path) -> tuple[Split, Split]:
    """The training and the test set of a config; nothing is written.

    Args:
        config: of the run.
        folder: of the run, where toy images are and changed files would be.

    Raises:
        ValueError: As `open_split`, or the two have other classes.
    """
    root = Path(config.data).expanduser()
    if config.dataset == "toy":
        root = folder / TOY
    train = open_split(
        root / config.train_boxes, root / config.train_images, folder / "train.json",
        subset=config.subset, seed=config.seed, bad_boxes=config.bad_boxes,
    )  # fmt: skip
    if config.test_on_train:
        return train, train
    test = open_split(
        root / config.test_boxes, root / config.test_images, folder / "test.json",
        subset=config.test_subset, bad_boxes=config.bad_boxes,
    )  # fmt: skip
    if train.classes != test.classes:
        differing = sorted(set(train.classes) ^ set(test.classes))
        raise ValueError(f"training and testing have different classes: {differing[:8]}")
    return train, test
