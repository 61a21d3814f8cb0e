"""Scores, quantiles and draws of boxes against loops and exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import BOXES, Box, box_of, grid, rand, randn, score
from torch import Tensor

from keepaugment import region_scores
from keepaugment.draws import draw_place
from keepaugment.regions import allowed_boxes, box_sums, candidate_boxes

both_borders = pytest.mark.parametrize("border", ["inside", "clip"])
sides = st.integers(1, 8)
seeds = st.integers(0, 2**32 - 1)


def whole_numbers(batch: int, height: int, width: int, seed: int) -> Tensor:
    """A map whose sums are exact in any order."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-20, 1000, (batch, height, width), generator=generator).float()


def random_sums(*shape: int, seed: int = 0) -> Tensor:
    return (2**40 * randn(*shape, seed=seed)).long()


def slow_scores(saliency: Tensor, size: tuple[int, int], border: str) -> Tensor:
    boxes = BOXES[border](size, tuple(saliency.shape[1:]))
    return torch.tensor(
        [[[score(image, box) for box in row] for row in boxes] for image in saliency],
        dtype=torch.float64,
    )


# Scores


@given(sides, sides, st.data(), st.sampled_from(["inside", "clip"]), seeds)
def test_scores_against_loops(
    height: int, width: int, data: st.DataObject, border: str, seed: int
) -> None:
    h, w = data.draw(st.integers(0, height)), data.draw(st.integers(0, width))
    saliency = whole_numbers(2, height, width, seed)
    scores = region_scores(saliency, (h, w), border=border)
    assert scores.dtype == torch.float32
    assert torch.equal(scores.double(), slow_scores(saliency, (h, w), border))
    if h == w:
        assert torch.equal(region_scores(saliency, h, border=border), scores)


@given(sides, sides, st.data(), st.sampled_from(["inside", "clip"]), seeds)
def test_scores_of_a_size_per_image_are_those_of_its_own_size(
    height: int, width: int, data: st.DataObject, border: str, seed: int
) -> None:
    side = st.tuples(st.integers(0, height), st.integers(0, width))
    sizes = data.draw(st.lists(side, min_size=1, max_size=3))
    saliency = whole_numbers(len(sizes), height, width, seed)
    scores = region_scores(saliency, torch.tensor(sizes), border=border)
    assert scores.shape == saliency.shape
    for image, size, found in zip(saliency, sizes, scores, strict=True):
        for y in range(height):
            for x in range(width):
                if border == "inside":
                    fits = y + size[0] <= height and x + size[1] <= width
                    box = Box(y, y + size[0], x, x + size[1])
                else:
                    fits, box = True, BOXES["clip"](size, (height, width))[y][x]
                assert math.isnan(found[y, x]) if not fits else found[y, x] == score(image, box)


@both_borders
def test_scores_of_a_real_map_against_loops(border: str) -> None:
    saliency = randn(3, 9, 7).abs()
    expected = slow_scores(saliency, (4, 3), border)
    scores = region_scores(saliency, (4, 3), border=border).double()
    torch.testing.assert_close(scores, expected, rtol=1e-6, atol=0)


def test_scores_by_hand() -> None:
    saliency = torch.tensor([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]])
    assert region_scores(saliency, 2).tolist() == [[[12.0, 16.0]]]
    assert region_scores(saliency, (1, 2)).tolist() == [[[3.0, 5.0], [9.0, 11.0]]]
    # around each pixel: one row and column before it, itself, cut at the border
    assert region_scores(saliency, 2, border="clip").tolist() == [
        [[1.0, 3.0, 5.0], [5.0, 12.0, 16.0]]
    ]


def test_the_box_of_the_whole_image_and_the_empty_box() -> None:
    saliency = whole_numbers(2, 5, 4, seed=0)
    assert torch.equal(region_scores(saliency, (5, 4)), saliency.sum((1, 2))[:, None, None])
    assert torch.equal(region_scores(saliency, 0), torch.zeros(2, 6, 5))
    assert torch.equal(region_scores(saliency, 0, border="clip"), torch.zeros(2, 5, 4))
    assert region_scores(saliency[:0], 2).shape == (0, 4, 3)


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 1e-30, 3e36, -0.7])
def test_constant_maps_tie_exactly(value: float) -> None:
    saliency = torch.full((1, 31, 29), value)
    scores = region_scores(saliency, (7, 11))
    assert torch.equal(scores, scores[:, :1, :1].expand_as(scores))
    assert scores[0, 0, 0] == pytest.approx(77 * value, rel=1e-6)


