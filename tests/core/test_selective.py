"""Selective-Cut and Selective-Paste against the paper's Algorithm 1."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, chisquare
from small import BOXES, Box, Fixed, box_of, grid, rand, randn, score, seeded
from torch import Tensor

from keepaugment import selective_cut, selective_paste
from keepaugment.selective import allowed_regions, choose_region

both_borders = pytest.mark.parametrize("border", ["inside", "clip"])
both_methods = pytest.mark.parametrize("side", ["low", "high"])


def ones(batch: int, height: int, width: int) -> Tensor:
    return torch.ones(batch, 3, height, width)


def cut_boxes(saliency: Tensor, **settings) -> list[Box]:
    """The boxes that are zero in images of ones."""
    cut = selective_cut(ones(*saliency.shape), saliency, **settings)
    assert torch.equal(cut, cut[:, :1].expand_as(cut))  # the same in every channel
    return [box_of(image[0] == 0) for image in cut]


def pasted_boxes(saliency: Tensor, **settings) -> list[Box]:
    """The boxes of clean images (ones) in augmented ones (zeros)."""
    images = ones(*saliency.shape)
    pasted = selective_paste(images, torch.zeros_like(images), saliency, **settings)
    return [box_of(image[0] == 1) for image in pasted]


CHOSEN: dict[str, Callable[..., list[Box]]] = {"low": cut_boxes, "high": pasted_boxes}


# Against Algorithm 1


def algorithm_1(saliency: Tensor, size: int, tau: float, side: str, border: str) -> Callable:
    """The paper's loop on one map (H, W), word for word, with the Remark's threshold."""
    candidates = [box for row in BOXES[border]((size, size), tuple(saliency.shape)) for box in row]
    scores = {box: score(saliency, box) for box in candidates}
    threshold = numpy.quantile(list(scores.values()), tau)
    rng = random.Random(0)

    def draw() -> Box:
        while True:  # repeat: randomly select a mask region S
            region = rng.choice(candidates)
            if side == "low" and scores[region] < threshold:  # until: region score < tau
                return region
            if side == "high" and scores[region] > threshold:  # until: region score > tau
                return region

    return draw


@pytest.mark.parametrize(
    ("side", "border", "tau"),
    [
        ("low", "inside", 0.61),
        ("low", "clip", 0.61),
        ("high", "inside", 0.61),
        ("low", "clip", 0.21),
    ],
)
def test_draws_have_the_law_of_algorithm_1(side: str, border: str, tau: float) -> None:
    """No score equals the threshold here, so the paper's strict inequality decides alike."""
    saliency = rand(7, 8)
    draw = algorithm_1(saliency, 3, tau, side, border)
    expected = Counter(draw() for _ in range(6000))
    settings = {"border": border} if side == "low" else {}
    batch = saliency.expand(6000, -1, -1)
    found = Counter(CHOSEN[side](batch, size=3, tau=tau, generator=seeded(), **settings))
    assert set(found) == set(expected)
    boxes = list(expected)
    table = [[counts[box] for box in boxes] for counts in (expected, found)]
    assert chi2_contingency(table).pvalue > 0.01


@given(st.integers(2, 8), st.integers(2, 8), st.data(), st.sampled_from([0.0, 0.2, 0.6, 0.8, 1.0]))
def test_a_region_is_never_on_the_wrong_side(
    height: int, width: int, data: st.DataObject, tau: float
) -> None:
    """Maps of few values: ties everywhere, also at the quantile."""
    size = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    border = data.draw(st.sampled_from(["inside", "clip"]))
    seed = data.draw(st.integers(0, 10**6))
    saliency = torch.randint(0, 3, (4, height, width), generator=seeded(seed)).float()
    cut = cut_boxes(saliency, size=size, tau=tau, border=border, generator=seeded(seed))
    paste = pasted_boxes(saliency, size=size, tau=tau, generator=seeded(seed))
    for image, low, high in zip(saliency, cut, paste, strict=True):
        for border_, found, sign in ((border, low, 1), ("inside", high, -1)):
            candidates = [b for row in BOXES[border_](size, (height, width)) for b in row]
            assert found in candidates
            limit = numpy.quantile([score(image, box) for box in candidates], tau)
            assert sign * score(image, found) <= sign * limit + 1e-6  # NumPy rounds its place


