"""What a trial's accuracies say: two-way analysis of variance, contrasts, equivalence, verdicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats
from statsmodels.regression.linear_model import OLS, RegressionResults
from statsmodels.stats.contrast import ContrastResults
from statsmodels.stats.multitest import multipletests

from reporting.evidence import Estimate
from trialling.arms import Contrast

ALPHA = 0.05
EARLY = 0.001
"""p below which an arm is stopped at a look: so small that it costs the last look nothing."""
LEAST_SD = 1e-9
"""Of a residual, in points; below it the arms were equal."""
MOST_SEEDS = 1000
HELPS, HURTS, CANNOT = "helps", "hurts", "cannot tell"

RULE = (
    "Accuracies are explained by arm and seed without interaction; the residual of all arms gives "
    "every contrast its standard error (two-way analysis of variance). Intervals are 95 % and of "
    "one contrast. p is Student's, two-sided, by Holm's correction over all contrasts but the A/A. "
    "A contrast helps or hurts if p < 0.05. Else it is within ±x if two one-sided tests at 5 % "
    "say so (its 90 % interval lies within ±x); an equivalence contrast is asked this first. Else "
    "the trial cannot tell. At an early look an arm stops once each of its contrasts has p < 0.001 "
    "or a 95 % interval within ±x."
)

Accuracies = Mapping[str, Mapping[int, float]]
"""In %, by arm and seed."""


@dataclass(frozen=True)
class Fit:
    """Accuracy = arm + seed + residual, by least squares.

    Attributes:
        model: as statsmodels fitted it; its first coefficients are the arms'.
        arms: in their order.
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

    def test(self, arm: str, base: str) -> ContrastResults:
        """Of the difference of two arms' effects against 0."""
        weights = np.zeros(len(self.model.params))
        weights[[self.arms.index(arm), self.arms.index(base)]] = 1, -1
        return self.model.t_test(weights)


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
    """What the runs say of a contrast.

    Attributes:
        contrast: that was asked.
        n: seeds that both arms have.
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


def half_width(sd: float, num_arms: int, seeds: int, confidence: float = 0.95) -> float:
    """Half the interval of a difference between two of some arms that all have some seeds."""
    df = (num_arms - 1) * (seeds - 1)
    if df < 1:
        return math.inf
    return float(stats.t.ppf((1 + confidence) / 2, df)) * sd * math.sqrt(2 / seeds)


def _more(difference: float, sd: float, num_arms: int, n: int, margin: float, family: int) -> int:
    """Seeds that are missing for a verdict if difference and residual stay as they are.

    Holm's correction is taken at its strictest, for the smallest p of the family.
    """
    size = abs(difference)
    for seeds in range(n + 1, MOST_SEEDS):
        if size > half_width(sd, num_arms, seeds, 1 - ALPHA / family):
            return seeds - n
        if size + half_width(sd, num_arms, seeds, 1 - 2 * ALPHA) < margin:
            return seeds - n
    return MOST_SEEDS


def _word(contrast: Contrast, difference: float, p: float, p_within: float, margin: float) -> str:
    within = p_within < ALPHA
    if within and contrast.kind == "equivalence":
        return f"within ±{margin:g}"
    if p < ALPHA:
        return HELPS if difference > 0 else HURTS
    return f"within ±{margin:g}" if within else CANNOT


def findings(asked: Sequence[Contrast], accuracies: Accuracies, margin: float) -> list[Finding]:
    """What is found of each contrast whose arms have two common seeds; [] if nothing can be."""
    common = {each: accuracies[each.arm].keys() & accuracies[each.base].keys() for each in asked}
    asked = [each for each in asked if len(common[each]) > 1]
    if not asked:
        return []
    model = fit(accuracies)
    if not model.sd > LEAST_SD:
        return []
    tests = [model.test(each.arm, each.base) for each in asked]
    family = [
        test.pvalue.item() for each, test in zip(asked, tests, strict=True) if each.kind != "check"
    ]
    corrected = iter(multipletests(family, ALPHA, "holm")[1] if family else ())
    found = []
    for each, test in zip(asked, tests, strict=True):
        difference, se, p = (float(value.item()) for value in (test.effect, test.sd, test.pvalue))
        low, high = test.conf_int(ALPHA).ravel()
        within = float(stats.t.sf((margin - abs(difference)) / se, model.df))
        p_holm = p if each.kind == "check" else float(next(corrected))
        word, n = _word(each, difference, p_holm, within, margin), len(common[each])
        more = None
        if word == CANNOT:
            strict = 1 if each.kind == "check" else len(family)
            more = _more(difference, model.sd, len(model.arms), n, margin, strict)
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
