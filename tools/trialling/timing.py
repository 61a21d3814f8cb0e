"""How long the runs of a trial take on this machine."""

from __future__ import annotations

import importlib
import json
import math
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

import torch

from classification.data import Data
from classification.image_trees import TreeData
from classification.importance import Teacher
from classification.train import OCCLUSIONS
from classification.train import Trainer as Classification
from detection.schedule import make_schedule
from keepbench.files import digest
from keepbench.processes import Processes
from keepbench.run import RunRecord
from keepbench.small_images import TEST_BATCH, StoredData
from keepbench.training import Training
from trialling.analysis import can_tell
from trialling.plan import Plan
from trialling.runs import command_of

WARM, TIMED = 2, 6  # steps
FEW = 8  # test images of detection


@dataclass(frozen=True)
class Timed:
    """How long a run takes.

    Attributes:
        start: seconds before its steps, and more that the first ones take; in a process that has
            begun.
        rest: seconds of steps, tests and checkpoints.
        data: their checksum.
    """

    start: float
    rest: float
    data: str


def _few(data: Data, batch_size: int) -> tuple[Data, float]:
    """The data with a batch of its test images, and how often the whole set holds these."""
    if isinstance(data, StoredData):
        number = min(TEST_BATCH, len(data.test))
        return replace(data, test=data.test[torch.arange(number)]), len(data.test) / number
    assert isinstance(data, TreeData)
    whole = len(data.val.paths)
    number = min(batch_size, whole)
    return replace(data, val=data.val.subset(number, 0)), whole / number


def _seconds_of_tests(trainer: Training, config: Any) -> float:
    """Seconds of all tests after epochs, by one: of a batch in classification, else whole."""
    tests, share = math.ceil(config.epochs / getattr(config, "eval_every", 1)), 1.0
    if isinstance(trainer, Classification):
        tests += len(OCCLUSIONS) * config.occlusion
        trainer.data, share = _few(trainer.data, config.batch_size)
        begun = time.perf_counter()
        trainer.test(occlusion=False)
    else:
        begun = time.perf_counter()
        trainer.after_epoch()
    return tests * share * (time.perf_counter() - begun)


def _seconds_of_save(trainer: Training) -> float:
    begun = time.perf_counter()
    with TemporaryFile() as file:
        torch.save(trainer.state(), file)
    return time.perf_counter() - begun


def seconds_of_start(plan: Plan, device: torch.device) -> float:
    """Seconds that a run takes to read its data and make its network, and to leave."""
    with TemporaryDirectory() as place:
        out = Path(place, "run")
        command = [*command_of(plan, plan.config(plan.cells[0]), out), "--device", str(device)]
        begun, nothing = time.perf_counter(), subprocess.DEVNULL
        with subprocess.Popen(command, stdout=nothing, stderr=nothing) as process:
            while process.poll() is None and not (out / "run.json").exists():
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
        return time.perf_counter() - begun


def _by_steps(config: Any, kind: type[Training], processes: Processes) -> Timed:
    """Time a run, by a few of its steps in this process."""
    if hasattr(config, "workers"):
        config = replace(config, workers=0)
    trainer = kind.begin(config, processes)
    keep = getattr(config, "keep", None)
    if not (keep and isinstance(keep.map, Teacher)):  # whose maps are of all images, once a trial
        trainer.prepare()
    begun = time.perf_counter()
    trainer.before_epoch()
    marks = [time.perf_counter()]
    for batch in islice(trainer.batches(), WARM + TIMED):
        trainer.step_loss(trainer.train_step(batch)).item()
        marks.append(time.perf_counter())
    steps = [after - before for before, after in pairwise(marks)]
    step = median(steps[WARM:] or steps)
    start = marks[-1] - begun - step * len(steps)
    epoch = getattr(config, "steps", trainer.steps) * step + _seconds_of_save(trainer)
    rest = config.epochs * epoch + _seconds_of_tests(trainer, config)
    return Timed(start, rest, digest(trainer.contents()))


