from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from semisup_uda.losses import fixmatch_loss, supervised_losses, tsa_threshold, uda_loss


def logits_of(*probabilities: list[float]) -> torch.Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


def test_uda_loss_matches_a_worked_example() -> None:
    """Sharpening by 1/2 squares: (0.9, 0.1) becomes (0.81, 0.01) / 0.82.

    The second image is not confident (0.7 <= 0.8), although its sharpened target, (0.49, 0.09) /
    0.58 = (0.845, 0.155), is: it counts 0, but it does count in the mean.
    """
    clean, strong = logits_of([0.9, 0.1], [0.7, 0.3]), logits_of([0.5, 0.5], [0.2, 0.8])
    a, b = 0.81 / 0.82, 0.01 / 0.82
    divergence = a * math.log(a / 0.5) + b * math.log(b / 0.5)
    result = uda_loss(clean, strong, temperature=0.5, confidence=0.8)
    assert float(result.loss) == pytest.approx(divergence / 2)
    assert result.mask.tolist() == [True, False]
    assert result.guess.tolist() == [0, 0]


def test_the_temperature_sharpens_the_target_alone() -> None:
    """At temperature 1 equal views agree; sharpened, the target is surer than the prediction."""
    logits = logits_of([0.9, 0.1])
    assert float(uda_loss(logits, logits, temperature=1.0, confidence=0.8).loss) == pytest.approx(0)
    assert float(uda_loss(logits, logits, temperature=0.5, confidence=0.8).loss) > 0.05


def test_the_confidence_must_be_exceeded() -> None:
    half = torch.zeros(1, 2)  # exactly 0.5 each
    assert not uda_loss(half, half, temperature=1.0, confidence=0.5).mask.any()
    assert fixmatch_loss(half, half, confidence=0.5).mask.all()  # FixMatch: from there on


def test_the_gradient_of_uda_by_hand() -> None:
    """d KL / d strong logits = prediction - target, over the batch; the clean view has none."""
    clean = logits_of([0.9, 0.1], [0.6, 0.4]).requires_grad_()
    strong = logits_of([0.5, 0.5], [0.5, 0.5]).requires_grad_()
    uda_loss(clean, strong, temperature=1.0, confidence=0.8).loss.backward()
    assert clean.grad is None
    assert strong.grad is not None
    expected = torch.tensor([[-0.4, 0.4], [0.0, 0.0]], dtype=torch.float64) / 2
    assert torch.allclose(strong.grad, expected)


def test_fixmatch_matches_a_worked_example() -> None:
    clean = logits_of([0.02, 0.98], [0.98, 0.02], [0.1, 0.9])
    strong = logits_of([0.75, 0.25], [0.5, 0.5], [0.5, 0.5])
    result = fixmatch_loss(clean.requires_grad_(), strong, confidence=0.95)
    assert float(result.loss) == pytest.approx((math.log(4) + math.log(2)) / 3)
    assert result.mask.tolist() == [True, True, False]
    assert result.guess.tolist() == [1, 0, 1]
    assert not result.loss.requires_grad


@given(
    st.integers(1, 6),
    st.integers(2, 5),
    st.floats(0.1, 2.0),
    st.floats(0.0, 1.0),
    st.integers(0, 2**31 - 1),
)
def test_uda_loss_against_the_definition(
    batch: int, classes: int, temperature: float, confidence: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    clean, strong = torch.randn(2, batch, classes, generator=generator, dtype=torch.float64) * 3
    total = 0.0
    for row in range(batch):
        if max(clean[row].softmax(0).tolist()) > confidence:
            p = (clean[row] / temperature).softmax(0).tolist()
            q = strong[row].softmax(0).tolist()
            total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)
    found = float(uda_loss(clean, strong, temperature=temperature, confidence=confidence).loss)
    assert found == pytest.approx(total / batch, abs=1e-9)
    assert found >= -1e-12


@pytest.mark.parametrize("schedule", ["linear", "log", "exp"])
def test_annealing_ends_at_one(schedule: str) -> None:
    values = [tsa_threshold(schedule, step / 100, 10) for step in range(101)]
    assert values == sorted(values)
    assert 0.1 <= values[0] < 0.11
    assert 0.99 < values[-1] <= 1.0


def test_annealing_by_hand() -> None:
    assert tsa_threshold("", 0.3, 10) == 1.0
    assert tsa_threshold("linear", 0.5, 10) == pytest.approx(0.55)
    assert tsa_threshold("exp", 0.8, 2) == pytest.approx(0.5 / math.e + 0.5)
    assert tsa_threshold("log", 0.2, 2) == pytest.approx(0.5 * (1 - 1 / math.e) + 0.5)


def test_annealing_masks_by_the_right_class() -> None:
    """The second image is sure of a wrong class: its label's probability is low, so it counts."""
    logits = logits_of([0.9, 0.1], [0.9, 0.1], [0.5, 0.5])
    labels = torch.tensor([0, 1, 0])
    losses, counts = supervised_losses(logits, labels, 0.6)
    assert counts.tolist() == [False, True, True]
    assert losses.tolist() == pytest.approx([0.0, math.log(10), math.log(2)])


def test_without_annealing_it_is_the_cross_entropy() -> None:
    logits, labels = torch.randn(7, 4) * 30, torch.arange(7) % 4
    losses, counts = supervised_losses(logits, labels, 1.0)
    assert counts.all()
    torch.testing.assert_close(losses.mean(), F.cross_entropy(logits, labels))


@pytest.mark.parametrize("name", ["uda", "fixmatch", "supervised"])
def test_logits_that_are_no_numbers_are_not_hidden(name: str) -> None:
    bad, good = torch.full((2, 3), torch.nan), torch.randn(2, 3)
    if name == "uda":
        loss = uda_loss(bad, good, temperature=0.4, confidence=0.8).loss
        loss = loss + uda_loss(good, bad, temperature=0.4, confidence=0.8).loss
    elif name == "fixmatch":
        loss = fixmatch_loss(good * 100, bad, confidence=0.5).loss
    else:
        loss = supervised_losses(bad, torch.tensor([0, 1]), 0.5)[0].sum()
    assert loss.isnan()
