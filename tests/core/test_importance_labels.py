"""CutMix whose labels are weighted by importance, and Keep by a probability."""

from __future__ import annotations

import pytest
import torch
from small import rand, seeded
from torch import Tensor

from keepaugment import CutMix, Cutout, Keep
from keepaugment.cutmix import Labels, importance_shares

SWAPPED = torch.tensor([1, 0])


def left_half(batch: int = 2) -> Tensor:
    mask = torch.zeros(batch, 1, 2, 4, dtype=torch.bool)
    mask[..., :2] = True
    return mask


def test_shares_by_hand() -> None:
    """Of the first image a quarter of the importance is seen, of the second all is hidden."""
    first = torch.tensor([[3.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    second = torch.tensor([[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    found = importance_shares(torch.stack((first, second)), left_half(), SWAPPED)
    # of the first 1/4 and of its partner 4/4; of the second 0/4 and of its partner 3/4
    torch.testing.assert_close(found, torch.tensor([0.25 / 1.25, 0.0]))


@pytest.mark.parametrize("value", [0.0, 1.0, 1e-30, 3e38, -1.0])
def test_without_a_difference_in_importance_the_area_decides(value: float) -> None:
    mask = rand(5, 1, 6, 7) < 0.3
    found = importance_shares(torch.full((5, 6, 7), value), mask, torch.arange(4, -1, -1))
    torch.testing.assert_close(found, 1 - mask.float().mean((1, 2, 3)))


def test_an_image_without_importance_counts_by_its_area() -> None:
    important = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    found = importance_shares(torch.stack((important, important * 0)), left_half(), SWAPPED)
    torch.testing.assert_close(found, torch.tensor([0.5, 0.5]))


def test_where_nothing_important_is_left_of_either_the_area_decides() -> None:
    mask = left_half()
    mask[1, ..., 1] = False  # a quarter
    hidden = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    outside = torch.tensor([[0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0]])
    found = importance_shares(torch.stack((hidden, outside)), mask, SWAPPED)
    torch.testing.assert_close(found, torch.tensor([0.5, 0.5]))  # the second: both wholly seen


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_targets_are_labels_by_these_shares(p: float) -> None:
    """Boxes and images are those of area's labels; a batch that is not mixed has its labels."""
    images, labels = rand(6, 3, 8, 8), torch.arange(6)
    saliency = rand(6, 8, 8, seed=1)
    keep = Keep(lambda images, labels: saliency, tau=1.0)
    by_area = CutMix(6, p=p, keep=keep, generator=seeded(5))(images, labels)
    mixed, targets = CutMix(6, p=p, keep=keep, labels="importance", generator=seeded(5))(
        images, labels
    )
    assert mixed.equal(by_area[0])
    torch.testing.assert_close(targets.sum(1), torch.ones(6))
    assert (targets.equal(by_area[1])) == (p == 0)
    assert ((targets > 0) <= (by_area[1] > 0)).all()


def test_the_map_is_taken_once() -> None:
    calls = []

    def saliency(images: Tensor, labels: Tensor) -> Tensor:
        calls.append(len(images))
        return rand(*images.shape[:1], *images.shape[2:])

    mix = CutMix(4, keep=Keep(saliency), labels="importance")
    mix(rand(4, 3, 8, 8), torch.arange(4))
    assert calls == [4]


def test_what_cannot_weight_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a map"):
        CutMix(4, labels="importance")
    with pytest.raises(ValueError, match="area or importance, found 'mass'"):
        CutMix(4, labels="mass")  # type: ignore[arg-type]


@pytest.mark.parametrize(("p", "share"), [(0.0, 8 / 9), (0.5, 4 / 9), (1.0, 0.0)])
def test_p_is_the_share_of_images_that_obey_the_map(p: float, share: float) -> None:
    """At tau 0 one box of nine is allowed; who does not obey cuts any of the nine."""
    saliency = torch.ones(4000, 3, 3)
    saliency[:, 1, 1] = 0
    keep = Keep(lambda images, labels: saliency, tau=0.0, p=p)
    cut = Cutout(1, border="inside", keep=keep, generator=seeded())
    elsewhere = ~cut.mask(torch.zeros(4000, 1, 3, 3))[:, 0, 1, 1]
    assert float(elsewhere.float().mean()) == pytest.approx(share, abs=0.03)


def test_a_p_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"probability in \[0, 1\], found 1.5"):
        Keep(lambda images, labels: images[:, 0], p=1.5)


@pytest.mark.parametrize("by", ["area", "importance"])
def test_no_images_have_no_targets(by: Labels) -> None:
    keep = Keep(lambda images, labels: images[:, 0])
    mixed, targets = CutMix(3, keep=keep, labels=by)(rand(0, 3, 8, 8), torch.arange(0))
    assert mixed.shape == (0, 3, 8, 8) and targets.shape == (0, 3)
