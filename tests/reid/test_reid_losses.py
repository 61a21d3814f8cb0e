from __future__ import annotations

import math

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from reid.config import Config
from reid.losses import CentreLoss, gathered, make_losses, triplet_loss

CPU = torch.device("cpu")


def test_a_triplet_worked_by_hand() -> None:
    # on a line: person 0 at 0 and 2, person 1 at 3 and 7
    features = torch.tensor([[0.0], [2.0], [3.0], [7.0]])
    labels = torch.tensor([0, 0, 1, 1])
    # farthest of its own minus nearest other: 2 - 3, 2 - 1, 4 - 1, 4 - 5; margin 0.3
    expected = (0 + 1.3 + 3.3 + 0) / 4
    assert triplet_loss(features, labels).item() == pytest.approx(expected, abs=1e-5)
    assert triplet_loss(features, labels, margin=2.0).item() == pytest.approx((1 + 3 + 5 + 1) / 4)


def value_and_gradient(loss, values: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    values = values.clone().requires_grad_()
    result = loss(values, labels)
    result.backward()
    assert values.grad is not None
    return result.detach(), values.grad


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_ours_and_torchreids_losses_are_equal(which: int, smoothing: float) -> None:
    pytest.importorskip("torchreid", reason="the comparison is with torchreid")
    values, labels = torch.randn(24, 9), torch.arange(24) // 4
    both = [
        make_losses(Config(smoothing=smoothing, losses=kind), 9, CPU)[which]
        for kind in ("batched", "torchreid")
    ]
    (ours, gradient), (theirs, expected) = (
        value_and_gradient(loss, values, labels) for loss in both
    )
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradient, expected)


def test_smoothing_leaves_the_least_loss_above_zero() -> None:
    identity, _ = make_losses(Config(smoothing=0.1), 4, CPU)
    sure = torch.tensor([[50.0, 0.0, 0.0, 0.0]])
    assert identity(sure, torch.tensor([0])).item() == pytest.approx(0.1 * 3 / 4 * 50, rel=1e-4)
    even = identity(torch.zeros(1, 4), torch.tensor([0])).item()
    assert even == pytest.approx(math.log(4))


def test_the_centre_loss_is_the_mean_squared_distance() -> None:
    loss = CentreLoss(2, 2)
    with torch.no_grad():
        loss.centres.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    features = torch.tensor([[3.0, 4.0], [1.0, 2.0], [0.0, 0.0]])
    labels = torch.tensor([0, 1, 1])
    value = loss(features, labels)
    assert value.item() == pytest.approx((25 + 1 + 2) / 3)
    value.backward()
    # 2 (centre - feature) / B, summed over the images of the person
    expected = torch.tensor([[-6.0, -8.0], [2.0, 0.0]]) / 3
    torch.testing.assert_close(loss.centres.grad, expected)


def test_one_process_has_everything() -> None:
    features, labels = torch.randn(3, 2), torch.arange(3)
    assert gathered(features, labels) == (features, labels)


def test_processes_together_have_the_gradient_of_the_whole_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images, labels = torch.randn(16, 5), torch.arange(16) // 4
    weight = torch.randn(5, 3, requires_grad=True)
    (whole,) = torch.autograd.grad(triplet_loss(images @ weight, labels), weight)
    halves = (slice(0, 8), slice(8, 16))

    def all_gather(parts: list[Tensor], mine: Tensor) -> None:
        everyone = (images @ weight).detach() if mine.ndim == 2 else labels
        for part, half in zip(parts, halves, strict=True):
            part.copy_(everyone[half])

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_gather", all_gather)
    gradients = []
    for rank, half in enumerate(halves):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        features, known = gathered(images[half] @ weight, labels[half])
        assert torch.equal(known, labels)
        gradients += torch.autograd.grad(2 * triplet_loss(features, known), weight)
    torch.testing.assert_close(sum(gradients) / 2, whole)  # DistributedDataParallel's mean
