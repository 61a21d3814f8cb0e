"""The loop of every task. It owns the steps; a task says what a step does.

Resuming, saving, stopping, watching the loss and agreeing between processes are written here, once.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from keepbench.files import FolderLock, digest
from keepbench.identity import Identity
from keepbench.leaving import Stop, resume_command
from keepbench.processes import Processes
from keepbench.progress import progress_bar, say
from keepbench.run import Run, check_folder, tensorboard
from keepbench.settings import check_shared
from keepbench.training import Row, Training

SAVE_BEFORE_TEST = 20.0  # seconds since the last checkpoint that are worth one before a test
CHECK_EVERY = 500  # steps between looks at the loss, which wait for the device

Trainer = TypeVar("Trainer", bound=Training)


class LossWatch:
    """Notes the first step of an epoch whose loss is not finite; the step does not wait for it."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.first = torch.full((), -1, dtype=torch.int64, device=training.device)

    def add(self, step: int, loss: Tensor) -> None:
        """Look at a step's loss."""
        new = ~loss.detach().isfinite() & (self.first < 0)
        self.first = torch.where(new, step, self.first)

    def place(self, step: int) -> str:
        """A step of the present epoch, in words."""
        return (
            f"epoch {self.training.epoch + 1}, step {step + 1}, on {self.training.images_of(step)}"
        )

    def check(self) -> None:
        """Raise FloatingPointError if a loss was not finite; waits for the device."""
        first = int(self.first)
        if first >= 0:
            raise FloatingPointError(
                f"the training loss is not finite in {self.place(first)}; the last checkpoint, if "
                "there is one, is from before it: try a lower --lr in another --out"
                f"{self.training.nonfinite_advice}"
            )


