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


def test_empty_lines_and_a_spreadsheets_mark_are_no_boxes(tree: ImageTree, tmp_path: Path) -> None:
    plain = read_ground_truth(
        write_boxes(tmp_path, "cat/1.png,2,0,5,4", "dog/2.png,0,0,8,1"), tree, 4
    )
    spaced = write_boxes(tmp_path, "cat/1.png,2,0,5,4", "", "dog/2.png,0,0,8,1", " ", ",,,,", "")
    spaced.write_bytes(b"\xef\xbb\xbf" + spaced.read_bytes())
    assert torch.equal(read_ground_truth(spaced, tree, 4), plain)


OBJECT = np.zeros((4, 8), np.uint8)
OBJECT[:, 2:5] = 1


def _palette(colours: list[int]) -> Image.Image:
    image = Image.fromarray(OBJECT).convert("P")
    image.putdata(OBJECT.flatten())
    image.putpalette(colours)
    return image


def _with_alpha(colour: tuple[int, int, int]) -> Image.Image:
    pixels = np.zeros((4, 8, 4), np.uint8) + np.array([*colour, 0], np.uint8)
    pixels[..., 3] = 255 * OBJECT
    return Image.fromarray(pixels)


MASKS = {
    "bits": Image.fromarray(OBJECT.astype(bool)),
    "ids of 8 bits": Image.fromarray(OBJECT),
    "ids of 16 bits": Image.fromarray(OBJECT.astype(np.uint16)),
    "large ids of 16 bits": Image.fromarray(OBJECT.astype(np.uint16) * 256),
    "ids of 32 bits": Image.fromarray(OBJECT.astype(np.int32) * 70000),
    "panoptic colours": Image.fromarray(OBJECT[..., None] * np.array([0, 0, 1], np.uint8)),
    "a dark palette": _palette([0, 0, 0, 1, 0, 0]),
    "a palette without black": _palette([9, 9, 9, 1, 0, 0]),
    "white behind alpha": _with_alpha((255, 255, 255)),
    "black behind alpha": _with_alpha((0, 0, 0)),
}


@pytest.mark.parametrize("kind", MASKS)
def test_an_object_is_where_a_masks_value_is_not_0(
    kind: str, tree: ImageTree, tmp_path: Path
) -> None:
    for name in ("cat/1", "dog/2"):
        path = tmp_path / "masks" / f"{name}.png"
        path.parent.mkdir(parents=True)
        MASKS[kind].save(path, "TIFF" if kind == "ids of 32 bits" else "PNG")
    found = read_ground_truth(tmp_path / "masks", tree, 4)
    assert found.tolist() == [[[0, 255, 128, 0]] * 4] * 2


def test_a_palette_whose_background_is_not_its_first_colour_is_refused(
    tree: ImageTree, tmp_path: Path
) -> None:
    for name in ("cat/1", "dog/2"):
        (tmp_path / "masks" / name).parent.mkdir(parents=True)
        _palette([255, 255, 255, 0, 0, 0]).save(tmp_path / "masks" / f"{name}.png")
    with pytest.raises(ValueError, match="image cat/1.png: its palette has black, but not as"):
        read_ground_truth(tmp_path / "masks", tree, 4)


def test_masks_without_an_object_are_counted(
    tree: ImageTree, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, pixels in {"cat/1": OBJECT, "dog/2": 0 * OBJECT}.items():
        (tmp_path / "masks" / name).parent.mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "masks" / f"{name}.png")
    read_ground_truth(tmp_path / "masks", tree, 4)
    assert "no object in 1 of 2 images, such as dog/2.png" in capsys.readouterr().err
    Image.fromarray(0 * OBJECT).save(tmp_path / "masks" / "cat/1.png")
    with pytest.raises(ValueError, match="no object in 2 of 2 images"):
        read_ground_truth(tmp_path / "masks", tree, 4)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["cat/1.png,2,0,5,4"], r"says nothing of 1 of 2 images, such as dog/2.png"),
        (["cat/1.png,2,0,2,4"], "line 2 is no box"),
        (["cat/1.png,2,0,nan,4"], "line 2 is no box"),
        (["cat/1.png,2,0"], "cannot be used as boxes: line 2 is no box"),
        (["cat/1.png,2,0,x,4"], "line 2 is no box"),
        (["cat/1.png,0,0,9,4", "dog/2.png,0,0,1,1"], "leaves its image, 8 x 4"),
    ],
)
def test_wrong_boxes_are_named(
    lines: list[str], message: str, tree: ImageTree, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        read_ground_truth(write_boxes(tmp_path, *lines), tree, 4)
