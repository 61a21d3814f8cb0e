"""Maps from the gradients of a loop's own steps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from small import labels, rand, randn, seeded
from torch import Tensor, nn

from keepaugment import (
    CutMix,
    KeepCutout,
    KeepPaste,
    RecycledSaliency,
    View,
    allowed_regions,
    saliency_map,
)
from keepaugment.stored import whole

CPU = torch.device("cpu")
ALL = torch.arange(4)


def recycling(number: int = 4, length: int = 8, **options: float) -> RecycledSaliency:
    """A map for each pixel."""
    return RecycledSaliency(number, (length, length), size=length, **options)  # type: ignore[arg-type]


def visit(
    recycled: RecycledSaliency,
    gradient: Tensor,
    index: Tensor = ALL,
    view: View | None = None,
    changed: Tensor | None = None,
) -> None:
    """A step in which the loss has this gradient (B, H, W) and `changed` (B, H, W) were cut."""
    images = torch.ones(len(gradient), 1, *gradient.shape[1:])
    recycled.at(index, view)
    recycled(images)
    inputs = images if changed is None else images.masked_fill(changed[:, None], 0.0)
    inputs = inputs.clone().requires_grad_()
    inputs.backward(gradient[:, None])
    recycled.take(inputs)


def bytes_of(saliency: Tensor) -> Tensor:
    return (saliency / saliency.amax((1, 2), keepdim=True) * 255).round().clamp(min=1)


def test_the_map_of_a_linear_model_is_its_weight() -> None:
    """With two classes the loss's gradient is the difference of their weights, times a number."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    recycled = recycling()
    keep = KeepCutout(size=4, saliency=recycled, p=0.0)
    recycled.at(ALL)
    inputs = keep(randn(4, 3, 8, 8)).requires_grad_()
    F.cross_entropy(model(inputs), ALL % 2).backward()
    recycled.take(inputs)
    weight = model[1].weight.detach()
    expected = (weight[0] - weight[1]).view(1, 3, 8, 8).abs().amax(1)
    assert torch.equal(recycled.maps.float(), bytes_of(expected).expand(4, -1, -1))


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(("top", "left"), [(0, 0), (2, -3), (-4, 1)])
def test_a_gradient_goes_back_into_the_frame_of_its_image(
    top: int, left: int, mirrored: bool
) -> None:
    gradient, recycled = randn(4, 8, 8), recycling()
    view = View(*(torch.tensor([value] * 4) for value in (top, left, mirrored)))
    visit(recycled, gradient, view=view)
    expected = torch.zeros(4, 8, 8)
    for row in range(8):
        for column in range(8):
            y, x = row + top, left + (7 - column if mirrored else column)
            if 0 <= y < 8 and 0 <= x < 8:
                expected[:, y, x] = gradient[:, row, column].abs()
    seen = expected > 0
    assert torch.equal(recycled.maps.float(), bytes_of(expected) * seen)


def test_pixels_under_the_cut_are_left_as_they_were() -> None:
    recycled, changed = recycling(), torch.zeros(4, 8, 8, dtype=torch.bool)
    visit(recycled, rand(4, 8, 8) + 0.1)
    before = recycled.maps.float()
    changed[:, 2:5, 1:7] = True
    gradient = rand(4, 8, 8, seed=1) + 0.1
    visit(recycled, torch.where(changed, 1e6, gradient), changed=changed)
    after = recycled.maps.float()
    ratio = (after / before)[changed].view(4, -1)  # one scale per image, by rounding
    assert (ratio.std(1) / ratio.mean(1) < 0.15).all()
    assert not torch.allclose(after[~changed], before[~changed], atol=8)


