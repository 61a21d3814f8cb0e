import itertools

import pytest
import torch

from classification.colour import ColorJitter, Lighting, jitter_colours


def noise(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def grey_copy(image):
    grey = 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]
    return grey.expand(3, -1, -1)


def brightness(image, amount):
    return image.lerp(torch.zeros_like(image), amount)


def contrast(image, amount):
    return image.lerp(torch.full_like(image, grey_copy(image).mean()), amount)


def saturation(image, amount):
    return image.lerp(grey_copy(image), amount)


BLENDS = (brightness, contrast, saturation)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_jitter_is_the_originals_in_any_order(order):
    images, amounts = noise(5, 3, 9, 7).double(), 0.8 * noise(5, 3).double() - 0.4
    expected = []
    for image, row in zip(images, amounts.tolist(), strict=True):
        for n in order:
            image = BLENDS[n](image, row[n])
        expected.append(image)
    torch.testing.assert_close(jitter_colours(images, amounts), torch.stack(expected))


def test_jitter_draws_uniform_amounts_and_applies_them():
    jitter = ColorJitter(0.4, 0.0, 0.2, generator=torch.Generator().manual_seed(1))
    images = noise(3, 3, 4, 4)
    again = ColorJitter(0.4, 0.0, 0.2, generator=torch.Generator().manual_seed(1))
    assert torch.equal(jitter(images), jitter_colours(images, again.amounts(images)))
    amounts = jitter.amounts(torch.zeros(4000, 3, 1, 1))
    limit = torch.tensor([0.4, 0.0, 0.2])
    assert (amounts.abs() <= limit).all()
    torch.testing.assert_close(amounts.mean(0), torch.zeros(3), atol=0.01, rtol=0)
    torch.testing.assert_close(amounts.std(0), limit / 3**0.5, atol=0.01, rtol=0)


def test_nothing_is_clamped():
    white = torch.ones(1, 3, 2, 2)
    brighter = jitter_colours(white, torch.tensor([[-0.25, 0.0, 0.0]]))
    assert torch.equal(brighter, torch.full_like(white, 1.25))


def test_grey_images_have_no_saturation():
    images = noise(2, 1, 5, 5)
    out = jitter_colours(images, torch.tensor([[0.0, 0.0, 0.4], [0.0, 0.5, -0.4]]))
    torch.testing.assert_close(out[0], images[0])
    torch.testing.assert_close(out[1], (images[1] + images[1].mean()) / 2)


def test_an_image_does_not_depend_on_its_batch():
    images, amounts = noise(4, 3, 6, 6), 0.8 * noise(4, 3) - 0.4
    alone = torch.cat([jitter_colours(images[n : n + 1], amounts[n : n + 1]) for n in range(4)])
    torch.testing.assert_close(jitter_colours(images, amounts), alone)


def test_lighting_adds_one_colour_to_an_image():
    images = noise(3, 3, 4, 5)
    added = Lighting(generator=torch.Generator().manual_seed(2))(images) - images
    again = Lighting(generator=torch.Generator().manual_seed(2)).shifts(images)
    torch.testing.assert_close(added, again[:, :, None, None].expand_as(images))


def test_lighting_by_hand():
    """One standard deviation along the first component, none along the others."""
    one_sigma = torch.special.ndtr(torch.tensor(1.0))
    lighting = Lighting(
        0.1, generator=lambda shape, device: torch.stack([one_sigma, *torch.full((2,), 0.5)])[None]
    )
    expected = torch.tensor([[-0.5675, -0.5808, -0.5836]]) * 0.1 * 0.2175
    torch.testing.assert_close(lighting.shifts(torch.zeros(1, 3, 2, 2)), expected)


def test_lighting_has_the_covariance_of_its_components():
    shifts = Lighting(0.1, generator=torch.Generator().manual_seed(3)).shifts(
        torch.zeros(40000, 3, 1, 1)
    )
    vectors = torch.tensor(
        [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
    )
    spread = torch.diag((0.1 * torch.tensor([0.2175, 0.0188, 0.0045])) ** 2)
    torch.testing.assert_close(shifts.T.cov(), vectors @ spread @ vectors.T, rtol=0.03, atol=2e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtype_stays(dtype):
    images = noise(2, 3, 4, 4).to(dtype)
    assert ColorJitter()(images).dtype == dtype
    assert Lighting()(images).dtype == dtype


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: ColorJitter(contrast=-0.1), ">= 0"),
        (lambda: Lighting(-1), ">= 0"),
        (lambda: ColorJitter()(torch.zeros(2, 3, 4, 4, dtype=torch.uint8)), "floating point"),
        (lambda: ColorJitter()(torch.zeros(2, 4, 4, 4)), "1 or 3"),
        (lambda: Lighting()(torch.zeros(2, 1, 4, 4)), r"\(B, 3, H, W\)"),
        (lambda: jitter_colours(torch.zeros(2, 3, 4, 4), torch.zeros(3, 2)), r"\(2, 3\)"),
    ],
)
def test_errors_say_what_was_found(call, said):
    with pytest.raises(ValueError, match=said):
        call()
