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
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch

from keepbench.checkpoints import CHECKPOINTS, DETECTRON, newest_state
from keepbench.files import FolderLock, parse_json, set_aside, write_text, write_whole
from keepbench.identity import Identity, check_digests
from keepbench.machine import commit, hardware, versions
from keepbench.older import RENAMED, modern
from keepbench.progress import say
from keepbench.settings import flat, from_flat, task_of

Config = TypeVar("Config")
_TEXTS = ("task", "experiment", "budget", "command", "commit", "hardware", "data")
_KINDS = dict.fromkeys(_TEXTS, str) | {"settings": dict, "versions": dict, "files": dict}
_USUAL: dict[str, Any] = {
    "command": "", "hardware": "unknown", "commit": "unknown", "data": "", "versions": {},
    "files": {},
}  # fmt: skip


def check_folder(folder: Path, identity: Identity, *, resume: bool) -> bool:
    """Look whether a run can use a folder, before its data are read; nothing is written.

    Returns:
        Whether it goes on from a checkpoint.

    Raises:
        ValueError: As `Run` and `Run.load` would.
    """
    if not _find_record(folder, identity, resume):
        return False
    return _find_state(folder, identity)[0] is not None


def _find_record(folder: Path, identity: Identity, resume: bool) -> RunRecord | None:
    """The record of the run in a folder, if it is this one and goes on; None if none is there."""
    if not (folder / "run.json").exists():
        known = (*CHECKPOINTS, DETECTRON, "metrics.jsonl")
        if found := ", ".join(name for name in known if (folder / name).exists()):
            raise ValueError(f"{folder} holds {found} but no run.json; give another --out")
        return None
    try:
        record = RunRecord.read(folder)
    except ValueError as error:
        raise ValueError(f"{error}; give another --out") from None
    if not resume:
        raise ValueError(
            f"{folder} already holds a run of {record.experiment}; "
            "give --resume to go on with it, or another --out"
        )
    identity.compare({"experiment": record.experiment, **record.settings}, str(folder))
    check_digests(record.files, identity.files, f"the run in {folder}")
    return record


def _find_state(folder: Path, identity: Identity) -> tuple[dict[str, Any] | None, dict[Path, str]]:
    """The newest checkpoint that can be read, if it is this run's, and why newer ones cannot."""
    state, path, damaged = newest_state(folder)
    if state and "run" in state:
        identity.compare(json.loads(state["run"]), str(path))
    if state is None and not (folder / DETECTRON).exists():
        rows = read_rows(folder / "metrics.jsonl")
        if max(map(_epoch, rows), default=0) > 1:
            raise ValueError(
                f"{folder} has metrics of {len(rows)} epochs but no checkpoint to go on from; "
                "give another --out"
            )
    return state, damaged


