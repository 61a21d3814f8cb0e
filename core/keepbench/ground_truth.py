"""Where the objects of training images lie: boxes in a CSV file, or masks in a folder."""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from keepbench.images import open_image
from keepbench.progress import progress_bar
from keepbench.trees import ImageTree

HEADER = ["image", "left", "top", "right", "bottom"]
MAX_CELLS = 64
"""In a row or column of an image; images of up to as many pixels lose nothing."""
Boxes = dict[str, list[tuple[float, ...]]]


def _read_boxes(path: Path) -> Boxes:
    """The boxes of each image, in pixels of its file."""
    boxes: Boxes = defaultdict(list)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            if (header := next(rows, [])) != HEADER:
                raise ValueError(f"its first line must be {','.join(HEADER)}, found {header}")
            for name, *edges in rows:
                left, top, right, bottom = map(float, edges)
                if not (0 <= left < right < 1e6 and 0 <= top < bottom < 1e6):
                    raise ValueError(f"line {rows.line_num} is no box: {edges}")
                boxes[name].append((left, top, right, bottom))
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


def _scaled(mask: Image.Image, size: int) -> Tensor:
    """The share of each cell where a mask is not 0: (size, size) bytes."""
    flat = mask.convert("L").point(lambda value: 255 * (value > 0))
    cells = flat.resize((size, size), Image.Resampling.BOX)
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
            several lines may be of one image. Or a folder with a mask of each image, not 0 where
            an object is, at its path in the tree but ending in .png.
        tree: the images.
        size: cells in a row and in a column of each image.

    Returns:
        (N, size, size) uint8, 0 to 255, in the tree's order.

    Raises:
        ValueError: An image has neither box nor mask, or a file cannot be used.
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
        path = tree.paths[number] if boxes else masks[number]
        try:
            with open_image(path) as image:
                found[number] = _drawn(boxes[name], image, size) if boxes else _scaled(image, size)
        except (OSError, ValueError) as error:
            raise ValueError(f"{place}, image {name}: {error}") from None
    return found
