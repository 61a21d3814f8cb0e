"""What tests of training runs share: one process on the CPU, rows without clocks, resuming."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from keepbench.loop import finish_epoch, train_epoch, train_steps
from keepbench.processes import Processes
from keepbench.run import read_rows
from keepbench.training import Training
from keepbench.weights import load_checkpoint

CPU = Processes(torch.device("cpu"))
ROOT = Path(__file__).parents[1]


def without_clocks(row: dict[str, Any]) -> dict[str, Any]:
    """A row of metrics without what a clock measured."""
    return {name: value for name, value in row.items() if not str(name).endswith("seconds")}


def write_tree(
    root: Path,
    parts: Mapping[str, int],
    classes: Sequence[str] = ("red", "green", "blue"),
    size: int = 32,
) -> None:
    """A class-folder tree of square images of noise, a colour a class; `parts` are its folders."""
    generator = torch.Generator().manual_seed(0)
    for part, number in parts.items():
        for channel, name in enumerate(classes):
            (root / part / name).mkdir(parents=True)
            for index in range(number):
                shape = (size, size, 3)
                pixels = torch.randint(0, 80, shape, generator=generator, dtype=torch.uint8)
                pixels[:, :, channel] += 150
                Image.fromarray(pixels.numpy()).save(root / part / name / f"{index}.png")


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """A run's metrics without what a clock measured."""
    return [without_clocks(row) for row in read_rows(folder / "metrics.jsonl")]


def saved(folder: Path) -> dict[str, Any]:
    """A run's newest checkpoint without its copy of the metrics."""
    state = load_checkpoint(folder / "last.pt")
    del state["metrics"]
    return state


def epochs(training: Training) -> list[dict[str, Any]]:
    """Train to the last epoch: the rows."""
    rows = []
    while training.epoch < training.config.epochs:
        rows.append(without_clocks(train_epoch(training)))
    return rows


def stop_after(steps: int) -> Callable[[], bool]:
    """A `stop` for `train_steps`, true once so many steps are done."""
    calls: list[None] = []

    def stop() -> bool:
        calls.append(None)
        return len(calls) == steps

    return stop


def same(one: Any, other: Any) -> bool:
    """Whether two states are equal to the bit, but for what a clock measured."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        keys = {key for key in one if not str(key).endswith("seconds")}
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in keys)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def assert_resumes(make: Callable[[], Training], steps: int, folder: Path) -> list[dict[str, Any]]:
    """Stopped after `steps` of all its steps, and gone on with from a file, a run ends the same.

    Returns:
        The rows of the run that was not stopped.
    """
    whole, part, again = make(), make(), make()
    expected, stop = epochs(whole), stop_after(steps)
    while train_steps(part, stop=stop):
        finish_epoch(part)
    part.gather()
    torch.save(part.state(), folder / "state.pt")
    torch.rand(7)  # another process: its random numbers stand elsewhere
    again.load_state(load_checkpoint(folder / "state.pt"))
    assert (again.epoch, again.step) == (part.epoch, part.step) and again.step > 0
    assert epochs(again) == expected[part.epoch :]
    assert same(again.state(), whole.state())
    return expected


def torchrun(*words: object, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """A script and its words in several processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), *map(str, words)]
    search = os.pathsep.join([str(ROOT / "tests"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": search}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
