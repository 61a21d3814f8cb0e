"""The gradient map by hand, by loops and by Captum."""

from __future__ import annotations

from collections.abc import Callable

import captum.attr
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from small import NUM_CLASSES, evaluating, labels, make, randn
from torch import Tensor, nn

from keepaugment import GradientSaliency, KeepCutout, saliency_map


def linear(channels: int, height: int, width: int, num_classes: int = NUM_CLASSES) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, num_classes))


def convolutional(channels: int = 3) -> nn.Sequential:
    """A network for images of any size, whose batch normalisation has seen data."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(channels, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.Tanh(),
        nn.Conv2d(6, 8, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, NUM_CLASSES),
    )
    model(1 + 2 * randn(16, channels, 8, 8))
    return model


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack((a.flatten(), b.flatten())))[0, 1])


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(8, 8), (7, 7), (5, 9), (1, 1)])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_map_of_a_linear_model_is_its_weight(
    channels: int, size: tuple[int, int], batch: int
) -> None:
    model = linear(channels, *size)
    weight = model[1].weight.detach().reshape(NUM_CLASSES, channels, *size)
    saliency = saliency_map(model, randn(batch, channels, *size), labels(batch))
    assert saliency.dtype == torch.float32 and not saliency.requires_grad
    assert torch.equal(saliency, weight[labels(batch)].abs().amax(1))


def test_the_map_of_a_product_by_hand() -> None:
    """Logits red * green and -3 * blue of one pixel: gradients (green, red, 0) and (0, 0, -3)."""

    def model(x: Tensor) -> Tensor:
        red, green, blue = x[:, :, 0, 0].unbind(1)
        return torch.stack((red * green, -3 * blue), dim=1)

    images = torch.tensor([2.0, -5.0, 7.0]).reshape(1, 3, 1, 1)
    assert saliency_map(model, images, torch.tensor([0])).item() == 5.0
    assert saliency_map(model, images, torch.tensor([1])).item() == 3.0
    assert saliency_map(model, images).item() == 5.0  # the logits are -10 and -21


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_the_map_of_a_batch_is_that_of_its_images(scale: float) -> None:
    model, images = convolutional(), randn(6, 3, 8, 8)
    together = saliency_map(model, images, labels(6), scale=scale)
    alone = [
        saliency_map(model, images[i : i + 1], labels(6)[i : i + 1], scale=scale) for i in range(6)
    ]
    torch.testing.assert_close(together, torch.cat(alone))


def test_without_labels_the_largest_logit_is_explained() -> None:
    model, images = linear(3, 8, 8), randn(6, 3, 8, 8)
    largest = model(images).argmax(1)
    assert len(largest.unique()) > 1
    assert torch.equal(saliency_map(model, images), saliency_map(model, images, largest))
    assert not torch.equal(saliency_map(model, images), saliency_map(model, images, 4 - largest))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_labels_are_whole_numbers_of_any_kind(dtype: torch.dtype) -> None:
    model, images = convolutional(), randn(4, 3, 8, 8)
    saliency = saliency_map(model, images, labels(4).to(dtype))
    assert torch.equal(saliency, saliency_map(model, images, labels(4)))


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 13), st.integers(1, 13), st.sampled_from([1, 3, 4]), st.sampled_from([0.5, 0.3])
)
def test_a_map_of_low_resolution_is_that_of_the_small_copy(
    height: int, width: int, channels: int, scale: float
) -> None:
    model, images = convolutional(channels), randn(2, channels, height, width)
    small = [max(1, round(side * scale)) for side in (height, width)]
    copies = F.interpolate(images, small, mode="bicubic", align_corners=False)
    saliency = saliency_map(model, images, labels(2), scale=scale)
    assert saliency.shape == (2, height, width)
    expected = saliency_map(model, copies, labels(2))
    for y in range(height):
        for x in range(width):
            nearest = (y * small[0] // height, x * small[1] // width)
            assert torch.equal(saliency[:, y, x], expected[:, nearest[0], nearest[1]])


def test_half_resolution_of_an_even_image_is_blocks_of_four_pixels() -> None:
    saliency = saliency_map(convolutional(), randn(2, 3, 8, 6), labels(2), scale=0.5)
    blocks = saliency.unfold(1, 2, 2).unfold(2, 2, 2).flatten(3)
    assert torch.equal(blocks, blocks[..., :1].expand_as(blocks))
    assert saliency.unique().numel() == 2 * 4 * 3


@pytest.mark.parametrize("labelled", [True, False])
def test_an_empty_batch_has_an_empty_map(labelled: bool) -> None:
    saliency = saliency_map(convolutional(), randn(0, 3, 8, 5), labels(0) if labelled else None)
    assert saliency.shape == (0, 8, 5) and saliency.dtype == torch.float32


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_gradients_may_be_off_outside(guard: Callable, scale: float) -> None:
    model, images = convolutional(), randn(4, 3, 8, 8)
    expected = saliency_map(model, images, labels(4), scale=scale)
    with guard():
        mode = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        mine, ours = images + 0, labels(4) + 0  # made in inference mode, if that is on
        assert torch.equal(saliency_map(model, mine, ours, scale=scale), expected)
        assert saliency_map(model, mine, scale=scale).shape == (4, 8, 8)
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == mode


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_autocast_gives_nearly_the_same_map(dtype: torch.dtype, scale: float) -> None:
    model, images = convolutional(), randn(8, 3, 16, 16)
    expected = saliency_map(model, images, labels(8), scale=scale)
    with torch.autocast("cpu", dtype):
        saliency = saliency_map(model, images, labels(8), scale=scale)
        assert torch.is_autocast_enabled("cpu")
    assert saliency.dtype == torch.float32
    assert not torch.equal(saliency, expected)
    assert correlation(saliency, expected) > 0.999


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_images_and_model_may_have_another_precision(dtype: torch.dtype, scale: float) -> None:
    model, images = convolutional(), randn(8, 3, 16, 16)
    expected = saliency_map(model, images, labels(8), scale=scale)
    saliency = saliency_map(model.to(dtype), images.to(dtype), labels(8), scale=scale)
    assert saliency.dtype == torch.float32
    assert correlation(saliency, expected) > 0.998


def test_half_precision_images_under_autocast() -> None:
    model, images = convolutional(), randn(8, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        saliency = saliency_map(model, images.bfloat16(), labels(8))
    assert saliency.dtype == torch.float32
    assert correlation(saliency, saliency_map(model, images, labels(8))) > 0.998


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_channels_last(scale: float) -> None:
    model, images = convolutional(), randn(4, 3, 9, 6)
    expected = saliency_map(model, images, labels(4), scale=scale)
    model = model.to(memory_format=torch.channels_last)
    images = images.to(memory_format=torch.channels_last)
    saliency = saliency_map(model, images, labels(4), scale=scale)
    torch.testing.assert_close(saliency, expected)


def test_images_need_not_be_contiguous() -> None:
    model, images = convolutional(), randn(4, 3, 10, 12)[:, :, ::2, 1:9].flip(3).transpose(2, 3)
    expected = saliency_map(model, images.contiguous(), labels(4))
    torch.testing.assert_close(saliency_map(model, images, labels(4)), expected)


def test_a_map_does_not_depend_on_the_scale_of_other_images() -> None:
    """One backward pass serves the batch: an image of huge logits must not touch its neighbour."""
    model, images = convolutional(), randn(2, 3, 8, 8)
    quiet = saliency_map(model, images, labels(2))[0]
    images[1] *= 1e6
    torch.testing.assert_close(saliency_map(model, images, labels(2))[0], quiet)


def test_captum_agrees() -> None:
    model, images = make("batch norm"), randn(4, 3, 8, 8)
    attribution = captum.attr.Saliency(evaluating(model))
    expected = attribution.attribute(images.clone().requires_grad_(), target=labels(4)).amax(1)
    torch.testing.assert_close(saliency_map(model, images, labels(4)), expected.detach())


def test_an_attribution_of_captum_is_a_map() -> None:
    model, images = make("batch norm").eval(), randn(4, 3, 8, 8)

    def attribution(images: Tensor, labels: Tensor | None) -> Tensor:
        inputs = images.clone().requires_grad_()
        return captum.attr.Saliency(model).attribute(inputs, target=labels).amax(1).detach()

    theirs = KeepCutout(saliency=attribution, size=4, generator=torch.Generator().manual_seed(1))
    ours = KeepCutout(model, size=4, generator=torch.Generator().manual_seed(1))
    assert torch.equal(theirs(images, labels(4)), ours(images, labels(4)))


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_gradient_saliency_is_the_map_with_its_settings(scale: float) -> None:
    model, images = convolutional(), randn(4, 3, 8, 8)
    source = GradientSaliency(model, scale=scale)
    expected = saliency_map(model, images, labels(4), scale=scale)
    assert torch.equal(source(images, labels(4)), expected)
    assert torch.equal(source(images), saliency_map(model, images, scale=scale))


def test_one_forward_and_one_backward_pass_serve_the_batch() -> None:
    passes = []

    class Counting(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor) -> Tensor:
            passes.append("forward")
            return x.view_as(x)

        @staticmethod
        def backward(ctx, gradient: Tensor) -> Tensor:
            passes.append("backward")
            return gradient

    model = convolutional()
    saliency_map(lambda x: model(Counting.apply(x)), randn(6, 3, 8, 8), labels(6))
    assert passes == ["forward", "backward"]


def test_no_gradient_is_asked_for_but_the_inputs() -> None:
    model = convolutional()
    asked = []

    def look(layer: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        asked.extend(p.requires_grad for p in model.parameters())

    model[3].register_forward_hook(look)
    saliency_map(model, randn(2, 3, 8, 8), labels(2))
    assert asked == [False] * 8


# What is explained


def test_class_weights_explain_the_weighted_logits() -> None:
    """By hand for a linear model: |W.T t|; a hard label is its one-hot weight."""
    model, images = linear(1, 4, 5), randn(3, 1, 4, 5)
    soft = torch.tensor([[0.7, 0.3, 0, 0, 0], [0, 0, 1, 0, 1], [0, 0, 0, 0, 1.0]])
    expected = (soft @ model[1].weight).abs().view(3, 4, 5).detach()
    torch.testing.assert_close(saliency_map(model, images, soft), expected)
    several = torch.tensor([[1, 1, 0, 0, 0]] * 3)  # labels of several classes
    assert torch.equal(
        saliency_map(model, images, several), saliency_map(model, images, several.float())
    )
    hard = torch.tensor([1, 2, 3])
    assert torch.equal(
        saliency_map(model, images, F.one_hot(hard, NUM_CLASSES)), saliency_map(model, images, hard)
    )


@pytest.mark.parametrize("flat", [False, True])
def test_a_single_logit_has_one_map_for_both_classes(flat: bool) -> None:
    model = linear(1, 4, 5, num_classes=1)
    expected = model[1].weight.abs().view(4, 5).expand(3, -1, -1).detach()

    def logit(images: Tensor) -> Tensor:
        return model(images)[:, 0] if flat else model(images)

    for targets in (None, torch.tensor([0, 1, 1]), torch.tensor([[0.0], [1], [1]])):
        assert torch.equal(saliency_map(logit, randn(3, 1, 4, 5), targets), expected)


def test_an_objective_of_ones_own() -> None:
    """A segmentation loss: the map of the sum is that of the images' own numbers."""
    torch.manual_seed(0)
    model, images = nn.Conv2d(3, 4, 3, padding=1), randn(2, 3, 6, 6)
    masks = torch.arange(72).view(2, 6, 6) % 4

    def each(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs["out"], targets, reduction="none").mean((1, 2))

    def total(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
        return each(outputs, targets).sum()

    leaf = images.clone().requires_grad_()
    total({"out": model(leaf)}, masks).backward()
    assert leaf.grad is not None
    for objective in (each, total):
        saliency = GradientSaliency(lambda x: {"out": model(x)}, objective=objective)
        torch.testing.assert_close(saliency(images, masks), leaf.grad.abs().amax(1))
        assert KeepCutout(saliency=saliency, size=2)(images, masks).shape == images.shape


def test_an_objective_of_similar_features() -> None:
    """Targets may be anything, an embedding per image for one."""
    model, images = linear(1, 4, 5), randn(2, 1, 4, 5)
    wanted = randn(2, NUM_CLASSES, seed=1)
    found = saliency_map(model, images, wanted, objective=lambda out, w: (out * w).sum(1))
    torch.testing.assert_close(found, (wanted @ model[1].weight).abs().view(2, 4, 5).detach())


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (
            lambda outputs, targets: outputs,
            r"must give \(2,\) numbers or .*, found \(2, 5\)",
        ),
        (lambda outputs, targets: 3.0, r"must give \(2,\) numbers or their sum, found float"),
        (lambda outputs, targets: outputs.detach().sum(1), "do not depend on its input"),
    ],
)
def test_a_wrong_objective_is_refused(objective: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        saliency_map(linear(1, 4, 5), randn(2, 1, 4, 5), objective=objective)


def test_a_detector_may_be_called_in_the_objective() -> None:
    """It takes its targets with the images; it is left as it was all the same."""

    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))

        def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict:
            found = self.body(torch.stack(images)).mean((2, 3))
            wanted = torch.stack([target["boxes"][0] for target in targets])
            return {"boxes": ((found - wanted) ** 2).sum(), "objects": found.sum()}

    torch.manual_seed(0)
    detector, images = Detector(), randn(2, 3, 6, 6)
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    targets = [{"boxes": randn(1, 4, seed=i)} for i in range(2)]
    saliency = GradientSaliency(
        lambda images: images, objective=lambda i, t: sum(detector(list(i), t).values())
    )
    found = saliency(images, targets)
    leaf = images.clone().requires_grad_()
    sum(detector.eval()(list(leaf), targets).values()).backward()
    assert leaf.grad is not None
    torch.testing.assert_close(found, leaf.grad.abs().amax(1))
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())
    for i in range(2):
        torch.testing.assert_close(saliency(images[i : i + 1], targets[i : i + 1])[0], found[i])
