"""Where the objects of training images lie: boxes in a CSV file, or masks in a folder."""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from keepbench.images import decoded, is_transparent, open_image
from keepbench.progress import progress_bar, say
from keepbench.trees import ImageTree

HEADER = ["image", "left", "top", "right", "bottom"]
MAX_CELLS = 64
"""In a row or column of an image; images of up to as many pixels lose nothing."""
Boxes = dict[str, list[tuple[float, ...]]]


def _box(edges: list[str]) -> tuple[float, ...]:
    """The four edges in a line of a file.

    Raises:
        ValueError: They are no box.
    """
    left, top, right, bottom = map(float, edges)
    if not (0 <= left < right < 1e6 and 0 <= top < bottom < 1e6):
        raise ValueError
    return left, top, right, bottom


def _read_boxes(path: Path) -> Boxes:
    """The boxes of each image, in pixels of its file."""
    boxes: Boxes = defaultdict(list)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets mark it as UTF-8
            rows = csv.reader(file)
            if (header := next(rows, [])) != HEADER:
                raise ValueError(f"its first line must be {','.join(HEADER)}, found {header}")
            for row in rows:
                if not any(cell.strip() for cell in row):  # an empty line, as at the end
                    continue
                try:
                    boxes[row[0]].append(_box(row[1:]))
                except ValueError:
                    raise ValueError(f"line {rows.line_num} is no box: {row}") from None
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(f"{path} cannot be used as boxes: {error}") from None
    return boxes


def _shares(begin: float, end: float, length: int, size: int) -> Tensor:
    """How much of each of `size` equal cells of [0, length] lies between begin and end: (size,)."""
    edges = torch.arange(size + 1, dtype=torch.float64) * length / size
    inside = edges[1:].clamp(max=end) - edges[:-1].clamp(min=begin)
    return inside.clamp(min=0) * size / length


def _drawn(boxes: list[tuple[float, ...]], image: Image.Image, size: int) -> Tensor:
    """The share of each cell that the box which covers most of it covers: (size, size) bytes."""
    width, height = image.size
    cells = torch.zeros(size, size, dtype=torch.float64)
    for left, top, right, bottom in boxes:
        if right > width or bottom > height:
            raise ValueError(f"box {left, top, right, bottom} leaves its image, {width} x {height}")
        rows, columns = _shares(top, bottom, height, size), _shares(left, right, width, size)
        cells = cells.maximum(rows[:, None] * columns)
    return (255 * cells).round().byte()


def _read_mask(path: Path) -> Image.Image:
    """Where an object is in a mask, 255, and where none, 0: mode L.

    An object is where the value is not 0: of a palette the index, of 16 bits the whole number, of
    colours any. Nothing transparent is an object; all that is visible is one if all of it is 0.

    Raises:
        ValueError: Pixels whose value cannot be told.
    """
    image, wide = decoded(path)
    if wide and not image.mode.startswith("I"):
        raise ValueError("it has colours of 16 bits, whose low bytes are not read; store 8")
    if image.mode not in ("1", "L", "I", "F", "I;16", "I;16B", "P", "LA", "PA", "RGB", "RGBA"):
        image = image.convert("RGB")
    values = np.asarray(image)
    objects = np.not_equal(values, 0)
    if objects.ndim == 3:
        objects = objects[..., : -1 if image.mode.endswith("A") else None].any(2)
    if image.mode == "P":
        black = np.array(image.getpalette("RGB")).reshape(-1, 3).max(1) == 0
        if not black[0] and black[np.unique(values[values < len(black)])].any():
            raise ValueError("its palette has black, but not as the index 0, which is no object")
    if is_transparent(image):
        visible = np.asarray(image.convert("RGBA"))[..., 3] > 0
        objects = objects & visible
        objects = objects if objects.any() else visible
    return Image.fromarray(255 * objects.astype(np.uint8))


def _scaled(mask: Image.Image, size: int) -> Tensor:
    """The share of each cell where an object is: (size, size) bytes."""
    cells = mask.resize((size, size), Image.Resampling.BOX)
    return torch.frombuffer(bytearray(cells.tobytes()), dtype=torch.uint8).view(size, size)


def find_objects(place: str, tree: ImageTree, side: int) -> Tensor | None:
    """Objects as `read_ground_truth` gives them of images with `side` pixels; None of no place."""
    return (
        read_ground_truth(Path(place).expanduser(), tree, min(MAX_CELLS, side)) if place else None
    )


def read_ground_truth(place: Path, tree: ImageTree, size: int) -> Tensor:
    """How much of each cell of each image an object covers.

    Args:
        place: a CSV file with the columns image, left, top, right, bottom: the image's path in the
            tree, such as `cat/1.jpg`, and a box in pixels of its file, right and bottom exclusive;
            several lines may be of one image. Or a folder with a mask of each image, at its path
            in the tree but ending in .png: grey values, indices of a palette, or colours of any
            depth that are not 0 where an object is. Images without an object are counted and said.
        tree: the images.
        size: cells in a row and in a column of each image.

    Returns:
        (N, size, size) uint8, 0 to 255, in the tree's order.

    Raises:
        ValueError: An image has neither box nor mask, none has an object, or a file cannot be used.
    """
    boxes = None if place.is_dir() else _read_boxes(place)
    names = [os.path.relpath(path, tree.root) for path in tree.paths]
    masks = [place / Path(name).with_suffix(".png") for name in names]
    lacking = [
        name
        for name, mask in zip(names, masks, strict=True)
        if not (mask.is_file() if boxes is None else name in boxes)
    ]
    if lacking:
        raise ValueError(
            f"{place} says nothing of {len(lacking)} of {len(names)} images, such as {lacking[0]}"
        )
    found = torch.zeros(len(names), size, size, dtype=torch.uint8)
    bar = progress_bar(names, total=len(names), desc="reading objects", leave=False, delay=2)
    for number, name in enumerate(bar):
        try:
            if boxes:
                found[number] = _drawn(boxes[name], open_image(tree.paths[number]), size)
            else:
                found[number] = _scaled(_read_mask(masks[number]), size)
        except (OSError, ValueError, SyntaxError) as error:
            raise ValueError(f"{place}, image {name}: {error}") from None
    empty = [name for name, cells in zip(names, found, strict=True) if not cells.any()]
    if empty:
        words = f"{place} has no object in {len(empty)} of {len(names)} images, such as {empty[0]}"
        if len(empty) == len(names):
            raise ValueError(f"{words}; every value of their masks is 0")
        say(words)
    return found
