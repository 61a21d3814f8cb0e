"""Cutout, Random Erasing, CutMix and Selective-Paste against their papers' own few lines."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy
import pytest
import scipy.stats
import torch
from scipy.stats import chi2_contingency, chisquare, kstest
from small import BOXES, Box, Fixed, box_of, grid, labels, make, rand, randn, score, seeded, state
from torch import Tensor, nn

from keepaugment import (
    CutMix,
    Cutout,
    GradientSaliency,
    Keep,
    KeepCutMix,
    KeepCutout,
    KeepPaste,
    KeepRandomErasing,
    RandomErasing,
    RandomSaliency,
)
from keepaugment.adapters import Erasing
from keepaugment.draws import symmetric_beta
from keepaugment.selective import allowed_regions, selective_cut


def blank(images: Tensor, labels: Tensor | None = None) -> Tensor:
    """A map on which all boxes tie, also those that the border clips."""
    return torch.zeros(len(images), *images.shape[2:])


def noise(images: Tensor, labels: Tensor | None = None) -> Tensor:
    """A map that knows nothing, the same every time and without the method's generator."""
    return RandomSaliency(seeded(99))(images)


def boxes_of(masks: Tensor) -> list[Box | None]:
    assert masks.shape[1] == 1 and masks.dtype == torch.bool
    return [box_of(mask[0]) if mask.any() else None for mask in masks]


def mean_area(masks: Tensor) -> float:
    return float(masks.sum()) / len(masks)


# A plain method and its Keep arm

PAIRS: dict[str, tuple[Callable, Callable]] = {
    "Cutout": (
        partial(Cutout, 5, p=0.7, fill="random"),
        partial(KeepCutout, size=5, p=0.7, fill="random"),
    ),
    "RandomErasing": (
        partial(RandomErasing, 0.7, fill="random"),
        partial(KeepRandomErasing, p=0.7, fill="random"),
    ),
    "CutMix": (
        partial(CutMix, num_classes=5, alpha=0.5, p=0.7),
        partial(KeepCutMix, None, num_classes=5, alpha=0.5, p=0.7),
    ),
}
every_pair = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)


