"""Kill runs at random moments and resume them until they end; then compare with undisturbed ones.

A run may lose what it did since its last checkpoint, and nothing else: its metrics and weights at
the end must equal, bit for bit, those of a run that was left alone.
"""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

import torch

from keepbench.leaving import INTERRUPTED, PREEMPTED
from keepbench.run import CHECKPOINTS, read_rows
from keepbench.weights import load_checkpoint
from runs import rows_of, without_clocks, write_tree
from stressing.cases import Case, Outcome
from stressing.forks import Ended, Fork

LIMIT = 120.0  # seconds for any end; a run takes a few
GRACE = 20.0  # seconds that the other processes of a run have, as torchrun gives them
_MOST = 300  # times that one run is started
_RUNS = 10_000

KILL, TERM, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
ACTIONS = {"SIGKILL": 6, "SIGTERM": 3, "SIGINT": 2, "SIGINT twice": 1, "SIGTERM, SIGKILL": 2}
"""What is sent, and how often; the pairs within the time that saving takes."""


@dataclass(frozen=True)
class Subject:
    """A run that is killed.

    Attributes:
        task: package with the command line.
        words: of it, without --out.
        processes: how many.
    """

    task: str
    words: str
    processes: int = 1

    @property
    def name(self) -> str:
        """For the table."""
        return self.task + (f", {self.processes} processes" if self.processes > 1 else "")


TREE: dict[str, Any] = {"classes": "ab", "size": 40}
_SMALL = "--subset 48 --test-subset 24 --batch-size 8 --epochs 12"
_DIGITS = f"digits-resnet8-{{}} {_SMALL} --device cpu {{}}"
_STORED = "--keep.map.scale 0.5 --keep.cache"
_UDA = (
    "digits-{} --device cpu --labels 10 --subset 40 --test-subset 24 --batch-size 4 --ratio 2 "
    "--epochs 10 --steps 6"
)
_TREE = (
    "imagenet-resnet50-{} --device cpu --data {{folder}}/tree --arch resnet8 --image-size 32 "
    "--test-size 32 --batch-size 8 --epochs 8 --warmup 1 --workers 1 --subset 0 --test-subset 0"
)
_REID = (
    "toy-resnet18-{} --device cpu --data {{folder}}/people --subset 4 --test-subset 4 "
    "--num-ids 4 --epochs 5 --eval-every 1 --sheet 2 --workers {}"
)
SUBJECTS = [
    Subject("classification", _DIGITS.format("keep_cutout_low_early", "--ema 0.9")),
    Subject("semisup_uda", _UDA.format("uda-keep_randaugment-20")),
    Subject("classification", _DIGITS.format("keep_cutout", f"{_STORED} 2")),
    Subject("classification", _DIGITS.format("keep_cutout_low_early", "--ema 0.9"), 2),
    Subject("classification", _DIGITS.format("keep_cutout_auto", "")),
    Subject("reid", _REID.format("keep_erasing_low", 1)),
    Subject("semisup_uda", _UDA.format("fixmatch-keep_randaugment-20"), 2),
    Subject("classification", _TREE.format("keep_cutmix_low")),
    Subject("classification", _DIGITS.format("keep_cutmix", f"{_STORED} 3"), 2),
    Subject("reid", _REID.format("keep_erasing", 0), 2),
]


def write_data(folder: Path) -> None:
    """What the subjects read."""
    from reid.toy import write_toy

    write_tree(folder / "tree", {"train": 12, "val": 4}, **TREE)
    write_toy(folder / "people", num_train=4, num_test=4, cameras=2, images=2, strangers=4)


def main_of(task: str) -> Callable[[list[str]], None]:
    """A task's command line."""
    return import_module(f"{task}.cli").main


