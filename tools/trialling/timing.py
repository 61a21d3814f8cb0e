"""How long the runs of a trial take on this machine."""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice, pairwise
from statistics import median
from typing import Any

import torch

from classification.train import Trainer as Classification
from evidence.catalogue import TASKS
from keepbench.files import digest
from keepbench.processes import Processes
from keepbench.small_images import TEST_BATCH, StoredData
from keepbench.training import Training
from queueing.jobs import TOOLS
from trialling.analysis import can_tell
from trialling.plan import Plan

WARM, TIMED = 2, 6  # steps


def _seconds_of_steps(trainer: Training) -> float:
    """The median of a few steps."""
    marks = [time.perf_counter()]
    for batch in islice(trainer.batches(), WARM + TIMED):
        trainer.step_loss(trainer.train_step(batch)).item()
        marks.append(time.perf_counter())
    steps = [after - before for before, after in pairwise(marks)]
    return median(steps[WARM:] or steps)


def _seconds_of_test(trainer: Training, config: Any) -> float:
    """Of all tests of a run, by one batch of small images, or by one test; 0 of large images."""
    begun = time.perf_counter()
    if isinstance(trainer, Classification):
        data = trainer.data
        if not isinstance(data, StoredData):
            return 0.0
        share = len(data.test) / min(TEST_BATCH, len(data.test))
        few = data.test[torch.arange(round(len(data.test) / share))]
        trainer.data = replace(data, test=few)
        trainer.test(occlusion=config.occlusion)
        return share * (time.perf_counter() - begun)
    trainer.after_epoch()
    every = getattr(config, "eval_every", 1)
    return (time.perf_counter() - begun) * max(1, config.epochs // every)


def seconds_of_start(plan: Plan) -> float:
    """Seconds that a process of the task needs before it reads data."""
    begun = time.perf_counter()
    script = str(TOOLS / TASKS[plan.task].script)
    subprocess.run([sys.executable, script, "--help"], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begun


def _seconds_of_run(plan: Plan, cell: str, processes: Processes) -> tuple[float, str]:
    """Seconds of a cell's run without its start, and a checksum of its data."""
    config = plan.config(cell)
    if hasattr(config, "workers"):
        config = replace(config, workers=0)
    kind: type[Training] = importlib.import_module(f"{plan.task}.train").Trainer
    trainer = kind.begin(config, processes)
    step = _seconds_of_steps(trainer)
    steps = getattr(config, "steps", trainer.steps)
    seconds = steps * config.epochs * step + _seconds_of_test(trainer, config)
    return seconds, digest(trainer.contents())


def seconds_of_runs(plan: Plan, device: torch.device) -> dict[str, float]:
    """Seconds of a run by cell; {} where a task does not let it be timed.

    Raises:
        ValueError: A run cannot be begun, or its data are not those of the others.
    """
    if plan.task == "detection":  # Detectron2 trains by itself
        return {}
    processes, start, found, data = Processes(device), seconds_of_start(plan), {}, {}
    for cell in plan.cells:
        try:
            seconds, data[cell] = _seconds_of_run(plan, cell, processes)
        except (ValueError, FloatingPointError) as error:
            raise ValueError(f"{plan.name(cell)}: {error}") from None
        except Exception as error:
            if not plan.own:
                raise
            name = type(error).__name__  # the user's code may raise anything
            raise ValueError(f"{plan.name(cell)}: {name}: {error}") from error
        if data[cell] != data[plan.cells[0]]:
            raise ValueError(
                f"{plan.name(cell)} is of other data than {plan.name(plan.cells[0])}: what sets "
                "the data is given for all arms, after --"
            )
        found[cell] = start + seconds
    return found


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


def announcement(plan: Plan, seconds: dict[str, float], at_once: int) -> Iterator[str]:
    """What will be run, how long it takes, and what it can tell, a line each."""
    config = plan.config(plan.cells[0])
    network = getattr(config, "arch", "") or config.detector
    yield f"{len(plan.cells)} arms x {plan.seeds} seeds of {network} on {config.dataset}"
    for cell in plan.cells:
        took = f"about {in_words(seconds[cell])} a run" if seconds else "not timed beforehand"
        yield f"  {plan.name(cell):42s} {took}"
    if seconds:
        whole = whole_seconds(plan, seconds) / at_once
        yield f"{at_once} at a time, about {in_words(whole)} in all, by a few timed steps of each"
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
    yield can_tell(len(plan.cells), plan.seeds)
