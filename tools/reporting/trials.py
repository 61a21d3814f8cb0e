"""Trials among the folders: `run_trial.py`'s verdicts, each with a link to its page."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from evidence.folders import Skipped, find_trials
from evidence.naming import place
from evidence.plots import Doses, Gains
from trialling.analysis import Finding
from trialling.plan import Plan, read_plan
from trialling.results import dose_curves, gains, read_trial

BASES = ("none", "plain")
"""Arms that keep nothing."""


@dataclass(frozen=True)
class TrialView:
    """A trial's answer.

    Attributes:
        folder: of the trial.
        data: as `run_trial.py` is told it: data, or an experiment.
        place: data and network, in words.
        measure: whose points it has.
        own: whether its arms are the user's, each against the first.
        sentence: the verdict.
        remark: what weakens it.
        findings: of its contrasts.
        runs: that are finished.
        finished: whether all are.
        doses: accuracy over them; None if it has none.
        gains: what Keep gives over what its method gives; None if it has not both.
    """

    folder: Path
    data: str
    place: str
    measure: str
    own: bool
    sentence: str
    remark: str
    findings: tuple[Finding, ...]
    runs: int
    finished: bool
    doses: Doses | None = None
    gains: Gains | None = None

    @property
    def keeps(self) -> bool:
        """Whether it asks what Keep does."""
        return not self.own and any(each.contrast.arm not in BASES for each in self.findings)

    @property
    def page(self) -> Path | None:
        """Its own page, if it was written."""
        path = self.folder / "trial.html"
        return path.resolve() if path.is_file() else None

    @property
    def command(self) -> str:
        """That writes it."""
        words = ["python", "tools/run_trial.py", self.data, "--out", str(self.folder), "--read"]
        return shlex.join(words)


def _data(plan: Plan) -> str:
    """The first word of `run_trial.py`: the trial's data or experiment."""
    if plan.experiment != "trial":
        return plan.experiment
    base = plan.base
    return str(base["data" if base["dataset"] in ("folder", "images") else "dataset"])


def read_trials(roots: Iterable[Path]) -> tuple[list[TrialView], list[Skipped]]:
    """Recompute every trial at or below some folders from its bits."""
    found, skipped = [], []
    for folder in sorted(find_trials(roots)):
        try:
            trial = read_trial(plan := read_plan(folder), folder)
        except ValueError as error:
            skipped.append(Skipped(folder, str(error)))
            continue
        measure = plan.package.task.label.removesuffix(", %")
        found.append(
            TrialView(
                folder, _data(plan), ", ".join(place(plan.base)), measure, bool(plan.own),
                trial.sentence, trial.remark,
                tuple(trial.findings), trial.count, trial.finished, dose_curves(trial),
                gains(trial),
            )
        )  # fmt: skip
    return found, skipped
