"""Matplotlib figures as inline SVG that takes its colours from the page, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, SOFT, LINE = "#010203", "#010204", "#010205"
COLOURS = tuple(f"#0a0b{number:02x}" for number in range(8))
PAPER, KEEP, PLAIN = COLOURS[0], COLOURS[1], COLOURS[2]
_VARIABLES = {INK: "--ink", SOFT: "--soft", LINE: "--line"} | {
    colour: f"--series{number}" for number, colour in enumerate(COLOURS)
}
"""Stand-ins that no drawing needs itself, and the page's variables that replace them."""

STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # a run's settings may hold any text
    "svg.fonttype": "none",  # text stays text: it can be read out, searched and recoloured
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.titlesize": 9,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": LINE,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


@contextmanager
def drawing(width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    """A figure of so many inches, with one set of axes, in the page's style."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots()


def to_svg(figure: Figure, name: str, alt: str) -> Markup:
    """A figure as an `svg` element.

    Args:
        figure: drawn within `drawing`.
        name: unique on the page; its inner names begin with it.
        alt: says what is to be seen.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(url\(|href=")#', rf"\1#{name}-", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    text = re.sub(r'font: ([\d.]+)px[^;"]*', r"font: \1px system-ui, sans-serif", text)
    head = f'<svg role="img" aria-label="{escape(alt)}"'
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    return Markup(head + f"><title>{escape(alt)}</title>".join(_split_head(text)))


def _split_head(text: str) -> tuple[str, str]:
    """The rest of the `svg` tag, and all after it."""
    end = text.index(">")
    return text[len("<svg") : end], text[end + 1 :]
