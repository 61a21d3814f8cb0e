"""How long the runs of a trial take on this machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice, pairwise
from statistics import median

import torch

from classification.data import Data, open_data
from classification.train import Trainer
from keepbench.processes import Processes
from keepbench.small_images import TEST_BATCH, StoredData
from trialling.plan import Plan

WARM, TIMED = 2, 6  # steps


def _seconds(plan: Plan, cell: str, data: Data, processes: Processes) -> float:
    """Of a run, from a few steps and one batch of its test."""
    config = replace(plan.config(cell), workers=0)
    share = 1.0
    if isinstance(data, StoredData):
        share = len(data.test) / min(TEST_BATCH, len(data.test))
        data = replace(data, test=data.test[torch.arange(round(len(data.test) / share))])
    trainer = Trainer(config, data, processes)
    marks = [time.perf_counter()]
    for batch in islice(trainer.batches(), WARM + TIMED):
        trainer.train_step(batch)["loss"].item()
        marks.append(time.perf_counter())
    steps = [after - before for before, after in pairwise(marks)]
    step = median(steps[WARM:] or steps)
    test = 0.0
    if isinstance(data, StoredData):
        begun = time.perf_counter()
        trainer.test(occlusion=config.occlusion)
        test = share * (time.perf_counter() - begun)
    return trainer.steps * config.epochs * step + test


def seconds_of_runs(plan: Plan, device: torch.device) -> tuple[dict[str, float], dict[str, int]]:
    """Seconds of a run by cell, without its start; and the images of training and test.

    Large images' test is left out.
    """
    data = open_data(plan.config("none" if "none" in plan.arms else plan.cells[0]), device)
    processes = Processes(device)
    seconds = {cell: _seconds(plan, cell, data, processes) for cell in plan.cells}
    sizes = {"train": data.num_train}
    if isinstance(data, StoredData):
        sizes["test"] = len(data.test)
    return seconds, sizes


def in_words(seconds: float) -> str:
    """A time, as 40 s, 12 min or 3.5 h."""
    for unit, name in ((3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.0f} s"


def whole_seconds(plan: Plan, seconds: dict[str, float]) -> float:
    """Of all runs of a trial, one after the other; chosen doses are taken for the longest."""
    further = 3 * max(seconds.values()) * (plan.most - plan.seeds) if plan.doses else 0.0
    return plan.seeds * sum(seconds.values()) + further


def announcement(
    plan: Plan, seconds: dict[str, float], sizes: dict[str, int], at_once: int, widths: str
) -> Iterator[str]:
    """What will be run, how long it takes, and what it can tell, a line each."""
    config = plan.config(plan.cells[0])
    tested = f", tested on {sizes['test']:,}" if "test" in sizes else ""
    yield (
        f"{len(plan.cells)} arms x {plan.seeds} seeds of {config.arch}: {config.epochs} epochs of "
        f"{sizes['train']:,} images{tested}"
    )
    for cell in plan.cells:
        yield f"  {plan.name(cell):42s} about {in_words(seconds[cell])} a run"
    whole = whole_seconds(plan, seconds) / at_once
    yield f"{at_once} at a time, about {in_words(whole)} in all, by a few timed steps of one run"
    if plan.doses:
        yield (
            f"the best doses of {plan.choosing} seeds are compared on the other "
            f"{plan.seeds - plan.choosing} and on {plan.most - plan.seeds} more"
        )
    if len(plan.looks) > 1:
        yield (
            f"arms that are decided at {plan.looks[0]} seeds stop there; if the residual is large "
            f"at {plan.seeds}, the others go on to {plan.most}"
        )
    yield f"it can tell two arms that differ by {widths}"
