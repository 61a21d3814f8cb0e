"""The command line of `tools/run_reid.py`."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch

from keepbench.command import parse, train_to_the_end
from keepbench.flops import forward_flop
from keepbench.leaving import exit_with_message
from keepbench.run import read_rows
from reid.config import Config
from reid.evaluation import SCORES
from reid.experiments import BUDGETS, ERRATA, EXPERIMENTS
from reid.market import comparison
from reid.model import ReidModel
from reid.train import Trainer

IMAGES = {"market": 12_936, "toy": 576}


@cache
def _forward_flop(arch: str, last_stride: int, height: int, width: int) -> float:
    """Operations of one forward pass of an image."""
    model = ReidModel(arch, 751, last_stride=last_stride)
    return forward_flop(model, torch.zeros(1, 3, height, width))


def cost(config: Config) -> float:
    """Floating-point operations of a run, training and maps (see `classification.cli`)."""
    forward = _forward_flop(config.arch, config.last_stride, config.height, config.width)
    maps = config.keep.map.passes if config.keep else 0.0
    return IMAGES[config.dataset] * config.epochs * forward * (3 + maps)


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The scores of a run's tested epochs, in lines; re-ranking in columns of its own."""
    tested = [row for row in rows if "mAP" in row]
    start: dict[str, Any] = next((row for row in rows if "start_mAP" in row), {})
    names = {"mAP_official": "mAP(trapez.)", "reranked_rank1": "re:rank1", "reranked_mAP": "re:mAP"}
    columns = [*SCORES, *(name for name in names if name.startswith("re") and name in tested[-1])]
    lines = ["epoch " + "".join(f"{names.get(name, name):>13s}" for name in columns)]
    if start:
        before = (start.get(f"start_{name}") for name in columns)
        lines.append(f"{'start':6s}" + "".join(_cell(value) for value in before))
    for row in tested:
        lines.append(f"{row['epoch']:<6d}" + "".join(_cell(row.get(name)) for name in columns))
    return lines


def _cell(value: float | None) -> str:
    return f"{'-' if value is None else f'{value:.2f}':>13s}"


def closing(name: str, trainer: Trainer, rows: list[dict[str, Any]], folder: Path) -> list[str]:
    """Closing lines for the terminal: scores, and figures to compare them with."""
    listing, experiment = trainer.data.listing, EXPERIMENTS[name]
    lines = [
        f"{name}, after the last epoch, in % (mAP by the common rule, and by the official "
        "trapezoid rule):",
        *table(rows),
        f"{rows[-1]['queries']:,.0f} of {len(listing.query):,} queries have a right answer; "
        f"{comparison(listing)}",
    ]
    if experiment.paper:
        lines += [f"the paper's rank-1/mAP: {experiment.paper}", *ERRATA]
    return [*lines, f"the run is in {folder}"]


@exit_with_message()
def main(argv: list[str] | None = None) -> None:
    """Run one experiment and print its scores after every tested epoch."""
    name, config, arguments = parse(
        EXPERIMENTS, "Train re-identification with KeepAugment.", argv, budgets=BUDGETS, cost=cost
    )
    if trainer := train_to_the_end(Trainer, name, config, arguments):
        rows = read_rows(arguments.out / "metrics.jsonl")
        print("\n".join(closing(name, trainer, rows, arguments.out)))
