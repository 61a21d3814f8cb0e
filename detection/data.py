"""The training and the test set: what Detectron2 reads is a checked copy of the file of boxes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from detection.coco import Content, check_images, mended_box, read_coco
from detection.config import Config

TOY = "toy"
"""Folder of generated images in that of their run."""
CHANGES = ("clipped", "outside", "empty", "completed", "renumbered")


@dataclass(frozen=True)
class Split:
    """A training or test set.

    Attributes:
        source: the file of boxes that was read.
        whole: images of that file, of which this may be a part.
        boxes: the copy of it that Detectron2 is to read.
        images: folder of its images.
        content: what the copy holds.
        changes: how many boxes were clipped, dropped (outside their image, empty), completed or
            given another number.
        classes: names, in the order of their category's number.
    """

    source: Path
    whole: int
    boxes: Path
    images: Path
    content: Content
    changes: dict[str, int]
    classes: tuple[str, ...]

    @property
    def with_boxes(self) -> int:
        """Images that Detectron2 trains on: those with a box that is not of a crowd."""
        return len({a["image_id"] for a in self.content["annotations"] if not a["iscrowd"]})

    def contents(self) -> Iterator[str]:
        """The set's boxes, and each image's name and size, to tell whether they changed."""
        yield json.dumps(self.content, sort_keys=True)
        for image in self.content["images"]:
            yield f"{image['file_name']} {(self.images / image['file_name']).stat().st_size}"

    def note(self) -> str:
        """The changes, in a line for the terminal; "" if there are none."""
        words = [f"{number} {word}" for word, number in self.changes.items() if number]
        return f"{self.source}: boxes {', '.join(words)}" if words else ""

    def write(self) -> None:
        """Write the copy."""
        self.boxes.parent.mkdir(parents=True, exist_ok=True)
        self.boxes.write_text(json.dumps(self.content))


def _take(content: Content, subset: int, seed: int) -> Content:
    """As many images, at random but the same for a seed, with their boxes."""
    images = sorted(content["images"], key=lambda image: image["id"])
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    taken = [images[i] for i in sorted(order[:subset].tolist())]
    known = {image["id"] for image in taken}
    boxes = [box for box in content["annotations"] if box["image_id"] in known]
    return content | {"images": taken, "annotations": boxes}


def _mend(path: Path, content: Content, bad_boxes: str) -> tuple[Content, dict[str, int]]:
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    counts: Counter[str] = Counter()
    boxes = []
    for box in content["annotations"]:
        fault, mended = mended_box(box, sizes[box["image_id"]])
        counts[fault] += 1
        if mended is not None:
            boxes.append(mended)
    bad = {word: counts[word] for word in ("clipped", "outside", "empty")}
    if any(bad.values()) and bad_boxes == "refuse":
        number = sum(bad.values())
        raise ValueError(f"{path}: {number} boxes are outside their image or empty: {bad}")
    # pycocotools takes a box that matches number 0 for one without a match
    counts["renumbered"] = sum(box["id"] < 1 for box in boxes)
    if counts["renumbered"]:
        boxes = [box | {"id": number} for number, box in enumerate(boxes, 1)]
    return content | {"annotations": boxes}, {word: counts[word] for word in CHANGES}


def open_split(
    boxes: Path, images: Path, copy: Path, *, subset: int = 0, seed: int = 0, bad_boxes: str
) -> Split:
    """Read and check a set, and look at its images.

    Args:
        boxes: its file.
        images: its folder of images.
        copy: where the checked copy would be written.
        subset: as many images only; 0 is all.
        seed: draws the subset.
        bad_boxes: "clip" mends boxes as `mended_box` does, "refuse" does not go on.

    Raises:
        ValueError: A file that is not in COCO's format, images that cannot be used, bad boxes, or
            none to learn from.
    """
    content = read_coco(boxes)
    whole = len(content["images"])
    content, changes = _mend(boxes, _take(content, subset, seed) if subset else content, bad_boxes)
    if all(box["iscrowd"] for box in content["annotations"]):
        kind = "none that is not of a crowd" if content["annotations"] else "no boxes"
        raise ValueError(f"{boxes} has {kind} in {len(content['images'])} images")
    check_images(images, content["images"])
    categories = sorted(content["categories"], key=lambda each: each["id"])
    names = tuple(each["name"] for each in categories)
    return Split(boxes, whole, copy, images, content, changes, names)


def open_data(config: Config, folder: Path) -> tuple[Split, Split]:
    """The training and the test set of a config; nothing is written.

    Args:
        config: the run's settings.
        folder: the run's; toy images lie in it, and the copies will.

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
