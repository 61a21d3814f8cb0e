"""Generated images with boxes in COCO's format: bright shapes on a noisy ground."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

CLASSES = ("square", "disc", "triangle")
TRAIN, TEST = 16, 8


def shape_mask(kind: str, side: int) -> Tensor:
    """Which pixels of a (side, side) box a shape covers; it touches all four edges."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    if kind == "square":
        return torch.ones(side, side, dtype=torch.bool)
    centre = (side - 1) / 2
    if kind == "disc":
        return (rows - centre) ** 2 + (columns - centre) ** 2 <= (side / 2) ** 2
    return (columns - centre).abs() * 2 <= rows + 1


def toy_image(size: tuple[int, int], generator: torch.Generator) -> tuple[Tensor, list[list[int]]]:
    """One image with one to three shapes that do not overlap.

    Args:
        size: (H, W) in pixels, at least 48.
        generator: where random numbers come from.

    Returns:
        (H, W, 3) uint8, and for each shape [class, left, top, side].
    """
    height, width = size
    image = torch.randint(0, 80, (height, width, 3), generator=generator, dtype=torch.uint8)
    taken = torch.zeros(height, width, dtype=torch.bool)
    shapes: list[list[int]] = []
    for _ in range(int(torch.randint(1, 4, (), generator=generator))):
        side = int(torch.randint(16, min(size) // 2, (), generator=generator))
        top = int(torch.randint(0, height - side + 1, (), generator=generator))
        left = int(torch.randint(0, width - side + 1, (), generator=generator))
        kind = int(torch.randint(0, len(CLASSES), (), generator=generator))
        box = (slice(top, top + side), slice(left, left + side))
        if taken[box].any():
            continue
        taken[box] = True
        colour = torch.full((3,), 40, dtype=torch.uint8)
        colour[kind] = 255
        image[box][shape_mask(CLASSES[kind], side)] = colour
        shapes.append([kind, left, top, side])
    return image, shapes


def _write_split(folder: Path, split: str, number: int, size: tuple[int, int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    (folder / split).mkdir(parents=True, exist_ok=True)
    for index in range(1, number + 1):
        pixels, shapes = toy_image(size, generator)
        name = f"{index:012d}.png"
        Image.fromarray(pixels.numpy()).save(folder / split / name)
        images.append({"id": index, "file_name": name, "height": size[0], "width": size[1]})
        for kind, left, top, side in shapes:
            annotations.append(
                {"id": len(annotations) + 1, "image_id": index, "category_id": kind + 1,
                 "bbox": [left, top, side, side], "area": side * side, "iscrowd": 0}
            )  # fmt: skip
    categories = [{"id": number + 1, "name": name} for number, name in enumerate(CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path = folder / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_toy(
    folder: Path,
    *,
    train: int = TRAIN,
    test: int = TEST,
    size: tuple[int, int] = (96, 128),
    seed: int = 0,
) -> None:
    """Write a training and a test set in COCO's standard layout.

    Args:
        folder: made if it is not there.
        train: images.
        test: images.
        size: (H, W) in pixels.
        seed: fixes images and boxes.
    """
    if min(size) < 48:
        raise ValueError(f"toy images need 48 pixels a side, found {size}")
    _write_split(folder, "train2017", train, size, 2 * seed)
    _write_split(folder, "val2017", test, size, 2 * seed + 1)
