"""The report as one page that opens offline, and as Markdown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup, escape

from previewing.pages import environment
from reporting import pictures
from reporting.catalogue import TASKS
from reporting.content import Report
from reporting.evidence import RULE, Estimate, Verdict
from reporting.results import CellView, decided
from reporting.summary import KINDS


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
        words.append(f"p = {verdict.p:.3f}")
    return ", ".join(words)


def smallest(verdict: Verdict) -> str:
    """The smallest difference that could have been told from 0."""
    half = verdict.difference and verdict.difference.half
    return "unknown from one seed" if half is None else f"{half:.2f}"


def prose(text: str) -> Markup:
    """Markdown's code spans and links in a line of text, all else escaped."""
    safe = str(escape(text))
    safe = re.sub(r"`([^`]+)`", r"<code>\1</code>", safe)
    return Markup(re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", safe))


def seeds(cell: CellView) -> str:
    """The flags that are still to be added to a cell's command."""
    return "--seed 0" if cell.trials == 1 else f"--seed 0, and to {cell.trials - 1}"


def in_cell(text: str) -> str:
    """Text that cannot end a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def _without_tags(value: Any) -> Any:
    """A value whose text begins no tag of HTML in Markdown."""
    return value.replace("<", "&lt;") if isinstance(value, str) else value


def _environment() -> Environment:
    made = environment(Path(__file__).parent / "templates")
    made.filters |= {
        "mean": mean, "interval": interval, "difference": difference, "prose": prose,
        "smallest": smallest, "seeds": seeds, "decided": decided, "in_cell": in_cell,
    }  # fmt: skip
    return made


def _shared(report: Report) -> dict[str, Any]:
    return {"report": report, "rule": RULE, "kinds": KINDS, "task_titles": TASKS}


def html(report: Report) -> str:
    """The page."""
    results = report.results
    drawn = {
        "summary": pictures.summary_plots(report),
        "small": {view.task: pictures.small_plots(view) for view in report.small},
        "tables": {v.section.name: pictures.table_plots(v, results) for v in report.tables},
        "figures": {v.section.name: pictures.figure_plots(v) for v in report.figures},
        "times": pictures.time_plots(results),
        "curves": pictures.curve_plots(results, full=True),
        "short_curves": pictures.curve_plots(results, full=False),
    }
    return _environment().get_template("report.html").render(drawn=drawn, **_shared(report))


def markdown(report: Report) -> str:
    """The same without pictures, for a README."""
    made = _environment().overlay(autoescape=False, finalize=_without_tags)
    return made.get_template("report.md").render(**_shared(report))
