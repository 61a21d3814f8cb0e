"""The report as one page that opens offline, and as Markdown."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment
from markupsafe import Markup

from evidence import forest
from evidence.catalogue import TASKS
from evidence.plots import Gains, doses, gains
from evidence.statistics import RULE
from evidence.words import difference, worded
from reporting import pictures
from reporting.content import Report
from reporting.results import CellView, decided
from reporting.samples import strips
from reporting.summary import Comparison
from reporting.trials import TrialView
from trialling.analysis import Finding


def seeds(cell: CellView) -> str:
    """The flags that are still to be added to a cell's command."""
    return "--seed 0" if cell.trials == 1 else f"--seed 0, and to {cell.trials - 1}"


GAINS = "What keeping gives, over what the plain method gives"


def gains_of(trials: Iterable[TrialView]) -> list[Gains]:
    """What keeping gives in each trial that tells it beside what the plain method gives."""
    return [each.gains for each in trials if each.gains]


def _without_tags(value: Any) -> Any:
    """A value whose text begins no tag of HTML in Markdown."""
    return value.replace("<", "&lt;") if isinstance(value, str) else value


def _templates() -> Environment:
    made = worded(Path(__file__).parent / "templates")
    made.filters |= {"seeds": seeds, "decided": decided}
    return made


def _shared(report: Report) -> dict[str, Any]:
    return {"report": report, "rule": RULE, "task_titles": TASKS}


def html(report: Report, folder: Path) -> str:
    """The page, whose links to trials start in `folder`."""
    results, made = report.results, _templates()
    axis = forest.axis_of(each.difference for each in report.comparisons)

    def trials_axis(trials: Iterable[TrialView]) -> forest.Axis:
        return forest.axis_of(each.estimate for trial in trials for each in trial.findings)

    def trial_row(each: Finding, axis: forest.Axis) -> Markup:
        return forest.row(each.estimate, axis, claimed=None, said=each.said)

    def forest_row(each: Comparison) -> Markup:
        said = f"{each.name.arms}: {difference(each.verdict)}"
        claimed = each.contrast.claimed if each.full else None
        return forest.row(each.difference, axis, claimed=claimed, said=said)

    def link(path: Path) -> str:
        return quote(Path(os.path.relpath(path, folder.resolve())).as_posix())

    made.filters |= {
        "forest_row": forest_row, "trial_row": trial_row, "axis": trials_axis,
        "ruler": forest.ruler, "link": link,
    }  # fmt: skip
    drawn = {
        "ruler": forest.ruler(axis),
        "tables": {v.section.name: pictures.table_plots(v, results) for v in report.tables},
        "figures": {v.section.name: pictures.figure_plots(v) for v in report.figures},
        "gains": gains("gains", GAINS, shown) if (shown := gains_of(report.trials)) else None,
        "doses": [
            doses(f"doses-{number}", f"{each.place}: accuracy over the dose", each.doses)
            for number, each in enumerate(report.trials)
            if each.doses
        ],
        "curves": pictures.curves_and_times(results),
        "strips": strips(results.all()),
    }
    return made.get_template("report.html").render(drawn=drawn, **_shared(report))


def markdown(report: Report) -> str:
    """The same without pictures, for a README."""
    made = _templates().overlay(autoescape=False, finalize=_without_tags)
    return made.get_template("report.md").render(**_shared(report))