def test_cells_are_averaged_over_visits() -> None:
    """Sums of what both visits know are made equal first: 16 x 100 here, so 10 counts as 100."""
    recycled = recycling(1, 4, memory=0.75)
    maps = [torch.full((1, 4, 4), 1.0) for _ in range(2)]
    maps[0][0, 0, 0], maps[0][0, 0, 1] = 2.0, 0.0
    maps[1][0, 0, 0], maps[1][0, 0, 1] = 0.0, 2.0
    for each in maps:
        visit(recycled, each, torch.tensor([0]))
    average = 0.75 * bytes_of(maps[0]) + 0.25 * bytes_of(maps[1])
    assert (recycled.maps.float() - bytes_of(average)).abs().max() <= 2


def test_an_image_that_was_never_seen_is_cut_as_by_the_plain_method() -> None:
    recycled, images = recycling(), torch.zeros(1, 1, 8, 8)
    recycled.at(ALL[:1])
    allowed, _ = allowed_regions(recycled(images), images, 3, side="low", border="clip")
    assert allowed.all()


def test_cells_that_were_never_seen_count_as_the_others_do_on_average() -> None:
    recycled, changed = recycling(1), torch.zeros(1, 8, 8, dtype=torch.bool)
    changed[:, :4] = True
    gradient = rand(1, 8, 8) + 0.1
    visit(recycled, gradient, ALL[:1], changed=changed)
    read = recycled.read(ALL[:1], whole(1, CPU), (8, 8))
    assert torch.equal(read[:, 4:], bytes_of(gradient[:, 4:]))
    assert torch.allclose(read[:, :4], read[:, 4:].mean())
    padded = recycled.read(ALL[:1], View(ALL[:1] + 6, ALL[:1], ALL[:1] > 0), (8, 8))
    assert padded[:, 2:].count_nonzero() == 0  # but padding counts as unimportant


def test_a_map_is_that_of_the_scaled_loss_and_of_any_part_of_the_batch() -> None:
    """Gradient scaling, a mean over more images, accumulation: the same bits."""
    gradient, whole_batch, scaled, parts = randn(4, 8, 8), recycling(), recycling(), recycling()
    visit(whole_batch, gradient)
    visit(scaled, gradient * 2.0**-20 * torch.tensor([1.0, 2, 4, 8])[:, None, None])
    visit(parts, gradient[:2], ALL[:2])
    visit(parts, gradient[2:] / 2, ALL[2:])
    assert torch.equal(whole_batch.maps, scaled.maps) and torch.equal(whole_batch.maps, parts.maps)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 0.0])
def test_a_gradient_that_says_nothing_changes_nothing(bad: float) -> None:
    recycled, gradient = recycling(), rand(4, 8, 8) + 0.1
    visit(recycled, gradient)
    before = recycled.maps.clone()
    if bad:
        gradient[1, 3, 3] = bad
    else:
        gradient[1] = 0.0
    visit(recycled, gradient * 3)
    assert torch.equal(recycled.maps, before)


def test_pixels_that_show_another_image_say_nothing() -> None:
    recycled, mix = recycling(), CutMix(5, generator=seeded())
    images = randn(4, 3, 8, 8)
    recycled.at(ALL, images=images)
    mask = mix.mask(images)
    inputs = mix(images, labels(4), mask=mask)[0].requires_grad_()
    inputs.sum().backward()
    recycled.take(inputs)
    assert torch.equal(recycled.maps > 0, ~mask[:, 0]) and mask.any() and not mask.all()


def test_after_a_policy_only_what_was_pasted_or_stayed_in_place_says_something() -> None:
    recycled = recycling()
    paste = KeepPaste(size=3, saliency=recycled, generator=seeded())
    images = randn(4, 3, 8, 8)
    moved = images.roll(1, 3)
    moved[0] = images[0]  # the policy left it as it was
    recycled.at(ALL)
    inputs = paste(images, moved).requires_grad_()
    inputs.sum().backward()
    recycled.take(inputs)
    assert (recycled.maps > 0).sum((1, 2)).tolist() == [64, 9, 9, 9]