# By hand


def test_cut_takes_the_only_candidate() -> None:
    """On a ramp the least important box is the first, the most important the last."""
    ramp = torch.arange(20.0).reshape(1, 4, 5)
    assert cut_boxes(ramp, size=(2, 3), tau=0.0) == [Box(0, 2, 0, 3)]
    assert pasted_boxes(ramp, size=(2, 3), tau=1.0) == [Box(2, 4, 2, 5)]
    assert cut_boxes(ramp, size=(4, 5)) == pasted_boxes(ramp, size=(4, 5)) == [Box(0, 4, 0, 5)]


def test_a_map_that_could_be_learned_is_a_map() -> None:
    saliency = torch.rand(2, 6, 6)
    drawn = [
        selective_cut(ones(2, 6, 6), each, size=2, generator=torch.Generator().manual_seed(0))
        for each in (saliency, saliency.clone().requires_grad_())
    ]
    assert drawn[0].equal(drawn[1]) and not drawn[1].requires_grad


def test_cut_keeps_the_peak_and_paste_restores_it() -> None:
    """Of 36 boxes of 2 x 2 four have the one bright pixel of 7 x 7."""
    saliency = torch.zeros(320, 7, 7)
    saliency[:, 3, 3] = 1.0
    cut = cut_boxes(saliency, size=2, tau=0.6, generator=Fixed(grid(320)[:, None]))
    assert not any(box.top <= 3 < box.bottom and box.left <= 3 < box.right for box in cut)
    assert len(set(cut)) == 36 - 4
    paste = pasted_boxes(saliency, size=2, tau=0.95)
    assert set(paste) == {Box(t, t + 2, s, s + 2) for t in (2, 3) for s in (2, 3)}


@both_methods
@pytest.mark.parametrize("tau", [0.0, 0.6, 1.0])
def test_a_constant_map_draws_from_all(side: str, tau: float) -> None:
    """A draw is a function of one uniform number: its 30 middles hit the 30 boxes once each."""
    saliency = torch.full((30, 6, 7), 0.1)
    boxes = CHOSEN[side](saliency, size=2, tau=tau, generator=Fixed(grid(30)[:, None]))
    assert Counter(boxes) == Counter(box for row in BOXES["inside"]((2, 2), (6, 7)) for box in row)


@both_borders
@pytest.mark.parametrize("match_area", [False, True])
def test_tau_1_cuts_like_the_plain_method(border: str, match_area: bool) -> None:
    saliency = rand(1, 6, 7).expand(3000, -1, -1)
    boxes = cut_boxes(
        saliency, size=3, tau=1.0, border=border, match_area=match_area, generator=seeded()
    )
    candidates = [box for row in BOXES[border]((3, 3), (6, 7)) for box in row]
    counts, law = Counter(boxes), Counter(candidates)
    assert set(counts) <= set(law)
    found = [counts[box] for box in law]
    assert chisquare(found, [3000 * n / len(candidates) for n in law.values()]).pvalue > 0.01


@both_borders
def test_tau_1_and_no_map_are_the_same_boxes(border: str) -> None:
    images, saliency = ones(50, 6, 7), rand(50, 6, 7)
    settings = {"side": "low", "tau": 1.0, "border": border}
    keep = choose_region(saliency, images, 3, generator=seeded(), **settings)
    plain = choose_region(None, images, 3, generator=seeded(), **settings)
    assert torch.equal(keep, plain)


def test_tau_0_pastes_like_a_random_box() -> None:
    saliency = rand(1, 6, 7).expand(20, -1, -1)
    boxes = pasted_boxes(saliency, size=3, tau=0.0, generator=Fixed(grid(20)[:, None]))
    assert Counter(boxes) == Counter(box for row in BOXES["inside"]((3, 3), (6, 7)) for box in row)


def test_a_size_per_image_is_the_batch_of_its_sizes() -> None:
    sizes, saliency = [(1, 1), (2, 3), (5, 4), (6, 7)], rand(4, 6, 7)
    u = rand(4, 2, seed=1)
    for chosen in (cut_boxes, pasted_boxes):
        boxes = chosen(saliency, size=torch.tensor(sizes), generator=Fixed(u))
        for i, size in enumerate(sizes):
            alone = chosen(saliency[i : i + 1], size=size, generator=Fixed(u[i : i + 1]))
            assert [boxes[i]] == alone
            assert (boxes[i].bottom - boxes[i].top, boxes[i].right - boxes[i].left) == size


