"""Statistics of a few seeds: means with intervals, and verdicts by a paired t-test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

CONFIDENCE = 0.95
MIN_PAIRS = 3
MARGIN = 0.2
"""Points below which "no drop" is granted: the largest that Table 1 itself has between a full map
and an approximation."""

SUPPORTED, NOT_SUPPORTED, TOO_LITTLE = "supported", "not supported", "too little data"

RULE = (
    f"For every seed that all arms of a comparison share, take the difference between them; a "
    f"two-sided paired t-test gives its {CONFIDENCE:.0%} interval. Fewer than {MIN_PAIRS} seeds, "
    f"or differences that are all the same, are {TOO_LITTLE}. A gain is {SUPPORTED} if the whole "
    f"interval lies above 0, and {NOT_SUPPORTED} if it does not and lies wholly at or below 0 or "
    f"below the paper's gain; an interval that holds both 0 and the paper's gain is {TOO_LITTLE}. "
    f"“No drop” is {SUPPORTED} if the whole interval lies above -{MARGIN} points, and "
    f"{NOT_SUPPORTED} if it does not and lies wholly below 0. A claim about several comparisons "
    f"is {SUPPORTED} if each is, {NOT_SUPPORTED} if one is not. Only runs at an experiment's full "
    f"budget with its own settings decide. Each comparison is tested by itself: of 40 without any "
    f"effect, one gain is expected to seem {SUPPORTED} by chance."
)


def p_value(p: float | None) -> str:
    """In words."""
    if p is None:
        return "–"
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def p_equals(p: float) -> str:
    """In words, behind what it is of: "p = 0.012" or "p < 0.001"."""
    return f"p {'= ' * (p >= 0.001)}{p_value(p)}"


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        n: seeds.
        mean: of their values.
        deviation: their sample standard deviation; None for one seed.
        low: of the confidence interval by Student's t; None for one seed.
        high: of it.
    """

    n: int
    mean: float
    deviation: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def half(self) -> float | None:
        """Half the interval: of a difference, the smallest that could have been told from 0."""
        return None if self.high is None else self.high - self.mean


def estimate(values: Sequence[float]) -> Estimate:
    """Mean, deviation and interval of at least one value."""
    n, mean = len(values), math.fsum(values) / len(values)
    if n < 2:
        return Estimate(n, mean)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * deviation / math.sqrt(n)
    return Estimate(n, mean, deviation, mean - half, mean + half)


@dataclass(frozen=True)
class Verdict:
    """A claim, judged by differences between arms.

    Attributes:
        word: one of the three.
        reason: in words.
        difference: its estimate over seeds; None without a common seed.
        p: of the two-sided paired t-test; None if it cannot be computed.
    """

    word: str
    reason: str
    difference: Estimate | None = None
    p: float | None = None


def _varies(difference: Estimate) -> bool:
    """Whether differences differ by more than rounding."""
    scale = max(1.0, abs(difference.mean))
    return difference.deviation is not None and difference.deviation > 1e-9 * scale


def judge(
    differences: Sequence[float], *, claimed: float | None = None, no_drop: bool = False
) -> Verdict:
    """A verdict by `RULE` on differences, one per seed.

    Args:
        differences: positive where the claim holds.
        claimed: the paper's difference; None if it gives none.
        no_drop: whether the claim is only that there is no drop.
    """
    if not differences:
        return Verdict(TOO_LITTLE, "no seed was run in all arms")
    found = estimate(differences)
    if found.n < MIN_PAIRS:
        return Verdict(TOO_LITTLE, f"{found.n} of at least {MIN_PAIRS} common seeds", found)
    if not _varies(found) or found.low is None or found.high is None:
        return Verdict(TOO_LITTLE, "the differences are all the same", found)
    p = float(stats.ttest_1samp(differences, 0.0).pvalue)
    if found.low > (-MARGIN if no_drop else 0.0):
        limit = f"-{MARGIN}" if no_drop else "0"
        return Verdict(SUPPORTED, f"the interval lies above {limit}", found, p)
    if found.high <= 0:
        return Verdict(NOT_SUPPORTED, "the interval lies below 0", found, p)
    if not no_drop and claimed is not None and found.high < claimed:
        return Verdict(NOT_SUPPORTED, "the interval lies below the paper's gain", found, p)
    return Verdict(TOO_LITTLE, "the interval is too wide", found, p)


def overall(words: Sequence[str]) -> str:
    """The verdict on a claim from those on its comparisons."""
    if NOT_SUPPORTED in words:
        return NOT_SUPPORTED
    return SUPPORTED if words and set(words) == {SUPPORTED} else TOO_LITTLE
