"""Does keeping help? By task, against the plain twin and against the control maps."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from reporting.catalogue import TASKS, Package, control_twins, is_keep, plain_twins
from reporting.claims import CLAIMS, Contrast, gain
from reporting.results import Finding, Results

KINDS = {"plain": "against the plain twin", "control": "against a control map"}


@dataclass(frozen=True)
class Line:
    """One comparison that has runs."""

    task: str
    kind: str
    finding: Finding


@dataclass(frozen=True)
class Tally:
    """A task's comparisons of one kind: how many there are, have runs, and each verdict's."""

    task: str
    kind: str
    known: int
    measured: int
    words: dict[str, int]


def contrasts(package: Package) -> list[tuple[str, Contrast]]:
    """A task's comparisons and their kinds; a task without a `keep` setting has the claims'."""
    experiments = package.experiments
    if not any(hasattr(each.config, "keep") for each in experiments.values()):
        claims = [claim for claim in CLAIMS if claim.task == package.task.name]
        return [
            ("control" if claim.text.startswith("Not in the paper") else "plain", contrast)
            for claim in claims
            for contrast in claim.contrasts
            if all(name in experiments for name, _ in contrast.weights)
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
            known[kind] += 1
            finding = results.finding(task, contrast)
            if finding.verdict.difference or finding.indications:
                lines.append(Line(task, kind, finding))
        for kind in KINDS:
            own = [line for line in lines if (line.task, line.kind) == (task, kind)]
            words = Counter(line.finding.verdict.word for line in own)
            tallies.append(Tally(TASKS[task].title, kind, known[kind], len(own), dict(words)))
    return lines, tallies