def test_a_mixup_teaches_nothing_and_says_so() -> None:
    recycled, images = recycling(), randn(4, 3, 8, 8)
    recycled.at(ALL, images=images)
    inputs = (0.5 * images + 0.5 * images.roll(1, 0)).requires_grad_()
    inputs.sum().backward()
    with pytest.warns(UserWarning, match="no map was stored: no pixel of the inputs shows"):
        recycled.take(inputs)
    assert not recycled.maps.any()


def test_pixels_can_be_named_by_the_loop() -> None:
    """Where the network sees what is computed from the images, such as half of their values."""
    recycled, shown = recycling(), rand(4, 8, 8) < 0.5
    recycled.at(ALL)
    inputs = (recycled(torch.ones(4, 1, 8, 8))[:, None] + 0.5).requires_grad_()
    (inputs * 2).sum().backward()
    recycled.take(inputs, shown)
    assert torch.equal(recycled.maps > 0, shown)


def test_a_loop_learns_where_its_network_looks() -> None:
    """The class is the colour of the left half, so boxes of half the width come to lie right."""
    torch.manual_seed(0)
    recycled = recycling(64)
    keep = KeepCutout(size=4, tau=0.4, saliency=recycled, border="inside", generator=seeded())
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    images, classes = 0.3 * randn(64, 3, 8, 8), torch.arange(64) % 3
    images[torch.arange(64), classes, :, :4] += 1.0
    for _ in range(40):
        recycled.at(torch.arange(64))
        inputs = keep(images, classes).requires_grad_()
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), classes).backward()
        optimizer.step()
        recycled.take(inputs)
    left, right = recycled.maps[:, :, :4].float().mean(), recycled.maps[:, :, 4:].float().mean()
    assert left > 2 * right
    full = saliency_map(model, images, classes)
    assert full[:, :, :4].mean() > 2 * full[:, :, 4:].mean()
    recycled.at(torch.arange(64))
    removed = (keep(images, classes) != images).any(1)
    assert removed[:, :, 4:].sum() > 3 * removed[:, :, :4].sum()


def test_a_saved_store_goes_on() -> None:
    recycled, other = recycling(), recycling()
    visit(recycled, randn(4, 8, 8))
    other.load_state_dict(recycled.state_dict())
    for each in (recycled, other):
        visit(each, randn(4, 8, 8, seed=1))
    assert torch.equal(recycled.maps, other.maps)


def step() -> tuple[RecycledSaliency, Tensor]:
    recycled, images = recycling(), randn(4, 3, 8, 8)
    recycled.at(ALL)
    recycled(images)
    return recycled, images


def test_what_is_missing_is_named() -> None:
    recycled, images = step()
    with pytest.raises(ValueError, match=r"no gradient came .* inputs.requires_grad_\(\) before"):
        recycled.take(images)
    inputs = images.clone().requires_grad_()
    (inputs * 2).sum().backward()
    for wrong in (inputs * 2, inputs.clone()):  # computed from what has the gradient
        with pytest.raises(ValueError, match="no gradient came"):
            recycled.take(wrong)
    with pytest.raises(ValueError, match="maps of 3 images were asked for, the numbers of 4 are"):
        recycled(images[:3])
    smaller = images[:, :, :7].clone().requires_grad_()
    smaller.sum().backward()
    with pytest.raises(ValueError, match="are not the images .* of the map; pass take"):
        recycled.take(smaller)
    recycled.take(inputs)
    with pytest.raises(ValueError, match=r"the numbers of none are known; call at\(index, view\)"):
        recycled.take(inputs)
    recycled.at(ALL)
    with pytest.raises(ValueError, match="images before the cut are not known: ask for the map"):
        recycled.take(inputs)


def test_settings_are_checked() -> None:
    for options, message in (
        ({"memory": 1.0}, r"memory must be in \[0, 1\)"),
        ({"number": 0}, "1"),
    ):
        with pytest.raises(ValueError, match=message):
            recycling(**options)  # type: ignore[arg-type]
