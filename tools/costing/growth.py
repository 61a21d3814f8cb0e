"""How times grow with the batch, the image and the number of candidate boxes.

The command line of `tools/benchmark_growth.py`. One thing changes at a time: images in a batch, the
length of an image (with Cutout's box half as long), and the length of a pasted box, which sets how
many places it has. No part may grow faster than the number of pixels.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from classification.config import Config
from classification.methods import Cutout, KeepCut, KeepPaste
from costing.methods import random_data
from costing.timing import Arm
from keepbench.machine import find_device, hardware
from keepbench.policies import TrivialAugment

Row = dict[str, Any]

CUT = Config(arch="resnet8", lr=1e-3, cut=Cutout(), keep=KeepCut())
PASTE = replace(CUT, cut=None, policy=TrivialAugment(), keep=KeepPaste())
BATCHES = (16, 32, 64, 128, 256, 512)
LENGTHS = (32, 64, 128, 256, 512)
PASTED = (120, 112, 96, 64, 32, 8)  # in images of 128 pixels
PARTS = {"map_ms": "full map", "boxes_ms": "boxes", "step_ms": "network", "total_ms": "whole step"}
SERIES = {
    "batch": "images in a batch, 32 x 32 pixels",
    "pixels": "pixels of an image, 8 in a batch",
    "candidates": "places of a pasted box in 128 x 128 pixels, 8 images in a batch",
}


def points() -> Iterator[tuple[str, int, int, Config]]:
    """Timed points: the series, its number, the length of an image, and the run's config."""
    for batch in BATCHES:
        yield "batch", batch, 32, replace(CUT, batch_size=batch)
    for length in LENGTHS:
        yield "pixels", length**2, length, replace(
            CUT, batch_size=8, cut=Cutout(size=length // 2)
        )  # fmt: skip
    for length in PASTED:
        yield "candidates", (129 - length) ** 2, 128, replace(
            PASTE, batch_size=8, keep=KeepPaste(size=length)
        )  # fmt: skip


def measure(device: torch.device, repeats: int) -> list[Row]:
    """Time every point: rows with its series and number, and the medians of milliseconds."""
    rows = []
    for series, number, length, config in tqdm([*points()], unit="point", disable=None):
        arm = Arm(config, random_data(config.batch_size, length, 10, device), device)
        turns = [arm.turn(1) for _ in range(repeats)]
        times = {f"{part}_ms": statistics.median(t[part] for t in turns) for part in turns[0]}
        about = {"batch_size": config.batch_size, "image_size": length, "repeats": repeats}
        rows.append({"series": series, "number": number, **times, **about,
                     "device": hardware(device)})  # fmt: skip
    return rows


def slope(numbers: Sequence[float], times: Sequence[float]) -> float:
    """The exponent of a power law through points, by least squares of logarithms."""
    x, y = [math.log(n) for n in numbers], [math.log(t) for t in times]
    return statistics.linear_regression(x, y).slope


def slopes(rows: Sequence[Row], series: str) -> dict[str, float]:
    """The exponent of each part over the upper half of a series, where fixed costs are least."""
    own = [row for row in rows if row["series"] == series]
    upper = own[-(-len(own) // 2) - 1 :]
    return {
        part: slope([row["number"] for row in upper], [row[part] for row in upper])
        for part in PARTS
    }


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Lines: each series with its times, and how they grow."""
    for series, title in SERIES.items():
        yield f"{title}; milliseconds"
        yield f"{'':>10s}" + "".join(f"{name:>12s}" for name in PARTS.values())
        for row in rows:
            if row["series"] == series:
                cells = "".join(f"{row[part]:12.2f}" for part in PARTS)
                yield f"{row['number']:10d}{cells}"
        grows = "".join(f"{value:12.2f}" for value in slopes(rows, series).values())
        yield f"{'exponent':>10s}{grows}   of the upper half"
        yield ""


def draw(rows: Sequence[Row]) -> Figure:
    """Times against each number on logarithmic axes, beside a line in proportion."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    for axes, (series, title) in zip(figure.subplots(1, 3), SERIES.items(), strict=True):
        own = [row for row in rows if row["series"] == series]
        numbers = [row["number"] for row in own]
        for part, name in PARTS.items():
            axes.loglog(numbers, [row[part] for row in own], marker="o", markersize=3, label=name)
        last = own[-1]["total_ms"]
        line = [last * number / numbers[-1] for number in numbers]
        axes.loglog(numbers, line, color="grey", linestyle=":", label="in proportion")
        axes.set_xlabel(title.replace(", ", ",\n"))
        axes.minorticks_off()
        axes.set_xticks(numbers, [f"{number:,}" for number in numbers], rotation=45, fontsize=8)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("milliseconds")
    figure.axes[0].legend(fontsize=8)
    return figure


def main(argv: list[str] | None = None) -> None:
    """Measure, print a table for each series, and write `--json` and `--plot`."""
    parser = argparse.ArgumentParser(description="Time training steps of growing size.")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each point")
    parser.add_argument("--device", default="auto", help="cpu, cuda, ...")
    parser.add_argument("--json", type=Path, help="write a list of rows into this file")
    parser.add_argument("--plot", type=Path, help="draw the times into this picture")
    words = parser.parse_args(argv)
    if words.repeats < 1:
        sys.exit(f"error: --repeats must be at least 1, found {words.repeats}")
    try:
        device = find_device(words.device)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(f"{hardware(device)}; torch {torch.__version__}; resnet8, images of random bytes")
    rows = measure(device, words.repeats)
    print("\n".join(table(rows)))
    if words.json:
        words.json.write_text(json.dumps(rows, indent=2) + "\n")
    if words.plot:
        draw(rows).savefig(words.plot, dpi=110)
