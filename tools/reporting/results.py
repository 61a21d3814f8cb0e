"""Runs gathered by experiment, and what they say of cells and claims."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from evidence.catalogue import Catalogue
from evidence.folders import SMALL, FinishedRun, Group
from evidence.naming import compared
from evidence.statistics import TOO_LITTLE, Estimate, Verdict, estimate, judge, overall
from keepbench.paper import Cell
from keepbench.settings import flat
from reporting.claims import Claim, Contrast


@dataclass(frozen=True)
class Measured:
    """A figure over the runs of one group.

    Attributes:
        budget: the group, in words.
        full: whether it is the experiment as it is defined.
        value: of the last epoch, over seeds.
        best: mean of the best epochs, chosen on the test set; None for figures without.
        seeds: that were run.
        hardware: of the runs.
        commits: of their code.
        commands: of the runs.
        settings: of the first seed's run.
        minutes: mean training time of a run; None if it is not recorded.
        changed: share of the pixels that were changed, the mean over training; None if it is not
            recorded.
    """

    budget: str
    full: bool
    value: Estimate
    best: float | None
    seeds: tuple[int, ...]
    hardware: tuple[str, ...]
    commits: tuple[str, ...]
    commands: tuple[str, ...]
    settings: Mapping[str, Any] = field(repr=False)
    minutes: float | None
    changed: float | None


@dataclass(frozen=True)
class CellView:
    """A cell of a table: the paper's figure, ours, and how to run it."""

    paper: str
    experiment: str
    metric: str
    command: str
    trials: int
    measured: tuple[Measured, ...]
    missing: str = ""

    @property
    def printed(self) -> float | None:
        """The paper's figure as a number."""
        return Cell(self.paper, self.experiment).value

    @property
    def full(self) -> Measured | None:
        """The one of the full budget with the most seeds."""
        found = [each for each in self.measured if each.full]
        return max(found, key=lambda each: each.value.n, default=None)

    @property
    def others(self) -> tuple[Measured, ...]:
        """All else, which is never the paper's experiment."""
        return tuple(each for each in self.measured if each is not self.full)

    @property
    def whole(self) -> bool:
        """Whether it was run as it is defined, be it the paper's or a small one."""
        return any(each.full or each.budget == SMALL for each in self.measured)


@dataclass(frozen=True)
class Finding:
    """One comparison of runs.

    Attributes:
        contrast: that was compared.
        name: of it, in words.
        verdict: of runs at the full budget.
        indications: of other groups by their name; they decide nothing.
    """

    contrast: Contrast
    name: str
    verdict: Verdict
    indications: dict[str, Verdict] = field(default_factory=dict)


@dataclass(frozen=True)
class ClaimView:
    """A claim, its verdict and what it rests on."""

    claim: Claim
    word: str
    findings: tuple[Finding, ...]


def _unique(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(words))