class Run:
    """A run's folder, open for writing by this process alone until it is closed (`with Run(...)`).

    Args:
        folder: made if it is not there.
        experiment: the name of what is run.
        config: a dataclass with every setting; those that `may_change` may differ when a run is
            resumed.
        device: what the run computes on.
        resume: go on with the run in the folder; without one there, begin.
        budget: how much was asked for, so that a short run never poses as the paper's.
        data: digest of the data, which must be the same when a run is resumed; "" is unknown.

    Attributes:
        saved: whether there is a checkpoint to go on from.

    Raises:
        ValueError: The folder holds a run and `resume` is off, its settings, data or files that
            settings name are others, it holds files of a run without `run.json`, or another process
            is at work in it.
        OSError: The folder cannot be written.
    """

    latest: ClassVar[Run | None] = None  # the last that this process opened

    def __init__(
        self,
        folder: Path,
        experiment: str,
        config: Any,
        device: torch.device,
        *,
        resume: bool,
        budget: str = "paper",
        data: str = "",
    ) -> None:
        self.folder, self.metrics = Path(folder), Path(folder, "metrics.jsonl")
        self.identity = Identity(experiment, config)
        self.saved = False
        Run.latest = self
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(self.folder)
        self.close = weakref.finalize(self, lock.close)
        try:
            record = _find_record(self.folder, self.identity, resume)
            if record is None:
                self._describe(experiment, budget, config, device, data)
            elif data and record.data and data != record.data:
                raise ValueError(
                    f"the data are not those that the run in {self.folder} began with: names, "
                    "sizes, labels or contents of images changed; give another --out"
                )
        except BaseException:
            self.close()
            raise

    def _describe(self, name: str, budget: str, config: Any, device: Any, data: str) -> None:
        script = Path(sys.argv[0]).name
        command = shlex.join(["python", f"tools/{script}", *sys.argv[1:]])
        about = {
            "task": task_of(config),
            "experiment": name,
            "budget": budget,
            "settings": flat(config),
            "command": command.encode(errors="surrogateescape").decode(errors="replace"),
            "commit": commit(Path(__file__).parent),
            "versions": versions(),
            "hardware": hardware(device),
            "data": data,
            "files": self.identity.files,
        }
        write_text(self.folder / "run.json", json.dumps(about, indent=2) + "\n")

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def keep(self, name: str, content: dict[str, Any]) -> None:
        """Write a JSON file that says more of the run, or compare it with the one that is there.

        Raises:
            ValueError: The file is damaged, or says something else.
        """
        path = self.folder / name
        content = json.loads(json.dumps(content))
        if not path.exists():
            write_text(path, json.dumps(content) + "\n")
            return
        try:
            then = parse_json(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}); give another --out") from None
        if changed := [key for key in content if then.get(key) != content[key]]:
            raise ValueError(
                f"the run in {self.folder} began with other data: {', '.join(changed)} differ from "
                f"{path}; give another --out"
            )

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
        """Write a checkpoint of plain tensors, numbers and text; the one before it is kept.

        It holds the run's experiment and settings, and the metrics up to its epoch.
        """
        rows = [row for row in self.rows() if _epoch(row) <= state["epoch"]]
        state = {**state, "run": json.dumps(self.identity.settings), "metrics": json.dumps(rows)}
        write_whole(self.folder / "new.pt", lambda file: torch.save(state, file))
        self._rename_new()
        self.saved = True

    def _rename_new(self) -> None:
        """Make "new.pt" the last checkpoint and the last the previous one."""
        new, last, previous = (self.folder / name for name in CHECKPOINTS)
        if last.exists():
            os.replace(last, previous)
        os.replace(new, last)

    def load(self) -> dict[str, Any] | None:
        """The newest readable checkpoint, and the metrics up to its epoch; None if the run is new.

        A checkpoint that cannot be read is set aside, and so is a `metrics.jsonl` that lacks rows
        or holds damaged ones; nothing is deleted.

        Raises:
            ValueError: Checkpoints are there, but none can be read; the newest is another run's; or
                there are metrics of several epochs, but no checkpoint.
        """
        state, damaged = _find_state(self.folder, self.identity)
        for path, reason in damaged.items():
            say(f"{path.name}: {reason}; going on with the one before")
            set_aside(path)  # or the next checkpoint would push the readable one out
        if state is None:
            if self.metrics.exists():  # of an epoch that was never saved
                set_aside(self.metrics)
            return None
        if (self.folder / "new.pt").exists():  # a kill came between its two renames
            self._rename_new()
        self._restore_metrics(state)
        self.saved = True
        return state

    def _restore_metrics(self, state: dict[str, Any]) -> None:
        """Leave the rows up to a checkpoint's epoch, from the checkpoint if the file lacks some."""
        rows, damaged = _read_lines(self.metrics)
        kept = [row for row in rows if _epoch(row) <= state["epoch"]]
        saved = json.loads(state["metrics"]) if "metrics" in state else kept
        if damaged or kept != saved:
            aside = set_aside(self.metrics) if self.metrics.exists() else None
            missing = sorted({*range(1, state["epoch"] + 1)} - {_epoch(row) for row in saved})
            say(
                f"{self.metrics} had {damaged} damaged lines and {len(kept)} of {len(saved)} rows"
                + (f"; epochs {missing} are lost" if missing else "; all are restored")
                + (f"; the old file is {aside.name}" if aside else "")
            )
        text = "".join(json.dumps(row) + "\n" for row in saved)
        if not self.metrics.exists() or self.metrics.read_bytes() != text.encode():
            write_text(self.metrics, text)  # a last line without its end would join the next


def _epoch(row: dict[str, Any]) -> float:
    """The epoch of a row; of one without, beyond all."""
    epoch = row.get("epoch")
    return epoch if isinstance(epoch, (int, float)) else math.inf


def _read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The good lines of a `metrics.jsonl`, and the number of damaged ones."""
    rows, damaged = [], 0
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            rows.append(parse_json(line))
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


def tensorboard(config: Any, folder: Path, epoch: int) -> Callable[[dict[str, Any]], None]:
    """A function that writes a row of metrics for TensorBoard, if the config asks for it."""
    if not config.tensorboard:
        return lambda row: None
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder), purge_step=epoch + 1)

    def write(row: dict[str, Any]) -> None:
        for name, value in row.items():
            if isinstance(value, (int, float)):
                writer.add_scalar(name, value, row["epoch"])
        writer.flush()

    return write


@dataclass(frozen=True)
class RunRecord:
    """The record in a run's folder.

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
        data: digest of the data; "" if unknown.
        files: digests of the files that settings name, by setting.
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
    data: str = ""
    files: dict[str, str] = field(default_factory=dict, repr=False)

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
            return cls._checked(folder, parse_json(path.read_bytes()))
        except (ValueError, OSError) as error:
            raise ValueError(f"{folder}: run.json is damaged: {error}") from None

    @classmethod
    def _checked(cls, folder: Path, about: dict[str, Any]) -> RunRecord:
        found = _USUAL | {name: value for name, value in about.items() if value is not None}
        found["task"] = _task_of(found)
        wrong = [name for name, kind in _KINDS.items() if not isinstance(found.get(name), kind)]
        if not wrong:
            texts = ("versions", "files")
            wrong = [name for name in texts if {*map(type, found[name].values())} - {str}]
        if wrong:
            raise ValueError(f"it has no usable {', '.join(wrong)}")
        found["settings"] = modern(found["task"], found["settings"])
        names = RENAMED.get(found["task"], {})
        found["files"] = {names.get(name, name): each for name, each in found["files"].items()}
        rows, damaged = _read_lines(folder / "metrics.jsonl")
        return cls(folder, rows=rows, damaged=damaged, **{name: found[name] for name in _KINDS})

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
            ValueError: They are not that config's as it now is, or name code.
        """
        try:
            return from_flat(kind, self.settings)
        except ValueError as error:
            raise ValueError(f"{self.folder}: {error}") from None
