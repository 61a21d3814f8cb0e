"""A trial as it stands: its runs, what is found, and the verdict in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from evidence.folders import same_data
from evidence.naming import place
from evidence.plots import Doses, Gains
from keepbench.run import RunRecord
from trialling.analysis import (
    CANNOT,
    HELPS,
    HURTS,
    LEAST_SD,
    SAME,
    Accuracies,
    Finding,
    Fit,
    can_tell,
    findings,
    fit,
    within,
)
from trialling.arms import METHODS, arm_name, keep_title
from trialling.contrasts import cell_name
from trialling.doses import choice_contrasts, dose_name, in_words
from trialling.plan import Plan
from trialling.runs import accuracies, item_means, run_job, same_items, stages

UNFINISHED = "Not all runs are finished: these figures are not the trial's result."


@dataclass(frozen=True)
class Trial:
    """A trial's results so far.

    Attributes:
        plan: that it follows.
        records: of its finished runs, by cell.
        accuracies: of these, in %.
        model: cell and seed, fitted; None before two cells have two seeds.
        findings: of the contrasts, those of chosen doses last.
        by_image: of the same, by the mean of what test images got where that is not the task's
            figure; [] else. No verdict rests on them.
        chosen: the best cells of Keep and of the plain method; None without doses or before.
        sentence: the verdict.
        remark: what weakens it; "" if nothing does.
        finished: whether no run is left that the plan asks for.
    """

    plan: Plan
    records: dict[str, list[RunRecord]]
    accuracies: Accuracies
    model: Fit | None
    findings: list[Finding]
    by_image: list[Finding]
    chosen: tuple[str, str] | None
    sentence: str
    remark: str
    finished: bool

    @property
    def told(self) -> str:
        """How well it knows the difference of two arms, in words, by what is known so far."""
        plan, sd = self.plan, self.model.sd if self.model else None
        base = plan.contrasts[-1].base if plan.own else "plain"
        bases = {base, *(cell_name(base, dose_name(dose)) for dose in plan.doses)}
        values = [
            value
            for cell, found in self.accuracies.items()
            if cell in bases
            for value in found.values()
        ]
        missing = 100 - sum(values) / len(values) if values else None
        seeds = max(plan.seeds, *map(len, self.accuracies.values()))  # some may have gone on
        return f"With {seeds} seeds {can_tell(len(plan.cells), seeds, sd, missing)}."

    @property
    def count(self) -> int:
        """Finished runs."""
        return sum(map(len, self.records.values()))


def _find(found: Sequence[Finding], arm: str, base: str) -> Finding | None:
    return next((f for f in found if (f.contrast.arm, f.contrast.base) == (arm, base)), None)


def _main(found: Sequence[Finding]) -> Finding | None:
    """Keep against the plain method, or what was asked first."""
    return _find(found, "keep", "plain") or next(iter(found), None)


def _silence(values: Accuracies) -> str:
    """Why nothing is found of a contrast."""
    several = {arm: found for arm, found in values.items() if len(found) > 1}
    if len(several) < 2 or fit(several).sd > LEAST_SD:
        return "Too few runs are finished to say anything."
    return (
        "The arms differ by the same in every seed, most likely by nothing: there is no residual "
        "to test with. Look whether the method changes the images at all."
    )


def _sentence(plan: Plan, found: Sequence[Finding], values: Accuracies) -> str:
    """The verdict on Keep against the plain method."""
    main = _main(found)
    if main is None:
        return _silence(values)
    if plan.own:
        return _own_sentence(found)
    arm, base = plan.name(main.contrast.arm), plan.name(main.contrast.base)
    return f"{_compared(arm, base, main)}."


def _compared(arm: str, base: str, found: Finding) -> str:
    """A finding in words."""
    size = f"{found.difference:+.2f} ± {found.half:.2f} points, {found.n} seeds"
    if found.verdict == SAME:
        return (
            f"{arm} and {base} got the same for every item in every seed ({found.n} seeds): look "
            "whether what differs between them has any effect"
        )
    if found.verdict == CANNOT:
        wish = found.wish and f": about {found.wish} tell"
        return f"It cannot be told whether {arm} differs from {base} ({size}){wish}"
    if found.verdict.startswith("within"):
        return f"{arm} is {found.verdict} points of {base} ({size})"
    return f"{arm} {found.verdict} against {base} ({size})"


def _own_sentence(found: Sequence[Finding]) -> str:
    """The verdict on each arm against the first; arms that cannot be told last, together."""
    base = found[0].contrast.base
    open_ = [each for each in found if each.verdict == CANNOT]
    if len(open_) < 2:
        return " ".join(f"{_compared(f.contrast.arm, base, f)}." for f in found)
    told = [f"{_compared(f.contrast.arm, base, f)}." for f in found if f not in open_]
    *names, last = (each.contrast.arm for each in open_)
    few = min(each.more or 0 for each in open_)
    soonest = next(each for each in open_ if each.more == few)
    told.append(
        f"It cannot be told whether {', '.join(names)} or {last} differs from {base}: about "
        f"{soonest.wish} tell {soonest.contrast.arm}."
    )
    return " ".join(told)


def _doses_sentence(plan: Plan, found: Sequence[Finding], values: Accuracies) -> str:
    """From which dose on Keep helps, and whether its best dose is worth taking."""
    at = [each for each in found if each.contrast.family == "dose"]
    if len(at) < len(plan.doses):
        return _silence(values)
    method = METHODS[plan.method]
    keep, plain = keep_title(method), method.title
    words = [*map(in_words, plan.doses)]
    helped = [place for place, each in enumerate(at) if each.verdict == HELPS]
    hurt = [place for place, each in enumerate(at) if each.verdict == HURTS]
    best = max(at, key=lambda each: each.difference)
    most = f"{best.difference:+.2f} ± {best.half:.2f} points at {words[at.index(best)]}"
    if not helped:
        text = f"At no dose does {keep} help against {plain} (at most {most})"
    elif helped == [*range(helped[0], len(at))]:
        text = f"{keep} helps against {plain} from {words[helped[0]]} on ({most})"
    else:
        text = f"{keep} helps against {plain} at {'; '.join(words[n] for n in helped)} ({most})"
    if hurt:
        text += f"; it hurts at {'; '.join(words[n] for n in hurt)}"
    chosen = []
    for each in (each for each in found if each.contrast.family == "choice"):
        arm, base = plan.name(each.contrast.arm), plan.name(each.contrast.base)
        if each.contrast.base != "none":
            base = f"the best {base}"
        chosen.append(_compared(arm, base, each).replace("It cannot", "it cannot", 1))
    return f"{text}. Of the best doses, {'; '.join(chosen)}." if chosen else f"{text}."


def dose_curves(trial: Trial) -> Doses | None:
    """Accuracy over doses by the trial's model, a line an arm; None without doses or a model."""
    plan, model = trial.plan, trial.model
    if not plan.doses or model is None:
        return None
    names = [*map(dose_name, plan.doses)]
    lines = []
    for arm in plan.arms:
        points = tuple(
            (place, *model.mean(cell_name(arm, name)))
            for place, name in enumerate(names)
            if cell_name(arm, name) in model.arms
        )
        if points:
            lines.append((arm_name(METHODS[plan.method], arm), points))
    level = (plan.name("none"), *model.mean("none")) if "none" in model.arms else None
    return Doses(" x ".join(plan.doses[0]), tuple(names), tuple(lines), level)