class Results:
    """All finished runs.

    Attributes:
        catalogue: of what can be run.
        runs: by task and experiment, by group and by seed.
    """

    def __init__(self, catalogue: Catalogue, runs: Iterable[FinishedRun]) -> None:
        self.catalogue = catalogue
        self.runs: dict[tuple[str, str], dict[Group, dict[int, FinishedRun]]] = {}
        for run in runs:
            groups = self.runs.setdefault((run.task, run.record.experiment), {})
            groups.setdefault(run.group, {})[run.record.seed] = run

    def all(self) -> list[FinishedRun]:
        """Every run."""
        groups = [group for groups in self.runs.values() for group in groups.values()]
        return [run for group in groups for run in group.values()]

    def groups(self, task: str, experiment: str) -> dict[Group, dict[int, FinishedRun]]:
        """An experiment's runs: full budgets first, then by name."""
        found = self.runs.get((task, experiment), {})
        return dict(sorted(found.items(), key=lambda item: (not item[0].full, item[0].label)))

    def measured(self, task: str, experiment: str, metric: str = "") -> tuple[Measured, ...]:
        """An experiment's figure for each group that has it; "" is the headline one."""
        package = self.catalogue.packages.get(task)
        name = metric or (package.task.metric if package else "")
        return tuple(
            found
            for group, runs in self.groups(task, experiment).items()
            if (found := _measure(group, [runs[seed] for seed in sorted(runs)], name))
        )

    def cell(self, task: str, cell: Cell) -> CellView:
        """A cell with all that is known of it."""
        package = self.catalogue.packages.get(task)
        missing, command, trials = "", "", 1
        if package is None:
            missing = f"{task} is not installed"
        elif cell.experiment not in package.experiments:
            missing = f"{task} has no experiment {cell.experiment}" if cell.experiment else "no run"
        else:
            command = f"python tools/{package.task.script} {cell.experiment}"
            trials = package.experiments[cell.experiment].trials
        measured = self.measured(task, cell.experiment, cell.metric)
        return CellView(
            cell.paper, cell.experiment, cell.metric, command, trials, measured, missing
        )

    def differences(self, task: str, contrast: Contrast) -> dict[Group, list[float]]:
        """A contrast's values, one per seed that all its experiments share, by group."""
        package = self.catalogue.packages.get(task)
        if package is None:
            return {}
        metric = contrast.metric or package.task.metric
        arms = [(weight, self.groups(task, name)) for name, weight in contrast.weights]
        values: dict[Group, list[float]] = {}
        for group in arms[0][1]:
            seeds = set.intersection(*(set(groups.get(group, {})) for _, groups in arms))
            for seed in sorted(seeds):
                parts = [groups[group][seed].value(metric) for _, groups in arms]
                known = [part for part in parts if part is not None]
                if len(known) == len(arms):
                    total = sum(w * part for (w, _), part in zip(arms, known, strict=True))
                    values.setdefault(group, []).append(total)
        return values

    def verdicts(self, task: str, contrast: Contrast) -> dict[Group, Verdict]:
        """The verdict on a contrast from each group of runs that has it."""
        return {
            group: judge(values, claimed=contrast.claimed, no_drop=contrast.no_drop)
            for group, values in self.differences(task, contrast).items()
        }

    def finding(self, task: str, contrast: Contrast) -> Finding:
        """The verdict on a contrast from its full runs, and what other groups indicate."""
        found = self.verdicts(task, contrast)
        sizes = {g: v.difference.n for g, v in found.items() if g.full and v.difference}
        full = max(sizes, key=lambda group: sizes[group], default=None)
        verdict = found.pop(full) if full else judge([])
        others = {group.label: each for group, each in found.items()}
        return Finding(contrast, self._name(task, contrast), verdict, others)

    def _name(self, task: str, contrast: Contrast) -> str:
        """The name: of two experiments by what differs, of others as it is labelled."""
        package, names = self.catalogue.packages.get(task), [name for name, _ in contrast.weights]
        if package is None or len(names) != 2 or not set(names) <= set(package.experiments):
            return contrast.label
        settings = (flat(package.experiments[name].config) for name in names)
        return ", ".join(filter(None, [*compared(*settings), contrast.metric]))

    def claim(self, claim: Claim) -> ClaimView:
        """The verdict on a claim."""
        findings = tuple(self.finding(claim.task, each) for each in claim.contrasts)
        return ClaimView(claim, overall([each.verdict.word for each in findings]), findings)


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean of those that are known."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _measure(group: Group, runs: list[FinishedRun], metric: str) -> Measured | None:
    """A group's figure over its seeds; None if no run has it."""
    pairs = [(each, value) for each in runs if (value := each.value(metric)) is not None]
    if not pairs:
        return None
    records = [each.record for each, _ in pairs]
    return Measured(
        budget=group.label,
        full=group.full,
        value=estimate([value for _, value in pairs]),
        best=_mean(each.best(metric) for each, _ in pairs),
        seeds=tuple(each.seed for each in records),
        hardware=_unique(each.hardware for each in records),
        commits=_unique(each.commit for each in records),
        commands=tuple(each.command for each in records),
        settings=pairs[0][0].settings,
        minutes=_mean(s / 60 for each, _ in pairs if (s := each.total_seconds())),
        changed=_mean(each.mean("changed_area") for each, _ in pairs),
    )


def decided(view: ClaimView) -> int:
    """How many of a claim's comparisons have a verdict."""
    return sum(each.verdict.word != TOO_LITTLE for each in view.findings)
