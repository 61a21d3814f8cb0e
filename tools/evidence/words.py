"""Words for figures on pages and in Markdown, and the templates that pages share."""

from __future__ import annotations

import re
from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup, escape

from evidence.statistics import Estimate, Verdict, p_equals, p_value
from previewing.pages import environment


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


def in_cell(text: str) -> str:
    """Text that cannot end a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def worded(*folders: Path) -> Environment:
    """Templates in `folders` and those that pages share, with words for figures as filters."""
    made = environment(*folders, Path(__file__).parent / "templates")
    made.filters |= {
        "mean": mean, "interval": interval, "difference": difference, "prose": prose,
        "signed": signed, "shorten": shorten, "in_cell": in_cell, "p_value": p_value,
    }  # fmt: skip
    return made
