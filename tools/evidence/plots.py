"""Plots of training, of doses and of gains, for the pages of trials and of the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evidence.svg import COLOURS, KEEP, PLAIN, SOFT, drawing, to_svg

Lines = Sequence[tuple[str, Sequence[tuple[float, float]]]]


@contextmanager
def picture(path: Path, width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    """A figure of so many inches that is then saved, in colours of its own."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    yield figure, axes
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=200)


def training(name: str, title: str, label: str, lines: Lines) -> Markup:
    """The headline figure after each epoch, a line per experiment (mean over seeds)."""
    styles = ("-", "--", "-.", ":")
    with drawing(5.2, 3.2) as (figure, axes):
        for number, (text, points) in enumerate(lines):
            xs, ys = zip(*points, strict=True)
            axes.plot(
                xs, ys, styles[number // len(COLOURS) % len(styles)], label=text,
                color=COLOURS[number % len(COLOURS)],
                marker="." if len(xs) < 15 else None,
            )  # fmt: skip
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="epoch", ylabel=label)
        axes.set_title(fill(title, 60))
        axes.legend(fontsize=7)
        words = [f"{text} ends at {points[-1][1]:.2f}" for text, points in lines]
        return to_svg(figure, name, f"{title}. {'; '.join(words)}")


@dataclass(frozen=True)
class Doses:
    """Accuracy over doses of an augmentation, a line an arm.

    Attributes:
        setting: that makes the doses.
        ticks: their names, from mild to strong.
        lines: an arm's name, and its places among the doses with mean and half an interval.
        level: what all of it stands beside: its name, mean and half an interval; or None.
    """

    setting: str
    ticks: tuple[str, ...]
    lines: tuple[tuple[str, tuple[tuple[int, float, float], ...]], ...]
    level: tuple[str, float, float] | None


def draw_doses(axes: Axes, found: Doses, colours: Sequence[str], soft: str) -> None:
    """A line an arm, each point with its interval; a band for what they stand beside."""
    if found.level:
        text, mean, half = found.level
        axes.axhspan(mean - half, mean + half, color=soft, alpha=0.2, linewidth=0)
        axes.axhline(mean, color=soft, linestyle="--", linewidth=1.2, label=text)
    for number, (text, points) in enumerate(found.lines):
        places, means, halves = zip(*points, strict=True)
        shift = 0.06 * (number - (len(found.lines) - 1) / 2)  # intervals stand side by side
        axes.errorbar(
            [place + shift for place in places], means, yerr=halves, fmt="o-",
            color=colours[number % len(colours)], markersize=5, capsize=3, linewidth=1.4,
            label=text,
        )  # fmt: skip
    axes.set_xticks(range(len(found.ticks)), found.ticks)
    axes.set(xlabel=found.setting, ylabel="test accuracy, %")
    axes.legend(fontsize=7)


def doses(name: str, title: str, found: Doses) -> Markup:
    """Dose and response."""
    with drawing(5.2, 3.4) as (figure, axes):
        draw_doses(axes, found, (PLAIN, KEEP, *COLOURS[3:]), SOFT)
        axes.set_title(fill(title, 60))
        words = [
            f"{text}: {', '.join(f'{found.ticks[place]}: {mean:.2f}' for place, mean, _ in points)}"
            for text, points in found.lines
        ]
        words += [f"{found.level[0]}: {found.level[1]:.2f}"] if found.level else []
        return to_svg(figure, name, f"{title}. {'; '.join(words)}")


def save_doses(path: Path, found: Doses) -> None:
    """Dose and response as a picture of its own, of the kind that the file's name says."""
    with picture(path, 6.4, 3.8) as (_, axes):
        draw_doses(axes, found, ("tab:gray", "tab:blue", "tab:orange", "tab:green"), "black")


@dataclass(frozen=True)
class Gains:
    """What keeping gives over what the method that it keeps in gives, one point a dose.

    Attributes:
        name: of the method, and where.
        points: a dose, or ""; plain − crop and flip; Keep − plain. Both in points, each with
            half its 95 % interval.
    """

    name: str
    points: tuple[tuple[str, tuple[float, float], tuple[float, float]], ...]


def draw_gains(axes: Axes, found: Sequence[Gains], colours: Sequence[str], soft: str) -> None:
    """A line a method; doses are written where Keep is told from the plain method."""
    axes.axhline(0, color=soft, linewidth=0.8)
    axes.axvline(0, color=soft, linewidth=0.8)
    for number, each in enumerate(found):
        colour = colours[number % len(colours)]
        doses, plain, keep = zip(*each.points, strict=True)
        (xs, x_halves), (ys, y_halves) = (zip(*pairs, strict=True) for pairs in (plain, keep))
        axes.errorbar(
            xs, ys, xerr=x_halves, yerr=y_halves, fmt="os^Dv<>p"[number % 8], linestyle="-",
            color=colour, markersize=5, linewidth=0.8, elinewidth=0.6, label=fill(each.name, 72),
        )  # fmt: skip
        for dose, x, y, half in zip(doses, xs, ys, y_halves, strict=True):
            if dose and abs(y) > half:
                axes.annotate(
                    dose, (x, y + half), (0, 2), textcoords="offset points", ha="center",
                    color=colour, fontsize=7,
                )  # fmt: skip
    ends = axes.get_xlim()
    axes.plot(
        ends, [-end for end in ends], color=soft, linestyle=":", scaley=False,
        label="above: keeping is better than crop and flip",
    )  # fmt: skip
    axes.set_xlim(ends)
    axes.set(xlabel="plain method − crop and flip, points", ylabel="keeping − plain, points")


def gains(name: str, title: str, found: Sequence[Gains]) -> Markup:
    """What keeping gives over what the plain methods give."""
    with drawing(5.2, 4.4) as (figure, axes):
        draw_gains(axes, found, (PLAIN, KEEP, *COLOURS[3:]), SOFT)
        axes.set_title(fill(title, 60))
        figure.legend(loc="outside lower left", fontsize=7)
        words = [
            f"{each.name}{', ' * bool(dose)}{dose}: plain {plain:+.2f}, keeping {keep:+.2f}"
            for each in found
            for dose, (plain, _), (keep, _) in each.points
        ]
        return to_svg(figure, name, f"{title}. {'; '.join(words)}")


def save_gains(path: Path, found: Sequence[Gains]) -> None:
    """The same as a picture of its own, of the kind that the file's name says."""
    with picture(path, 5.0, 4.3) as (figure, axes):  # to be read on a phone, too
        draw_gains(axes, found, [f"C{number}" for number in range(10)], "black")
        figure.legend(loc="outside lower left", fontsize=7)