class Started:
    """A start of a run: its processes."""

    def __init__(self, subject: Subject, folder: Path, log: Path, data: Path) -> None:
        words = [*subject.words.format(folder=data).split(), "--out", str(folder), "--resume"]
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        self.before = time.time()
        self.forks = []
        for rank in range(subject.processes):
            environment = {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(subject.processes),
                "MASTER_ADDR": "localhost", "MASTER_PORT": str(port),
            }  # fmt: skip
            call = partial(main_of(subject.task), words)
            one = subject.processes == 1
            place = log.with_name(f"{log.name}-{rank}")
            self.forks.append(Fork(call, place, {} if one else environment))

    def send(self, number: int, ranks: list[int]) -> None:
        """Send a signal; Ctrl-C reaches the readers of images, too."""
        for rank in ranks:
            self.forks[rank].send(number, group=number == INT)

    def wait(self) -> list[Ended]:
        """Wait for all to end, as torchrun does: when one fails the others are asked to leave."""
        until = time.time() + LIMIT
        while time.time() < until and all(fork.alive for fork in self.forks):
            time.sleep(0.001)
        failed = any(not fork.alive and fork.process.exitcode for fork in self.forks)
        if failed and len(self.forks) > 1:
            time.sleep(0.5)
            self.send(TERM, [rank for rank, fork in enumerate(self.forks) if fork.alive])
            until = time.time() + GRACE
        return [fork.wait(max(0.1, until - time.time())) for fork in self.forks]


def place(folder: Path) -> tuple[int, int]:
    """Epoch and step of the newest readable checkpoint; (0, 0) without one."""
    for name in CHECKPOINTS:
        try:
            state = load_checkpoint(folder / name)
            return state["epoch"], state["step"]
        except ValueError:
            continue
    return 0, 0


def _plain(value: Any) -> Any:
    """A state as something that can be compared: without clocks, tensors as their bytes."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in without_clocks(value).items()}
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def result(folder: Path) -> dict[str, Any]:
    """What a finished run leaves: its metrics and the last checkpoint, without clocks."""
    state = load_checkpoint(folder / "last.pt")
    saved = [without_clocks(row) for row in json.loads(state.pop("metrics"))]
    return {
        "rows": rows_of(folder),
        "saved rows": saved,
        **{key: _plain(state[key]) for key in state},
    }


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The parts of two results that differ."""
    return [key for key in one.keys() | other.keys() if one.get(key) != other.get(key)]


@dataclass(frozen=True)
class Reference:
    """An undisturbed run: its result, and the seconds of its start and of an epoch."""

    result: dict[str, Any]
    start: float
    epoch: float


def undisturbed(subject: Subject, folder: Path, data: Path) -> Reference:
    """Run a subject to its end.

    Raises:
        ValueError: It does not end well.
    """
    started = Started(subject, folder, folder.with_name(folder.name + ".log"), data)
    ended = started.wait()
    if any(each.code for each in ended):
        raise ValueError(f"{subject.words} does not run: {ended[0].output[-2000:]}")
    began = (folder / "run.json").stat().st_mtime
    epochs = len(read_rows(folder / "metrics.jsonl"))
    last = (folder / "last.pt").stat().st_mtime
    return Reference(result(folder), began - started.before, (last - began) / epochs)


def _writing(folder: Path, since: float) -> bool:
    """Whether a file of the run is, or was when it was killed, half written or half renamed."""
    for part in folder.glob("*.part"):
        try:
            if part.stat().st_mtime >= since:
                return True
        except FileNotFoundError:  # renamed meanwhile
            return True
    return (folder / "new.pt").exists()


def _await_writing(started: Started, folder: Path, limit: float) -> None:
    """Wait until the run writes a checkpoint."""
    until = time.time() + limit
    while time.time() < until and started.forks[0].alive:
        if _writing(folder, started.before):
            return
        time.sleep(0.0003)