def test_equal_boxes_tie_wherever_they_lie() -> None:
    """Sums of floats would depend on what lies before the box: here a tile is repeated."""
    saliency = torch.cat([rand(1, 4, 4).repeat(1, 3, 4), 1000 * rand(1, 12, 1, seed=1)], dim=2)
    scores = region_scores(saliency, 4)[0, ::4, ::4][:, :3]
    assert scores.unique().numel() == 1


def test_a_bright_pixel_does_not_blur_boxes_without_it() -> None:
    saliency = rand(1, 8, 8)
    saliency[0, 0, 0] = 1e6
    expected = slow_scores(saliency, (3, 3), "inside")
    scores = region_scores(saliency, 3).double()
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_maps_of_another_precision(dtype: torch.dtype) -> None:
    saliency = whole_numbers(2, 6, 6, seed=0).clamp(0, 200).to(dtype)
    scores = region_scores(saliency, 3)
    assert scores.dtype == torch.float32
    assert torch.equal(scores, region_scores(saliency.float(), 3))


def test_images_do_not_see_each_other() -> None:
    saliency = rand(3, 8, 8) * torch.tensor([1e-6, 1.0, 1e9])[:, None, None]
    together = region_scores(saliency, 3)
    alone = torch.cat([region_scores(saliency[i : i + 1], 3) for i in range(3)])
    assert torch.equal(together, alone)


# Candidates


@given(sides, sides, st.data(), st.sampled_from(["inside", "clip"]))
def test_masks_of_candidates_against_loops(
    height: int, width: int, data: st.DataObject, border: str
) -> None:
    size = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    boxes = candidate_boxes(size, (height, width), border=border, device=torch.device("cpu"))
    expected = [box for row in BOXES[border](size, (height, width)) for box in row]
    places = torch.cartesian_prod(*(torch.arange(number) for number in boxes.places))
    masks = boxes.mask(places)
    assert masks.shape == (len(expected), 1, height, width)
    assert [box_of(mask[0]) for mask in masks] == expected


# The quantile


def slow_allowed(sums: list[int], tau: Fraction, side: str) -> list[bool]:
    """Sums at or below, or at or above, the linearly interpolated quantile, in fractions."""
    ordered = sorted(map(Fraction, sums))
    rank = tau * (len(ordered) - 1)
    below, above = ordered[math.floor(rank)], ordered[math.ceil(rank)]
    quantile = below + (above - below) * (rank - math.floor(rank))
    if side == "low":
        return [total <= quantile for total in sums]
    return [total >= quantile for total in sums]


hundredths = st.integers(0, 100)
both_sides = st.sampled_from(["low", "high"])


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), hundredths, both_sides)
def test_allowed_boxes_with_ties_against_fractions(
    values: list[int], hundredth: int, side: str
) -> None:
    sums = torch.tensor(values).reshape(1, 1, -1)
    allowed = allowed_boxes(sums, hundredth / 100, side)
    assert allowed.flatten().tolist() == slow_allowed(values, Fraction(hundredth, 100), side)
    assert allowed.any()


@given(st.integers(1, 7), st.integers(1, 7), hundredths, both_sides, seeds)
def test_allowed_boxes_of_random_sums_against_fractions(
    rows: int, columns: int, hundredth: int, side: str, seed: int
) -> None:
    sums = random_sums(2, rows, columns, seed=seed)
    allowed = allowed_boxes(sums, hundredth / 100, side)
    for image, found in zip(sums, allowed, strict=True):
        expected = slow_allowed(image.flatten().tolist(), Fraction(hundredth, 100), side)
        assert found.flatten().tolist() == expected


@pytest.mark.parametrize("tau", [0.0, 0.25, 0.3, 0.5, 0.6, 0.75, 0.8, 1.0])
@pytest.mark.parametrize("side", ["low", "high"])
def test_the_quantile_is_that_of_torch(tau: float, side: str) -> None:
    sums = random_sums(4, 6, 7)  # 41 tau is whole only where it is exact in binary
    limit = sums.double().flatten(1).quantile(tau, dim=1)[:, None, None]
    expected = sums <= limit if side == "low" else sums >= limit
    assert torch.equal(allowed_boxes(sums, tau, side), expected)


def test_allowed_boxes_by_hand() -> None:
    sums = torch.tensor([[[5, 1, 4], [2, 3, 0]]])  # tau .6: rank 3 of 0..5
    low, high = (allowed_boxes(sums, 0.6, side)[0].int().tolist() for side in ("low", "high"))
    assert low == [[0, 1, 0], [1, 1, 1]]
    assert high == [[1, 0, 1], [0, 1, 0]]
    assert allowed_boxes(sums, 0.5, "low").sum() == 3  # rank 2.5: between 2 and 3
    assert allowed_boxes(sums, 0.5, "high").sum() == 3


