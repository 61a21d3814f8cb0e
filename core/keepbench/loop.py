"""The loop of every task. It owns the steps; a task says what a step does.

Resuming, saving, stopping, watching the loss and agreeing between processes are written here, once.
"""

from __future__ import annotations

import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from keepbench.clock import Clock
from keepbench.processes import Processes
from keepbench.run import Run

PREEMPTED = 75  # exit code of a run that a signal stopped and --resume goes on with (EX_TEMPFAIL)
AGREE_EVERY = 16  # steps between the processes' agreements on stopping
CHECK_EVERY = 500  # steps between looks at the loss, which wait for the device

Row = dict[str, Any]


class Training(ABC):
    """A training run in progress: what a task adds to the loop.

    A task sets `model`, `optimizer` and `steps`, and `tested` if averaged weights are tested.

    Args:
        config: its settings, `epochs`, `bf16` and `tensorboard` among them.
        processes: this process among those of the run.
        figures: how many numbers `train_step` returns.

    Attributes:
        epoch: epochs trained so far.
        step: steps done in the present epoch.
        steps: steps of the present epoch.
        sums: of the figures of these steps.
        clock: counts the time of a step's parts.
    """

    model: nn.Module
    tested: nn.Module
    optimizer: torch.optim.Optimizer
    steps: int
    nonfinite_advice = ""  # what else can be done about a loss that is not finite

    def __init__(self, config: Any, processes: Processes, figures: int) -> None:
        self.config = config
        self.processes = processes
        self.device = processes.device
        self.epoch = self.step = 0
        self.sums = torch.zeros(figures, device=self.device)
        self.clock = Clock(self.device)

    @abstractmethod
    def batches(self) -> Iterator[Any]:
        """The batches of the present epoch, from `step` on."""

    @abstractmethod
    def train_step(self, batch: Any) -> Tensor:
        """Train on a batch: (figures,) numbers to add up over the epoch, the loss first."""

    @abstractmethod
    def epoch_figures(self, totals: Tensor) -> Row:
        """An epoch's metrics from the sums over its steps and all processes; `epoch` counts it."""

    @abstractmethod
    def images_of(self, step: int) -> str:
        """The images of a step of the present epoch, in words."""

    def before_epoch(self) -> None:  # noqa: B027
        """Prepare the present epoch, or the rest of it."""

    def after_epoch(self) -> Row:
        """What follows an epoch, such as a test if it is due: further metrics."""
        return {}

    def step_loss(self, figures: Tensor) -> Tensor:
        """What must be finite of a step's figures."""
        return figures[0]

    def autocast(self) -> torch.autocast:
        """The precision that a step computes in."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16)

    def gather_sums(self) -> None:
        """Bring what processes hold apart to the first, which saves it; all of them must call."""
        total = self.processes.total(self.sums.clone())
        self.sums = total if self.processes.first else torch.zeros_like(total)

    def state(self) -> dict[str, Any]:
        """Everything that resumes the run after any step: tensors, numbers and text.

        Random numbers follow from the seed, the epoch and the step, so none are kept.
        """
        average = self.tested.state_dict() if self.tested is not self.model else {}
        return {
            "epoch": self.epoch,
            "step": self.step,
            "sums": self.sums.cpu(),
            "model": self.model.state_dict(),
            "average": average,
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.epoch, self.step = state["epoch"], state["step"]
        if self.processes.first:
            self.sums.copy_(state["sums"])
        self.model.load_state_dict(state["model"])
        if self.tested is not self.model:
            self.tested.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])


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


class Stop:
    """Whether a signal asked the run to stop.

    SIGTERM and SIGUSR1 ask, as SLURM does before it takes the machine away. Several processes stop
    after the same step.
    """

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.asked = False
        self.calls = 0

    def agreed(self) -> bool:
        """Whether to stop now; called after every step, by every process."""
        self.calls += 1
        if self.processes.world_size == 1:
            return self.asked
        return self.calls % AGREE_EVERY == 0 and self.processes.any(self.asked)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals within."""

        def ask(number: int, frame: Any) -> None:
            self.asked = True

        numbers = [getattr(signal, name, None) for name in ("SIGTERM", "SIGUSR1")]
        before = {number: signal.signal(number, ask) for number in numbers if number}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def train_epoch(
    training: Training,
    progress: Callable[[], Any] = lambda: None,
    stop: Callable[[], bool] = lambda: False,
) -> Row | None:
    """Train to the end of the present epoch, and do what follows it.

    Args:
        training: counts each step before `progress` and `stop` are called.
        progress: called after each step.
        stop: whether to leave after this step.

    Returns:
        The epoch's metrics; None if it was left before its end.

    Raises:
        FloatingPointError: The loss is not finite.
    """
    training.before_epoch()
    started, stopped = time.perf_counter(), False
    watch = LossWatch(training)
    for batch in training.batches():
        step = training.step
        try:
            figures = training.train_step(batch)
        except ValueError as error:  # such as a map with NaN
            watch.check()
            raise ValueError(f"{error} ({watch.place(step)})") from error
        watch.add(step, training.step_loss(figures))
        training.sums += figures
        training.step += 1
        progress()
        if stopped := stop():
            break
        if training.step % CHECK_EVERY == 0:
            watch.check()
    watch.check()
    if stopped:
        return None
    totals = training.processes.total(training.sums)
    training.epoch, training.step = training.epoch + 1, 0
    training.sums = torch.zeros_like(training.sums)
    row = {"epoch": training.epoch, **training.epoch_figures(totals)}
    row["train_seconds"] = time.perf_counter() - started
    return row | training.after_epoch()


