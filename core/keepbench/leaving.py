"""Leave a run: when a signal asks for it, and with a message when it cannot go on."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from keepbench.own_network import in_words, is_own
from keepbench.processes import Processes
from keepbench.progress import printable
from keepbench.run import Run

PREEMPTED = 75  # exit code of a run that a signal stopped and --resume goes on with (EX_TEMPFAIL)
INTERRUPTED = 130  # exit code after a second Ctrl-C, as of a shell


def ignore_ctrl_c(worker: int) -> None:
    """Leave Ctrl-C to the process that trains: it ends after its step, and needs its readers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _leave(number: int, frame: Any) -> None:
    """Leave at Ctrl-C; a further one on the way out would end in a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


class Stop:
    """Whether a signal asked the run to stop.

    SIGTERM, SIGUSR1 and SIGUSR2 (submitit's) ask, as SLURM does before it takes the machine away,
    and so does the first Ctrl-C; the second leaves at once. Several processes stop after the same
    step: they tell one another after each, and look at what was told a step later, so that none
    waits.
    """

    def __init__(self, processes: Processes) -> None:
        self.asked = False
        self.group = dist.new_group(backend="gloo") if processes.world_size > 1 else None
        self.told: tuple[dist.Work, Tensor] | None = None

    def agreed(self) -> bool:
        """Whether to stop now; called after every step, by every process."""
        if self.group is None:
            return self.asked
        if self._heard():
            return True
        flag = torch.tensor(float(self.asked))
        work = dist.all_reduce(flag, group=self.group, async_op=True)  # type: ignore[arg-type]
        assert work is not None
        self.told = work, flag
        return False

    def _heard(self) -> bool:
        """Whether a process had been asked by the last step."""
        if self.told is None:
            return False
        (work, flag), self.told = self.told, None
        work.wait()
        return bool(flag)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals within."""

        def ask(number: int, frame: Any) -> None:
            if number == signal.SIGINT:
                if self.asked:
                    _leave(number, frame)
                print("stopping after this step; Ctrl-C again leaves at once", file=sys.stderr)
            self.asked = True

        names = ("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGINT")
        numbers = [getattr(signal, name, None) for name in names]
        before = {number: signal.signal(number, ask) for number in numbers if number}
        try:
            yield
            self._heard()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def resume_command() -> str:
    """The command that goes on with the present run."""
    words = list(sys.argv)
    if Path(words[0]).name.startswith("run_") and "--resume" not in words:
        words.append("--resume")
    processes = os.environ.get("WORLD_SIZE", "1")
    start = ["python"] if processes == "1" else ["torchrun", "--nproc_per_node", processes]
    return shlex.join([*start, *words])


def _saved() -> str:
    """The rest of the run that this process was at work on, as the end of a message."""
    run = Run.latest
    if run is None or not run.saved:
        return ""
    return f"; the last checkpoint is intact, continue with: {resume_command()}"


@contextmanager
def exit_with_message() -> Iterator[None]:
    """End the program with a message and an exit code where a run cannot go on."""
    before = signal.signal(signal.SIGINT, _leave)
    try:
        yield
    except KeyboardInterrupt:
        print(f"stopped{_saved()}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except (ValueError, FloatingPointError) as error:
        sys.exit(printable(f"error: {error}"))
    except OSError as error:
        sys.exit(printable(f"error: {error}{_saved()}"))
    except Exception as error:
        text = str(error)
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in text:
            sys.exit(
                f"error: out of memory ({text.splitlines()[0]}); try a lower --batch-size, --bf16, "
                f"or more processes{_saved()}"
            )
        if isinstance(error, dist.DistError) or "/gloo/" in text:
            reason = text.splitlines()[0].partition("] ")[2].partition(". ")[0] or text
            sys.exit(f"error: another process of the run is gone ({reason}){_saved()}")
        if "DataLoader worker" in text:
            sys.exit(f"error: {text.splitlines()[0]}; try fewer --workers{_saved()}")
        if is_own(error):
            sys.exit(printable(f"error: {in_words(error)}{_saved()}"))
        raise
    finally:
        if signal.getsignal(signal.SIGINT) is _leave:
            signal.signal(signal.SIGINT, before)
