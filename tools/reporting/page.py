"""The report as one page that opens offline, and as Markdown."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment
from markupsafe import Markup, escape

from previewing.pages import environment
from reporting import forest, pictures, plots
from reporting.catalogue import TASKS
from reporting.content import Report
from reporting.evidence import RULE, Estimate, Verdict, p_equals, p_value
from reporting.results import CellView, decided
from reporting.samples import strips
from reporting.summary import Comparison
from trialling.analysis import Finding


def mean(value: Estimate) -> str:
    """Mean and deviation, as 95.60 ± 0.12."""
    spread = "" if value.deviation is None else f" ± {value.deviation:.2f}"
    return f"{value.mean:.2f}{spread}"


def interval(value: Estimate) -> str:
    """The confidence interval, or that there is none."""
    if value.low is None or value.high is None:
        return "none from one seed"
    return f"{value.low:.2f} to {value.high:.2f}"


def difference(verdict: Verdict) -> str:
    """A difference with its interval, n and p."""
    value = verdict.difference
    if value is None:
        return "no runs"
    words = [f"{value.mean:+.2f}"]
    if value.low is not None and value.high is not None:
        words[0] += f" ({value.low:+.2f} to {value.high:+.2f})"
    words.append(f"n = {value.n}")
    if verdict.p is not None:
        words.append(p_equals(verdict.p))
    return ", ".join(words)


def signed(value: Estimate) -> str:
    """The confidence interval of a difference."""
    if value.low is None or value.high is None:
        return "none from one seed"
    return f"{value.low:+.2f} to {value.high:+.2f}"


def prose(text: str) -> Markup:
    """Markdown's code spans and links in a line of text, all else escaped."""
    safe = str(escape(text))
    safe = re.sub(r"`([^`]+)`", r"<code>\1</code>", safe)
    return Markup(re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", safe))


def shorten(label: str) -> str:
    """A budget and changed settings, of which there may be many."""
    words = label.split(", ")
    return label if len(words) < 4 else f"{', '.join(words[:2])} and {len(words) - 2} more"


def seeds(cell: CellView) -> str:
    """The flags that are still to be added to a cell's command."""
    return "--seed 0" if cell.trials == 1 else f"--seed 0, and to {cell.trials - 1}"


def in_cell(text: str) -> str:
    """Text that cannot end a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def _without_tags(value: Any) -> Any:
    """A value whose text begins no tag of HTML in Markdown."""
    return value.replace("<", "&lt;") if isinstance(value, str) else value


def worded(*folders: Path) -> Environment:
    """Templates in `folders` and of the report, with its words for figures as filters."""
    made = environment(*folders, Path(__file__).parent / "templates")
    made.filters |= {
        "mean": mean, "interval": interval, "difference": difference, "prose": prose,
        "signed": signed, "shorten": shorten, "seeds": seeds, "decided": decided,
        "in_cell": in_cell, "p_value": p_value,
    }  # fmt: skip
    return made


def _shared(report: Report) -> dict[str, Any]:
    return {"report": report, "rule": RULE, "task_titles": TASKS}


def html(report: Report, folder: Path) -> str:
    """The page, whose links to trials start in `folder`."""
    results, made = report.results, worded()
    axis = forest.axis_of(each.difference for each in report.comparisons)
    trial_axis = forest.axis_of(each.estimate for each in report.findings)

    def trial_row(each: Finding) -> Markup:
        return forest.row(each.estimate, trial_axis, claimed=None, said=each.said)

    def forest_row(each: Comparison) -> Markup:
        said = f"{each.name.arms}: {difference(each.verdict)}"
        claimed = each.contrast.claimed if each.full else None
        return forest.row(each.difference, axis, claimed=claimed, said=said)

    def link(path: Path) -> str:
        return quote(Path(os.path.relpath(path, folder.resolve())).as_posix())

    made.filters |= {"forest_row": forest_row, "trial_row": trial_row, "link": link}
    drawn = {
        "ruler": forest.ruler(axis),
        "trial_ruler": forest.ruler(trial_axis),
        "tables": {v.section.name: pictures.table_plots(v, results) for v in report.tables},
        "figures": {v.section.name: pictures.figure_plots(v) for v in report.figures},
        "doses": [
            plots.doses(f"doses-{number}", f"{each.place}: accuracy over the dose", each.doses)
            for number, each in enumerate(report.trials)
            if each.doses
        ],
        "curves": pictures.curves_and_times(results),
        "strips": strips(results.all()),
    }
    return made.get_template("report.html").render(drawn=drawn, **_shared(report))


def markdown(report: Report) -> str:
    """The same without pictures, for a README."""
    made = worded().overlay(autoescape=False, finalize=_without_tags)
    return made.get_template("report.md").render(**_shared(report))
