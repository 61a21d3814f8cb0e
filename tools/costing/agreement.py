"""How far cheap and stored maps lead to full maps' boxes, over the epochs of one training run.

The command line of `tools/benchmark_agreement.py`. One network trains by recycled maps; after each
epoch all kinds of maps of the same training images are compared with fresh full ones.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from classification.auto_map import Stored, choose, recycling_gflop
from classification.caching import stored_maps
from classification.cli import cost
from classification.config import Config
from classification.data import open_data, sample
from classification.experiments import BUDGETS, EXPERIMENTS
from classification.importance import Recycled
from classification.train import Trainer
from keepaugment import CachedSaliency, GradientSaliency
from keepbench.command import parse
from keepbench.loop import train_epoch
from keepbench.machine import find_device, hardware
from keepbench.processes import Processes
from keepbench.settings import named

Row = dict[str, Any]

NAMES = {
    "mirrored": "full, of the mirrored image",
    "recycled": "recycled",
    "cached": "cached, half resolution",
    "low": "half resolution",
    "early": "early head",
    "low_early": "both",
    "random": "noise",
}


class Watched(Trainer):
    """A run with recycled maps that also stores half-resolution ones, which decide nothing."""

    def __init__(self, config: Config, device: torch.device) -> None:
        kind = config.keep.map if config.keep else None
        if not isinstance(kind, Recycled):
            raise ValueError(
                f"give an experiment with recycled maps, found keep.map={named(kind) or 'none'}"
            )
        super().__init__(config, open_data(config, device), Processes(device))
        self.beside = CachedSaliency(
            GradientSaliency(self.model, 0.5), self.data.num_train, self.data.image_size,
            device=device,
        )  # fmt: skip
        self.augment.map.saliency = self._both

    def _both(self, images: Tensor, labels: Tensor | None) -> Tensor:
        recycled = self.maps.recycled
        assert recycled is not None and recycled.index is not None
        self.beside.at(recycled.index, recycled.view, epoch=self.epoch)
        self.beside(images, labels)
        return recycled(images, labels)

    def compare(self) -> Row:
        """The agreement of each kind of map with full ones, and its standard error."""
        recycled, keep = self.maps.recycled, self.config.keep
        assert recycled is not None and keep is not None
        some = sample(self.data, self.device, seed=self.config.seed)
        with self.autocast():
            inputs = self.augment.inputs(some.images)
            stored = {
                "recycled": Stored(
                    stored_maps(recycled, some), recycling_gflop(self.model, inputs[:1])
                ),
                "cached": Stored(stored_maps(self.beside, some), 0.0),
            }
            boxes = keep.boxes(self.config, inputs.shape[2])
            choice = choose(self.model, self.head, inputs, some.labels, boxes=boxes, stored=stored)
        rows = {row["map"]: row for row in choice.rows if "why" not in row}
        return {
            name: {"agreement": rows[name]["agreement"], "error": rows[name]["error"]}
            for name in NAMES
            if name in rows
        }


def measure(run: Watched) -> Iterator[Row]:
    """Train to the end: a row with the agreement of each kind of map after each epoch."""
    while run.epoch < run.config.epochs:
        trained = train_epoch(run)
        yield {
            "epoch": run.epoch,
            "test_accuracy": trained.get("test_accuracy"),
            **run.compare(),
        }


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Lines: an epoch each."""
    kinds = [name for name in NAMES if name in rows[0]]
    yield f"{'epoch':>5s} {'test':>7s}" + "".join(f"{name:>15s}" for name in kinds)
    for row in rows:
        test = "-" if row["test_accuracy"] is None else f"{row['test_accuracy']:.2f}"
        cells = "".join(
            f"{row[name]['agreement']:8.3f} ±{row[name]['error']:.3f}" for name in kinds
        )
        yield f"{row['epoch']:5d} {test:>7s} {cells}"


def draw(rows: Sequence[Row]) -> Figure:
    """Agreement over epochs, a line for each kind of map, with standard errors."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    epochs = [row["epoch"] for row in rows]
    for name, title in NAMES.items():
        if name in rows[0]:
            means, errors = ([row[name][key] for row in rows] for key in ("agreement", "error"))
            axes.errorbar(epochs, means, errors, label=title, marker="o", markersize=3)
    axes.set_xlabel("epochs")
    axes.set_ylabel("agreement with full maps' boxes")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def main(argv: list[str] | None = None) -> None:
    """Train an experiment, print the table, and write agreement.json and agreement.png."""
    name, config, words = parse(
        EXPERIMENTS, "Compare kinds of maps over the epochs of a run with recycled maps.", argv,
        budgets=BUDGETS, cost=cost,
    )  # fmt: skip
    try:
        device = find_device(words.device)
        run = Watched(config, device)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(f"{name}; {hardware(device)}; torch {torch.__version__}")
    rows: list[Row] = []
    folder: Path = words.out
    folder.mkdir(parents=True, exist_ok=True)
    for row in measure(run):
        rows.append(row)
        tqdm.write(list(table(rows))[-1])
        (folder / "agreement.json").write_text(json.dumps(rows, indent=2) + "\n")
    print("\n".join(["", *table(rows)]))
    draw(rows).savefig(folder / "agreement.png", dpi=110)
