"""Does keeping help? Every comparison that has runs, in words, with its verdict."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from evidence.catalogue import (
    Package,
    backbones,
    control_twins,
    is_keep,
    is_small,
    plain_twins,
)
from evidence.folders import Group
from evidence.naming import Named, compared
from evidence.statistics import Estimate, Verdict
from reporting.claims import Contrast, gain
from reporting.results import Results


@dataclass(frozen=True)
class Comparison:
    """A Keep arm against another in runs of one budget, settings and set of seeds.

    Attributes:
        task: of both.
        kind: of the other arm, "plain" or "control".
        name: in words.
        budget: of the runs, in words.
        full: whether it is the paper's, at its full budget.
        contrast: of the two experiments.
        verdict: by the rule.
        difference: its estimate.
    """

    task: str
    kind: str
    name: Named
    budget: str
    full: bool
    contrast: Contrast
    verdict: Verdict
    difference: Estimate

    @property
    def decided(self) -> bool:
        """Whether the interval leaves out 0."""
        low, high = self.difference.low, self.difference.high
        return low is not None and high is not None and (low > 0 or high < 0)


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


def _named(results: Results, task: str, contrast: Contrast, group: Group) -> Named:
    """By the settings of the runs."""
    runs = [results.groups(task, name)[group] for name, _ in contrast.weights]
    first, second = (next(iter(each.values())).settings for each in runs)
    return compared(first, second)


def _comparisons(results: Results) -> Iterator[Comparison]:
    for task, package in results.catalogue.packages.items():
        for kind, contrast in contrasts(package):
            small = is_small(package.experiments[contrast.weights[0][0]])
            for group, verdict in results.verdicts(task, contrast).items():
                if verdict.difference:
                    yield Comparison(
                        task, kind, _named(results, task, contrast, group), group.label,
                        group.full and not small, contrast, verdict, verdict.difference,
                    )  # fmt: skip


def summarise(results: Results) -> list[Comparison]:
    """The comparisons that have runs: the paper's budget first."""
    return sorted(_comparisons(results), key=lambda each: not each.full)


def _of(found: list[Comparison]) -> str:
    """How many intervals leave out 0, in words."""
    decided = [each for each in found if each.decided]
    if not decided:
        return "none leaves out 0" if len(found) > 1 else "it does not leave out 0"
    better = sum(each.difference.mean > 0 for each in decided)
    leave = f"{len(decided)} leave{'s' * (len(decided) == 1)} out 0"
    return f"{leave} ({better} for keeping, {len(decided) - better} against)"


def headline(found: list[Comparison]) -> str:
    """The answer in a sentence and numbers."""
    parts, places = [], ("on small, short or changed runs", "at the paper's budget")
    for full, where in enumerate(places):
        some = [each for each in found if each.full == full]
        if some:
            many = f"{len(some)} comparison{'s' * (len(some) > 1)}"
            parts.append(f"{many} {where}: {_of(some)}.")
        else:
            parts.append(f"{where[0].upper()}{where[1:]}: none run yet.")
    return " ".join(parts)
