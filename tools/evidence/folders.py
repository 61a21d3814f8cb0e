"""Read run folders, and say of each that cannot be used what is wrong with it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from evidence.catalogue import PUBLISHED, TREES, Catalogue, Package, Task, changed, is_small
from keepbench.run import RunRecord
from keepbench.settings import check_kinds, flat

SMALL = "small"
"""The budget's name of small experiments that are run whole: "paper" is for the paper's."""


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
class FinishedRun:
    """A run that counts.

    Attributes:
        record: its folder's.
        task: that has its experiment.
        group: of runs that it can be compared with.
        settings: all that its experiment has, those that the run does not know as they are there.
    """

    record: RunRecord
    task: str
    group: Group
    settings: Mapping[str, Any]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A row per epoch."""
        return self.record.rows

    def value(self, metric: str) -> float | None:
        """A figure of the last epoch; "seconds" is the mean epoch's training time."""
        return self.mean("train_seconds") if metric == "seconds" else number(self.rows[-1], metric)

    def mean(self, metric: str) -> float | None:
        """A figure's mean over the epochs that have it."""
        found = [value for row in self.rows if (value := number(row, metric)) is not None]
        return math.fsum(found) / len(found) if found else None

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


def _is_named(folder: Path) -> bool:
    """Whether a folder's name is UTF-8, so that a report can hold it."""
    return not any("\ud800" <= letter <= "\udfff" for letter in str(folder))


def find_trials(roots: Iterable[Path]) -> set[Path]:
    """Folders of trials at or below `roots`: those with a plan, and a name that can be written."""
    found = {path.parent for root in roots for path in root.rglob("plan.json")}
    return {folder for folder in found if _is_named(folder)}


def find(roots: Iterable[Path]) -> list[Path]:
    """Folders that hold a run, or nothing at all, at or below `roots`; a trial's runs are its own.

    Raises:
        ValueError: A root is not a folder.
    """
    found: set[Path] = set()
    roots = list(roots)
    trials = find_trials(roots)
    for root in roots:
        if not root.is_dir():
            raise ValueError(f"there is no folder {root}; give folders of runs, or one above them")
        for path in (root, *(path for path in root.rglob("*") if path.is_dir())):
            if not trials.isdisjoint((path, *path.parents)):
                continue
            names = {child.name for child in path.iterdir()}
            if names & {"run.json", "metrics.jsonl"} or names <= {".lock"}:
                found.add(path)
    return sorted(found)


def progress(record: RunRecord) -> tuple[float, float]:
    """How far a run is, and how far it goes: in epochs, in steps, or in tests.

    Detection counts steps where they are set, else it tests so many times, last at its end.
    """
    last = record.rows[-1] if record.rows else {}
    for name, unit in (("epochs", "epoch"), ("iterations", "iteration")):
        if total := number(last, name) or number(record.settings, name):
            return number(last, unit) or 0.0, total
    return float(len(record.rows)), number(record.settings, "tests") or 1.0


def same_data(record: RunRecord) -> str:
    """The digest of data that all seeds and arms have in common; "" if unknown, or if none is."""
    own = ("subset", "labels", "objects")  # drawn by the seed, or of some arms alone
    return "" if any(map(record.settings.get, own)) else record.data


def _tree(record: RunRecord, config: Any) -> str:
    """Which tree of images a run is of; "" if the dataset's name says it."""
    dataset, place = record.settings.get("dataset"), PurePath(record.settings.get("data", ""))
    published = dataset == config.dataset and PurePath(config.data).name in PUBLISHED
    if dataset not in TREES or published:
        return ""
    return f"{place.name or place} {same_data(record)[:8]}".strip()


def group_of(record: RunRecord, package: Package) -> Group:
    """The group of a run of a known experiment, whose last row may say "comparable": false.

    Raises:
        ValueError: The package knows no such budget.
    """
    budget = record.budget
    if budget not in package.budgets:
        raise ValueError(f"budget {budget!r} is none of {', '.join(package.budgets)}")
    experiment = package.experiments[record.experiment]
    config = package.budgets[budget](experiment.config)
    other = changed(record.settings, config)
    if tree := _tree(record, config):
        other["data"] = tree
    if record.rows[-1].get("comparable") is False:
        if other.get("dataset", config.dataset) != "toy":
            other["data"] = "not comparable"
    if budget == "paper" and is_small(experiment):
        budget = SMALL
    content = {name: f" {record.files[name][:8]}" for name in other.keys() & record.files.keys()}
    words = ((name, f"{value}{content.get(name, '')}") for name, value in other.items())
    return Group(budget, tuple(sorted(words)))


def measured(record: RunRecord, task: Task) -> float:
    """The task's headline figure after the last epoch.

    Raises:
        ValueError: The lines are not a whole run's, and what is wrong with them.
    """
    if not all(number(row, "epoch") is not None for row in record.rows):
        raise ValueError("metrics.jsonl has lines that are not an epoch's")
    last, epochs = record.rows[-1], number(record.settings, "epochs")
    if epochs and last["epoch"] > epochs:
        raise ValueError(f"metrics.jsonl ends with epoch {last['epoch']:g} of {epochs:g}")
    figure = number(last, task.metric)
    if figure is None or not 0 <= figure <= 100:
        raise ValueError(f"its last line has no {task.metric} in [0, 100]")
    return figure


def finished(record: RunRecord, catalogue: Catalogue) -> FinishedRun:
    """A run whose figures count.

    Raises:
        ValueError: They do not, and why.
    """
    package = catalogue.find(record.experiment, record.task)
    if package is None:
        raise ValueError(f"no installed task has an experiment {record.experiment!r}")
    config = package.experiments[record.experiment].config
    check_kinds(config, record.settings)
    if not record.rows:
        lines = f" ({record.damaged} damaged lines)" if record.damaged else ""
        raise ValueError(f"no epoch is finished{lines}")
    done, total = progress(record)
    if done < total:
        raise ValueError(f"unfinished: {done:g} of {total:g} epochs, steps or tests")
    measured(record, package.task)
    settings = flat(config) | record.settings
    return FinishedRun(record, package.task.name, group_of(record, package), settings)


def read_all(
    roots: Iterable[Path], catalogue: Catalogue
) -> tuple[list[FinishedRun], list[Skipped]]:
    """All finished runs at or below `roots`, and what was skipped; a seed counts once."""
    runs: dict[tuple[str, str, Group, int], FinishedRun] = {}
    skipped = []
    for folder in find(roots):
        command = ""
        if not _is_named(folder):
            shown = Path(os.fsencode(folder).decode(errors="replace"))
            skipped.append(Skipped(shown, "its name is not UTF-8; rename the folder"))
            continue
        try:
            record = RunRecord.read(folder)
            command = record.command
            run = finished(record, catalogue)
            key = (run.task, record.experiment, run.group, record.seed)
            if key in runs:
                raise ValueError(f"the same experiment and seed as {runs[key].record.folder}")
            runs[key] = run
        except ValueError as error:
            skipped.append(Skipped(folder, str(error).removeprefix(f"{folder}: "), command))
    return list(runs.values()), skipped


def curves(run: FinishedRun, metric: str) -> Iterator[tuple[float, float]]:
    """Epochs and a figure after each that has it."""
    for row in run.rows:
        if (value := number(row, metric)) is not None:
            yield float(row["epoch"]), value