@pytest.mark.parametrize("tau", [0.0, 0.6, 1.0])
def test_ends_of_the_scale(tau: float) -> None:
    sums = random_sums(3, 5, 5)
    low, high = allowed_boxes(sums, tau, "low"), allowed_boxes(sums, tau, "high")
    assert low.flatten(1).sum(1).tolist() == [math.floor(tau * 24) + 1] * 3
    assert high.flatten(1).sum(1).tolist() == [25 - math.ceil(tau * 24)] * 3


@given(hundredths, both_sides, seeds)
def test_what_is_no_candidate_does_not_count(hundredth: int, side: str, seed: int) -> None:
    sums = random_sums(1, 4, 5, seed=seed)
    absent = rand(1, 4, 5, seed=seed + 1) < 0.5
    absent[0, 0, 0] = False
    allowed = allowed_boxes(sums, hundredth / 100, side, ~absent)
    assert not (allowed & absent).any()
    expected = allowed_boxes(sums[~absent].reshape(1, 1, -1), hundredth / 100, side)
    assert torch.equal(allowed[~absent], expected.flatten())


def allowed(saliency: Tensor, size: tuple[int, int], border: str = "inside") -> Tensor:
    boxes = candidate_boxes(size, tuple(saliency.shape[1:]), border=border, device=saliency.device)
    return allowed_boxes(box_sums(saliency, boxes)[0], 0.6, "low")


@pytest.mark.parametrize("power", [-149, -140, -120, -40, 0, 40, 127])
@both_borders
def test_the_scale_of_a_map_does_not_matter(power: int, border: str) -> None:
    """From the smallest float to sums far beyond the largest."""
    saliency = torch.randint(1, 256, (3, 9, 9), generator=torch.Generator().manual_seed(0))
    scaled = saliency.double() * 2.0**power / (256 if power == 127 else 1)
    assert torch.equal(allowed(scaled.float(), (4, 4), border), allowed(saliency, (4, 4), border))


@pytest.mark.parametrize("largest", [1e-36, 3e38])
def test_of_extreme_maps_as_many_boxes_are_allowed(largest: float) -> None:
    saliency = rand(1, 16, 16)
    count = math.floor(0.6 * (13 * 13 - 1)) + 1
    assert allowed(largest * saliency / saliency.amax(), (4, 4)).sum() == count


def test_a_map_beyond_float32_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN or infinite values"):
        region_scores(torch.full((1, 4, 4), 1e300, dtype=torch.float64), 2)


def test_sums_of_many_pixels_do_not_wrap() -> None:
    saliency = torch.ones(1, 1, 2**23 + 5)
    saliency[:, :, -1] = 2
    assert region_scores(saliency, (1, 2**23 + 4)).tolist() == [[[2**23 + 4, 2**23 + 5]]]
    assert allowed(saliency, (1, 2**23 + 4)).tolist() == [[[True, False]]]


# The draw


def draw_index(allowed: Tensor, u: Tensor) -> Tensor:
    """The number of the place that is drawn, row by row."""
    row, column = draw_place(allowed, u).unbind(1)
    return row * allowed.shape[2] + column


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 5), seeds)
def test_a_draw_is_uniform_over_the_allowed(
    rows: int, columns: int, repeats: int, seed: int
) -> None:
    """All equally spaced numbers together hit every allowed box equally often."""
    allowed = rand(1, rows, columns, seed=seed) < 0.5
    allowed[0, -1, 0] = True
    steps = int(allowed.sum()) * repeats
    index = draw_index(allowed.expand(steps, -1, -1), grid(steps))
    counts = torch.bincount(index, minlength=rows * columns)
    assert torch.equal(counts, repeats * allowed.flatten().long())


def test_a_draw_ends_at_the_ends() -> None:
    allowed = torch.tensor([[[False, True, True], [False, True, False]]]).expand(3, -1, -1)
    largest = torch.tensor([0.0, 1.0 - 2**-24, 1.0])  # 1.0: what rounding may make of the largest
    assert draw_index(allowed, largest).tolist() == [1, 4, 4]


def test_images_have_draws_of_their_own() -> None:
    allowed = torch.eye(6, dtype=torch.bool).reshape(6, 2, 3)
    assert draw_index(allowed, rand(6)).tolist() == [0, 1, 2, 3, 4, 5]
