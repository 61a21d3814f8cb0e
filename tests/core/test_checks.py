"""Bad input gets a ValueError that says what was found."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import pytest
import torch
from small import NUM_CLASSES, labels, make, network, rand, randn
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from keepaugment import (
    CachedSaliency,
    CutMix,
    Cutout,
    EarlyHead,
    GradientSaliency,
    InvertedSaliency,
    KeepCutMix,
    KeepCutout,
    KeepPaste,
    KeepRandomErasing,
    RandomErasing,
    ShuffledSaliency,
    allowed_regions,
    region_scores,
    saliency_map,
    selective_cut,
    selective_paste,
)
from keepaugment.checks import check_labels, check_saliency, check_size

IMAGES, LABELS, SALIENCY = randn(4, 3, 8, 10), labels(4), rand(4, 8, 10)
MODEL = network()


def a_map(images: Tensor, labels: Tensor | None = None) -> Tensor:
    return SALIENCY


def with_value(tensor: Tensor, value: float) -> Tensor:
    tensor = tensor.clone()
    tensor[-1, -1, -1] = value
    return tensor


def cut(images: Tensor = IMAGES, saliency: Tensor = SALIENCY, **settings) -> Tensor:
    return selective_cut(images, saliency, **{"size": 3, **settings})


def paste(images: Tensor = IMAGES, saliency: Tensor = SALIENCY, **settings) -> Tensor:
    return selective_paste(images, -images, saliency, **{"size": 3, **settings})


def scores(images: Tensor = IMAGES, saliency: Tensor = SALIENCY, **settings) -> Tensor:
    return region_scores(saliency, **{"size": 3, **settings})


BOX_FUNCTIONS = {"cut": cut, "paste": paste, "scores": scores}
every_box_function = pytest.mark.parametrize("function", BOX_FUNCTIONS.values(), ids=BOX_FUNCTIONS)


def fails(message: str, function: Callable, *args, **kwargs) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        function(*args, **kwargs)


# Sizes


@every_box_function
@pytest.mark.parametrize(
    ("size", "message"),
    [
        (9, "size (9, 9) does not fit in images of (8, 10)"),
        ((8, 11), "size (8, 11) does not fit in images of (8, 10)"),
        ((9, 10), "size (9, 10) does not fit in images of (8, 10)"),
        ([3, -1], "size (3, -1) does not fit in images of (8, 10)"),
        (-3, "size (-3, -3) does not fit in images of (8, 10)"),
        (4.0, "size must be an int, (h, w) or a (B, 2) tensor, found 4.0"),
        ((4.0, 4), "size must be an int, (h, w) or a (B, 2) tensor, found (4.0, 4)"),
        ((1, 2, 3), "size must be an int, (h, w) or a (B, 2) tensor, found (1, 2, 3)"),
        ("16", "size must be an int, (h, w) or a (B, 2) tensor, found '16'"),
        (None, "size must be an int, (h, w) or a (B, 2) tensor, found None"),
    ],
)
def test_size(function: Callable, size: object, message: str) -> None:
    fails(message, function, size=size)


@every_box_function
@pytest.mark.parametrize(
    ("size", "message"),
    [
        ([[3, 3]] * 3, "size must be an int, (h, w) or a (4, 2) tensor of whole pixels, found"),
        ([3, 3], "found torch.int64 of shape (2,)"),
        ([[3.0, 3.0]] * 4, "found torch.float32 of shape (4, 2)"),
        ([[3, 3]] * 3 + [[9, 3]], "sizes from [3, 3] to [9, 3] do not fit in images of (8, 10)"),
        ([[3, 3]] * 3 + [[3, 11]], "sizes from [3, 3] to [3, 11] do not fit in images of (8, 10)"),
        ([[3, 3]] * 3 + [[3, -1]], "sizes from [3, -1] to [3, 3] do not fit in images of (8, 10)"),
    ],
)
def test_size_per_image(function: Callable, size: list, message: str) -> None:
    fails(message, function, size=torch.tensor(size))


@every_box_function
@pytest.mark.parametrize("size", [(8, 10), [0, 10], torch.tensor([[8, 10], [0, 0]] * 2)])
def test_sizes_that_just_fit(function: Callable, size: object) -> None:
    assert len(function(size=size)) == 4


def test_size_of_a_method() -> None:
    message = "size (16, 16) does not fit in images of (8, 10)"
    fails(message, Cutout(), IMAGES)
    fails(message, KeepCutout(saliency=a_map), IMAGES)
    fails(message, KeepPaste(saliency=a_map), IMAGES, IMAGES)


# Tau and border


@pytest.mark.parametrize("function", [cut, paste])
@pytest.mark.parametrize("tau", [-0.1, 1.1, 60, float("nan")])
def test_tau(function: Callable, tau: float) -> None:
    fails(f"tau must be a quantile in [0, 1], found {tau}", function, tau=tau)


def test_tau_of_a_method() -> None:
    message = "tau must be a quantile in [0, 1], found 60"
    fails(message, KeepCutout, saliency=a_map, size=3, tau=60)
    fails(message, KeepRandomErasing, saliency=a_map, tau=60)
    fails(message, KeepCutMix, None, 5, tau=60, saliency=a_map)
    fails(message, KeepPaste, saliency=a_map, size=3, tau=60)


@pytest.mark.parametrize("function", [cut, scores])
def test_border(function: Callable) -> None:
    fails("border must be 'inside' or 'clip', found 'wrap'", function, border="wrap")


# Maps


@every_box_function
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_map_that_is_not_finite(function: Callable, value: float) -> None:
    message = "saliency holds NaN or infinite values"
    fails(message, function, saliency=with_value(SALIENCY, value))


@every_box_function
def test_a_map_without_a_batch(function: Callable) -> None:
    fails(
        "saliency must be (B, H, W), found shape (4, 1, 8, 10)",
        function,
        saliency=SALIENCY[:, None],
    )


@pytest.mark.parametrize("function", [cut, paste])
@pytest.mark.parametrize("shape", [(4, 10, 8), (1, 8, 10), (4, 4, 5)])
def test_a_map_of_other_images(function: Callable, shape: tuple[int, ...]) -> None:
    message = f"saliency of shape {shape} does not fit images of shape (4, 3, 8, 10)"
    fails(message, function, saliency=rand(*shape))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (SALIENCY.numpy(), "must be a tensor (B, H, W), found ndarray"),
        (SALIENCY.tolist(), "must be a tensor (B, H, W), found list"),
        (SALIENCY.cfloat(), "must be floating point, found torch.complex64"),
        (SALIENCY.long(), "must be floating point, found torch.int64"),
        (SALIENCY.to("meta"), "is on meta, the images on cpu"),
        (SALIENCY.double() + 1e300, "holds NaN or infinite values"),  # in float32
    ],
)
def test_a_map_of_another_kind(wrong: object, message: str) -> None:
    def source(images: Tensor, labels: Tensor | None) -> object:
        return wrong

    cached = CachedSaliency(source, 4, (8, 10))
    cached.at(0, torch.arange(4))
    for call in (
        lambda: selective_cut(IMAGES, wrong, size=3),
        lambda: selective_paste(IMAGES, IMAGES, wrong, size=3),
        *(
            partial(KeepCutout(saliency=each, size=3), IMAGES)
            for each in (source, cached, ShuffledSaliency(source), InvertedSaliency(source))
        ),
    ):
        fails(message, call)
    assert not cached.maps.any()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.bool, torch.float64])
def test_a_map_of_narrow_integers_or_doubles(dtype: torch.dtype) -> None:
    saliency = (255 * SALIENCY).to(dtype)
    assert torch.equal(scores(saliency=saliency), scores(saliency=saliency.float()))


def test_a_model_that_has_diverged() -> None:
    model = network()
    nn.init.constant_(model[0].weight, float("nan"))
    fails("has the model diverged?", KeepCutout(model, size=3), IMAGES, LABELS)


def test_a_map_of_ones_own_with_a_wrong_shape() -> None:
    keep = KeepCutout(saliency=lambda images, labels: images, size=3)
    fails("saliency must be (B, H, W), found shape (4, 3, 8, 10)", keep, IMAGES)


# Images


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_integer_images(dtype: torch.dtype) -> None:
    images = IMAGES.to(dtype)
    message = f"images must be floating point, found {dtype}; convert and normalise them first"
    for call in (
        lambda: saliency_map(MODEL, images),
        lambda: GradientSaliency(MODEL)(images),
        lambda: cut(images=images),
        lambda: selective_paste(images, images, SALIENCY, size=3),
        lambda: Cutout(3)(images),
        lambda: KeepCutout(MODEL, size=3)(images),
        lambda: RandomErasing()(images),
        lambda: CutMix(5)(images, LABELS),
        lambda: KeepPaste(MODEL, size=3)(images, images),
    ):
        fails(message, call)


@pytest.mark.parametrize("shape", [(3, 8, 10), (4, 8, 10), (2, 4, 3, 8, 10)])
def test_images_without_four_axes(shape: tuple[int, ...]) -> None:
    images = randn(*shape)
    message = f"images must be (B, C, H, W), found shape {shape}"
    for call in (
        lambda: saliency_map(MODEL, images),
        lambda: cut(images=images),
        lambda: Cutout(3)(images),
        lambda: CutMix(5)(images, LABELS),
        lambda: KeepPaste(MODEL, size=3)(images, images),
    ):
        fails(message, call)


def test_views_of_two_sizes() -> None:
    augmented = randn(4, 3, 8, 9)
    message = "images (4, 3, 8, 10) and augmented (4, 3, 8, 9) must be views of the same size"
    fails(message, selective_paste, IMAGES, augmented, SALIENCY, size=3)
    fails(message, KeepPaste(saliency=a_map, size=3), IMAGES, augmented)


# Labels and logits


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.tensor([0, 1, 2, 5]), "labels must be in [0, 5), found 0 to 5"),
        (torch.tensor([0, -1, 2, 4]), "labels must be in [0, 5), found -1 to 4"),
        (labels(3), "labels must be (4,) class numbers, found torch.int64 of shape (3,)"),
        (labels(4)[:, None], "found torch.int64 of shape (4, 1)"),
        (labels(4).float(), "found torch.float32 of shape (4,)"),
        (torch.eye(5)[:4], "found torch.float32 of shape (4, 5)"),
        (torch.ones(4, dtype=torch.bool), "found torch.bool of shape (4,)"),
    ],
)
def test_labels(given: Tensor, message: str) -> None:
    for call in (
        lambda: saliency_map(MODEL, IMAGES, given),
        lambda: KeepCutout(MODEL, size=3)(IMAGES, given),
        lambda: CutMix(5)(IMAGES, given),
        lambda: KeepCutMix(None, 5, saliency=a_map)(IMAGES, given),
    ):
        fails(message, call)


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (lambda x: (MODEL(x), x), "found tuple"),
        (lambda x: {"logits": MODEL(x)}, "found dict"),
        (lambda x: None, "found NoneType"),
        (lambda x: x, "found (4, 3, 8, 10)"),
        (lambda x: MODEL(x).flatten(), "found (20,)"),
        (lambda x: MODEL(x)[:2], "found (2, 5)"),
    ],
)
def test_a_model_that_gives_no_logits(model: Callable, found: str) -> None:
    message = f"the model must return logits (4, K), {found}; pass a function that picks them"
    fails(message, saliency_map, model, IMAGES, LABELS)
    fails(message, saliency_map, model, IMAGES)


@pytest.mark.parametrize(
    "model",
    [lambda x: MODEL(x.detach()), lambda x: torch.ones(4, 5), torch.no_grad()(lambda x: MODEL(x))],
)
def test_logits_that_do_not_depend_on_the_input(model: Callable) -> None:
    fails(
        "the model's logits do not depend on its input; does it use no_grad?",
        saliency_map,
        model,
        IMAGES,
    )


@pytest.mark.parametrize("scale", [0.0, -0.5, 1.5, float("nan")])
def test_scale(scale: float) -> None:
    message = f"scale must be in (0, 1], found {scale}"
    fails(message, saliency_map, MODEL, IMAGES, scale=scale)
    fails(message, GradientSaliency, MODEL, scale=scale)


def test_a_model_for_images_of_one_size() -> None:
    with pytest.raises(ValueError, match="refuses images of .4, 4., 0.5 of their size.*scale=1"):
        saliency_map(make("timm ViT"), randn(4, 3, 8, 8), LABELS, scale=0.5)


class Samples(Dataset):
    """Batches that a Keep method has changed in the loader."""

    def __init__(self, keep: Callable) -> None:
        self.keep = keep

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Tensor:
        return self.keep(IMAGES, LABELS)


def test_a_map_in_a_worker_of_the_loader() -> None:
    images = next(iter(DataLoader(Samples(KeepCutout(saliency=a_map, size=3)), num_workers=1)))
    assert images.shape == (1, *IMAGES.shape)  # without a model there is nothing to train
    assert len(next(iter(DataLoader(Samples(KeepCutout(MODEL, size=3)))))) == 1
    with pytest.raises(ValueError, match="DataLoader worker.*after the loader"):
        next(iter(DataLoader(Samples(KeepCutout(MODEL, size=3)), num_workers=1)))


# Settings of the methods


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_p(p: float) -> None:
    message = f"p must be a probability in [0, 1], found {p}"
    fails(message, Cutout, p=p)
    fails(message, RandomErasing, p)
    fails(message, CutMix, 5, p=p)


def test_fill() -> None:
    fails("fill must be a number, one per channel or 'random', found 'mean'", Cutout, fill="mean")
    message = "fill (0.1, 0.2) must have a number for each of 3 channels"
    fails(message, Cutout(3, fill=(0.1, 0.2)), IMAGES)
    grey = IMAGES[:, :1]
    fails("for each of 1 channels", Cutout(3, fill=(0.1, 0.2, 0.3)), grey)


@pytest.mark.parametrize(
    ("scale", "ratio"),
    [
        ((-0.1, 0.4), (0.3, 3.0)),
        ((0.4, 0.1), (0.3, 3.0)),
        ((0.1, 1.1), (0.3, 3.0)),
        ((0.1, 0.4), (0.0, 3.0)),
        ((0.1, 0.4), (3.0, 0.3)),
    ],
)
def test_ranges_of_random_erasing(scale: tuple, ratio: tuple) -> None:
    message = f"scale {scale} and ratio {ratio} must be ranges, scale within [0, 1]"
    fails(message, RandomErasing, scale=scale, ratio=ratio)


@pytest.mark.parametrize("alpha", [0.0, -1.0])
def test_alpha(alpha: float) -> None:
    fails(f"alpha must be positive, found {alpha}", CutMix, 5, alpha)


def test_a_map_comes_from_a_model_or_from_a_function() -> None:
    message = "give either a model, for its gradient map, or saliency=, your own map"
    for method in (KeepCutout, KeepRandomErasing, KeepPaste):
        fails(message, method)
        fails(message, method, MODEL, saliency=a_map)
    fails(message, KeepCutMix, None, 5)
    fails(message, KeepCutMix, MODEL, 5, saliency=a_map)


def test_match_area_needs_its_numbers() -> None:
    fails(
        "match_area draws a size: pass its uniform numbers u (B,)",
        allowed_regions,
        SALIENCY,
        IMAGES,
        3,
        side="low",
        match_area=True,
    )


# Values are looked at only where this costs nothing


def test_values_that_cannot_be_looked_at_are_not() -> None:
    """Tensors on the meta device have none; a GPU's would have to be waited for."""
    check_saliency(SALIENCY.to("meta"))
    check_labels(LABELS.to("meta"), 4, 5)
    check_size(torch.ones(4, 2, dtype=torch.long, device="meta"), 4, (8, 10))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_nothing_waits_for_a_gpu() -> None:
    model = make("batch norm").cuda()
    images, classes = randn(4, 3, 8, 8).cuda(), labels(4).cuda()
    head = EarlyHead(model, "1", NUM_CLASSES)
    sources = [GradientSaliency(model), GradientSaliency(model, scale=0.5, head=head)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        for method in (
            *(KeepCutout(size=3, saliency=s, fill=(1.0, 2.0, 3.0)) for s in sources),
            KeepRandomErasing(saliency=sources[0], fill="random"),
            KeepCutMix(None, 5, saliency=sources[0], match_area=True),
        ):
            method(images, classes)
    finally:
        torch.cuda.set_sync_debug_mode("default")
