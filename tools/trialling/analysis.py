"""Statistics of a trial: two-way analysis of variance, contrasts, equivalence, verdicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats
from statsmodels.regression.linear_model import OLS, RegressionResults
from statsmodels.stats.contrast import ContrastResults
from statsmodels.stats.multitest import multipletests

from evidence.statistics import Estimate
from trialling.contrasts import Contrast

ALPHA = 0.05
EARLY = 0.001
"""p below which an arm is stopped at a look: so small that it costs the last look nothing."""
LEAST_SD = 1e-9
"""Residual deviation, in points, below which the arms were equal."""
MOST_SEEDS = 1000
SDS = (0.3, 0.5, 0.8)
"""Residual deviations, in points, that small image sets have."""
HELPS, HURTS, CANNOT = "helps", "hurts", "cannot tell"
SAME = "the same for every item"
GROWS, FALLS = "grows with the dose", "falls with the dose"

RULE = (
    "Accuracies are explained by arm and seed without interaction; the residual of all arms gives "
    "every contrast its standard error (two-way analysis of variance). Intervals are 95 % and of "
    "one contrast. p is Student's, two-sided, by Holm's correction over all contrasts but the A/A. "
    "A contrast helps or hurts if p < 0.05. Else it is within ±x if two one-sided tests at 5 % "
    "say so (its 90 % interval lies within ±x); an equivalence contrast is asked this first. Else "
    "the trial cannot tell. Arms that got the same for every item in every seed are said to be the "
    "same. At an early look an arm stops once each of its contrasts has p < 0.001 "
    "or a 95 % interval within ±x."
)
DOSE_RULE = (
    "With doses an arm at a dose is a cell of the same model, so that a contrast is a weighted sum "
    "of cells. The slope of Keep − plain over the doses, which count as equally spaced, is in "
    "points a step. Controls are run at the three strongest doses and compared over all of them. "
    "Holm's correction is over doses, over controls, and over the comparisons of chosen doses. The "
    "best dose of Keep and that of the plain method are chosen by their mean over the first half "
    "of the seeds; they are compared with each other and with crop and flip on the other half and "
    "on as many seeds more, by a model of these seeds alone."
)

Accuracies = Mapping[str, Mapping[int, float]]
"""In %, by cell and seed; without doses an arm is a cell."""


def within(accuracies: Accuracies, seeds: range) -> Accuracies:
    """Those of some seeds alone."""
    return {
        cell: {seed: value for seed, value in found.items() if seed in seeds}
        for cell, found in accuracies.items()
    }


@dataclass(frozen=True)
class Fit:
    """Accuracy = cell + seed + residual, by least squares.

    Attributes:
        model: as statsmodels fitted it; its first coefficients are the cells'.
        arms: these, in their order.
        f: of the arms, whether any differs from any other; NaN if unknown.
        p: of f.
    """

    model: RegressionResults
    arms: tuple[str, ...]
    f: float
    p: float

    @property
    def df(self) -> int:
        """Degrees of freedom of the residual."""
        return int(self.model.df_resid)

    @property
    def sd(self) -> float:
        """Standard deviation of the residual; NaN without degrees of freedom."""
        return math.sqrt(self.model.mse_resid) if self.df else math.nan

    def test(self, weights: Mapping[str, float]) -> ContrastResults:
        """Test a weighted sum of cells' effects against 0."""
        vector = np.zeros(len(self.model.params))
        for arm, weight in weights.items():
            vector[self.arms.index(arm)] = weight
        return self.model.t_test(vector)

    def difference(self, arm: str, base: str) -> tuple[float, float]:
        """Of two cells, and half its 95 % interval."""
        test = self.test({arm: 1, base: -1})
        low, high = test.conf_int(ALPHA)[0]
        return float(test.effect[0]), float(high - low) / 2

    def mean(self, arm: str) -> tuple[float, float]:
        """A cell's mean over all seeds, and half its 95 % interval by the residual alone.

        Seeds are the same for all cells, so what they differ in is left out.
        """
        seeds = len(self.model.params) - len(self.arms) + 1
        vector = np.zeros(len(self.model.params))
        vector[self.arms.index(arm)] = 1
        vector[len(self.arms) :] = 1 / seeds
        n = self.model.model.exog[:, self.arms.index(arm)].sum()
        half = float(stats.t.ppf(1 - ALPHA / 2, self.df)) * self.sd / math.sqrt(n)
        return float(vector @ self.model.params), half


