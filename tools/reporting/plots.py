"""The report's plots. Colours: the paper's figures, Keep arms, all others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill

from markupsafe import Markup
from matplotlib.axes import Axes

from evidence.svg import KEEP, PAPER, PLAIN, drawing, to_svg
from reporting.results import CellView, Measured

MOST_NAMES = 10
FULL, SHORT = "o", "s"  # markers; those of short budgets are hollow


@dataclass(frozen=True)
class Dot:
    """A row of a dot plot: what the paper has and what was measured."""

    name: str
    paper: float | None
    measured: tuple[Measured, ...]
    keep: bool


def _point(
    axes: Axes, x: float, y: float, each: Measured, colour: str, *, across: bool = True
) -> None:
    """A measured figure with its interval; hollow if its budget is short."""
    half = each.value.half
    axes.errorbar(
        [x], [y],
        xerr=half if across else None,
        yerr=None if across else half,
        fmt=FULL if each.full else SHORT,
        color=colour,
        markerfacecolor=colour if each.full else "none",
        markersize=6, capsize=3, linewidth=1.2,
    )  # fmt: skip


def _within_percent(axes: Axes) -> None:
    """Cut intervals off where no percentage can be."""
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -2.0), min(high, 102.0))


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Write each row's name above its marks, so that plots stay narrow enough for a phone."""
    for y, name in enumerate(names):
        axes.text(0.01, y - 0.38, name, transform=axes.get_yaxis_transform(), fontsize=8)
    axes.set_yticks(range(len(names)), [])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.5, -0.9)
    axes.spines["left"].set_visible(False)


def dots(name: str, title: str, label: str, rows: Sequence[Dot]) -> Markup:
    """A row per experiment: the paper's figure as a diamond, ours at full budget with its interval.

    Short budgets are not drawn: their figures would pose as the paper's, or ruin the axis.
    """
    with drawing(5.2, 0.8 + 0.36 * len(rows)) as (figure, axes):
        for y, row in enumerate(rows):
            if row.paper is not None:
                axes.plot(row.paper, y, "D", color=PAPER, markerfacecolor="none", markersize=6)
            for each in row.measured:
                if each.full:
                    _point(axes, each.value.mean, y, each, KEEP if row.keep else PLAIN)
        _name_rows(axes, [row.name for row in rows])
        axes.set_xlabel(label)
        for marker, colour, text in (
            ("D", PAPER, "paper"), (FULL, KEEP, "Keep, full budget"), (FULL, PLAIN, "others"),
        ):  # fmt: skip
            fill = "none" if marker == "D" else colour
            axes.plot([], [], marker, color=colour, markerfacecolor=fill, label=text)
        figure.legend(loc="outside upper left", ncols=3, fontsize=8)
        return to_svg(figure, name, f"{title}. {_in_words(rows)}")


def _in_words(rows: Sequence[Dot]) -> str:
    """The figures of a dot plot for those who do not see it."""
    lines = []
    for row in rows:
        paper = "" if row.paper is None else f"paper {row.paper:g}"
        ours = [f"{m.budget} {m.value.mean:.2f}" for m in row.measured]
        lines.append(f"{row.name}: {', '.join(filter(None, [paper, *ours])) or 'not run yet'}")
    return "; ".join(lines)


@dataclass(frozen=True)
class Series:
    """A curve over a setting: cells, and what the figure is called in the legend."""

    name: str
    points: tuple[tuple[float, CellView], ...]
    dashed: CellView | None = None


def _best(cell: CellView) -> Measured | None:
    """The full budget's, or the first other."""
    return cell.full or (cell.others[0] if cell.others else None)


def sweep(name: str, title: str, x_label: str, series: Sequence[Series]) -> Markup:
    """Figures 2 and 3: accuracy over a setting; short budgets are hollow."""
    words = []
    with drawing(5.2, 3.2) as (figure, axes):
        for number, one in enumerate(series):
            colour = (KEEP, PLAIN)[number % 2]
            for budgets in (True, False):
                _curve(axes, one, colour, full=budgets)
            if one.dashed and (found := _best(one.dashed)):
                style = "--" if found.full else ":"
                axes.axhline(found.value.mean, color=PLAIN, linestyle=style, label="baseline")
            words += [f"{one.name} at {x:g}: {_said(cell)}" for x, cell in one.points]
            known = [(x, cell.printed) for x, cell in one.points if cell.printed is not None]
            if known:
                xs, ys = zip(*known, strict=True)
                axes.plot(xs, ys, "D", color=PAPER, markerfacecolor="none", label="paper")
        _within_percent(axes)
        axes.set_xticks([x for x, _ in series[0].points])
        axes.set(xlabel=x_label, ylabel="accuracy, %", title=title)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
        return to_svg(figure, name, f"{title}. {'; '.join(words)}")


def _said(cell: CellView) -> str:
    found = _best(cell)
    return "not run yet" if found is None else f"{found.value.mean:.2f} ({found.budget})"


def _curve(axes: Axes, series: Series, colour: str, *, full: bool) -> None:
    """A line through the points of full budgets, or of one other."""
    found: dict[str, list[tuple[float, Measured]]] = {}
    for x, cell in series.points:
        for each in cell.measured:
            if each.full == full:
                found.setdefault(each.budget, []).append((x, each))
    for budget, points in found.items():
        for x, each in points:
            _point(axes, x, each.value.mean, each, colour, across=False)
        xs, ys = [x for x, _ in points], [each.value.mean for _, each in points]
        label = series.name if full else f"{series.name} ({budget})"
        axes.plot(xs, ys, color=colour, linestyle="-" if full else ":", label=label)


Timed = tuple[str, float, Measured, bool]
"""A name, a run's training minutes, its figure, and whether it is a Keep arm's."""


def front(points: Sequence[Timed]) -> list[Timed]:
    """The points that no faster one equals, from the fastest on."""
    best, found = float("-inf"), []
    for point in sorted(points, key=lambda p: (p[1], -p[2].value.mean)):
        if point[2].value.mean > best:
            best = point[2].value.mean
            found.append(point)
    return found


def scatter(name: str, title: str, label: str, points: Sequence[Timed]) -> Markup:
    """Accuracy against training minutes; of many points only the front's are named."""
    named = points if len(points) <= MOST_NAMES else front(points)
    with drawing(5.2, 3.4) as (figure, axes):
        for _, minutes, each, keep in points:
            _point(axes, minutes, each.value.mean, each, KEEP if keep else PLAIN, across=False)
        for text, minutes, each, _ in named:
            axes.annotate(
                text, (minutes, each.value.mean), (5, 4), textcoords="offset points", fontsize=7
            )
        axes.margins(x=0.3, y=0.15)
        _within_percent(axes)
        axes.set(xlabel="training time of a run, minutes", ylabel=label)
        axes.set_title(fill(title, 60))
        words = [f"{t}: {each.value.mean:.2f} in {m:.2f} minutes" for t, m, each, _ in points]
        return to_svg(figure, name, f"{title}. {'; '.join(words)}")