def disturb(
    started: Started, reference: Reference, folder: Path, random: Random
) -> tuple[str, str, bool]:
    """Send signals at a random moment.

    Returns:
        The action, "" if the run was over before; where and when in words; whether a file was being
        written.
    """
    action = random.choices(list(ACTIONS), list(ACTIONS.values()))[0]
    first, second = (action.replace(" twice", ", SIGINT").split(", ") + [""])[:2]
    aimed = random.random() < 0.35
    delay = random.uniform(0, reference.start + 2.5 * reference.epoch)
    wait = random.uniform(0, 0.004 if aimed else 0.15)
    ranks = list(range(len(started.forks)))
    if random.random() < 0.3:
        ranks = [random.choice(ranks)]
    if aimed:
        _await_writing(started, folder, LIMIT)
        time.sleep(wait)
    else:
        time.sleep(delay)
    writing = _writing(folder, started.before)
    alive = started.forks[0].alive
    started.send(getattr(signal, first), ranks)
    if second:
        time.sleep(wait)
        started.send(getattr(signal, second), ranks)
    when = f"{wait * 1000:.1f} ms into writing" if aimed else f"{delay:.3f} s"
    return action if alive else "", f"{action} to {ranks} after {when}", writing


def _wrong(ended: list[Ended], action: str) -> str:
    """What is wrong with how a run's processes ended; "" if nothing."""
    usual = {0, PREEMPTED, INTERRUPTED, -TERM} | ({-KILL} if "KILL" in action else set())
    gone = any(each.code is None or each.code < 0 or each.code == INTERRUPTED for each in ended)
    for rank, each in enumerate(ended):
        about = f"process {rank}" if len(ended) > 1 else "it"
        if each.traceback:
            return f"{about} gave a traceback: {each.output[-1500:]}"
        if each.code is None:
            return f"{about} hung: {each.output[-1500:]}"
        left = gone and len(ended) > 1 and each.code == 1 and len(each.errors) == 1
        if each.code not in usual and not left:
            return f"{about} ended with {each.code}: {each.output[-1500:]}"
    return ""


def kill_often(
    subject: Subject, reference: Reference, data: Path, random: Random, folder: Path
) -> Outcome:
    """Kill and resume a run until it ends, and compare what it leaves."""
    outcome, run, history = Outcome(), folder / "run", []
    count, before = outcome.counts, (0, 0)
    for attempt in range(_MOST):
        started = Started(subject, run, folder / f"log-{attempt}", data)
        action, what, writing = disturb(started, reference, run, random)
        ended = started.wait()
        history.append(f"{what}: {[each.code for each in ended]}")
        killed = any(each.code == -KILL for each in ended)
        writing |= killed and _writing(run, started.before)
        count.update(f"exit code {each.code}" for each in ended)
        if action:
            count.update(["kills", f"kills by {action}", f"kills of {subject.name}"])
            count["kills in writing a file"] += writing
        now = place(run)
        wrong = _wrong(ended, action)
        if not wrong and now < before:
            wrong = f"the checkpoint went back from {before} to {now}"
        if wrong:
            outcome.faults.append(f"{wrong}\n  {subject.words}\n  " + "\n  ".join(history))
            count["runs lost"] += 1
            return outcome
        before = now
        if all(each.code == 0 for each in ended):
            break
    parts = differing(result(run), reference.result)
    if parts:
        outcome.faults.append(f"{', '.join(parts)} differ\n  {subject.words}\n  {history}")
    count["runs lost" if parts else "runs equal to undisturbed ones"] += 1
    return outcome


def prepare(
    folder: Path, seed: int, subjects: list[Subject] = SUBJECTS
) -> Callable[[], Iterator[Case]]:
    """Write data and run every subject once, left alone: more cases than time."""
    write_data(folder)
    references = [undisturbed(s, folder / f"whole-{n}", folder) for n, s in enumerate(subjects)]

    def cases() -> Iterator[Case]:
        for number in range(_RUNS):
            at = number % len(subjects)
            run = partial(kill_often, subjects[at], references[at], folder)
            yield Case(f"kills {number}: {subjects[at].name}", run)

    return cases