def _by_short_run(plan: Plan, config: Any, device: torch.device) -> Timed:
    """Time a run of Detectron2, which trains by itself, by a short one in its own process."""
    short = replace(  # at a rate at which nothing diverges
        config, iterations=WARM + TIMED, tests=1, lr=1e-6,
        test_subset=min(FEW, config.test_subset or FEW),
    )  # fmt: skip
    with TemporaryDirectory() as place:
        out = Path(place, "run")
        command = [*command_of(plan, short, out), "--device", str(device)]
        begun = time.perf_counter()
        ended = subprocess.run(command, capture_output=True, text=True)
        seconds = time.perf_counter() - begun
        if ended.returncode:
            said = ended.stderr.strip() or f"it ended with {ended.returncode}"
            raise ValueError(said.splitlines()[-1].removeprefix("error: "))
        record, about = RunRecord.read(out), json.loads((out / "setup.json").read_text())
    row, train, test = record.rows[-1], about["train"], about["test"]
    whole = test["images"] if config.test_on_train else config.test_subset or test["of"]
    share = whole / test["images"]
    steps = make_schedule(
        images=train["with_boxes"], batch_size=config.batch_size, zoo_lr=0.0,
        schedule=config.schedule, iterations=config.iterations,
    ).iterations  # fmt: skip
    tests = math.ceil(steps / max(1, steps // config.tests))
    start = seconds - short.iterations * row["step_seconds"] - row["test_seconds"]
    rest = steps * row["step_seconds"] + tests * share * row["test_seconds"]
    return Timed(start, rest, record.data)


def seconds_of_runs(plan: Plan, device: torch.device) -> dict[str, float]:
    """Seconds of a run by cell.

    Every run is taken to start as slowly as the slowest: in one process, as here, all but the
    first find everything warm.

    Raises:
        ValueError: A run cannot be begun, or its data are not those of the others.
    """
    timed: dict[str, Timed] = {}
    detects = plan.task == "detection"
    kind = None if detects else importlib.import_module(f"{plan.task}.train").Trainer
    before = 0.0 if detects else seconds_of_start(plan, device)
    for cell in plan.cells:
        config = plan.config(cell)
        try:
            timed[cell] = (
                _by_steps(config, kind, Processes(device))
                if kind
                else _by_short_run(plan, config, device)
            )
        except (ValueError, FloatingPointError) as error:
            raise ValueError(f"{plan.name(cell)}: {error}") from None
        except Exception as error:
            if not plan.own:
                raise
            name = type(error).__name__  # the user's code may raise anything
            raise ValueError(f"{plan.name(cell)}: {name}: {error}") from error
        if timed[cell].data != timed[plan.cells[0]].data:
            raise ValueError(
                f"{plan.name(cell)} is of other data than {plan.name(plan.cells[0])}: what sets "
                "the data is given for all arms, after --"
            )
    start = before + max(each.start for each in timed.values())
    return {cell: start + each.rest for cell, each in timed.items()}


def in_words(seconds: float) -> str:
    """A time, as 40 s, 12 min or 3.5 h."""
    for unit, name in ((3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.0f} s"


def whole_seconds(plan: Plan, seconds: dict[str, float], at_once: int) -> float:
    """Seconds of a trial; at its end all wait for one run, and chosen doses are long."""
    longest = max(seconds.values())
    further = 3 * longest * (plan.most - plan.seeds) if plan.doses else 0.0
    return (plan.seeds * sum(seconds.values()) + further + (at_once - 1) * longest) / at_once


def announcement(plan: Plan, seconds: dict[str, float], at_once: int) -> Iterator[str]:
    """Runs, time and power of a trial, a line each."""
    config = plan.config(plan.cells[0])
    network = getattr(config, "arch", "") or config.detector
    yield f"{len(plan.cells)} arms x {plan.seeds} seeds of {network} on {config.dataset}"
    for cell in plan.cells:
        yield f"  {plan.name(cell):42s} about {in_words(seconds[cell])} a run"
    whole = whole_seconds(plan, seconds, at_once)
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
