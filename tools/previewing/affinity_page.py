"""The table and the plots of a measurement of affinity."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from typing import Any

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from previewing.affinity import Row

PLAIN, KEEP, GREY = "#c8552e", "#1d9a68", "#808080"  # readable on white and on black


def table_of(rows: list[Row], strength: str) -> tuple[list[str], list[list[str]]]:
    """Heads and lines of the table of an affinity measurement."""
    heads = ["arm", strength, "accuracy", "affinity", "area cut", "diversity"]
    lines = [
        [
            "Keep" if row.keep else "plain",
            str(row.strength),
            f"{row.accuracy:.2f} %",
            f"{row.affinity:+.2f} ± {row.error:.2f}",
            f"{100 * row.changed:.1f} %",
            "" if row.diversity is None else f"{row.diversity:.3f}",
        ]
        for row in rows
    ]
    if all(row.diversity is None for row in rows):
        return heads[:-1], [line[:-1] for line in lines]
    return heads, lines


def _drawn(draw: Callable[[Any], None], alt: str) -> Markup:
    """A plot on one axis as an SVG element."""
    grey = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color")
    style: dict[Any, Any] = dict.fromkeys(grey, GREY)
    with rc_context(style | {"svg.fonttype": "none", "svg.hashsalt": "affinity"}):
        figure = Figure(figsize=(5.2, 3.6), layout="constrained")
        figure.patch.set_alpha(0)
        axis = figure.subplots()
        draw(axis)
        axis.set_ylabel("affinity, percentage points")
        axis.grid(color=GREY, alpha=0.25)
        axis.patch.set_alpha(0)
        for spine in axis.spines.values():
            spine.set_color(GREY)
        axis.legend(frameon=False)
        file = StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    opening = Markup('<svg role="img" aria-label="{}" ').format(alt)
    return opening + Markup(text[text.index("<svg") + 5 :])


def affinity_plots(rows: list[Row], strength: str) -> list[Markup]:
    """Affinity by strength and, where diversity is known, against diversity: SVG elements."""
    known = [row for row in rows if row.diversity is not None]
    arms = ((False, PLAIN, "plain"), (True, KEEP, "Keep"))

    def by_strength(axis: Any) -> None:
        for keep, colour, name in arms:
            arm = [row for row in rows if row.keep == keep]
            values = zip(*((row.strength, row.affinity, row.error) for row in arm), strict=True)
            axis.errorbar(*values, color=colour, marker="o", capsize=3, label=name)
        axis.set_xlabel(strength)
        axis.set_xticks(sorted({row.strength for row in rows}))

    def by_diversity(axis: Any) -> None:
        for keep, colour, name in arms:
            arm = [row for row in known if row.keep == keep]
            points = [row.diversity for row in arm], [row.affinity for row in arm]
            axis.plot(*points, color=colour, marker="o", linestyle="none", label=name)
        for row in known:
            place = (row.diversity, row.affinity)
            axis.annotate(str(row.strength), place, xytext=(5, 4), textcoords="offset points")
        axis.set_xlabel("diversity")

    words = "; ".join(
        f"{'Keep' if row.keep else 'plain'} {row.strength}: {row.affinity:+.2f}" for row in rows
    )
    plots = [_drawn(by_strength, f"affinity by {strength}: {words}")]
    if known:
        plots.append(_drawn(by_diversity, "affinity against diversity, as in the table"))
    return plots
