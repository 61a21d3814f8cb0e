"""Run jobs on this machine, one after the other on each device."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any

import torch

from keepbench.progress import progress_bar
from queueing.jobs import Job

POLL_SECONDS = 1.0
STOPPED = 75  # exit code of a run that a signal stopped; --resume goes on with it


@dataclass(frozen=True)
class Outcome:
    """How a job ended: "done", "skipped", "stopped" or "failed", and where its words are."""

    job: Job
    word: str
    log: Path | None = None
    last: str = ""


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1  # see prctl(2)


def _end_with_parent() -> None:
    """Ask the system to stop this run, which then saves, if the queue dies without a word."""
    assert _LIBC
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def find_devices(given: Sequence[str] | None) -> list[str]:
    """Devices for a run at a time on each: by default every GPU, or the CPU once for each core.

    Runs on a CPU share the cores that nothing else keeps busy, for threads without one of their own
    spin at each other's barriers. A user's OMP_NUM_THREADS stands.

    Raises:
        ValueError: A name is no device's.
    """
    found = [f"cuda:{n}" for n in range(torch.cuda.device_count())]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    devices = list(given or found or ["cpu"] * min(8, cores or 1))
    for name in devices:
        try:
            torch.device("cpu" if name == "auto" else name)
        except RuntimeError:
            raise ValueError(f"--devices: no device is called {name!r}") from None
    if (on_cpu := devices.count("cpu")) and "OMP_NUM_THREADS" not in os.environ:
        busy = round(os.getloadavg()[0]) if hasattr(os, "getloadavg") else 0
        threads = max(1, ((cores or 1) - busy) // on_cpu)
        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)
    return devices


def log_path(job: Job, root: Path) -> Path:
    """Where the words of a job go."""
    return root / "logs" / f"{job.name.replace(' ', '-')}.log"


def outcome(job: Job, code: int, log: Path) -> Outcome:
    """The meaning of an exit code; a run that says it is done must be finished, too."""
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    last = lines[-1] if lines else f"exit code {code}"
    if code == STOPPED:
        return Outcome(job, "stopped", log, last)
    return Outcome(job, "done" if code == 0 and job.finished() else "failed", log, last)


def run(
    job: Job,
    device: str,
    root: Path,
    alive: set[subprocess.Popen[bytes]],
    halted: threading.Event,
) -> Outcome:
    """Run a job to its end, or ask it to save and leave once all are halted.

    Its process is in `alive` meanwhile.
    """
    log = log_path(job, root)
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as file:
        words = [*job.command, "--device", device]
        # A session of its own: Ctrl-C comes to this program alone, which asks the run to save.
        process = subprocess.Popen(
            words, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            preexec_fn=_end_with_parent if _LIBC else None,
        )  # fmt: skip
        alive.add(process)
        if halted.is_set():  # since the caller looked: whoever halts it did not find this process
            process.terminate()
        try:
            code = process.wait()
        finally:
            alive.discard(process)
    return outcome(job, code, log)


def follow(
    queue: Sequence[Job], pending: Callable[[], bool], finished: Callable[[], int]
) -> None:  # fmt: skip
    """Show how far the queue is until nothing is pending.

    The bar counts each job as one, by its share of epochs; the time left takes them for equal.
    """
    start = sum(_share(job) for job in queue)
    with progress_bar(
        total=len(queue), initial=start, unit="run", bar_format=_BAR, miniters=0
    ) as bar:
        while True:
            waiting = pending()
            bar.set_postfix_str(f"{finished()} of {len(queue)} ended", refresh=False)
            bar.update(sum(_share(job) for job in queue) - bar.n)
            if not waiting:
                return
            time.sleep(POLL_SECONDS)


_BAR = "{l_bar}{bar}| {n:.1f}/{total_fmt} runs, {elapsed}, left {remaining}{postfix}"


def _share(job: Job) -> float:
    done, total = job.progress()
    return done / total


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Take SIGTERM and Ctrl-C within; what it gives says whether one came.

    Nothing is raised: Python drops what a signal's handler raises inside a finaliser.
    """
    came: list[int] = []

    def note(number: int, frame: Any) -> None:
        came.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_all(queue: Sequence[Job], devices: Sequence[str], root: Path) -> list[Outcome]:
    """Run jobs, as many at a time as there are devices; a failed one does not stop the rest.

    Ctrl-C or SIGTERM stops the runs, which save what they have; the others do not begin.
    """
    free: Queue[str] = Queue()
    for device in devices:
        free.put(device)
    alive: set[subprocess.Popen[bytes]] = set()
    halted = threading.Event()
    ended: list[Outcome] = []

    def work(job: Job) -> None:
        device = free.get()
        try:
            if halted.is_set():
                ended.append(Outcome(job, "stopped", None, "not begun"))
            else:
                ended.append(run(job, device, root, alive, halted))
        except OSError as error:
            ended.append(Outcome(job, "failed", None, str(error)))
        finally:
            free.put(device)

    with ThreadPoolExecutor(len(devices)) as pool, stoppable() as asked:
        futures = [pool.submit(work, job) for job in queue]

        def pending() -> bool:
            return not asked() and not all(future.done() for future in futures)

        follow(queue, pending, lambda: len(ended))
        if asked():
            halted.set()
            for process in list(alive):
                process.terminate()
    for future in futures:
        future.result()
    return ended
