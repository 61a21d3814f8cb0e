"""A run's folder: written by `Run`, read by `RunRecord`.

A folder explains itself: `run.json` says what was run, by which command, code and hardware,
`metrics.jsonl` has a line per epoch, `last.pt` resumes it and `previous.pt` is the one before.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import sys
import weakref
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import torch

from keepbench.machine import commit, hardware, versions
from keepbench.weights import load_checkpoint

try:
    import fcntl
except ImportError:  # Windows has no advisory locks: two processes in one folder go unnoticed
    fcntl = None  # type: ignore[assignment]

Config = TypeVar("Config")
_TEXTS = ("task", "experiment", "budget", "command", "commit", "hardware")
_DIGITS = 300  # of a whole number: one of more is no float


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
                self._check_same(self._record(), experiment, settings, resume, free)
            else:
                self._describe(record, experiment, budget, config, device)
        except BaseException:
            self.close()
            raise

    def _describe(
        self,
        record: Path,
        experiment: str,
        budget: str,
        config: Any,
        device: torch.device,
    ) -> None:
        script = Path(sys.argv[0]).name
        about = {
            "task": type(config).__module__.partition(".")[0],
            "experiment": experiment,
            "budget": budget,
            "settings": asdict(config),
            "command": shlex.join(["python", f"tools/{script}", *sys.argv[1:]]),
            "commit": commit(Path(__file__).parent),
            "versions": versions(),
            "hardware": hardware(device),
        }
        _write_text(record, json.dumps(about, indent=2) + "\n")

    def _record(self) -> RunRecord:
        try:
            return RunRecord.read(self.folder)
        except ValueError as error:
            raise ValueError(f"{error}; give another --out") from None

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _check_same(
        self,
        record: RunRecord,
        experiment: str,
        settings: dict[str, Any],
        resume: bool,
        free: set[str],
    ) -> None:
        if not resume:
            raise ValueError(
                f"{self.folder} already holds a run of {record.experiment}; "
                "give --resume to go on with it, or another --out"
            )
        now = json.loads(json.dumps({"experiment": experiment, **settings}))
        then = {"experiment": record.experiment, **record.settings}
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


def _epoch(row: dict[str, Any]) -> float:
    """The epoch of a row; of one without, beyond all."""
    epoch = row.get("epoch")
    return epoch if isinstance(epoch, (int, float)) else math.inf


def _integer(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _parse(content: bytes) -> dict[str, Any]:
    """A JSON object that anybody may have written.

    Raises:
        ValueError: It is none, or cannot be computed with or written again as UTF-8.
    """
    try:
        value = json.loads(content.decode(), parse_int=_integer)
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")
    return value


def _read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The good lines of a `metrics.jsonl`, and the number of damaged ones."""
    rows, damaged = [], 0
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            rows.append(_parse(line))
        except ValueError:
            damaged += 1
    return rows, damaged


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`, without damaged ones, as a last one that was cut off."""
    return _read_lines(path)[0]


def _task_of(about: dict[str, Any]) -> Any:
    """The task of a run; where `run.json` is too old to say it, that of the command's script."""
    script = re.search(r"run_(\w+)\.py\b", str(about["command"]))
    return about.get("task", script[1] if script else "")


@dataclass(frozen=True)
class RunRecord:
    """What a run's folder says of it.

    Attributes:
        folder: that was read.
        task: package whose config the settings are; "" if unknown.
        experiment: its name.
        budget: as "smoke", "short" or "paper".
        settings: by name, as JSON brings them back.
        command: that began it.
        commit: of the code.
        hardware: in words.
        versions: of Python and packages.
        rows: the good lines of `metrics.jsonl`.
        damaged: number of the others.
    """

    folder: Path
    task: str
    experiment: str
    budget: str
    settings: dict[str, Any] = field(repr=False)
    command: str
    commit: str
    hardware: str
    versions: dict[str, str] = field(repr=False)
    rows: list[dict[str, Any]] = field(repr=False)
    damaged: int = 0

    @classmethod
    def read(cls, folder: Path) -> RunRecord:
        """Read a folder.

        Raises:
            ValueError: No run is there, or its record cannot be used, and why.
        """
        path = folder / "run.json"
        if not path.is_file():
            raise ValueError(f"{folder}: run.json is missing")
        try:
            return cls._checked(folder, _parse(path.read_bytes()))
        except (ValueError, OSError) as error:
            raise ValueError(f"{folder}: run.json is damaged: {error}") from None

    @classmethod
    def _checked(cls, folder: Path, about: dict[str, Any]) -> RunRecord:
        found: dict[str, Any] = {"command": "", "hardware": "unknown", "commit": "unknown"}
        found |= {name: value for name, value in about.items() if value is not None}
        found["task"] = _task_of(found)
        texts = {name: found.get(name) for name in _TEXTS}
        settings, versions = found.get("settings"), found.get("versions", {})
        wrong = [name for name, value in texts.items() if not isinstance(value, str)]
        wrong += [] if isinstance(settings, dict) else ["settings"]
        if not isinstance(versions, dict) or {*map(type, versions.values())} - {str}:
            wrong.append("versions")
        if wrong:
            raise ValueError(f"it has no usable {', '.join(wrong)}")
        rows, damaged = _read_lines(folder / "metrics.jsonl")
        content: dict[str, Any] = {**texts, "settings": settings, "versions": versions}
        return cls(folder, rows=rows, damaged=damaged, **content)

    @property
    def seed(self) -> int:
        """The seed of its settings.

        Raises:
            ValueError: They have none.
        """
        seed = self.settings.get("seed")
        if type(seed) is not int:
            raise ValueError(f"{self.folder}: its settings have no seed")
        return seed

    def config(self, kind: type[Config]) -> Config:
        """The settings as a task's config.

        Raises:
            ValueError: They are not that config's as it now is.
        """
        known = {each.name for each in fields(kind)}  # type: ignore[arg-type]
        if strange := sorted(self.settings.keys() - known):
            package = kind.__module__.partition(".")[0]
            raise ValueError(
                f"{self.folder} is no run of {package} as it now is: unknown settings {strange[:5]}"
            )
        try:
            return kind(**self.settings)
        except ValueError as error:
            raise ValueError(f"{self.folder}: {error}") from None