def outputs(result: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


@every_pair
@pytest.mark.parametrize(
    "keep", [{"saliency": blank}, {"saliency": noise, "tau": 1.0}], ids=["blank", "tau 1"]
)
def test_without_knowledge_the_keep_arm_is_the_plain_method(pair: tuple, keep: dict) -> None:
    """Bit by bit: the same images, the same noise in them, the same targets."""
    images = randn(40, 3, 12, 14)
    for seed in range(3):
        plain = pair[0](generator=seeded(seed))(images, labels(40))
        kept = pair[1](generator=seeded(seed), **keep)(images, labels(40))
        for a, b in zip(outputs(plain), outputs(kept), strict=True):
            assert torch.equal(a, b)


@every_pair
def test_both_arms_ask_for_the_same_random_numbers(pair: tuple) -> None:
    def record(asked: list) -> Callable:
        def numbers(shape: tuple[int, ...], device: torch.device) -> Tensor:
            asked.append((shape, device))
            return torch.rand(shape)

        return numbers

    plain, keep = [], []
    pair[0](generator=record(plain))(randn(4, 3, 12, 14), labels(4))
    pair[1](generator=record(keep), saliency=noise)(randn(4, 3, 12, 14), labels(4))
    assert plain == keep
    assert all(shape[0] == 4 for shape, _ in plain)  # row i belongs to image i


@every_pair
def test_the_keep_arm_keeps_the_peak(pair: tuple) -> None:
    """At tau 0 only the least important box is left: it touches the map's one dark corner."""

    def dark_corner(images: Tensor, labels: Tensor | None) -> Tensor:
        y, x = torch.arange(12.0)[:, None], torch.arange(14.0)
        return (1 + y + x).expand(len(images), -1, -1)

    keep = pair[1](saliency=dark_corner, tau=0.0, generator=seeded(1))
    keep.border = "inside"
    boxes = [box for box in boxes_of(keep.mask(randn(40, 3, 12, 14), labels(40))) if box]
    assert len(boxes) > 10
    assert all((box.top, box.left) == (0, 0) for box in boxes)


@every_pair
def test_equal_seeds_give_equal_batches(pair: tuple) -> None:
    images = randn(8, 3, 12, 14)
    first, again, other = (
        outputs(pair[1](generator=seeded(seed), saliency=noise)(images, labels(8)))
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert torch.equal(images, randn(8, 3, 12, 14))  # the user's own are not touched


@every_pair
def test_a_mask_may_be_drawn_before_it_is_used(pair: tuple) -> None:
    images = randn(8, 3, 12, 14)
    method = pair[1](saliency=noise)
    mask = method.mask(images, labels(8))
    changed = outputs(method(images, labels(8), mask=mask))[0] != images
    assert not (changed & ~mask).any()


@every_pair
def test_images_of_other_kinds(pair: tuple) -> None:
    for shape, dtype in (((4, 1, 12, 14), torch.float32), ((4, 4, 13, 11), torch.float16)):
        images = randn(*shape).to(dtype)
        result = outputs(pair[1](saliency=noise)(images, labels(4)))
        assert result[0].shape == shape and result[0].dtype == dtype
    for method in (pair[0](), pair[1](saliency=noise)):
        assert outputs(method(randn(0, 3, 12, 14), labels(0)))[0].shape == (0, 3, 12, 14)


# Cutout


def original_cutout(height: int, width: int, length: int, rng: random.Random) -> Box:
    """DeVries and Taylor's code: util/cutout.py of their repository."""
    y, x = rng.randrange(height), rng.randrange(width)
    return Box(
        int(numpy.clip(y - length // 2, 0, height)),
        int(numpy.clip(y + length // 2, 0, height)),
        int(numpy.clip(x - length // 2, 0, width)),
        int(numpy.clip(x + length // 2, 0, width)),
    )


def test_cutout_has_the_originals_law() -> None:
    """54 equally spaced numbers draw every one of the 54 centres once."""
    cutout = Cutout(4, generator=Fixed(torch.zeros(1, 1), grid(54)[:, None]))
    boxes = boxes_of(cutout.mask(randn(54, 3, 6, 9)))
    assert Counter(boxes) == Counter(box for row in BOXES["clip"]((4, 4), (6, 9)) for box in row)
    rng = random.Random(0)
    assert {original_cutout(6, 9, 4, rng) for _ in range(2000)} == set(boxes)


def test_cutout_draws_like_the_original() -> None:
    rng = random.Random(0)
    expected = Counter(original_cutout(6, 9, 4, rng) for _ in range(4000))
    found = Counter(boxes_of(Cutout(4, generator=seeded()).mask(randn(4000, 1, 6, 9))))
    table = [[counts[box] for box in expected] for counts in (expected, found)]
    assert set(found) == set(expected) and chi2_contingency(table).pvalue > 0.01


def test_cutout_of_16_pixels_removes_196_of_1024() -> None:
    cutout = Cutout(16, generator=Fixed(torch.zeros(1, 1), grid(1024)[:, None]))
    assert mean_area(cutout.mask(randn(1024, 1, 32, 32))) == 196.0


@pytest.mark.parametrize(("size", "area"), [(16, 160.6), (20, 228.8), (24, 303.8)])
def test_keep_cutout_removes_less_at_tau_06_even_by_noise(size: int, area: float) -> None:
    """Plain Cutout removes 196, 285 and 380 pixels: part of a gain could be "cuts less"."""
    images = torch.empty(1000, 1, 32, 32)
    allowed, boxes = allowed_regions(
        noise(images), images, size, side="low", tau=0.6, border="clip"
    )
    heights, widths = (boxes.edges[1] - boxes.edges[0]).unbind(1)
    areas = (heights[:, :, None] * widths[:, None, :]).expand_as(allowed)[allowed].float()
    assert areas.mean().item() == pytest.approx(area, abs=0.3)
    drawn = KeepCutout(saliency=noise, size=size, generator=seeded()).mask(images)
    error = float(areas.std()) / math.sqrt(1000)
    assert mean_area(drawn) == pytest.approx(area, abs=3 * error)


def test_keep_cutout_with_match_area_removes_196_again() -> None:
    u = torch.stack((rand(1024), grid(1024)), dim=1)
    keep = KeepCutout(saliency=noise, match_area=True, generator=Fixed(torch.zeros(1, 1), u))
    assert mean_area(keep.mask(torch.empty(1024, 1, 32, 32))) == 196.0


def test_match_area_draws_cutouts_areas() -> None:
    keep = KeepCutout(saliency=noise, size=4, match_area=True, generator=seeded())
    areas = Counter(mask.sum().item() for mask in keep.mask(torch.empty(3000, 1, 8, 8)))
    law = Counter(box.area for row in BOXES["clip"]((4, 4), (8, 8)) for box in row)
    expected = [3000 * count / 64 for count in law.values()]
    assert set(areas) == set(law)
    assert chisquare([areas[area] for area in law], expected).pvalue > 0.01


def test_cutout_inside_the_border_always_removes_the_whole_box() -> None:
    masks = Cutout((3, 5), border="inside").mask(randn(200, 1, 6, 9))
    assert masks.sum((1, 2, 3)).tolist() == [15] * 200


@pytest.mark.parametrize("method", [Cutout, RandomErasing])
@pytest.mark.parametrize(("p", "num_cut"), [(0.0, 0), (0.25, 10), (1.0, 40)])
def test_p_is_the_share_of_images_that_are_cut(method: type, p: float, num_cut: int) -> None:
    half = torch.full((1, 1), 0.5)
    numbers = Fixed(grid(40)[:, None], half, half)  # who is cut, then how large and where
    masks = method(p=p, generator=numbers).mask(randn(40, 3, 32, 32))
    assert masks.any((1, 2, 3)).sum() == num_cut


@pytest.mark.parametrize("fill", [0.0, 7, (1.0, 2.0, 3.0), [4, 5, 6]])
def test_a_cut_becomes_its_fill(fill: float | tuple) -> None:
    images = randn(20, 3, 8, 8)
    cutout = Cutout(4, fill=fill, generator=seeded())
    mask = cutout.mask(images)
    cut = cutout(images, mask=mask)
    colour = torch.as_tensor(fill, dtype=torch.float32).expand(3)
    for channel in range(3):
        inside = cut[:, channel][mask[:, 0]]
        assert inside.tolist() == [colour[channel].item()] * int(mask.sum())
    assert torch.equal(torch.where(mask, images, cut), images)


def test_random_fill_is_normal_noise_of_its_own_in_every_pixel() -> None:
    images = torch.full((20, 3, 16, 16), 100.0)
    cut = RandomErasing(1.0, fill="random", generator=seeded())(images)
    pixels = cut[cut != 100.0]
    assert pixels.numel() > 3000 and pixels.unique().numel() > 0.999 * pixels.numel()
    assert kstest(pixels.numpy(), "norm").pvalue > 0.01


# Random Erasing


def original_random_erasing(
    height: int, width: int, rng: random.Random, log_ratio: bool
) -> Box | None:
    """Zhong et al.'s code, with 10 attempts; `log_ratio` as torchvision and timm changed it."""
    for _ in range(10):
        target_area = rng.uniform(0.02, 0.4) * height * width
        if log_ratio:
            aspect_ratio = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
        else:
            aspect_ratio = rng.uniform(0.3, 1 / 0.3)
        h = int(round(math.sqrt(target_area * aspect_ratio)))
        w = int(round(math.sqrt(target_area / aspect_ratio)))
        if w < width and h < height:
            top, left = rng.randint(0, height - h), rng.randint(0, width - w)
            return Box(top, top + h, left, left + w)
    return None


def same_law(found: list[float], expected: list[float]) -> bool:
    """A two-sample chi-square test over the tenths of the second sample."""
    edges = numpy.unique(numpy.quantile(expected, numpy.linspace(0, 1, 11)[1:-1]))
    table = [numpy.bincount(numpy.digitize(v, edges), minlength=10) for v in (found, expected)]
    table = [row[: len(edges) + 1] for row in table]
    return chi2_contingency(table).pvalue > 0.01


@pytest.mark.parametrize("log_ratio", [False, True])
@pytest.mark.parametrize("size", [(32, 32), (24, 12)])
def test_random_erasing_has_the_originals_law(size: tuple[int, int], log_ratio: bool) -> None:
    rng = random.Random(0)
    expected = [original_random_erasing(*size, rng, log_ratio) for _ in range(6000)]
    erasing = RandomErasing(1.0, log_ratio=log_ratio, generator=seeded())
    found = boxes_of(erasing.mask(torch.empty(6000, 1, *size)))
    assert None not in expected and None not in found
    assert all(b.bottom - b.top < size[0] and b.right - b.left < size[1] for b in found)
    for look in (
        lambda box: box.area,
        lambda box: (box.bottom - box.top) / (box.right - box.left),
        lambda box: box.top,
        lambda box: box.right,
    ):
        assert same_law([look(box) for box in found], [look(box) for box in expected])


def test_the_two_laws_of_the_ratio_differ() -> None:
    """So the test above can tell them apart."""
    rng = random.Random(0)
    laws = [[original_random_erasing(32, 32, rng, log) for _ in range(6000)] for log in (0, 1)]
    ratios = [[(box.bottom - box.top) / (box.right - box.left) for box in law] for law in laws]
    assert not same_law(*ratios)


def test_random_erasing_by_hand() -> None:
    """A tenth of 20 x 20 pixels at ratio 2.5: 40 pixels, 10 high and 4 wide."""
    erasing = RandomErasing(1.0, scale=(0.1, 0.1), ratio=(2.5, 2.5))
    boxes = boxes_of(erasing.mask(randn(50, 3, 20, 20)))
    assert {(box.bottom - box.top, box.right - box.left) for box in boxes} == {(10, 4)}
    assert {box.top for box in boxes} <= set(range(11)) and max(box.left for box in boxes) <= 16


def test_a_box_that_never_fits_erases_nothing() -> None:
    """Nor does one as high as the image: the original asks for h < H."""
    images = randn(10, 3, 8, 8)
    assert torch.equal(RandomErasing(1.0, scale=(1.0, 1.0), ratio=(1.0, 1.0))(images), images)


def test_the_first_size_that_fits_is_taken() -> None:
    """At ratio 1 shares .81, 1, .25, ... are 9, 10, 5 ... pixels of 10: 10 x 10 does not fit."""
    shares = torch.tensor([[1.0, 0.25, 0.81] + 7 * [0.04]])
    numbers = torch.cat((shares, torch.zeros(1, 10)), dim=1)
    erasing = RandomErasing(
        1.0,
        scale=(0.0, 1.0),
        ratio=(1.0, 1.0),
        generator=Fixed(torch.zeros(1, 1), numbers, torch.zeros(1, 2)),
    )
    assert boxes_of(erasing.mask(randn(1, 3, 10, 10))) == [Box(0, 5, 0, 5)]


def test_keep_random_erasing_uses_the_quantile_of_each_images_own_size() -> None:
    images = torch.empty(60, 1, 9, 8)
    saliency = rand(60, 9, 8)
    keep = KeepRandomErasing(saliency=lambda images, labels: saliency, p=1.0, generator=seeded())
    boxes = boxes_of(keep.mask(images))
    assert len({(b.bottom - b.top, b.right - b.left) for b in boxes}) > 5
    for image, found in zip(saliency, boxes, strict=True):
        size = found.bottom - found.top, found.right - found.left
        rivals = [box for row in BOXES["inside"](size, (9, 8)) for box in row]
        limit = numpy.quantile([score(image, box) for box in rivals], 0.6)
        assert score(image, found) <= limit + 1e-6


# CutMix


def mixed(method: CutMix, batch: int = 12, size: tuple[int, int] = (10, 14)) -> tuple:
    """A batch whose images are their index and whose labels too: images, targets, lambdas."""
    images = torch.arange(float(batch))[:, None, None, None].expand(-1, 3, *size).clone()
    images, targets = method(images, torch.arange(batch))
    shares = torch.stack([(images[:, 0] == i).float().mean((1, 2)) for i in range(batch)], dim=1)
    return images, targets, shares


METHODS: dict[str, Callable[..., CutMix]] = {
    "CutMix": CutMix,
    "KeepCutMix": partial(KeepCutMix, None, saliency=noise),
    "KeepCutMix with match_area": partial(KeepCutMix, None, saliency=noise, match_area=True),
}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


@every_method
@pytest.mark.parametrize("border", ["clip", "inside"])
def test_label_mass_is_pixel_mass(method: Callable, border: str) -> None:
    for seed in range(5):
        _, targets, shares = mixed(method(12, border=border, generator=seeded(seed)))
        torch.testing.assert_close(targets, shares)
        torch.testing.assert_close(targets.sum(1), torch.ones(12))
        assert targets.dtype == torch.float32


@every_method
def test_partners_are_a_permutation(method: Callable) -> None:
    images, _, shares = mixed(
        method(
            12,
            generator=Fixed(
                torch.tensor([[0.25, 0.5, 0.0]]),  # lambda about .07: every box shows in its image
                rand(12, 2),
                rand(12, 1, seed=1),
            ),
        )
    )
    partner = rand(12, 1, seed=1)[:, 0].argsort()
    for i in range(12):
        assert set(images[i].unique().tolist()) == {float(i), float(partner[i])}


@every_method
def test_patches_come_from_the_same_place_of_the_partner(method: Callable) -> None:
    place = torch.arange(140.0).reshape(10, 14)
    images = place + 1000 * torch.arange(6.0)[:, None, None, None]
    result, _ = method(6, generator=seeded(1))(images, torch.arange(6))
    assert torch.equal(result % 1000, place.expand_as(result))
    assert not torch.equal(result, images)


def original_rand_bbox(height: int, width: int, lam: float, cy: int, cx: int) -> Box:
    """Yun et al.'s code, with the axes named as they are."""
    cut_rat = numpy.sqrt(1.0 - lam)
    cut_w, cut_h = int(width * cut_rat), int(height * cut_rat)
    return Box(
        int(numpy.clip(cy - cut_h // 2, 0, height)),
        int(numpy.clip(cy + cut_h // 2, 0, height)),
        int(numpy.clip(cx - cut_w // 2, 0, width)),
        int(numpy.clip(cx + cut_w // 2, 0, width)),
    )


@pytest.mark.parametrize("size", [(10, 14), (9, 7), (32, 32)])
def test_boxes_are_the_originals(size: tuple[int, int]) -> None:
    """The batch's lambda decides the size, each image's own number the centre."""
    batch = size[0] * size[1]
    for u, v in rand(12, 2, seed=5).tolist():
        lam = symmetric_beta(1.0, torch.tensor([u]), torch.tensor([v])).item()
        numbers = Fixed(torch.tensor([[u, v, 0.0]]), grid(batch)[:, None])
        boxes = boxes_of(CutMix(5, 1.0, generator=numbers).mask(torch.empty(batch, 1, *size)))
        expected = [
            original_rand_bbox(*size, lam, y, x) for y in range(size[0]) for x in range(size[1])
        ]
        assert boxes == [box if box.area else None for box in expected]


@pytest.mark.parametrize("alpha", [0.2, 1.0, 2.0, 4.5])
def test_lambda_is_beta_distributed(alpha: float) -> None:
    u, v = torch.rand(2, 20_000, generator=seeded(), dtype=torch.float64)
    lam = symmetric_beta(alpha, u, v)
    assert kstest(lam.numpy(), scipy.stats.beta(alpha, alpha).cdf).pvalue > 0.01
    reference = torch.distributions.Beta(alpha, alpha).sample((20_000,)).double()
    assert lam.mean().item() == pytest.approx(0.5, abs=0.01)
    assert lam.var().item() == pytest.approx(reference.var().item(), rel=0.05)


@pytest.mark.parametrize("alpha", [0.01, 0.2, 1.0, 100.0])
def test_lambda_is_a_share_for_the_worst_numbers(alpha: float) -> None:
    worst = torch.tensor([0.0, 2**-24, 0.25, 0.5, 0.75, 1 - 2**-24])
    u, v = torch.meshgrid(worst, worst, indexing="ij")
    lam = symmetric_beta(alpha, u, v)
    assert ((lam >= 0) & (lam <= 1)).all()


def test_the_mean_share_of_cutmix_is_that_of_its_lambda() -> None:
    """Lambda is uniform at alpha 1; boxes inside the border have area (1 - lambda) nearly."""
    cutmix = CutMix(5, border="inside", generator=seeded())
    image = torch.empty(1, 1, 200, 200)  # large: sides are rounded down to even numbers
    shares = [cutmix.mask(image).float().mean().item() for _ in range(600)]
    assert kstest(shares, "uniform").pvalue > 0.01


@every_method
def test_the_batch_shares_one_size_but_not_one_place(method: Callable) -> None:
    """Lambda is 1/4 here: sides of 0.866 * 16 = 13, rounded down to 12, leave 25 places."""
    numbers = Fixed(torch.tensor([[0.75, 0.5, 0.0], [0.1, 0.1, 0.9]]).repeat(50, 1), rand(100, 2))
    method = method(5, border="inside", generator=numbers)
    boxes = boxes_of(method.mask(torch.empty(100, 1, 16, 16)))
    assert {(box.bottom - box.top, box.right - box.left) for box in boxes} == {(12, 12)}
    assert len(set(boxes)) > 20


@every_method
@pytest.mark.parametrize(("p", "u", "happens"), [(0.5, 0.49, True), (0.5, 0.5, False)])
def test_a_batch_is_mixed_as_a_whole_or_not_at_all(
    method: Callable, p: float, u: float, happens: bool
) -> None:
    numbers = torch.tensor([[0.5, 0.5, u]])
    images, targets, shares = mixed(
        method(12, p=p, generator=Fixed(numbers, rand(12, 2), grid(12).roll(1)[:, None]))
    )
    assert (shares.diag() < 1).all() if happens else torch.equal(shares, torch.eye(12))
    torch.testing.assert_close(targets, shares)


def test_a_batch_of_one_is_its_own_partner() -> None:
    images = randn(1, 3, 10, 14)
    result, targets = CutMix(5)(images, torch.tensor([2]))
    assert torch.equal(result, images) and targets.tolist() == [[0, 0, 1, 0, 0]]


def test_keep_cutmix_avoids_what_is_important_in_the_image_that_is_cut() -> None:
    """Important is the left half of even images and the right half of odd ones, not of partners."""
    saliency = torch.zeros(20, 8, 16)
    saliency[::2, :, :8] = saliency[1::2, :, 8:] = 1.0
    keep = KeepCutMix(
        None,
        5,
        tau=0.0,
        saliency=lambda images, labels: saliency,
        border="inside",
        generator=Fixed(torch.tensor([[0.75, 0.0, 0.0]]), rand(20, 2)),
    )
    for i, box in enumerate(boxes_of(keep.mask(torch.empty(20, 1, 8, 16)))):
        assert box.left >= 8 if i % 2 == 0 else box.right <= 8


# With a model


class Corner(nn.Module):
    """Class 0 looks at the top left pixel, class 1 at the bottom right one, a little elsewhere."""

    def forward(self, x: Tensor) -> Tensor:
        rest = 1e-3 * x.mean((1, 2, 3))
        return torch.stack((x[:, 0, 0, 0] + rest, 5 * x[:, 0, -1, -1] + rest), dim=1)


def test_the_label_decides_what_is_kept() -> None:
    images = torch.ones(300, 3, 8, 8)
    for label, peak in ((0, 0), (1, -1), (None, -1)):  # at ones the larger logit is that of class 1
        given = None if label is None else torch.full((300,), label)
        cut = KeepCutout(Corner(), size=4)(images, given)
        assert (cut[:, :, peak, peak] == 1).all()
        assert (cut[:, :, -1 - peak, -1 - peak] == 0).any()
        paste = KeepPaste(Corner(), size=4, tau=0.97)(images, torch.zeros_like(images), given)
        assert (paste[:, :, peak, peak] == 1).all()


@pytest.mark.parametrize("labelled", [True, False])
def test_paste_puts_a_region_of_the_clean_image_on_the_augmented_one(labelled: bool) -> None:
    model, images, augmented = (
        make("features in eval"),
        randn(8, 3, 8, 8),
        randn(8, 3, 8, 8, seed=1),
    )
    paste = KeepPaste(model, size=3, generator=seeded())
    before = list(state(model))
    result = paste(images, augmented, labels(8) if labelled else None)
    assert list(state(model)) == before
    for clean, other, mine in zip(images, augmented, result, strict=True):
        box = box_of((mine == clean).all(0))
        assert box.area == 9
        outside = torch.ones(8, 8, dtype=torch.bool)
        outside[box.top : box.bottom, box.left : box.right] = False
        assert torch.equal(mine[:, outside], other[:, outside])


def test_paste_prefers_what_is_important() -> None:
    saliency = rand(300, 8, 8)
    paste = KeepPaste(saliency=lambda images, labels: saliency, size=3, tau=0.8, generator=seeded())
    ones = torch.ones(300, 1, 8, 8)
    for image, mine in zip(saliency, paste(ones, 0 * ones), strict=True):
        rivals = [score(image, box) for row in BOXES["inside"]((3, 3), (8, 8)) for box in row]
        assert score(image, box_of(mine[0] == 1)) >= numpy.quantile(rivals, 0.8) - 1e-6


def test_the_defaults_are_the_papers() -> None:
    model = Corner()
    cut, paste, mix = KeepCutout(model), KeepPaste(model), KeepCutMix(model, 10)
    erase = KeepRandomErasing(model)
    assert (cut.size, cut.border, cut.p, cut.fill) == (None, "clip", 1.0, 0.0)
    assert paste.size is None
    assert (mix.alpha, mix.border, mix.p) == (1.0, "clip", 1.0)
    assert (erase.p, erase.scale, erase.border) == (0.5, (0.02, 0.4), "inside")
    assert erase.ratio == (0.3, 1 / 0.3)
    for method in (cut, paste, mix, erase):
        assert isinstance(method.keep.saliency, GradientSaliency)
        assert (method.keep.tau, method.keep.match_area) == (0.6, False)


CHANNELS_LAST: dict[str, Any] = {
    "constant": lambda x: Cutout(3)(x),
    "per channel": lambda x: Cutout(3, fill=(1, 2, 3))(x),
    "noise": lambda x: RandomErasing(1.0, fill="random")(x),
    "CutMix": lambda x: CutMix(5)(x, torch.zeros(len(x), dtype=torch.int64))[0],
    "paste": lambda x: KeepPaste(saliency=lambda x, _: x[:, 0], size=3)(x, -x),
    "own fill": lambda x: selective_cut(x, x[:, 0], size=3, fill=torch.zeros(x.shape)),
    "Erasing": lambda x: Erasing(RandomErasing(1.0, fill="random"))(x),
}


@pytest.mark.parametrize("method", CHANNELS_LAST)
def test_images_keep_their_memory_format(method: str) -> None:
    images = rand(2, 3, 8, 8)
    torch.manual_seed(0)
    plain = CHANNELS_LAST[method](images)
    torch.manual_seed(0)
    found = CHANNELS_LAST[method](images.to(memory_format=torch.channels_last))
    assert found.is_contiguous(memory_format=torch.channels_last) and plain.is_contiguous()
    assert torch.equal(found, plain)


@pytest.mark.parametrize(
    ("method", "short"),
    [
        (partial(Cutout, 6), partial(KeepCutout, size=6)),
        (partial(RandomErasing, p=0.9), partial(KeepRandomErasing, p=0.9)),
        (partial(CutMix, 4), partial(KeepCutMix, None, 4)),
    ],
)
def test_the_short_way_is_the_method_with_keep(method: Any, short: Any) -> None:
    images, labels = torch.rand(4, 3, 16, 16), torch.arange(4)

    def saliency(images: Tensor, targets: Any) -> Tensor:
        return images.mean(1)

    torch.manual_seed(1)
    expected = short(saliency=saliency, tau=0.3)(images, labels)
    torch.manual_seed(1)
    found = method(keep=Keep(saliency, tau=0.3))(images, labels)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (lambda: Keep(torch.rand(1, 8, 8)), "saliency must be a function"),
        (lambda: Keep(RandomSaliency(), tau=1.5), "tau"),
    ],
)
def test_what_cannot_be_kept_by_is_refused(keep: Callable[[], Keep], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        keep()
