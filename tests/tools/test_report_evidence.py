from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evidence.statistics import (
    MARGIN,
    NOT_SUPPORTED,
    SUPPORTED,
    TOO_LITTLE,
    Verdict,
    estimate,
    judge,
    overall,
    p_equals,
)
from evidence.words import difference
from keepbench.paper import TABLES
from reporting.claims import CLAIMS, contrast, slope


def test_an_estimate_by_hand() -> None:
    found = estimate([1.0, 2.0, 3.0])
    half = 4.302652729749464 / math.sqrt(3)  # Student's t with 2 degrees of freedom, both sides 5 %
    assert (found.n, found.mean, found.deviation) == (3, 2.0, 1.0)
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half))


def test_one_seed_has_no_interval() -> None:
    assert estimate([95.0]).deviation is estimate([95.0]).low is None


NUMBERS = st.lists(st.floats(-100, 100), min_size=3, max_size=9)


@given(NUMBERS, NUMBERS)
def test_the_test_is_scipys_paired_one(keep: list[float], plain: list[float]) -> None:
    pairs = list(zip(keep, plain, strict=False))
    differences = [a - b for a, b in pairs]
    verdict = judge(differences)
    if verdict.p is None:
        assert max(differences) - min(differences) < 1e-6
        return
    reference = stats.ttest_rel(*zip(*pairs, strict=True))
    interval = reference.confidence_interval(0.95)
    assert verdict.p == pytest.approx(reference.pvalue, rel=1e-4, abs=1e-9)
    assert verdict.difference is not None
    assert verdict.difference.low == pytest.approx(interval.low, rel=1e-6, abs=1e-6)
    supported = interval.low > 0
    assert supported == (verdict.word == SUPPORTED) or abs(interval.low) < 1e-6


@pytest.mark.parametrize(
    ("differences", "claimed", "no_drop", "word"),
    [
        ([], 0.5, False, TOO_LITTLE),
        ([0.5, 0.6], 0.5, False, TOO_LITTLE),
        ([0.5, 0.5, 0.5], 0.5, False, TOO_LITTLE),  # the same test images decide alike
        ([0.4, 0.5, 0.6], 0.5, False, SUPPORTED),
        ([-0.4, -0.5, -0.6], 0.5, False, NOT_SUPPORTED),
        ([-0.1, 0.0, 0.1], 0.5, False, NOT_SUPPORTED),  # up to 0.25: the paper's gain is excluded
        ([-0.1, 0.0, 0.1], 0.2, False, TOO_LITTLE),  # holds both 0 and 0.2
        ([-0.1, 0.0, 0.1], None, False, TOO_LITTLE),
        ([-0.05, 0.0, 0.05], 0.0, True, SUPPORTED),  # from -0.13
        ([-0.11, -0.1, -0.09], 0.0, True, SUPPORTED),  # a drop, but smaller than the margin
        ([-0.4, -0.5, -0.6], 0.0, True, NOT_SUPPORTED),
        ([-0.2, 0.0, 0.2], 0.0, True, TOO_LITTLE),
    ],
)
def test_verdicts_follow_the_rule(
    differences: list[float], claimed: float | None, no_drop: bool, word: str
) -> None:
    assert judge(differences, claimed=claimed, no_drop=no_drop).word == word


def test_no_p_is_said_to_be_zero() -> None:
    assert [p_equals(p) for p in (0.0004, 0.001, 0.25)] == ["p < 0.001", "p = 0.001", "p = 0.250"]
    verdict = Verdict(SUPPORTED, "", estimate([1.0, 1.1, 0.9]), 1e-5)
    assert difference(verdict).endswith("n = 3, p < 0.001")


def test_a_true_null_is_rarely_supported() -> None:
    draws = stats.norm.rvs(size=(1500, 5), random_state=0)
    share = sum(judge(row.tolist()).word == SUPPORTED for row in draws) / len(draws)
    assert 0.013 < share < 0.037  # 2.5 % on this side, with a deviation of 0.4 %


def test_a_claim_needs_all_its_comparisons() -> None:
    assert overall([SUPPORTED, SUPPORTED]) == SUPPORTED
    assert overall([SUPPORTED, TOO_LITTLE]) == TOO_LITTLE
    assert overall([TOO_LITTLE, NOT_SUPPORTED, SUPPORTED]) == NOT_SUPPORTED
    assert overall([]) == TOO_LITTLE


def test_the_slope_of_a_line_is_its_slope() -> None:
    found = slope("", {8: ("k8", "p8"), 12: ("k12", "p12"), 24: ("k24", "p24")})
    figures = {f"{arm}{x}": 90 + (0.3 * x if arm == "k" else 0.1 * x) for arm in "kp" for x in
               (8, 12, 24)}  # fmt: skip
    assert sum(w * figures[name] for name, w in found.weights) == pytest.approx(0.2)


def test_a_contrast_quotes_the_paper() -> None:
    keep, plain = "cifar10-resnet18-keep_cutout", "cifar10-resnet18-cutout"
    assert contrast("", [(keep, 1), (plain, -1)]).claimed == 0.5  # 96.1 - 95.6
    assert contrast("", [(keep, 1), ("unknown", -1)]).claimed is None


def test_the_margin_is_the_largest_drop_of_an_approximation_in_table_1() -> None:
    drops = [
        -each.claimed
        for claim in CLAIMS
        if claim.where == "Table 1"
        for each in claim.contrasts
        if each.no_drop and each.claimed is not None
    ]
    assert max(drops) == pytest.approx(MARGIN)


def test_every_table_and_figure_of_accuracies_has_a_claim() -> None:
    places = {f"Table {number}" for number in TABLES} | {"Figure 2", "Figure 3"}
    assert {claim.where for claim in CLAIMS} == places
