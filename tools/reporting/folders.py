"""Read run folders, and say of each that cannot be used what is wrong with it."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keepbench.run import read_rows
from reporting.catalogue import Catalogue, Package, changed, is_small

SMALL = "small"
"""The budget's name of small experiments that are run whole: "paper" is for the paper's."""
TEXTS = ("experiment", "budget", "command", "hardware")


@dataclass(frozen=True)
class Group:
    """Runs that can be compared: a budget, and the settings that were changed beside it.

    Attributes:
        budget: that was asked for; `SMALL` for the whole of a small experiment.
        changed: settings and values, sorted; not the experiment's at this budget.
    """

    budget: str
    changed: tuple[tuple[str, str], ...] = ()

    @property
    def full(self) -> bool:
        """Whether an experiment is run as it is defined; bfloat16 is allowed."""
        return self.budget == "paper" and {name for name, _ in self.changed} <= {"bf16"}

    @property
    def label(self) -> str:
        """In words, for a badge."""
        words = ", ".join(f"{name}={value}" for name, value in self.changed)
        joint = " with " if self.full else " but "
        return f"{self.budget}{joint}{words}" if words else self.budget


@dataclass(frozen=True)
class RunRecord:
    """A finished run."""

    folder: Path
    task: str
    experiment: str
    seed: int
    group: Group
    command: str
    commit: str
    hardware: str
    rows: list[dict[str, Any]] = field(repr=False)

    def value(self, metric: str) -> float | None:
        """A figure of the last epoch; "seconds" is the mean epoch's training time."""
        if metric == "seconds":
            times = [value for row in self.rows if (value := number(row, "train_seconds"))]
            return math.fsum(times) / len(times) if times else None
        return number(self.rows[-1], metric)

    def total_seconds(self) -> float | None:
        """Training time of all epochs; None if it is not recorded."""
        mean = self.value("seconds")
        return None if mean is None else mean * len(self.rows)

    def best(self, metric: str) -> float | None:
        """The highest figure of any epoch, chosen on the test set."""
        found = [value for row in self.rows if (value := number(row, metric)) is not None]
        return max(found, default=None)


@dataclass(frozen=True)
class Skipped:
    """A folder that gives no figure, and why."""

    folder: Path
    reason: str
    command: str = ""


def number(row: Mapping[str, Any], name: str) -> float | None:
    """A finite number of a row, or None."""
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def find(roots: Iterable[Path]) -> list[Path]:
    """Folders that hold a run, or nothing at all, at or below `roots`.

    Raises:
        ValueError: A root is not a folder.
    """
    found: set[Path] = set()
    for root in roots:
        if not root.is_dir():
            raise ValueError(f"there is no folder {root}; give folders of runs, or one above them")
        for path in (root, *(path for path in root.rglob("*") if path.is_dir())):
            names = {child.name for child in path.iterdir()}
            if names & {"run.json", "metrics.jsonl"} or names <= {".lock"}:
                found.add(path)
    return sorted(found)


def read_about(folder: Path) -> dict[str, Any]:
    """A folder's `run.json`.

    Raises:
        ValueError: It is not there, damaged, or lacks what a report needs.
    """
    path = folder / "run.json"
    if not path.exists():
        here = "empty folder" if not (folder / "metrics.jsonl").exists() else "no run.json"
        raise ValueError(here)
    try:
        about = json.loads(path.read_text())
    except ValueError as error:  # of JSON or of UTF-8
        raise ValueError(f"run.json is damaged: {error}") from None
    except OSError as error:
        raise ValueError(f"run.json cannot be read: {error.strerror}") from None
    wrong = [name for name in TEXTS if not isinstance(_get(about, name), str)]
    settings = _get(about, "settings")
    if not isinstance(settings, dict) or not isinstance(settings.get("seed"), int):
        wrong.append("settings with a seed")
    if wrong:
        raise ValueError(f"run.json lacks {', '.join(wrong)}")
    return about


def _get(about: Any, name: str) -> Any:
    return about.get(name) if isinstance(about, dict) else None