def test_a_size_of_zero_changes_nothing() -> None:
    images, augmented, saliency = randn(2, 3, 6, 7), randn(2, 3, 6, 7, seed=1), rand(2, 6, 7)
    for size in (0, (0, 4), torch.tensor([[0, 0], [3, 0]])):
        assert torch.equal(selective_cut(images, saliency, size=size), images)
        assert torch.equal(selective_paste(images, augmented, saliency, size=size), augmented)


def test_cut_and_paste_change_one_box_and_nothing_else() -> None:
    images, augmented, saliency = randn(8, 3, 6, 7), randn(8, 3, 6, 7, seed=1), rand(8, 6, 7)
    before = images.clone(), augmented.clone(), saliency.clone()
    cut = selective_cut(images, saliency, size=3, fill=9.0, generator=seeded())
    for image, box in zip(cut, cut_boxes(saliency, size=3, generator=seeded()), strict=True):
        assert torch.equal((image == 9.0).all(0).nonzero()[0], torch.tensor([box.top, box.left]))
    assert torch.equal(torch.where(cut == 9.0, images, cut), images)
    paste = selective_paste(images, augmented, saliency, size=3, generator=seeded())
    assert ((paste == images) | (paste == augmented)).all()
    assert (paste == images).all(1).sum((1, 2)).tolist() == [9] * 8
    after = images, augmented, saliency
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_cut_is_filled_by_a_number_or_by_a_tensor() -> None:
    images, saliency, mean = randn(4, 3, 6, 7), rand(4, 6, 7), torch.tensor([1.0, 2.0, 3.0])
    zeroed = selective_cut(images, saliency, size=3, generator=seeded())
    filled = selective_cut(images, saliency, size=3, fill=mean[:, None, None], generator=seeded())
    processes = (zeroed == 0).all(1, keepdim=True)
    assert processes.sum() == 4 * 9
    assert torch.equal(filled, torch.where(processes, mean[:, None, None], images))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_images_keep_their_precision_and_layout(dtype: torch.dtype) -> None:
    images, saliency = randn(4, 3, 6, 8).to(dtype, memory_format=torch.channels_last), rand(4, 6, 8)
    for fill in (0.5, torch.full((3, 1, 1), 0.5)):
        cut = selective_cut(images, saliency, size=3, fill=fill)
        assert cut.dtype == dtype and cut.is_contiguous(memory_format=torch.channels_last)
    paste = selective_paste(images, images + 1, saliency, size=3)
    assert paste.dtype == dtype and paste.is_contiguous(memory_format=torch.channels_last)


def test_an_empty_batch_stays_empty() -> None:
    images, saliency = randn(0, 3, 6, 7), rand(0, 6, 7)
    assert selective_cut(images, saliency, size=3, match_area=True).shape == (0, 3, 6, 7)
    assert selective_paste(images, images, saliency, size=3).shape == (0, 3, 6, 7)


# The area that borders clip


def clipped_area_law(size: int, height: int, width: int) -> Counter[int]:
    return Counter(box.area for row in BOXES["clip"]((size, size), (height, width)) for box in row)


@pytest.mark.parametrize("tau", [0.0, 0.6, 1.0])
def test_match_area_has_exactly_the_area_law_of_plain_cutout(tau: float) -> None:
    """72 equally spaced numbers draw every one of the 72 clipped sizes once."""
    saliency = rand(72, 8, 9)
    u = torch.stack((rand(72, seed=1), grid(72)), dim=1)
    boxes = cut_boxes(saliency, size=4, tau=tau, border="clip", match_area=True, generator=Fixed(u))
    assert Counter(box.area for box in boxes) == clipped_area_law(4, 8, 9)


def test_without_match_area_a_cut_is_smaller_than_plain_cutouts() -> None:
    """Sums over clipped boxes favour the small ones at the border, even for pure noise."""
    law = clipped_area_law(4, 8, 8)
    plain = sum(area * count for area, count in law.items()) / 64
    boxes = cut_boxes(rand(2000, 8, 8), size=4, border="clip", generator=seeded())
    assert sum(box.area for box in boxes) / 2000 < 0.9 * plain


