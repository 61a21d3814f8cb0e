"""The control maps: the same call as a real map, and as little knowledge as they claim."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from scipy.stats import chisquare, kstest
from small import Fixed, grid, labels, make, rand, randn, seeded, state
from torch import Tensor

from keepaugment import (
    CentreSaliency,
    GradientSaliency,
    InvertedSaliency,
    KeepCutMix,
    KeepCutout,
    KeepPaste,
    KeepRandomErasing,
    RandomSaliency,
    ShuffledSaliency,
)

IMAGES, LABELS = randn(6, 3, 8, 10), labels(6)


def numbered(images: Tensor, labels: Tensor | None) -> Tensor:
    """A map that tells which image it belongs to."""
    return torch.arange(len(images))[:, None, None].expand(-1, *images.shape[2:]).float()


CONTROLS: dict[str, Callable[[Callable], Callable]] = {
    "random": lambda saliency: RandomSaliency(),
    "shuffled": ShuffledSaliency,
    "inverted": InvertedSaliency,
    "centre": lambda saliency: CentreSaliency(),
    "inverted and shuffled": lambda saliency: InvertedSaliency(ShuffledSaliency(saliency)),
}
every_control = pytest.mark.parametrize("control", CONTROLS.values(), ids=CONTROLS)


@every_control
@pytest.mark.parametrize("batch", [0, 1, 6])
@pytest.mark.parametrize("size", [(8, 10), (7, 1)])
def test_a_control_is_a_map(control: Callable, batch: int, size: tuple[int, int]) -> None:
    source = control(lambda images, labels: rand(len(images), *size))
    for given in (labels(batch), None):
        saliency = source(randn(batch, 4, *size), given)
        assert saliency.shape == (batch, *size) and saliency.dtype == torch.float32
        assert (saliency >= 0).all() and saliency.isfinite().all()


@every_control
def test_a_control_takes_the_place_of_a_map_everywhere(control: Callable) -> None:
    source = control(lambda images, labels: rand(len(images), 8, 10))
    for keep in (
        KeepCutout(saliency=source, size=3),
        KeepCutout(saliency=source, size=3, match_area=True),
        KeepRandomErasing(saliency=source, p=1.0),
        KeepCutMix(None, 5, saliency=source),
    ):
        assert keep.mask(IMAGES, LABELS).shape == (6, 1, 8, 10)
    assert KeepPaste(saliency=source, size=3)(IMAGES, -IMAGES, LABELS).shape == IMAGES.shape


@pytest.mark.parametrize("control", [ShuffledSaliency, InvertedSaliency])
def test_a_control_of_a_gradient_leaves_no_trace(control: Callable) -> None:
    model = make("batch norm")
    before = list(state(model))
    kwargs = {"generator": seeded()} if control is ShuffledSaliency else {}
    control(GradientSaliency(model), **kwargs)(randn(4, 3, 8, 8), labels(4))
    assert list(state(model)) == before


def test_labels_reach_the_map_that_is_controlled() -> None:
    seen = []

    def saliency(images: Tensor, labels: Tensor | None) -> Tensor:
        seen.append(labels)
        return rand(len(images), 8, 10)

    ShuffledSaliency(saliency)(IMAGES, LABELS)
    InvertedSaliency(saliency)(IMAGES, LABELS)
    assert all(labels is LABELS for labels in seen) and len(seen) == 2


# Random


def test_a_random_map_is_uniform_noise_of_its_own_in_every_pixel() -> None:
    saliency = RandomSaliency(seeded())(IMAGES.expand(6, 3, 8, 10))
    assert saliency.unique().numel() == 6 * 8 * 10
    assert kstest(saliency.flatten().numpy(), "uniform").pvalue > 0.01


def test_a_random_map_is_replayed_by_its_seed() -> None:
    first, again, other = (RandomSaliency(seeded(seed))(IMAGES) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


# Shuffled


@pytest.mark.parametrize("batch", [2, 3, 8])
def test_no_image_keeps_its_own_map(batch: int) -> None:
    for seed in range(20):
        shuffled = ShuffledSaliency(numbered, seeded(seed))(randn(batch, 3, 4, 4))
        owners = shuffled[:, 0, 0].long()
        assert (owners != torch.arange(batch)).all()
        assert sorted(owners.tolist()) == list(range(batch))
        assert torch.equal(shuffled, owners[:, None, None].expand(-1, 4, 4).float())


def test_a_map_goes_to_any_other_image_equally_often() -> None:
    source = ShuffledSaliency(numbered, seeded())
    owners = [int(source(randn(5, 1, 2, 2))[0, 0, 0]) for _ in range(2000)]
    counts = torch.bincount(torch.tensor(owners), minlength=5).tolist()
    assert counts[0] == 0 and chisquare(counts[1:]).pvalue > 0.01


def test_the_order_of_the_numbers_is_the_circle_that_maps_go_round() -> None:
    """Images in the order of their numbers are 2, 0, 1: each gets the map of the one before."""
    source = ShuffledSaliency(numbered, Fixed(torch.tensor([[0.5], [0.9], [0.1]])))
    assert source(randn(3, 1, 1, 1)).flatten().tolist() == [2, 0, 1]


def test_one_image_alone_keeps_its_map() -> None:
    saliency = rand(1, 8, 10)
    assert torch.equal(ShuffledSaliency(lambda i, y: saliency)(IMAGES[:1]), saliency)


# Inverted


def test_an_inverted_map_by_hand() -> None:
    saliency = torch.tensor([[[0.0, 1.0], [3.0, 2.0]], [[5.0, 5.0], [5.0, 5.0]]])
    inverted = InvertedSaliency(lambda images, labels: saliency)(randn(2, 3, 2, 2))
    assert inverted.tolist() == [[[3.0, 2.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]]


def test_an_inverted_map_cuts_what_a_map_keeps() -> None:
    """Boxes inside the border have one size, so the least important becomes the most important."""
    saliency = torch.zeros(20, 8, 10)
    saliency[:, :3, :3] = 1.0
    settings = {
        "size": 3,
        "tau": 0.0,
        "border": "inside",
        "generator": Fixed(*[grid(20)[:, None]] * 9),
    }
    mask = KeepCutout(saliency=InvertedSaliency(lambda images, labels: saliency), **settings).mask(
        randn(20, 3, 8, 10)
    )
    assert torch.equal(mask[:, 0], saliency.bool())


# Centre


@pytest.mark.parametrize("size", [(8, 10), (7, 5), (1, 1)])
def test_the_centre_map_falls_from_the_centre_alike_on_all_sides(size: tuple[int, int]) -> None:
    saliency = CentreSaliency()(randn(2, 3, *size))
    assert torch.equal(saliency[0], saliency[1])
    torch.testing.assert_close(saliency, saliency.flip(1))
    torch.testing.assert_close(saliency, saliency.flip(2))
    half_down, half_right = saliency[0, size[0] // 2 :], saliency[0, :, size[1] // 2 :]
    assert (half_down.diff(dim=0) < 0).all() and (half_right.diff(dim=1) < 0).all()
    assert saliency.amax() <= 1.0


def test_the_centre_map_by_hand() -> None:
    """Three pixels of a row lie at -2/3, 0 and 2/3 of the way from the centre to the border."""
    row = CentreSaliency()(randn(1, 1, 1, 3)).flatten()
    expected = torch.tensor([-4 / 9, 0.0, -4 / 9]).exp()
    torch.testing.assert_close(row, expected)
