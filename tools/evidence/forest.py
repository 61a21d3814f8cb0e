"""A forest plot whose lines are rows of a table: an interval each, on one axis."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup

from evidence.statistics import MIN_PAIRS, Estimate

WIDTH, HEIGHT = 240, 22  # of a row, in units of its viewBox
EDGE = 8  # left and right of the axis


@dataclass(frozen=True)
class Axis:
    """Points from -limit to limit: a line every `step`, dotted ones at ±margin."""

    limit: float
    step: float
    margin: float = 0.0

    def x(self, value: float) -> float:
        """Where a difference stands in a row."""
        share = (min(max(value, -self.limit), self.limit) + self.limit) / (2 * self.limit)
        return round(EDGE + share * (WIDTH - 2 * EDGE), 1)

    @property
    def ticks(self) -> list[float]:
        """Differences that have a line."""
        number = math.floor(self.limit / self.step + 1e-9)
        return [count * self.step for count in range(-number, number + 1)]


def axis_of(values: Iterable[Estimate], margin: float = 0.0) -> Axis:
    """An axis for all intervals; those of fewer seeds than a verdict needs may leave it."""
    found = list(values)
    ends = [
        abs(end)
        for each in found
        for end in (each.low, each.high)
        if end is not None and each.n >= MIN_PAIRS
    ]
    limit = max([*ends, *(abs(each.mean) for each in found), margin, 0.1])
    scale = 10 ** math.floor(math.log10(limit))
    step = next(scale * part for part in (0.2, 0.5, 1, 2, 5) if limit / (scale * part) <= 4.5)
    return Axis(limit * 1.03, step, margin)


def _lines(axis: Axis) -> Markup:
    one = Markup('<line class="{}" x1="{}" x2="{}" y1="0" y2="{}"/>')
    lines = [(tick, "zero" if abs(tick) < 1e-9 else "tick") for tick in axis.ticks]
    lines += [(side, "margin") for side in (-axis.margin, axis.margin) if side]
    places = ((axis.x(value), kind) for value, kind in lines)
    return Markup("").join(one.format(kind, x, x, HEIGHT) for x, kind in places)


def ruler(axis: Axis) -> Markup:
    """The axis' numbers, as a row of their own."""
    text = Markup('<text x="{}" y="14" text-anchor="middle">{}</text>')
    numbers = Markup("").join(
        text.format(axis.x(tick), f"{tick:+g}" if tick else "0") for tick in axis.ticks
    )
    return Markup('<svg class="row" viewBox="0 0 {} {}" aria-hidden="true">{}</svg>').format(
        WIDTH, HEIGHT, numbers
    )


def row(value: Estimate, axis: Axis, *, claimed: float | None, said: str) -> Markup:
    """An interval: grey and hollow if it holds 0, else filled; the paper's value as a diamond."""
    kind, middle = "open", HEIGHT / 2
    low, high = (value.mean if end is None else end for end in (value.low, value.high))
    if low > 0 or high < 0:
        kind = "open" if value.low is None else "yes" if low > 0 else "no"
    paper = Markup("")
    if claimed is not None:
        x = axis.x(claimed)
        paper = Markup('<path class="claimed" d="M{} {}l4 4-4 4-4-4z"/>').format(x, middle - 4)
    return Markup(
        '<svg class="row {}" viewBox="0 0 {} {}" role="img" aria-label="{}">{}'
        '<line class="interval" x1="{}" x2="{}" y1="{}" y2="{}"/>{}'
        '<circle cx="{}" cy="{}" r="4.5"/></svg>'
    ).format(
        kind, WIDTH, HEIGHT, said, _lines(axis), axis.x(low), axis.x(high), middle, middle, paper,
        axis.x(value.mean), middle,
    )  # fmt: skip