def test_match_area_compares_boxes_of_one_size_only() -> None:
    saliency = rand(300, 8, 8)
    boxes = cut_boxes(saliency, size=4, border="clip", match_area=True, generator=seeded())
    candidates = [box for row in BOXES["clip"]((4, 4), (8, 8)) for box in row]
    for image, found in zip(saliency, boxes, strict=True):
        shape = found.bottom - found.top, found.right - found.left
        rivals = [b for b in candidates if (b.bottom - b.top, b.right - b.left) == shape]
        limit = numpy.quantile([score(image, box) for box in rivals], 0.6)
        assert score(image, found) <= limit + 1e-6


def test_match_area_changes_nothing_where_no_box_is_clipped() -> None:
    settings = {"size": 3, "border": "inside"}
    saliency = rand(50, 8, 8)
    matched = cut_boxes(saliency, match_area=True, generator=seeded(), **settings)
    assert matched == cut_boxes(saliency, generator=seeded(), **settings)


# The door of randomness


@both_methods
def test_equal_seeds_give_equal_images(side: str) -> None:
    saliency = rand(100, 8, 8)
    first, again, other = (
        CHOSEN[side](saliency, size=3, generator=seeded(seed)) for seed in (1, 1, 2)
    )
    assert first == again != other


def test_without_a_generator_the_global_seed_decides() -> None:
    saliency = rand(100, 8, 8)
    torch.manual_seed(3)
    first = cut_boxes(saliency, size=3)
    torch.manual_seed(3)
    assert cut_boxes(saliency, size=3) == first
    assert cut_boxes(saliency, size=3) != first


def test_a_generator_of_ones_own_leaves_the_global_one_alone() -> None:
    state = torch.get_rng_state()
    cut_boxes(rand(10, 8, 8), size=3, match_area=True, generator=seeded())
    assert torch.equal(torch.get_rng_state(), state)


@both_methods
def test_numbers_may_come_from_any_function_of_shape_and_device(side: str) -> None:
    asked = []

    def numbers(*arguments) -> Tensor:
        asked.append(arguments)
        return torch.zeros(arguments[0])

    CHOSEN[side](rand(5, 8, 8), size=3, generator=numbers)
    assert asked == [((5, 2), torch.device("cpu"))]


@both_methods
def test_row_i_of_the_numbers_belongs_to_image_i(side: str) -> None:
    """So a draw can come from (seed, epoch, index): the batch an image is in does not matter."""
    saliency, u = rand(6, 8, 8), rand(6, 2, seed=1)
    boxes = CHOSEN[side](saliency, size=3, generator=Fixed(u))
    order = [4, 2, 0]
    assert CHOSEN[side](saliency[order], size=3, generator=Fixed(u[order])) == [
        boxes[i] for i in order
    ]


def test_nothing_waits_for_the_device() -> None:
    """A tensor on `meta` has no values: whoever looked at one would fail here."""
    images, saliency = ones(4, 8, 8).to("meta"), rand(4, 8, 8).to("meta")

    def numbers(shape: tuple[int, ...], device: torch.device) -> Tensor:
        return torch.rand(shape, device=device)

    for size in (3, (2, 4), torch.full((4, 2), 3, device="meta")):
        for border in ("inside", "clip"):
            for match_area in (False, True):
                cut = selective_cut(
                    images,
                    saliency,
                    size=size,
                    border=border,
                    match_area=match_area,
                    generator=numbers,
                )
                assert cut.shape == images.shape
        assert selective_paste(images, images, saliency, size=size, generator=numbers).is_meta


def test_allowed_regions_are_what_is_drawn_from() -> None:
    """For pictures: the boxes that may be cut, and their edges."""
    images, saliency = ones(1, 6, 7), rand(1, 6, 7)
    allowed, boxes = allowed_regions(saliency, images, 3, side="low", tau=0.6)
    count = int(allowed.sum())
    assert count == int(0.6 * 19) + 1
    drawn = cut_boxes(
        saliency.expand(count, -1, -1), size=3, tau=0.6, generator=Fixed(grid(count)[:, None])
    )
    masks = boxes.mask(allowed[0].nonzero())
    assert [box_of(mask[0]) for mask in masks] == drawn