def _events(config: Any, folder: Path, epoch: int) -> Callable[[Row], None]:
    """What writes a row of metrics for TensorBoard, too, if the config asks for it."""
    if not config.tensorboard:
        return lambda row: None
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder), purge_step=epoch + 1)

    def write(row: Row) -> None:
        for name, value in row.items():
            if isinstance(value, (int, float)):
                writer.add_scalar(name, value, row["epoch"])
        writer.flush()

    return write


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
    if not training.processes.first:
        return _fit(training, name, None, shown)
    config, device = training.config, training.device
    with Run(folder, name, config, device, resume=resume, budget=budget) as run:
        return _fit(training, name, run, shown)


def _fit(training: Training, name: str, run: Run | None, shown: Callable[[Row], str]) -> bool:
    config, processes = training.config, training.processes
    state = processes.shared(run.load() if run else None)
    if state is not None:
        training.load_state(state)
    events = _events(config, run.folder, training.epoch) if run else None
    steps = training.steps
    total, done = config.epochs * steps, training.epoch * steps + training.step
    hidden = None if processes.first else True  # None: shown on a terminal
    stop = Stop(processes)
    with (
        tqdm(total=total, initial=done, desc=name, unit="step", disable=hidden) as bar,
        stop.listening(),
    ):
        while training.epoch < config.epochs:
            row = train_epoch(training, bar.update, stop.agreed)
            if row is None:
                _save_stopped(training, name, run)
                return False
            if run and events:
                run.log(**row)  # before the checkpoint: a row without one is made again
                run.save(training.state())
                events(row)
                tqdm.write(f"{name} epoch {row['epoch']}/{config.epochs}: {shown(row)}")
    return True


def _save_stopped(training: Training, name: str, run: Run | None) -> None:
    """Save a run that was stopped within an epoch; all processes must call."""
    training.gather_sums()
    if run:
        run.save(training.state())
        print(
            f"{name} stopped in epoch {training.epoch + 1} after step {training.step} of "
            f"{training.steps} and is saved; --resume goes on there",
            file=sys.stderr,
        )


@contextmanager
def exit_with_message() -> Iterator[None]:
    """End the program with a message and an exit code where a run cannot go on."""
    saved = "the last checkpoint is intact; continue with --resume"
    try:
        yield
    except (ValueError, FloatingPointError) as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {error}; {saved}")
    except RuntimeError as error:
        text = str(error)
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in text:
            sys.exit(
                f"error: out of memory ({text.splitlines()[0]}); try a lower --batch-size, --bf16, "
                f"or more processes; {saved}"
            )
        if "DataLoader worker" in text:
            sys.exit(f"error: {text.splitlines()[0]}; try fewer --workers; {saved}")
        raise
