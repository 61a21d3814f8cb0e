"""A run's folder.

A folder explains itself: `run.json` says what was run, by which command, code and hardware,
`metrics.jsonl` has a line per epoch, `last.pt` resumes it and `previous.pt` is the one before.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
import weakref
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from keepbench.machine import commit, hardware, versions
from keepbench.weights import load_checkpoint

try:
    import fcntl
except ImportError:  # Windows has no advisory locks: two processes in one folder go unnoticed
    fcntl = None  # type: ignore[assignment]


def _write_whole(path: Path, write: Any) -> None:
    """Write a file whole or not at all: beside it, flushed to the disk, then renamed."""
    beside = path.with_name(path.name + ".part")
    with open(beside, "wb") as file:
        try:
            write(file)
        except RuntimeError as error:  # torch.save hides the reason, such as a full disk
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def _lock(folder: Path) -> int:
    """Hold a folder until the descriptor is closed or the process ends, however it ends.

    Raises:
        ValueError: Another process holds it.
    """
    descriptor = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
    try:
        if fcntl:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ValueError(f"another process is at work in {folder}; give another --out") from None
    except OSError:  # a file system without locks
        pass
    return descriptor


def _write_text(path: Path, text: str) -> None:
    _write_whole(path, lambda file: file.write(text.encode()))


class Run:
    """A run's folder, open for writing by this process alone until it is closed (`with Run(...)`).

    A field of the config whose metadata has `free` may differ when a run goes on.

    Args:
        folder: made if it is not there.
        experiment: the name of what is run.
        config: a dataclass with every setting.
        device: what the run computes on.
        resume: go on with the run in the folder; without one there, begin.
        budget: how much was asked for, so that a short run never poses as the paper's.

    Raises:
        ValueError: The folder holds a run and `resume` is off, its settings are others, or another
            process is at work in it.
        OSError: The folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        experiment: str,
        config: Any,
        device: torch.device,
        *,
        resume: bool,
        budget: str = "paper",
    ) -> None:
        self.folder = Path(folder)
        self.metrics = self.folder / "metrics.jsonl"
        record = self.folder / "run.json"
        settings = asdict(config)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.close = weakref.finalize(self, os.close, _lock(self.folder))
        try:
            if record.exists():
                free = {each.name for each in fields(config) if each.metadata.get("may_change")}
                self._check_same(_read_record(record), experiment, settings, resume, free)
            else:
                self._describe(record, experiment, budget, settings, device)
        except BaseException:
            self.close()
            raise

    def _describe(
        self,
        record: Path,
        experiment: str,
        budget: str,
        settings: dict[str, Any],
        device: torch.device,
    ) -> None:
        script = Path(sys.argv[0]).name
        about = {
            "experiment": experiment,
            "budget": budget,
            "settings": settings,
            "command": shlex.join(["python", f"tools/{script}", *sys.argv[1:]]),
            "commit": commit(Path(__file__).parent),
            "versions": versions(),
            "hardware": hardware(device),
        }
        _write_text(record, json.dumps(about, indent=2) + "\n")

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _check_same(
        self,
        about: dict[str, Any],
        experiment: str,
        settings: dict[str, Any],
        resume: bool,
        free: set[str],
    ) -> None:
        if not resume:
            raise ValueError(
                f"{self.folder} already holds a run of {about['experiment']}; "
                "give --resume to go on with it, or another --out"
            )
        now = json.loads(json.dumps({"experiment": experiment, **settings}))
        then = {"experiment": about["experiment"], **about["settings"]}
        differences = [
            f"{name}: {then.get(name)!r} then, {now.get(name)!r} now"
            for name in sorted({*now, *then} - free)
            if now.get(name) != then.get(name)
        ]
        if differences:
            raise ValueError(f"{self.folder} was run otherwise ({'; '.join(differences)})")

    def log(self, **row: Any) -> None:
        """Add a line to `metrics.jsonl` and see it onto the disk."""
        with open(self.metrics, "a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def rows(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`."""
        return read_rows(self.metrics)

    def save(self, state: dict[str, Any]) -> None:
        """Write a checkpoint of plain tensors, numbers and text; the one before it is kept."""
        last, new = self.folder / "last.pt", self.folder / "new.pt"
        _write_whole(new, lambda file: torch.save(state, file))
        if last.exists():
            os.replace(last, self.folder / "previous.pt")
        os.replace(new, last)

    def load(self) -> dict[str, Any] | None:
        """The newest readable checkpoint, and drop the metrics of epochs after it; None if new.

        Raises:
            ValueError: Checkpoints are there, but none can be read.
        """
        names = ("new.pt", "last.pt", "previous.pt")  # "new" if killed between two renames
        paths = [path for name in names if (path := self.folder / name).exists()]
        damaged = []
        for path in paths:
            try:
                state = load_checkpoint(path)
            except ValueError as error:
                print(f"{error}; going on with the one before", file=sys.stderr)
                damaged.append(path)
                continue
            for path in damaged:  # or the next checkpoint would push the readable one out
                os.replace(path, path.with_suffix(".damaged"))
            kept = [row for row in self.rows() if _epoch(row) <= state["epoch"]]
            _write_text(self.metrics, "".join(json.dumps(row) + "\n" for row in kept))
            return state
        if paths:
            raise ValueError(f"no checkpoint in {self.folder} can be read; give another --out")
        if self.metrics.exists():
            self.metrics.unlink()
        return None


def _read_record(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_text())
        return {"experiment": about["experiment"], "settings": dict(about["settings"])}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); give another --out") from None


def _epoch(row: Any) -> float:
    """The epoch of a row; of one that is damaged, beyond all."""
    epoch = row.get("epoch") if isinstance(row, dict) else None
    return epoch if isinstance(epoch, (int, float)) else math.inf


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`, without a last one that was cut off."""
    rows = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
