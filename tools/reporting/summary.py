"""Does keeping help? By task, against the plain twin and against controls; small runs apart."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from reporting.catalogue import (
    TASKS,
    Package,
    backbones,
    control_twins,
    is_keep,
    is_small,
    plain_twins,
)
from reporting.claims import Contrast, gain
from reporting.evidence import Verdict
from reporting.results import Finding, Results

KINDS = {"plain": "against the plain twin", "control": "against a control"}


@dataclass(frozen=True)
class Line:
    """One comparison that has runs; a small one is of experiments that are not the paper's."""

    task: str
    kind: str
    small: bool
    finding: Finding

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """By the runs' group, of all that have a common seed."""
        own = self.finding.verdict
        return ({"paper": own} if own.difference else {}) | self.finding.indications


@dataclass(frozen=True)
class Tally:
    """A task's comparisons of one kind: how many there are, have runs, and each verdict's.

    Those of small experiments do not count.
    """

    task: str
    kind: str
    known: int
    measured: int
    words: dict[str, int]


def contrasts(package: Package) -> list[tuple[str, Contrast]]:
    """A task's comparisons and their kinds; a task without a `keep` setting has backbones."""
    experiments = package.experiments
    if not any(hasattr(each.config, "keep") for each in experiments.values()):
        return [
            ("plain" if stem.endswith("cutmix") else "control", gain(keep, other))
            for keep, other, stem in backbones(experiments)
        ]
    found = [
        ("plain", gain(keep, plain))
        for keep, plain in plain_twins(experiments).items()
        if is_keep(experiments[keep].config)
    ]
    for keep, controls in control_twins(experiments).items():
        found += [("control", gain(keep, control)) for control in controls]
    return found


def summarise(results: Results) -> tuple[list[Line], list[Tally]]:
    """The comparisons that have runs, and counts for every installed task."""
    lines: list[Line] = []
    tallies = []
    for task, package in results.catalogue.packages.items():
        known = Counter()  # type: Counter[str]
        for kind, contrast in contrasts(package):
            small = is_small(package.experiments[contrast.weights[0][0]])
            known[kind] += not small
            finding = results.finding(task, contrast)
            if finding.verdict.difference or finding.indications:
                lines.append(Line(task, kind, small, finding))
        for kind in KINDS:
            own = [e for e in lines if (e.task, e.kind, e.small) == (task, kind, False)]
            words = Counter(line.finding.verdict.word for line in own)
            tallies.append(Tally(TASKS[task].title, kind, known[kind], len(own), dict(words)))
    return lines, tallies
