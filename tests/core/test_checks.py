"""Bad input gets a ValueError that says what was found."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy
import pytest
import timm
import torch
import torch.distributed as dist
from small import NUM_CLASSES, labels, make, network, rand, randn
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset

from keepaugment import (
    AttentionSaliency,
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


def paste_on(augmented: Tensor) -> Tensor:
    return KeepPaste(saliency=a_map, size=3)(IMAGES, augmented)


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
    ("size", "found"), [(9, (9, 9)), ((8, 11), (8, 11)), ((9, 10), (9, 10)), ([3, -1], (3, -1))]
)
def test_a_size_that_does_not_fit(function: Callable, size: object, found: tuple) -> None:
    fails(f"{found} does not fit in images of (8, 10)", function, size=size)


@every_box_function
@pytest.mark.parametrize("size", [4.0, (4.0, 4), (1, 2, 3), "16", None])
def test_a_size_of_another_kind(function: Callable, size: object) -> None:
    fails(f"found {size!r}", function, size=size)


@every_box_function
@pytest.mark.parametrize(
    ("size", "message"),
    [
        ([[3, 3]] * 3, "(4, 2) tensor"),
        ([3, 3], "torch.int64 of shape (2,)"),
        ([[3.0, 3.0]] * 4, "torch.float32 of shape (4, 2)"),
        ([[3, 3]] * 3 + [[9, 3]], "from [3, 3] to [9, 3] do not fit"),
        ([[3, 3]] * 3 + [[3, 11]], "from [3, 3] to [3, 11] do not fit"),
        ([[3, 3]] * 3 + [[3, -1]], "from [3, -1] to [3, 3] do not fit"),
    ],
)
def test_size_per_image(function: Callable, size: list, message: str) -> None:
    fails(message, function, size=torch.tensor(size))


@every_box_function
@pytest.mark.parametrize("size", [(8, 10), [0, 10], torch.tensor([[8, 10], [0, 0]] * 2)])
def test_sizes_that_just_fit(function: Callable, size: object) -> None:
    assert len(function(size=size)) == 4


def test_sizes_and_fills_of_numpy() -> None:
    def whole(size: object, fill: object) -> Tensor:
        return Cutout(size, fill=fill, generator=torch.Generator().manual_seed(0))(IMAGES)

    expected = whole(4, (0.5, 0.25, 2.0))
    for four in (numpy.int64(4), (numpy.int32(4), 4)):
        for values in (numpy.array([0.5, 0.25, 2]), torch.tensor([0.5, 0.25, 2])):
            assert torch.equal(whole(four, values), expected)
    assert torch.equal(whole(4, numpy.float32(0.5)), whole(4, 0.5))
    assert cut(size=numpy.int64(3), fill=numpy.float32(0.5)).shape == IMAGES.shape
    four = numpy.int64(4)
    assert torch.equal(region_scores(SALIENCY, four), region_scores(SALIENCY, 4))


def test_size_of_a_method() -> None:
    message = "(16, 16) does not fit"
    fails(message, Cutout(16), IMAGES)
    fails(message, KeepCutout(saliency=a_map, size=16), IMAGES)
    fails(message, KeepPaste(saliency=a_map, size=16), IMAGES, IMAGES)


# Tau and border


@pytest.mark.parametrize("function", [cut, paste])
@pytest.mark.parametrize("tau", [-0.1, 1.1, 60, float("nan")])
def test_tau(function: Callable, tau: float) -> None:
    fails(f"in [0, 1], found {tau}", function, tau=tau)


def test_tau_of_a_method() -> None:
    message = "in [0, 1], found 60"
    fails(message, KeepCutout, saliency=a_map, size=3, tau=60)
    fails(message, KeepRandomErasing, saliency=a_map, tau=60)
    fails(message, KeepCutMix, None, 5, tau=60, saliency=a_map)
    fails(message, KeepPaste, saliency=a_map, size=3, tau=60)


@pytest.mark.parametrize("function", [cut, scores])
def test_border(function: Callable) -> None:
    fails("found 'wrap'", function, border="wrap")


# Maps


@every_box_function
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_map_that_is_not_finite(function: Callable, value: float) -> None:
    fails("NaN or infinite", function, saliency=with_value(SALIENCY, value))


@every_box_function
def test_a_map_without_a_batch(function: Callable) -> None:
    fails("found shape (4, 1, 8, 10)", function, saliency=SALIENCY[:, None])


@pytest.mark.parametrize("function", [cut, paste])
@pytest.mark.parametrize("shape", [(4, 10, 8), (1, 8, 10), (4, 4, 5)])
def test_a_map_of_other_images(function: Callable, shape: tuple[int, ...]) -> None:
    fails(f"{shape} does not fit", function, saliency=rand(*shape))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (SALIENCY.numpy(), "found ndarray"),
        (SALIENCY.tolist(), "found list"),
        (SALIENCY.cfloat(), "found torch.complex64"),
        (SALIENCY.long(), "found torch.int64"),
        (SALIENCY.to("meta"), "is on meta"),
        (SALIENCY.double() + 1e300, "NaN or infinite"),  # in float32
    ],
)
def test_a_map_of_another_kind(wrong: object, message: str) -> None:
    def source(images: Tensor, labels: Tensor | None) -> object:
        return wrong

    cached = CachedSaliency(source, 4, (8, 10))
    cached.at(torch.arange(4), epoch=0)
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


def test_a_map_that_is_none_is_not_a_plain_methods() -> None:
    def nothing(images: Tensor, labels: Tensor | None) -> None:
        return None

    said = "its function returned None"
    fails(said, lambda: KeepCutout(saliency=nothing, size=3)(IMAGES))  # type: ignore[arg-type]
    fails(said, lambda: KeepPaste(saliency=nothing)(IMAGES, IMAGES))  # type: ignore[arg-type]


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
    fails("found shape (4, 3, 8, 10)", keep, IMAGES)


# Images


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_integer_images(dtype: torch.dtype) -> None:
    images = IMAGES.to(dtype)
    message = f"found {dtype}; convert and normalise"
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
    message = f"found shape {shape}"
    for call in (
        lambda: saliency_map(MODEL, images),
        lambda: cut(images=images),
        lambda: Cutout(3)(images),
        lambda: CutMix(5)(images, LABELS),
        lambda: KeepPaste(MODEL, size=3)(images, images),
    ):
        fails(message, call)


@pytest.mark.parametrize("wrong", [IMAGES.numpy(), IMAGES.tolist(), None])
def test_images_that_are_no_tensor(wrong: object) -> None:
    kind = type(wrong).__name__
    fails(f"images must be a tensor (B, C, H, W), found {kind}", Cutout(3), wrong)
    fails(f"augmented must be a tensor (B, C, H, W), found {kind}", paste_on, wrong)


def test_augmented_images_of_another_kind() -> None:
    fails("augmented must be floating point, found torch.uint8", paste_on, IMAGES.byte())
    fails("augmented is on meta", paste_on, IMAGES.to("meta"))


def test_views_of_two_sizes() -> None:
    augmented = randn(4, 3, 8, 9)
    message = "(4, 3, 8, 10) and augmented (4, 3, 8, 9)"
    fails(message, selective_paste, IMAGES, augmented, SALIENCY, size=3)
    fails(message, KeepPaste(saliency=a_map, size=3), IMAGES, augmented)


# Labels and logits


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.tensor([0, 1, 2, 5]), "in [0, 5), found 0 to 5"),
        (torch.tensor([0, -1, 2, 4]), "in [0, 5), found -1 to 4"),
        (labels(3), "(4,) class numbers, found torch.int64 of shape (3,)"),
        (labels(4)[:, None], "found torch.int64 of shape (4, 1)"),
        (labels(4).float(), "found torch.float32 of shape (4,)"),
        (torch.eye(4), "found torch.float32 of shape (4, 4); apply Keep before mixing"),
        ([0, 1, 2, 3], "found list"),
        (torch.ones(4, dtype=torch.bool), "found torch.bool of shape (4,)"),
    ],
)
def test_labels(given: object, message: str) -> None:
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
    message = f"logits (4, K), {found}; pass a function"
    fails(message, saliency_map, model, IMAGES, LABELS)
    fails(message, saliency_map, model, IMAGES)


@pytest.mark.parametrize(
    "model",
    [lambda x: MODEL(x.detach()), lambda x: torch.ones(4, 5), torch.no_grad()(lambda x: MODEL(x))],
)
def test_logits_that_do_not_depend_on_the_input(model: Callable) -> None:
    fails("do not depend on its input", saliency_map, model, IMAGES)


@pytest.mark.parametrize("scale", [0.0, -0.5, 1.5, float("nan")])
def test_scale(scale: float) -> None:
    message = f"in (0, 1], found {scale}"
    fails(message, saliency_map, MODEL, IMAGES, scale=scale)
    fails(message, GradientSaliency, MODEL, scale=scale)


def test_reentrant_checkpointing() -> None:
    def model(images: Tensor) -> Tensor:
        return checkpoint(MODEL, images, use_reentrant=True)

    with pytest.raises(ValueError, match="use_reentrant=False"):
        saliency_map(model, IMAGES, LABELS)


@pytest.mark.filterwarnings("ignore:FSDP")  # which splits nothing in one process
def test_a_model_that_fsdp_has_split(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = FullyShardedDataParallel(network(), device_id=torch.device("cpu"))
        head = EarlyHead(model, "_fsdp_wrapped_module.0", NUM_CLASSES)
        vit = timm.models.VisionTransformer(8, 4, embed_dim=8, depth=1, num_heads=1)
        attention = AttentionSaliency(FullyShardedDataParallel(vit, device_id=torch.device("cpu")))
        for source in (GradientSaliency(model), GradientSaliency(model, head=head), attention):
            fails("split the model by torch.distributed.fsdp.fully_shard", source, IMAGES, LABELS)
    finally:
        dist.destroy_process_group()


def test_a_model_for_images_of_one_size() -> None:
    with pytest.raises(ValueError, match="refuses images of .4, 4., 0.5 of their size.*scale=1"):
        saliency_map(make("timm ViT"), randn(4, 3, 8, 8), LABELS, scale=0.5)
    fixed = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5))  # a RuntimeError of torch's
    with pytest.raises(ValueError, match="refuses images of .4, 4., 0.5 of their size.*scale=1"):
        saliency_map(fixed, randn(4, 3, 8, 8), LABELS, scale=0.5)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        saliency_map(fixed, randn(4, 3, 4, 4), LABELS)


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
    message = f"in [0, 1], found {p}"
    fails(message, Cutout, p=p)
    fails(message, RandomErasing, p)
    fails(message, CutMix, 5, p=p)


def test_fill() -> None:
    for wrong in ("mean", None, 1j, ["mean"], torch.ones(3, 1, 1)):
        fails(f"or 'random', found {wrong!r}", Cutout, fill=wrong)
    fails("found [0.5]", cut, fill=[0.5])
    fails("(3,), does not fit", cut, fill=torch.ones(3))
    fails("does not fit", cut, fill=torch.ones(2, 1, 1, 1, 1))
    fails("fill is on meta", cut, fill=torch.ones(3, 1, 1, device="meta"))
    for value in (float("nan"), float("inf")):
        for several in (value, (0, value, 0), torch.tensor([0, 0, value])):
            fails("fill must be finite", Cutout, fill=several)
        fails("fill must be finite", cut, fill=value)
        fails("fill holds NaN or infinite values", cut, fill=torch.full((3, 1, 1), value))
    message = "(0.1, 0.2) must have a number for each of 3 channels"
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
        ((0.1, 0.4), (0.3, float("inf"))),
    ],
)
def test_ranges_of_random_erasing(scale: tuple, ratio: tuple) -> None:
    message = f"{scale} and ratio {ratio}"
    fails(message, RandomErasing, scale=scale, ratio=ratio)


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_alpha(alpha: float) -> None:
    fails(f"positive, found {alpha}", CutMix, 5, alpha)


def test_a_map_comes_from_a_model_or_from_a_function() -> None:
    message = "either a model, for its gradient map, or saliency="
    for method in (KeepCutout, KeepRandomErasing, KeepPaste):
        fails(message, method)
        fails(message, method, MODEL, saliency=a_map)
    fails(message, KeepCutMix, None, 5)
    fails(message, KeepCutMix, MODEL, 5, saliency=a_map)


@pytest.mark.parametrize("wrong", [numpy.random.default_rng(0), numpy.random.RandomState(0), 0])
def test_a_generator_of_another_kind(wrong: object) -> None:
    message = "a function (shape, device) -> numbers or None, found " + type(wrong).__name__
    fails(message, Cutout, generator=wrong)
    fails(message, CutMix, 5, generator=wrong)
    fails(message, KeepPaste, MODEL, generator=wrong)
    fails(message, cut, generator=wrong)
    fails(message, ShuffledSaliency(a_map, wrong), IMAGES)  # type: ignore[arg-type]


class Drawn(Dataset):
    """What a cut draws with a generator of the main process."""

    def __init__(self, generator: torch.Generator | None) -> None:
        self.cut = Cutout(3, generator=generator)

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Tensor:
        return self.cut.mask(torch.ones(1, 3, 64, 64))


def test_a_generator_in_a_worker_would_repeat_itself() -> None:
    with pytest.raises(ValueError, match="torch.Generator in a DataLoader worker is a copy"):
        next(iter(DataLoader(Drawn(torch.Generator()), num_workers=2)))
    seen = {batch.numpy().tobytes() for _ in range(2) for batch in DataLoader(Drawn(None), 4)}
    assert len(seen) == 4


@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.vmap, torch.func.jacrev])
def test_a_map_within_a_transform_of_functions(transform: Callable) -> None:
    vit = timm.models.VisionTransformer(8, 4, embed_dim=8, depth=1, num_heads=1)
    images = randn(2, 3, 8, 8)
    for saliency in (GradientSaliency(MODEL), AttentionSaliency(vit)):
        step = transform(lambda x, each=saliency: each(x.view(-1, 3, 8, 8)).sum())
        fails("a map cannot be taken within torch.func.vmap, grad", step, images)


def test_a_map_without_a_model_within_a_transform_of_functions() -> None:
    def cut(image: Tensor) -> Tensor:
        return KeepCutout(saliency=lambda images, _: images[:, 0], size=4)(image[None])[0]

    images = rand(3, 3, 8, 8) + 1
    changed = torch.func.vmap(cut, randomness="different")(images)
    assert torch.equal(changed != images, (changed == 0)) and (changed == 0).any((1, 2, 3)).all()


def test_match_area_needs_its_numbers() -> None:
    settings = {"side": "low", "match_area": True}
    fails("uniform numbers u (B,)", allowed_regions, SALIENCY, IMAGES, 3, **settings)


# Values are looked at only where this costs nothing


def test_values_that_cannot_be_looked_at_are_not() -> None:
    """Tensors on the meta device have none; a GPU's would have to be waited for."""
    check_saliency(SALIENCY.to("meta"))
    check_labels(LABELS.to("meta"), 4, 5)
    check_labels(LABELS.to(torch.uint16), 4, 5)
    check_size(torch.ones(4, 2, dtype=torch.long, device="meta"), 4, (8, 10))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
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
