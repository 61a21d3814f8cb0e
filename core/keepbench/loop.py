"""The loop over epochs of every task: resume, save, log, stop when asked, say what went wrong."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from keepbench.processes import Processes
from keepbench.run import Run

PREEMPTED = 75  # exit code of a run that a signal stopped and --resume goes on with (EX_TEMPFAIL)

AGREE_EVERY = 16  # steps between the processes' talks about stopping

Row = dict[str, Any]


class Trainer(Protocol):
    """A training run in progress.

    Attributes:
        epoch: epochs trained so far.
        step: steps done in the present epoch.
        steps: of an epoch.
    """

    epoch: int
    step: int
    steps: int

    def train_epoch(self, progress: Callable[[], None]) -> Row:
        """Train to the end of the present epoch: its row of metrics, with its number from 1.

        `progress` is called after every step, when `step` and all that `state` holds count it.
        """

    def state(self) -> dict[str, Any]:
        """Everything that resumes the run after any step: tensors, numbers and text."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""


class Interrupted(Exception):
    """A signal asked the run to stop."""


class Progress:
    """Counts steps on a bar, and raises Interrupted after one if a signal asked for it.

    SIGTERM and SIGUSR1 ask, as SLURM does before it takes the machine away. Several processes stop
    after the same step.
    """

    def __init__(self, bar: tqdm[Any], processes: Processes) -> None:
        self.bar, self.processes = bar, processes
        self.asked = False
        self.calls = 0

    def __call__(self) -> None:
        """Count a step."""
        self.bar.update()
        self.calls += 1
        if self.processes.world_size == 1:
            stop = self.asked
        else:
            stop = self.calls % AGREE_EVERY == 0 and self.processes.any(self.asked)
        if stop:
            raise Interrupted

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


class LossWatch:
    """Notes the first step of an epoch whose loss is not finite; the step does not wait for it."""

    def __init__(self, device: torch.device) -> None:
        self.first = torch.full((), -1, dtype=torch.int64, device=device)

    def add(self, step: int, loss: Tensor) -> None:
        """Look at a step's loss."""
        new = ~loss.detach().isfinite() & (self.first < 0)
        self.first = torch.where(new, step, self.first)

    def check(self) -> int | None:
        """The first such step, or None; waits for the device."""
        first = int(self.first)
        return None if first < 0 else first


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
    trainer: Trainer,
    name: str,
    config: Any,
    folder: Path,
    processes: Processes,
    *,
    resume: bool = False,
    budget: str = "paper",
    shown: Callable[[Row], str] = lambda row: "",
) -> None:
    """Train to the last epoch, with a checkpoint and a row of metrics after each.

    Args:
        trainer: freshly made.
        name: of the experiment.
        config: a dataclass with `epochs` and `tensorboard` among its fields.
        folder: of the run.
        processes: this process among those of the run.
        resume: go on with the run in the folder.
        budget: as in `Run`.
        shown: what the terminal says of a row.

    Raises:
        ValueError: The folder holds another run, or a process is at work in it.
        Interrupted: A signal stopped the run after a step; it is saved.
    """
    if not processes.first:
        _fit(trainer, name, config, None, processes, shown)
        return
    with Run(folder, name, config, processes.device, resume=resume, budget=budget) as run:
        _fit(trainer, name, config, run, processes, shown)


def _fit(
    trainer: Trainer,
    name: str,
    config: Any,
    run: Run | None,
    processes: Processes,
    shown: Callable[[Row], str],
) -> None:
    state = processes.shared(run.load() if run else None)
    if state is not None:
        trainer.load_state(state)
    events = _events(config, run.folder, trainer.epoch) if run else None
    total, done = config.epochs * trainer.steps, trainer.epoch * trainer.steps + trainer.step
    hidden = None if processes.first else True  # None: shown on a terminal
    with tqdm(total=total, initial=done, desc=name, unit="step", disable=hidden) as bar:
        progress = Progress(bar, processes)
        with progress.listening():
            while trainer.epoch < config.epochs:
                try:
                    row = trainer.train_epoch(progress)
                except Interrupted:
                    if run:
                        run.save(trainer.state())
                    raise Interrupted(
                        f"{name} stopped in epoch {trainer.epoch + 1} after step {trainer.step} of "
                        f"{trainer.steps} and is saved; --resume goes on there"
                    ) from None
                if run and events:
                    run.log(**row)  # before the checkpoint: a row without one is made again
                    run.save(trainer.state())
                    events(row)
                    tqdm.write(f"{name} epoch {row['epoch']}/{config.epochs}: {shown(row)}")


@contextmanager
def exit_with_message() -> Iterator[None]:
    """End the program with a message and an exit code where a run cannot go on."""
    saved = "what was saved before stands; --resume goes on from there"
    try:
        yield
    except (ValueError, FloatingPointError) as error:
        sys.exit(f"error: {error}")
    except Interrupted as error:
        print(error, file=sys.stderr)
        sys.exit(PREEMPTED)
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
