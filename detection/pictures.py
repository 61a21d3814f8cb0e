"""Predictions beside the truth, as pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from detection.data import Split
from keepbench.images import open_image

LEAST_SCORE = 0.5

Box = Mapping[str, Any]


def draw_boxes(
    image: Any, columns: Mapping[str, Sequence[Box]], classes: Mapping[int, str]
) -> Figure:
    """An image once per column, with the column's boxes.

    Args:
        image: (H, W, 3) uint8.
        columns: by title, boxes of COCO's format: `bbox` is (left, top, width, height) in pixels;
            a `score` is written beside the class.
        classes: names by category's number.

    Returns:
        The figure; `savefig` writes it.
    """
    height, width = image.shape[:2]
    figure = Figure(figsize=(5 * len(columns), 5 * height / width + 0.3), layout="constrained")
    axes = figure.subplots(1, len(columns), squeeze=False)[0]
    colours = matplotlib.colormaps["tab20"]
    for axis, (title, boxes) in zip(axes, columns.items(), strict=True):
        axis.imshow(image, extent=(0, width, height, 0))  # pixels begin at whole numbers
        axis.set(xticks=[], yticks=[])
        axis.set_title(title, fontsize=9)
        for box in boxes:
            left, top, wide, high = box["bbox"]
            colour = colours(box["category_id"] % 20)
            axis.add_patch(Rectangle((left, top), wide, high, fill=False, edgecolor=colour, lw=1.5))
            score = f" {box['score']:.2f}" if "score" in box else ""
            axis.text(
                left, top, classes[box["category_id"]] + score, fontsize=6, color="white", va="top",
                bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.5},
            )  # fmt: skip
    return figure


def draw_run(split: Split, predictions: Path, folder: Path, number: int) -> list[Path]:
    """Draw the first images of a test set with their boxes and the predictions.

    Args:
        split: the test set.
        predictions: the evaluator's file of all predicted boxes.
        folder: for the pictures; made if it is not there.
        number: of images.

    Returns:
        The files written.
    """
    found = json.loads(predictions.read_text()) if predictions.exists() else []
    classes = {each["id"]: each["name"] for each in split.content["categories"]}
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for about in split.content["images"][:number]:
        mine = [b for b in split.content["annotations"] if b["image_id"] == about["id"]]
        theirs = [
            b for b in found if b["image_id"] == about["id"] and b["score"] >= LEAST_SCORE
        ]  # fmt: skip
        pixels = np.asarray(open_image(split.images / about["file_name"]))
        columns = {"truth": mine, f"predicted with a score of {LEAST_SCORE} or more": theirs}
        path = folder / f"{about['id']}.png"
        draw_boxes(pixels, columns, classes).savefig(path, dpi=100)
        written.append(path)
    return written