def _rows(folder: Path) -> list[dict[str, Any]]:
    try:
        rows = read_rows(folder / "metrics.jsonl")
    except (ValueError, OSError) as error:
        raise ValueError(f"metrics.jsonl cannot be read: {error}") from None
    if not all(isinstance(row, dict) and number(row, "epoch") is not None for row in rows):
        raise ValueError("metrics.jsonl has lines that are not an epoch's")
    return rows


def progress(settings: Mapping[str, Any], rows: list[dict[str, Any]]) -> tuple[float, float]:
    """How far a run is, and how far it goes: in epochs, in steps, or in tests.

    Detection counts steps where they are set, else it tests so many times, last at its end.
    """
    last = rows[-1] if rows else {}
    for name, unit in (("epochs", "epoch"), ("iterations", "iteration")):
        if total := number(last, name) or number(settings, name):
            return number(last, unit) or 0.0, total
    return float(len(rows)), number(settings, "tests") or 1.0


def read_progress(folder: Path) -> tuple[float, float]:
    """How far the run in a folder is; (0, 1) if it cannot be read."""
    try:
        return progress(read_about(folder)["settings"], _rows(folder))
    except ValueError:
        return 0.0, 1.0


def group_of(about: Mapping[str, Any], package: Package, row: Mapping[str, Any]) -> Group:
    """The group of a run of a known experiment, whose last row may say "comparable": false.

    Raises:
        ValueError: The package knows no such budget.
    """
    budget = about["budget"]
    if budget not in package.budgets:
        raise ValueError(f"budget {budget!r} is none of {', '.join(package.budgets)}")
    experiment = package.experiments[about["experiment"]]
    config = package.budgets[budget](experiment.config)
    other = changed(about["settings"], config)
    if row.get("comparable") is False and other.get("dataset", config.dataset) != "toy":
        other["data"] = "not comparable"
    if budget == "paper" and is_small(experiment):
        budget = SMALL
    return Group(budget, tuple(sorted((name, str(value)) for name, value in other.items())))


def read(folder: Path, catalogue: Catalogue) -> RunRecord:
    """A finished run's record.

    Raises:
        ValueError: The folder cannot be used, and why.
    """
    about = read_about(folder)
    words = shlex.split(about["command"])
    script = Path(words[1]).name if len(words) > 1 else ""
    package = catalogue.find(about["experiment"], script)
    if package is None:
        raise ValueError(f"no installed task has an experiment {about['experiment']!r}")
    rows = _rows(folder)
    if not rows:
        raise ValueError("no epoch is finished")
    done, total = progress(about["settings"], rows)
    if done < total:
        raise ValueError(f"unfinished: {done:g} of {total:g} epochs, steps or tests")
    if number(rows[-1], package.task.metric) is None:
        raise ValueError(f"its last line has no finite {package.task.metric}")
    return RunRecord(
        folder=folder,
        task=package.task.name,
        experiment=about["experiment"],
        seed=about["settings"]["seed"],
        group=group_of(about, package, rows[-1]),
        command=about["command"],
        commit=about.get("commit") or "unknown",
        hardware=about["hardware"],
        rows=rows,
    )


def read_all(roots: Iterable[Path], catalogue: Catalogue) -> tuple[list[RunRecord], list[Skipped]]:
    """All finished runs at or below `roots`, and what was skipped; a seed counts once."""
    records: dict[tuple[str, str, Group, int], RunRecord] = {}
    skipped = []
    for folder in find(roots):
        try:
            record = read(folder, catalogue)
            key = (record.task, record.experiment, record.group, record.seed)
            if key in records:
                raise ValueError(f"the same experiment and seed as {records[key].folder}")
            records[key] = record
        except ValueError as error:
            skipped.append(Skipped(folder, str(error), _command(folder)))
    return list(records.values()), skipped


def _command(folder: Path) -> str:
    """The command of a run that cannot be used, as far as it can be read."""
    try:
        return read_about(folder)["command"]
    except ValueError:
        return ""


def curves(record: RunRecord, metric: str) -> Iterator[tuple[float, float]]:
    """Epochs and a figure after each that has it."""
    for row in record.rows:
        if (value := number(row, metric)) is not None:
            yield float(row["epoch"]), value
