"""Boxes and masks of training images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from keepbench.ground_truth import HEADER, read_ground_truth
from keepbench.trees import ImageTree, list_tree


@pytest.fixture
def tree(tmp_path: Path) -> ImageTree:
    """Two images of 8 x 4 pixels, width by height."""
    for name in ("cat/1.png", "dog/2.png"):
        path = tmp_path / "train" / name
        path.parent.mkdir(parents=True)
        Image.new("RGB", (8, 4)).save(path)
    return list_tree(tmp_path / "train")


def write_boxes(folder: Path, *lines: str) -> Path:
    path = folder / "boxes.csv"
    path.write_text("\n".join([",".join(HEADER), *lines]))
    return path


def test_a_cell_is_covered_as_far_as_its_box_goes(tree: ImageTree, tmp_path: Path) -> None:
    boxes = write_boxes(tmp_path, "cat/1.png,2,0,5,4", "dog/2.png,0,0,8,1", "dog/2.png,6,2,8,4")
    found = read_ground_truth(boxes, tree, 4)  # cells are 2 pixels wide and 1 high
    cat = [[0, 255, 128, 0]] * 4
    dog = [[255] * 4, [0] * 4, [0, 0, 0, 255], [0, 0, 0, 255]]
    assert found.tolist() == [cat, dog]


def test_a_mask_says_the_same_as_its_box(tree: ImageTree, tmp_path: Path) -> None:
    boxes = write_boxes(tmp_path, "cat/1.png,2,0,5,4", "dog/2.png,0,0,8,1")
    for name, (left, top, right, bottom) in {"cat/1": (2, 0, 5, 4), "dog/2": (0, 0, 8, 1)}.items():
        pixels = np.zeros((4, 8), np.uint8)
        pixels[top:bottom, left:right] = 1
        path = tmp_path / "masks" / f"{name}.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(pixels).save(path)
    assert torch.equal(
        read_ground_truth(tmp_path / "masks", tree, 4), read_ground_truth(boxes, tree, 4)
    )


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["cat/1.png,2,0,5,4"], r"says nothing of 1 of 2 images, such as dog/2.png"),
        (["cat/1.png,2,0,2,4"], "line 2 is no box"),
        (["cat/1.png,2,0,nan,4"], "line 2 is no box"),
        (["cat/1.png,2,0"], "cannot be used as boxes"),
        (["cat/1.png,0,0,9,4", "dog/2.png,0,0,1,1"], "leaves its image, 8 x 4"),
    ],
)
def test_wrong_boxes_are_named(
    lines: list[str], message: str, tree: ImageTree, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        read_ground_truth(write_boxes(tmp_path, *lines), tree, 4)
