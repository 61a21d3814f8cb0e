"""A trial as it stands: its runs, what is found, and the verdict in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from keepbench.run import RunRecord
from trialling.analysis import CANNOT, Accuracies, Finding, Fit, findings, fit
from trialling.plan import Plan, accuracies, run_job, stages


@dataclass(frozen=True)
class Trial:
    """What is known of a trial.

    Attributes:
        plan: that it follows.
        records: of its finished runs, by arm.
        accuracies: of these, in %.
        model: arm and seed, fitted; None before two arms have two seeds.
        findings: of the contrasts.
        sentence: the verdict.
        remark: what weakens it; "" if nothing does.
        finished: whether no run is left that the plan asks for.
    """

    plan: Plan
    records: dict[str, list[RunRecord]]
    accuracies: Accuracies
    model: Fit | None
    findings: list[Finding]
    sentence: str
    remark: str
    finished: bool

    @property
    def count(self) -> int:
        """Finished runs."""
        return sum(map(len, self.records.values()))


def _find(found: Sequence[Finding], arm: str, base: str) -> Finding | None:
    return next((f for f in found if (f.contrast.arm, f.contrast.base) == (arm, base)), None)


def _main(found: Sequence[Finding]) -> Finding | None:
    """Keep against the plain method, or what was asked first."""
    return _find(found, "keep", "plain") or next(iter(found), None)


def _sentence(plan: Plan, found: Sequence[Finding]) -> str:
    """What the runs say of Keep against the plain method."""
    main = _main(found)
    if main is None:
        return "Too few runs are finished to say anything."
    size = f"{main.difference:+.2f} ± {main.half:.2f} points, {main.n} seeds"
    arm, base = plan.name(main.contrast.arm), plan.name(main.contrast.base)
    if main.verdict == CANNOT:
        text = f"It cannot be told whether {arm} differs from {base} ({size})"
        return f"{text}: about {main.wish} tell."
    if main.verdict.startswith("within"):
        return f"{arm} is {main.verdict} points of {base} ({size})."
    return f"{arm} {main.verdict} against {base} ({size})."


def _remark(plan: Plan, found: Sequence[Finding]) -> str:
    """What weakens the verdict."""
    words, plain = [], _find(found, "plain", "none")
    if plain and plain is not _main(found) and plain.verdict != "helps":
        words.append(
            f"{plan.name('plain')} itself does not show a gain here, so there is little that Keep "
            "could save."
        )
    check = _find(found, "random", "plain")
    if check and check.p < 0.05:
        words.append("The A/A differs, which one trial in 20 has by chance: run it anew first.")
    return " ".join(words)


def read_trial(plan: Plan, folder: Path) -> Trial:
    """Recompute everything from the bits of the finished runs."""
    values = accuracies(plan, folder)
    records = {
        arm: [RunRecord.read(run_job(plan, arm, seed, folder).out) for seed in found]
        for arm, found in values.items()
    }
    found = findings(plan.contrasts, values, plan.margin)
    model = fit(values) if found else None
    left = any(not job.finished() for asked in stages(plan, folder) for job in asked)
    return Trial(
        plan, records, values, model, found, _sentence(plan, found), _remark(plan, found), not left
    )