def fit(accuracies: Accuracies) -> Fit:
    """Fit arms and seeds; arms may have been stopped, so that they lack seeds."""
    arms = tuple(arm for arm, found in accuracies.items() if found)
    seeds = sorted({seed for arm in arms for seed in accuracies[arm]})
    cells = [(arm, seed, value) for arm in arms for seed, value in accuracies[arm].items()]
    by_arm = np.array([[arm == name for name in arms] for arm, _, _ in cells], float)
    by_seed = np.array([[seed == each for each in seeds[1:]] for _, seed, _ in cells], float)
    model = OLS([value for _, _, value in cells], np.hstack((by_arm, by_seed))).fit()
    found = Fit(model, arms, math.nan, math.nan)
    if not found.sd > LEAST_SD or len(arms) < 2:
        return found
    differ = np.eye(len(arms) - 1, len(model.params), 1)
    differ[:, 0] = -1
    test = model.f_test(differ)
    return replace(found, f=float(test.fvalue), p=float(test.pvalue))


@dataclass(frozen=True)
class Finding:
    """Estimate and verdict of a contrast.

    Attributes:
        contrast: that was asked.
        n: seeds that all its arms have.
        difference: in points.
        se: its standard error.
        half: half its 95 % interval.
        p: two-sided, uncorrected.
        p_holm: corrected; of the A/A as it is.
        p_within: the greater of two one-sided tests against ±x.
        verdict: in words.
        more: seeds beyond the present ones that would tell, if what is seen goes on; None if told.
    """

    contrast: Contrast
    n: int
    difference: float
    se: float
    half: float
    p: float
    p_holm: float
    p_within: float
    verdict: str
    more: int | None = None

    @property
    def estimate(self) -> Estimate:
        """The difference with its interval."""
        low, high = self.difference - self.half, self.difference + self.half
        return Estimate(self.n, self.difference, None, low, high)

    @property
    def said(self) -> str:
        """The finding in a line."""
        return f"{self.contrast.name}: {self.difference:+.2f} points, {self.verdict}"

    @property
    def wish(self) -> str:
        """How many more seeds would tell, in words; "" if it is told."""
        if self.more is None:
            return ""
        most = "more than " if self.more >= MOST_SEEDS else ""
        return f"{most}{self.more} more seed{'s' * (self.more > 1)} would"


def half_width(
    sd: float, num_arms: int, seeds: int, confidence: float = 0.95, squares: float = 2.0
) -> float:
    """Half the interval of a contrast between some arms that all have some seeds.

    Args:
        sd: of the residual.
        num_arms: of the trial, or cells.
        seeds: of each.
        confidence: of the interval.
        squares: sum of the contrast's squared weights; 2 for a difference of two arms.
    """
    df = (num_arms - 1) * (seeds - 1)
    if df < 1:
        return math.inf
    return float(stats.t.ppf((1 + confidence) / 2, df)) * sd * math.sqrt(squares / seeds)


def can_tell(
    num_arms: int, seeds: int, sd: float | None = None, missing: float | None = None
) -> str:
    """How well a trial knows the difference of two arms, in words: half of a 95 % interval.

    Args:
        num_arms: of the trial, or cells.
        seeds: of each.
        sd: of the residual; None says it for some.
        missing: points that the reference lacks to 100; None if unknown.
    """
    sds = SDS if sd is None else (sd,)
    halves = [half_width(each, num_arms, seeds) for each in sds]
    text = f"{', '.join(f'±{half:.2f}' for half in halves)} points"
    if missing:
        shares = ", ".join(f"{100 * half / missing:.2g}" for half in halves)
        text += f", {shares} % of the {missing:.2f} that are missing to 100"
    if sd is None:
        text += f", if the residual deviation is {', '.join(map(str, SDS))}"
    return f"the difference of two arms is known to {text}"


