"""The loop of every task. It owns the steps; a task says what a step does.

Resuming, saving, stopping, watching the loss and agreeing between processes are written here, once.
"""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from keepbench.clock import Clock
from keepbench.files import FolderLock, digest
from keepbench.identity import Identity
from keepbench.leaving import Stop, resume_command
from keepbench.network import load_optimizer, load_whole
from keepbench.processes import Processes
from keepbench.progress import progress_bar
from keepbench.run import Run, check_folder, tensorboard
from keepbench.settings import check_shared

SAVE_BEFORE_TEST = 20.0  # seconds since the last checkpoint that are worth one before a test
CHECK_EVERY = 500  # steps between looks at the loss, which wait for the device

Row = dict[str, Any]


class Training(ABC):
    """A training run in progress: what a task adds to the loop.

    A task sets `model`, `optimizer` and `steps`, and `tested` if averaged weights are tested.

    Args:
        config: its settings, `epochs`, `bf16` and `tensorboard` among them.
        processes: this process among those of the run.

    Attributes:
        epoch: epochs trained so far.
        step: steps done in the present epoch.
        steps: steps of the present epoch.
        sums: what these steps gave, in the order of `SUMS`.
        clock: counts the time of a step's parts.
    """

    model: nn.Module
    tested: nn.Module
    optimizer: torch.optim.Optimizer
    steps: int
    seconds = 0.0  # of the epoch's steps, in this process
    nonfinite_advice = ""  # what else can be done about a loss that is not finite

    SUMS: ClassVar[tuple[str, ...]]
    """What is added up over the steps of an epoch, by name; "loss" is one."""

    def __init__(self, config: Any, processes: Processes) -> None:
        self.config = config
        self.processes = processes
        self.device = processes.device
        self.epoch = self.step = 0
        self.sums = torch.zeros(len(self.SUMS), device=self.device)
        self.clock = Clock(self.device)
        self.records: dict[str, Any] = {}  # JSON files that say more of the run, by name
        self.ranks: list[dict[str, Any]] = []  # what processes held apart when they gathered

    @abstractmethod
    def batches(self) -> Iterable[Any]:
        """The batches of the present epoch, from `step` on."""

    @abstractmethod
    def train_step(self, batch: Any) -> Mapping[str, Tensor]:
        """Train on a batch: a number for each of `SUMS`."""

    @abstractmethod
    def epoch_figures(self, totals: Mapping[str, Tensor]) -> Row:
        """An epoch's metrics from the sums over its steps and all processes; `epoch` counts it."""

    @abstractmethod
    def images_of(self, step: int) -> str:
        """The images of a step of the present epoch, in words."""

    def contents(self) -> Iterable[str | bytes]:
        """What tells whether the data changed; a run goes on only with those that it began with."""
        return ()

    def before_epoch(self) -> None:  # noqa: B027
        """Prepare the present epoch, or the rest of it."""

    def after_epoch(self) -> Row:
        """What follows an epoch, such as a test if it is due: further metrics."""
        return {}

    def step_loss(self, found: Mapping[str, Tensor]) -> Tensor:
        """What must be finite of what a step gave."""
        return found["loss"]

    def autocast(self) -> torch.autocast:
        """The precision that a step computes in."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16)

    def gather(self) -> None:
        """Bring what processes hold apart to the first, which saves it; all of them must call.

        These are the sums and, within an epoch, BatchNorm's statistics, which maps are taken with.
        """
        buffers = {name: each.cpu() for name, each in self.model.named_buffers()}
        own = {"step": self.step, "sums": self.sums.cpu(), "buffers": buffers}
        self.ranks = self.processes.gathered(own)

    def state(self) -> dict[str, Any]:
        """Everything that resumes the run after any step: tensors, numbers and text.

        Random numbers follow from the seed, the epoch and the step, so none are kept.
        """
        average = self.tested.state_dict() if self.tested is not self.model else {}
        ranks = [each for each in self.ranks if each["step"] == self.step > 0]
        return {
            "epoch": self.epoch,
            "step": self.step,
            "sums": sum(each["sums"] for each in ranks) if ranks else self.sums.cpu(),
            "model": self.model.state_dict(),
            "average": average,
            "optimizer": self.optimizer.state_dict(),
            "ranks": ranks,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.epoch, self.step = state["epoch"], state["step"]
        if self.processes.first:
            self.sums.copy_(state["sums"].view_as(self.sums))
        load_whole(self.model, state["model"])
        if self.tested is not self.model:
            load_whole(self.tested, state["average"])
        load_optimizer(self.optimizer, state["optimizer"])
        ranks = state.get("ranks", [])
        if len(ranks) == self.processes.world_size:
            own = ranks[self.processes.rank]
            self.sums.copy_(own["sums"].view_as(self.sums))
            buffers = {name: own["buffers"][name] for name, _ in self.model.named_buffers()}
            self.model.load_state_dict(buffers, strict=False)


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
    shown: Callable[[Row], str] = lambda row: "",
) -> bool:
    """Train to the last epoch, with a checkpoint and a row of metrics after each.

    Args:
        training: freshly made.
        name: of the experiment.
        folder: of the run.
        resume: go on with the run in the folder.
        budget: as in `Run`.
        shown: what the terminal says of a row.

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
        return _fit(training, name, None, shown)
    with Run(
        folder, name, config, training.device,
        resume=resume, budget=budget, data=data,
    ) as run:  # fmt: skip
        for file, content in training.records.items():
            run.keep(file, content)
        return _fit(training, name, run, shown)


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


def _fit(training: Training, name: str, run: Run | None, shown: Callable[[Row], str]) -> bool:
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
                tqdm.write(f"{name} epoch {row['epoch']}/{config.epochs}: {shown(row)}")
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
