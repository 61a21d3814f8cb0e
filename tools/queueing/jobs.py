"""The runs that a table or figure needs, as commands; and which of them are finished."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evidence.catalogue import Catalogue, Package, plain, tables
from evidence.folders import progress
from keepbench.command import read, words_of
from keepbench.paper import COSTS
from keepbench.run import RunRecord
from keepbench.settings import defaults, nearest, walk

TOOLS = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Job:
    """A command to run.

    Attributes:
        name: for readers.
        command: its words, without the device's.
        out: the run's folder, or the file that it writes.
        config: settings that the finished run must have; None for a file.
        takes_device: whether `--device` may be added.
    """

    name: str
    command: tuple[str, ...]
    out: Path
    config: Any = field(default=None, repr=False)

    def progress(self) -> tuple[float, float]:
        """How far the job is and how far it goes; nothing is done if another run is there."""
        if self.config is None:
            return float(self.out.exists()), 1.0
        lengths = (getattr(self.config, name, 0) for name in ("epochs", "iterations"))
        total = float(next(filter(None, lengths), 1))  # a detector's own schedule is none of ours
        try:
            done, whole = progress(RunRecord.read(self.out))
        except ValueError:
            return 0.0, total
        return total * min(1.0, done / whole), total

    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        done, total = self.progress()
        return done >= total and (
            self.config is None or same_settings(RunRecord.read(self.out), self.config)
        )


def same_settings(record: RunRecord, config: Any) -> bool:
    """Whether a run has a config's settings; one that is newer than the run had its default."""
    usual = defaults(config)
    return all(
        each.metadata["may_change"] or record.settings.get(name, plain(usual[name])) == plain(value)
        for name, each, value in walk(config)
    )


def known(catalogue: Catalogue) -> list[str]:
    """The names of all tables and figures that have experiments, and of those of costs."""
    names = {
        table
        for package in catalogue.packages.values()
        for each in package.experiments.values()
        for table in tables(each)
    }
    return sorted(names | {*COSTS}, key=lambda name: (len(name.strip("ab")), name))


def _said(package: Package, words: Sequence[str], error: ValueError) -> ValueError:
    return ValueError(f"tools/{package.task.script} does not take {' '.join(words)}: {error}")


def given_settings(package: Package, words: Sequence[str]) -> dict[str, Any]:
    """The settings that a user's words set for all runs of a queue, by name.

    Raises:
        ValueError: They are not taken, or set what is set for each run.
    """
    config = next(iter(package.experiments.values())).config
    try:
        given = words_of(config, [*package.budgets], words)
    except ValueError as error:
        raise _said(package, words, error) from None
    own = {"out", "seed", "resume", "budget", "device", "config", "help", "list", "experiment"}
    if strange := given.keys() & own:
        raise ValueError(
            f"{', '.join(sorted(strange))}: out, seed, resume, budget and device are set for each "
            "run; leave them out"
        )
    return given


def _run_job(
    package: Package, name: str, budget: str, seed: int, extra: list[str], root: Path
) -> Job:
    words = [name, "--budget", budget, "--seed", str(seed), *extra]
    try:
        _, config, found = read(package.experiments, words, budgets=package.budgets)
    except ValueError as error:
        raise _said(package, words, error) from None
    out = root / found.out.relative_to("runs")
    script = str(TOOLS / package.task.script)
    command = (sys.executable, script, *words, "--out", str(out), "--resume")
    return Job(f"{name} {budget} seed {seed}", command, out, config)


def _cost_job(table: str, budget: str, root: Path) -> Job:
    """The benchmark of Table 6 or 7; shorter budgets take fewer turns."""
    turns = {"smoke": ["--repeats", "1", "--batch-size", "2"], "short": ["--repeats", "3"]}
    out = root / (f"cost{table}.json" if budget == "paper" else f"cost{table}-{budget}.json")
    models = COSTS[table].models
    words = ["--models", *models, "--methods", "plain", "full", "low", "early"]
    command = [sys.executable, str(TOOLS / "benchmark_cost.py"), *words, *turns.get(budget, [])]
    return Job(f"costs of Table {table} {budget}", (*command, "--json", str(out)), out)


def jobs(
    catalogue: Catalogue,
    table: str,
    *,
    budget: str,
    seeds: int,
    only: str,
    extra: list[str],
    root: Path,
) -> list[Job]:
    """All runs of a table or figure, seed by seed.

    Args:
        catalogue: of the experiments.
        table: as "1", "2a" or "control".
        budget: smoke, short or paper.
        seeds: for each experiment; 0 is as many as the experiment asks for.
        only: experiments whose name holds this; "" is all.
        extra: flags for each run.
        root: folder of all runs.

    Raises:
        ValueError: There is no such table, nothing is left of it, or a flag is wrong.
    """
    if table in COSTS:
        return [_cost_job(table, budget, root)]
    found = catalogue.of_table(table)
    if not found:
        names = known(catalogue)
        absent = [f"{task} cannot be read ({why})" for task, why in catalogue.absent.items()]
        raise ValueError(
            f"no experiment belongs to {table!r}{nearest(table, names)}; there are "
            f"{'; '.join([', '.join(names), *absent])}"
        )
    kept = {name: each for name, each in found.items() if only in name}
    if not kept:
        raise ValueError(f"no experiment of {table} has {only!r} in its name")
    for package in {package.task.name: package for package, _ in kept.values()}.values():
        given_settings(package, extra)
    counts = {name: seeds or each.trials for name, (_, each) in kept.items()}
    return [
        _run_job(package, name, budget, seed, extra, root)
        for seed in range(max(counts.values()))
        for name, (package, _) in kept.items()
        if seed < counts[name]
    ]
