"""The page of a trial, and the same as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from markupsafe import Markup

from evidence import forest
from evidence.catalogue import TASKS
from evidence.folders import number
from evidence.naming import place
from evidence.plots import doses, training
from evidence.statistics import estimate
from evidence.words import worded
from keepbench.settings import differences
from trialling.analysis import DOSE_RULE, FALLS, GROWS, HELPS, HURTS, RULE, Finding
from trialling.doses import in_words as dose_in_words
from trialling.plan import LIMIT_SD
from trialling.results import UNFINISHED, Trial, dose_curves
from trialling.timing import in_words

MEASURES = {name: task.label for name, task in TASKS.items()}
CHIPS = {HELPS: "yes", GROWS: "yes", HURTS: "no", FALLS: "no"}


def _curves(trial: Trial, figure: str) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    """The mean over seeds of a figure after each epoch, by arm; nothing where a task has it not."""
    for arm, records in trial.records.items():
        rows = [{row["epoch"]: number(row, figure) for row in record.rows} for record in records]
        common = sorted(set.intersection(*map(set, rows))) if rows else []
        points = [
            (float(epoch), math.fsum(values) / len(rows))
            for epoch in common
            if len(values := [v for each in rows if (v := each[epoch]) is not None]) == len(rows)
        ]
        if points:
            yield trial.plan.name(arm), points


def arm_rows(trial: Trial) -> list[dict[str, Any]]:
    """A row for each cell: seeds, accuracy, changed area (the mean over training) and cost."""
    found = []
    for arm in trial.plan.cells:
        values, records = [*trial.accuracies[arm].values()], trial.records[arm]
        rows = [row for record in records for row in record.rows]
        areas, seconds = (
            [value for row in rows if (value := number(row, figure)) is not None]
            for figure in ("changed_area", "train_seconds")
        )
        found.append({
            "arm": arm,
            "name": trial.plan.name(arm),
            "value": estimate(values) if values else None,
            "changed": sum(areas) / len(areas) if areas else None,
            "minutes": sum(seconds) / len(records) / 60 if seconds else None,
        })  # fmt: skip
    return found


def cost(trial: Trial) -> dict[str, str]:
    """Cost and hardware of the trial."""
    records = [record for found in trial.records.values() for record in found]
    rows = [row for record in records for row in record.rows]
    seconds = sum(number(row, "train_seconds") or 0.0 for row in rows)
    trained = f", {in_words(seconds)} of training" if seconds else ""  # a task may not record it
    return {
        "runs": f"{trial.count} finished{trained}",
        "hardware": "; ".join(sorted({record.hardware for record in records})) or "none",
        "commit": ", ".join(sorted({record.commit[:12] for record in records})) or "none",
    }


def _as_words(settings: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in settings.items())


def fixed(trial: Trial) -> dict[str, str]:
    """The plan, as it was before the first run."""
    plan = trial.plan
    looks = f"at {' and '.join(map(str, plan.looks))} seeds"
    if plan.doses:
        looks = (
            f"{plan.choosing} seeds choose doses, the other {plan.seeds - plan.choosing} and "
            f"{plan.most - plan.seeds} more compare them"
        )
    elif plan.most > plan.seeds:
        looks += f"; {plan.most} if the residual is above {LIMIT_SD} points at {plan.seeds}"
    return {
        "budget": plan.budget,
        "arms": "; ".join(map(plan.name, plan.cells)),
        "doses": "; ".join(map(dose_in_words, plan.doses)) or "none",
        "contrasts": "; ".join(each.name for each in plan.contrasts),
        "looks": looks,
        "margin": f"±{plan.margin:g} points count as none",
        "settings of all arms": differences(plan.shared),
        **({"method": f"{plan.method} {_as_words(plan.settings)}"} if plan.method else {}),
        **{
            f"settings of {arm}": _as_words(given) or "those of all"
            for arm, given in plan.own.items()
        },
    }


def page(trial: Trial) -> str:
    """The page."""
    axis = forest.axis_of((each.estimate for each in trial.findings), trial.plan.margin)

    def row(each: Finding) -> Markup:
        return forest.row(each.estimate, axis, claimed=None, said=each.said)

    made = worded(Path(__file__).parent / "templates")
    made.filters["trial_row"] = row

    curves = [
        training(f"curve-{figure}", title, label, lines)
        for figure, title, label in (
            ("train_accuracy", "Training accuracy, on augmented images", "%"),
            ("train_loss", "Training loss, on augmented images", "nats"),
        )
        if (lines := [*_curves(trial, figure)])
    ]
    found = dose_curves(trial)
    drawn = found and doses("doses", "Accuracy over the dose", found)
    return made.get_template("trial.html").render(
        trial=trial, ruler=forest.ruler(axis), curves=curves, arms=arm_rows(trial),
        unfinished=UNFINISHED, cost=cost(trial), fixed=fixed(trial), chips=CHIPS, doses=drawn,
        rule=f"{RULE} {DOSE_RULE}" if trial.plan.doses else RULE, measure=MEASURES[trial.plan.task],
        place=", ".join(place(trial.plan.base)),
    )  # fmt: skip


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def as_json(trial: Trial) -> dict[str, Any]:
    """The same for programs."""
    model = trial.model
    return {
        "verdict": trial.sentence,
        "remark": trial.remark,
        "finished": trial.finished,
        "contrasts": [asdict(each) for each in trial.findings],
        "by_image": [asdict(each) for each in trial.by_image],
        "chosen": trial.chosen,
        "accuracies": {
            arm: {str(seed): value for seed, value in found.items()}
            for arm, found in trial.accuracies.items()
        },
        "residual": model and {"sd": _known(model.sd), "df": model.df},
        "arms_differ": model and {"f": _known(model.f), "p": _known(model.p)},
        "plan": asdict(trial.plan),
        "cost": cost(trial),
    }