def train_steps(
    training: Training,
    progress: Callable[[], Any] = lambda: None,
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Train on the batches of the present epoch that are left.

    Args:
        training: counts each step before `progress` and `stop` are called.
        progress: called after each step.
        stop: whether to leave after this step.

    Returns:
        Whether all were trained on; if not, `stop` asked to leave.

    Raises:
        FloatingPointError: The loss is not finite.
    """
    training.before_epoch()
    started, stopped = time.perf_counter(), False
    watch = LossWatch(training)
    for batch in training.batches():
        step = training.step
        try:
            found = training.train_step(batch)
        except ValueError as error:  # such as a map with NaN
            watch.check()
            raise ValueError(f"{error} ({watch.place(step)})") from error
        watch.add(step, training.step_loss(found))
        training.sums += torch.stack([found[name].detach() for name in training.SUMS])
        training.step += 1
        progress()
        if stopped := stop():
            break
        if training.step % CHECK_EVERY == 0:
            watch.check()
    watch.check()
    training.seconds = time.perf_counter() - started
    return not stopped


def finish_epoch(training: Training) -> Row:
    """Count the present epoch as done and do what follows it: its metrics."""
    for module in dict.fromkeys((training.model, training.tested)):  # in one order everywhere
        training.processes.share_buffers(module)
    sums = training.processes.total(training.sums).cpu()
    totals = dict(zip(training.SUMS, sums, strict=True))
    training.epoch, training.step = training.epoch + 1, 0
    training.sums = torch.zeros_like(training.sums)
    row = {"epoch": training.epoch, **training.epoch_figures(totals)}
    row["train_seconds"] = training.seconds
    return row | training.after_epoch()


def train_epoch(training: Training, progress: Callable[[], Any] = lambda: None) -> Row:
    """Train to the end of the present epoch, and do what follows it: its metrics."""
    train_steps(training, progress)
    return finish_epoch(training)


def check_finite(training: Training, row: Row) -> None:
    """Raise FloatingPointError if weights or metrics are not fit to be saved."""
    modules = {training.model, training.tested}
    values = [value for module in modules for value in module.state_dict().values()]
    finite = [value.isfinite().all() for value in values if value.is_floating_point()]
    bad = [name for name, value in row.items() if type(value) is float and not isfinite(value)]
    if not bool(torch.stack(finite).all()):
        bad.append("weights")
    if bad:
        raise FloatingPointError(
            f"{', '.join(bad)} not finite after epoch {training.epoch}, step {training.step}; the "
            "last checkpoint, if there is one, is from before it: try a lower --lr in another --out"
        )


def check_start(
    name: str, config: Any, folder: Path, processes: Processes, *, resume: bool
) -> bool:
    """Refuse, before data are read, what they do not bear on; all processes must call.

    Returns:
        Whether the run goes on from a checkpoint.

    Raises:
        ValueError: Processes have different settings or a batch that they cannot share, the folder
            holds another run or no usable checkpoint of this one, or a process is at work in it.
    """
    processes.check_same(config)
    check_shared(config, processes.world_size)
    goes_on = check_folder(folder, Identity(name, config), resume=resume)
    if processes.first and folder.exists():
        FolderLock(folder).close()
    return bool(processes.shared(goes_on))


def fit(
    training: Training,
    name: str,
    folder: Path,
    *,
    resume: bool = False,
    budget: str = "paper",
) -> bool:
    """Train to the last epoch, with a checkpoint and a row of metrics after each.

    Args:
        training: freshly made.
        name: of the experiment.
        folder: of the run.
        resume: go on with the run in the folder.
        budget: as in `Run`.

    Returns:
        Whether the last epoch was reached; if not, a signal stopped the run, and it is saved.

    Raises:
        ValueError: The folder holds another run, or a process is at work in it.
    """
    processes, config = training.processes, training.config
    data = digest(training.contents())
    digests = processes.gathered(data)
    if len(set(digests)) > 1:
        raise ValueError(f"processes read different data: {digests}")
    if not processes.first:
        return _fit(training, name, None)
    with Run(
        folder, name, config, training.device,
        resume=resume, budget=budget, data=data,
    ) as run:  # fmt: skip
        for file, content in training.records.items():
            run.keep(file, content)
        return _fit(training, name, run)


def restore(training: Training, state: dict[str, Any]) -> None:
    """Go on where a checkpoint was taken.

    Raises:
        ValueError: It is not this run's.
    """
    try:
        if state["epoch"] > training.config.epochs:
            raise ValueError(
                f"the checkpoint is from epoch {state['epoch']}, the run has "
                f"{training.config.epochs}"
            )
        training.load_state(state)
        if training.step > training.steps:
            raise ValueError(f"the checkpoint is from step {training.step} of {training.steps}")
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:  # torch's many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"the checkpoint does not fit this run: {reason}") from error


def _fit(training: Training, name: str, run: Run | None) -> bool:
    config, processes = training.config, training.processes
    if (state := processes.shared(run.load() if run else None)) is not None:
        try:
            restore(training, state)
        except ValueError as error:
            raise ValueError(f"{run.folder}: {error}" if run else str(error)) from error
    events = tensorboard(config, run.folder, training.epoch) if run else None
    steps = training.steps
    total, done = config.epochs * steps, training.epoch * steps + training.step
    stop, saved = Stop(processes), time.perf_counter()
    with (
        progress_bar(total=total, initial=done, desc=name, unit="step", hide=run is None) as bar,
        stop.listening(),
    ):
        while training.epoch < config.epochs:
            if not train_steps(training, bar.update, stop.agreed):
                _save_stopped(training, name, run)
                return False
            if processes.shared(time.perf_counter() - saved > SAVE_BEFORE_TEST):
                _save_within(training, run)  # a test may take longer than a machine is left to us
            row = finish_epoch(training)
            check_finite(training, row)
            if run and events:
                run.log(**row)  # before the checkpoint: a row without one is made again
                run.save(training.state())
                events(row)
                tqdm.write(f"{name} epoch {row['epoch']}/{config.epochs}: {training.shown(row)}")
            saved = time.perf_counter()
            if training.epoch < config.epochs and stop.agreed():
                _save_stopped(training, name, run)
                return False
    return True


def _save_within(training: Training, run: Run | None) -> None:
    """Save a run within an epoch; all processes must call."""
    check_finite(training, {})
    training.gather()
    if run:
        run.save(training.state())


def _save_stopped(training: Training, name: str, run: Run | None) -> None:
    """Save a run that was stopped within an epoch; all processes must call."""
    _save_within(training, run)
    if run:
        print(
            f"{name} stopped in epoch {training.epoch + 1} after step {training.step} of "
            f"{training.steps} and is saved; go on with: {resume_command()}",
            file=sys.stderr,
        )


def train(
    kind: type[Trainer],
    name: str,
    config: Any,
    folder: Path,
    processes: Processes,
    *,
    resume: bool = False,
    budget: str = "paper",
) -> Trainer | None:
    """Run an experiment into its folder; go on from its last checkpoint with `resume`.

    Args:
        kind: the task's training.
        name: of the experiment.
        config: its settings.
        folder: of the run.
        processes: this process among those of the run; all must call.
        resume: go on with the run in the folder.
        budget: as in `Run`.

    Returns:
        The finished run; None if a signal stopped it, and it is saved.

    Raises:
        ValueError: Bad settings, data that cannot be used, or a folder that holds another run.
        FloatingPointError: The loss is not finite.
    """
    goes_on = check_start(name, config, folder, processes, resume=resume)
    kind.check(config, goes_on=goes_on)
    begun = (folder / "run.json").exists()
    training = kind.begin(config, processes)
    if processes.first:
        for line in training.remarks(goes_on=begun):
            say(line)
    if not goes_on:
        training.prepare()
    if not fit(training, name, folder, resume=resume, budget=budget):
        return None
    training.finish(folder)
    return training