def _more(
    difference: float, sd: float, num_arms: int, n: int, margin: float, family: int, squares: float
) -> int:
    """Seeds that are missing for a verdict if difference and residual stay as they are.

    Holm's correction is taken at its strictest, for the smallest p of the family.
    """
    seeds = np.arange(n + 1, MOST_SEEDS)
    size, se = abs(difference), sd * np.sqrt(squares / seeds)
    df = (num_arms - 1) * (seeds - 1)
    differs = size > stats.t.ppf(1 - ALPHA / family / 2, df) * se
    none = size + stats.t.ppf(1 - ALPHA, df) * se < margin
    tells = differs | none
    return int(tells.argmax()) + 1 if tells.any() else MOST_SEEDS


def _word(contrast: Contrast, difference: float, p: float, p_within: float, margin: float) -> str:
    if contrast.kind == "slope":
        return CANNOT if p >= ALPHA else GROWS if difference > 0 else FALLS
    within = p_within < ALPHA
    if within and contrast.kind == "equivalence":
        return f"within ±{margin:g}"
    if p < ALPHA:
        return HELPS if difference > 0 else HURTS
    return f"within ±{margin:g}" if within else CANNOT


def _corrected(asked: Sequence[Contrast], values: Sequence[float]) -> list[float]:
    """Correct p by Holm's rule within each family; that of a check stays."""
    corrected = list(values)
    for family in {each.family for each in asked}:
        places = [
            place
            for place, each in enumerate(asked)
            if each.family == family and each.kind != "check"
        ]
        if len(places) > 1:
            found = multipletests([values[place] for place in places], ALPHA, "holm")[1]
            for place, p in zip(places, found, strict=True):
                corrected[place] = float(p)
    return corrected


def _common(each: Contrast, accuracies: Accuracies) -> set[int]:
    """The seeds that all cells of a contrast have."""
    return set.intersection(*({*accuracies.get(cell, ())} for cell in each.weights))


def findings(asked: Sequence[Contrast], accuracies: Accuracies, margin: float) -> list[Finding]:
    """Findings on the contrasts whose arms have two common seeds; [] if there are none."""
    asked = [each for each in asked if len(_common(each, accuracies)) > 1]
    if not asked:
        return []
    model = fit(accuracies)
    if not model.sd > LEAST_SD:
        return []
    tests = [model.test(each.weights) for each in asked]
    corrected = _corrected(asked, [test.pvalue.item() for test in tests])
    found = []
    for each, test, p_holm in zip(asked, tests, corrected, strict=True):
        difference, se, p = (float(value.item()) for value in (test.effect, test.sd, test.pvalue))
        low, high = test.conf_int(ALPHA).ravel()
        within = float(stats.t.sf((margin - abs(difference)) / se, model.df))
        word, n = _word(each, difference, p_holm, within, margin), len(_common(each, accuracies))
        more = None
        if word == CANNOT and each.kind != "slope":
            family = sum(e.family == each.family and e.kind != "check" for e in asked)
            squares = sum(weight**2 for weight in each.weights.values())
            strict = 1 if each.kind == "check" else family
            more = _more(difference, model.sd, len(model.arms), n, margin, strict, squares)
        found.append(
            Finding(each, n, difference, se, float(high - low) / 2, p, p_holm, within, word, more)
        )
    return found


def going_on(arms: Sequence[str], found: Sequence[Finding], margin: float) -> list[str]:
    """The arms that an early look does not stop: those with a contrast that is still open."""
    undecided = {
        arm
        for each in found
        if each.p >= EARLY and abs(each.difference) + each.half > margin
        for arm in (each.contrast.arm, each.contrast.base)
    }
    return [arm for arm in arms if arm in undecided] if found else list(arms)