def gains(trial: Trial) -> Gains | None:
    """What Keep gives over what its method gives against crop and flip; None if it has not all."""
    plan, model = trial.plan, trial.model
    if plan.own or model is None:
        return None
    doses = [*map(dose_name, plan.doses)] or [""]
    points = tuple(
        (dose, model.difference(plain, "none"), model.difference(keep, plain))
        for dose in doses
        for plain, keep in [(cell_name("plain", dose), cell_name("keep", dose))]
        if {"none", plain, keep} <= {*model.arms}
    )
    method = METHODS[plan.method]
    changed = {
        name: value
        for name, value in plan.settings.items()
        if type(value) in (int, float) and value != getattr(method, name)
    }
    words = (method.title, in_words(changed), *place(plan.base))
    return Gains(", ".join(filter(None, words)), points) if points else None


def _remark(plan: Plan, found: Sequence[Finding], records: Sequence[RunRecord]) -> str:
    """Caveats of the verdict."""
    words = []
    plain = None if plan.own else _find(found, "plain", "none")
    if plain and plain is not _main(found) and plain.verdict != "helps":
        rest = (
            "costs accuracy here: less of it may be better than keeping."
            if plain.verdict == "hurts"
            else "does not show a gain here, so there is little that Keep could save."
        )
        words.append(f"{plan.name('plain')} itself {rest}")
    check = None if plan.own else _find(found, "random", "plain")
    if check and check.p < 0.05:
        words.append("The A/A differs, which one trial in 20 has by chance: run it anew first.")
    for name, values in {
        "data sets": {data[:8] for record in records if (data := same_data(record))},
        "commits": {record.commit[:12] for record in records},
        "processors": {record.hardware for record in records},
        "versions": {
            " ".join(
                f"{name} {version}"
                for name, version in sorted(record.versions.items())
                if name != "keepaugment"  # its commit says more
            )
            for record in records
        },
    }.items():
        if len(values) > 1:
            words.append(f"Its runs are of {len(values)} {name}: {'; '.join(sorted(values))}.")
    return " ".join(words)


def read_trial(plan: Plan, folder: Path) -> Trial:
    """Recompute everything from the bits of the finished runs.

    Raises:
        ValueError: A run is damaged, or not the plan's.
    """
    values = accuracies(plan, folder)
    records = {
        cell: [RunRecord.read(run_job(plan, cell, seed, folder).out) for seed in found]
        for cell, found in values.items()
    }
    asked = within(values, plan.numbers(0, plan.seeds)) if plan.doses else values
    found = findings(plan.contrasts, asked, plan.margin)
    model = fit(asked) if found else None
    by_image = []
    if plan.package.task.items:
        by_image = findings(plan.contrasts, item_means(plan, values, folder), plan.margin)
    chosen = plan.chosen(values)
    if chosen:
        names = {cell: plan.name(cell) for cell in plan.cells}
        later = within(values, plan.numbers(plan.choosing, plan.most))
        found += findings(choice_contrasts(names, *chosen), later, plan.margin)
    found = [
        replace(each, verdict=SAME, more=None)
        if same_items(plan, each.contrast, values, folder)
        else each
        for each in found
    ]
    left = any(not job.finished() for asked in stages(plan, folder) for job in asked)
    sentence = (_doses_sentence if plan.doses else _sentence)(plan, found, values)
    everything = [record for several in records.values() for record in several]
    return Trial(
        plan, records, values, model, found, by_image, chosen, sentence,
        _remark(plan, found, everything), not left,
    )  # fmt: skip
