"""The methods of Tables 4 and 5, each against its definition."""

from __future__ import annotations

import copy
import io
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from classification.comparisons import (
    AttentiveCutMix,
    GridMask,
    ManifoldMixup,
    Mixup,
    add_dropblock,
    attention_of,
    check_regularised,
    regularisers,
    set_drop_block,
)
from classification.comparisons.drop_block import _DropBlock
from classification.comparisons.mixup import blend
from keepaugment import EarlyHead, GradientSaliency
from keepaugment.draws import symmetric_beta
from keepaugment.no_trace import no_trace

CPU = torch.device("cpu")
META = torch.device("meta")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=seeded(seed))


def given(*rows: Any) -> Callable[[tuple[int, ...], torch.device], Tensor]:
    """A source of random numbers that gives these, whatever is asked for: (B, n)."""
    return lambda shape, device: torch.tensor(rows).reshape(shape)


def unknown(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Random numbers without values: whoever looks at one raises."""
    return torch.empty(shape, device=META)


def own_channel(batch: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Images whose one bright channel is their number, and that number as their label.

    The mean of a mixed image's channels is then its target.
    """
    images = torch.eye(batch)[:, :, None, None].expand(batch, batch, height, width).clone()
    return images, torch.arange(batch)


def assert_share(count: int, total: int, p: float) -> None:
    """Five standard deviations of a binomial distribution."""
    assert abs(count - total * p) <= 5 * math.sqrt(total * p * (1 - p))


# GridMask


def published_grid(
    shape: tuple[int, int], d: int, ratio: float, rows: int, columns: int, angle: int
) -> Tensor:
    """What imagenet_grid/utils/grid.py zeroes in its mode 1: a bool mask."""
    h, w = shape
    side = math.ceil(math.sqrt(h * h + w * w))
    stripe = math.ceil(d * ratio)
    mask = np.ones((side, side), np.uint8)
    for i in range(-1, side // d + 1):
        for start, axis in ((rows, 0), (columns, 1)):
            low, high = (max(min(v, side), 0) for v in (d * i + start, d * i + start + stripe))
            mask[(slice(None),) * axis + (slice(low, high),)] = 0
    turned = np.asarray(Image.fromarray(mask).rotate(angle))
    top, left = (side - h) // 2, (side - w) // 2
    return torch.tensor(turned[top : top + h, left : left + w]) == 1


@pytest.mark.parametrize("shape", [(32, 32), (20, 45), (45, 20)])
@pytest.mark.parametrize("ratio", [0.4, 0.6])
def test_an_unturned_grid_is_the_published_one(shape: tuple[int, int], ratio: float) -> None:
    u = rand(50, 5)
    method = GridMask(ratio=ratio, p=1.0, generator=lambda *_: u)
    for mask, (_, *draws) in zip(method.mask(torch.zeros(50, 3, *shape)), u, strict=True):
        d = 24 + int(draws[0] * 9)
        rows, columns = int(draws[1] * d), int(draws[2] * d)
        assert torch.equal(mask[0], published_grid(shape, d, ratio, rows, columns, 0))


@pytest.mark.parametrize("shape", [(224, 224), (160, 225)])
def test_a_turned_grid_is_the_published_one(shape: tuple[int, int]) -> None:
    u = rand(8, 5)
    u[:4, 4] = torch.tensor([0.0, 90.0, 180.0, 270.0]) / 360 + 1e-6
    method = GridMask((96, 223), 0.6, 1.0, rotate=360, generator=lambda *_: u)
    for mask, (_, *draws) in zip(method.mask(torch.zeros(8, 3, *shape)), u, strict=True):
        d, angle = 96 + int(draws[0] * 128), int(draws[3] * 360)
        rows, columns = int(draws[1] * d), int(draws[2] * d)
        expected = published_grid(shape, d, 0.6, rows, columns, angle)
        assert (mask[0] != expected).float().mean() < (2e-3 if angle % 90 else 1e-12)


@pytest.mark.parametrize("index", range(9))
def test_periods_are_the_whole_numbers_from_24_to_32(index: int) -> None:
    draws = [0.0, (index + 0.5) / 9, 0.0, 0.0, 0.0]
    mask = GridMask(p=1.0, generator=given(draws)).mask(torch.zeros(1, 3, 200, 200))[0, 0]
    starts = (mask.any(1).int().diff() == 1).nonzero().flatten()
    assert set(starts.diff().tolist()) == {24 + index}


def test_the_zeroed_area_over_all_offsets_is_the_square_of_the_gap() -> None:
    d, stripe = 5, 2  # ceil(5 * 0.4)
    offsets = (torch.arange(d) + 0.5) / d
    rows = [[0.0, 0.0, a, b, 0.0] for a, b in itertools.product(offsets.tolist(), repeat=2)]
    mask = GridMask((d, d), p=1.0, generator=given(*rows)).mask(torch.zeros(d * d, 3, 7, 9))
    assert torch.allclose(mask.float().mean(0), torch.tensor(((d - stripe) / d) ** 2))


@pytest.mark.parametrize(
    ("options", "side", "expected"),
    [
        ({}, 32, np.mean([((d - math.ceil(d * 0.4)) / d) ** 2 for d in range(24, 33)])),
        ({"rotate": 360, "d": (12, 28), "ratio": 0.6}, 28, None),
    ],
)
def test_the_zeroed_area_of_the_defaults(
    options: dict[str, Any], side: int, expected: float | None
) -> None:
    if expected is None:
        expected = float(np.mean([((d - math.ceil(d * 0.6)) / d) ** 2 for d in range(12, 29)]))
    method = GridMask(**options, p=1.0, generator=seeded())
    share = method.mask(torch.zeros(4000, 1, side, side)).float().mean((1, 2, 3))
    assert abs(share.mean() - expected) < 5 * share.std() / math.sqrt(4000)


@pytest.mark.parametrize(
    ("epoch", "p"), [(None, 0.8), (0, 0.0), (70, 0.2), (140, 0.4), (280, 0.8), (299, 0.8)]
)
def test_the_share_of_masked_images_grows_with_the_epoch(epoch: int | None, p: float) -> None:
    method = GridMask(generator=seeded())
    if epoch is not None:
        method.set_epoch(epoch)
    masked = int(method.mask(torch.zeros(4000, 1, 32, 32)).any((1, 2, 3)).sum())
    assert_share(masked, 4000, p)


def test_grid_mask_without_a_ramp_and_with_a_mask_drawn_before() -> None:
    method = GridMask(p=1.0, ramp_epochs=0, generator=seeded())
    method.set_epoch(0)
    images = 1.0 + rand(6, 3, 32, 32)
    mask = method.mask(images, torch.arange(6))
    assert mask.shape == (6, 1, 32, 32) and bool(mask.any((1, 2, 3)).all())
    assert torch.equal(method(images, mask=mask), images * ~mask)


# Mixup


def test_mixup_by_hand() -> None:
    rows = [[0.3, 0.2, 0.9], [0.9, 0.9, 0.1], [0.8, 0.7, 0.5]]  # the last: partners 1, 2, 0
    lam = float(symmetric_beta(0.2, torch.tensor(0.3), torch.tensor(0.2)))
    images, labels = rand(3, 3, 4, 4), torch.tensor([2, 0, 0])
    mixed, targets = Mixup(3, generator=given(*rows))(images, labels)
    assert torch.allclose(mixed, lam * images + (1 - lam) * images[[1, 2, 0]])
    by_hand = torch.tensor([[1 - lam, 0, lam], [1, 0, 0], [lam, 0, 1 - lam]])
    assert torch.allclose(targets, by_hand)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_lambda_is_beta(alpha: float) -> None:
    mix, images, labels = Mixup(3, alpha, generator=seeded()), *own_channel(3, 1, 1)
    lams = []
    for _ in range(2000):
        mixed, targets = mix(images, labels)
        assert torch.equal(mixed.flatten(1), targets)
        lams.append(targets[0, 0])  # lambda, or 1 where the image is its own partner
    variance = 4 * (torch.stack(lams) - 0.5).square().mean()
    assert abs(variance - (1 / 3 + 2 / 3 / (2 * alpha + 1))) < 0.05


def test_blend_leaves_a_row_of_weight_zero_as_it_is() -> None:
    x = torch.randn(5, 7, generator=seeded()) * 1e6
    weight = torch.tensor([0.0, 1.0, 0.0, 0.5, 0.0])[:, None]
    mixed = blend(x, torch.tensor([1, 0, 3, 3, 0]), weight)
    assert torch.equal(mixed[[0, 2, 4]], x[[0, 2, 4]]) and torch.equal(mixed[1], x[0])
    assert torch.equal(mixed[3], x[3])


# Manifold mixup


class Net(nn.Module):
    """Two stages that are no linear maps, so that it matters where a batch is mixed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.layer1 = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Tanh())
        self.layer2 = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Tanh())
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer2(self.layer1(self.conv1(x))).mean((2, 3)))


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def at_place(place: int) -> list[list[float]]:
    """Draws for three images: the batch is mixed at `place` of 3, partners are 1, 2, 0."""
    return [[0.3, 0.2, (place + 0.5) / 3, 0.9], [0.9, 0.9, 0.9, 0.1], [0.8, 0.7, 0.2, 0.5]]


def mixed_at(place: int, model: Net | None = None) -> tuple[Net, ManifoldMixup]:
    model = net() if model is None else model
    source = given(*at_place(place))
    return model, ManifoldMixup(model, ("layer1", "layer2"), 3, 0.5, generator=source)


IMAGES, LABELS = rand(3, 3, 8, 8, seed=4), torch.tensor([2, 0, 1])
LAM = float(symmetric_beta(0.5, torch.tensor(0.3), torch.tensor(0.2)))


def mixed_by_hand(place: int) -> Tensor:
    """Logits of a fresh model, mixed in the middle of its own forward pass."""

    def mix(x: Tensor) -> Tensor:
        return LAM * x + (1 - LAM) * x[[1, 2, 0]]

    model = net()
    x = model.conv1(mix(IMAGES) if place == 0 else IMAGES)
    x = mix(model.layer1(x)) if place == 1 else model.layer1(x)
    x = mix(model.layer2(x)) if place == 2 else model.layer2(x)
    return model.fc(x.mean((2, 3)))


@pytest.mark.parametrize("place", range(3))
def test_manifold_mixup_by_hand(place: int) -> None:
    model, mix = mixed_at(place)
    images, targets = mix(IMAGES, LABELS)
    assert torch.equal(images, IMAGES) == (place > 0)
    assert torch.allclose(model(images), mixed_by_hand(place), atol=1e-6)
    one_hot = F.one_hot(LABELS, 3).float()
    assert torch.allclose(targets, LAM * one_hot + (1 - LAM) * one_hot[[1, 2, 0]])


def test_manifold_mixup_has_the_gradient_of_the_mixed_pass() -> None:
    model, mix = mixed_at(1)
    images, targets = mix(IMAGES, LABELS)
    weight = model.conv1.weight
    F.cross_entropy(model(images), targets).backward()
    gradient, grad = torch.tensor(0.0), weight.grad
    assert grad is not None
    with torch.no_grad():
        step = 1e-3 * grad / grad.norm()
        losses = []
        for sign in (1, -1):
            weight += sign * step
            losses.append(F.cross_entropy(model(mix(IMAGES, LABELS)[0]), targets))
            weight -= sign * step
        gradient = (losses[0] - losses[1]) / 2e-3
    assert torch.allclose(gradient, grad.norm(), rtol=0.05)


def test_only_the_next_training_pass_is_mixed() -> None:
    model, mix = mixed_at(2)
    model.eval()
    plain_eval = model(IMAGES)
    mix(IMAGES, LABELS)
    assert torch.equal(model(IMAGES), plain_eval)
    with no_trace(model.train(), CPU):
        assert torch.equal(model(IMAGES), plain_eval)
    mixed, plain = model(IMAGES), model(IMAGES)  # the plan has waited for this
    assert torch.allclose(mixed, mixed_by_hand(2), atol=1e-6)
    assert not torch.allclose(mixed, plain, atol=1e-3)


def test_maps_are_the_same_while_a_plan_waits() -> None:
    model, mix = mixed_at(1)
    head = EarlyHead(model, "layer1", 3)
    for saliency in (GradientSaliency(model), GradientSaliency(model, 0.75, head)):
        expected = saliency(IMAGES, LABELS)
        mix(IMAGES, LABELS)
        assert torch.equal(saliency(IMAGES, LABELS), expected)


def test_a_pass_that_fails_uses_its_plan_up() -> None:
    model, mix = mixed_at(1)
    mix(IMAGES, LABELS)
    with pytest.raises(ValueError, match="for the 3 images.*found \\(2, 4, 4, 4\\)"):
        model(IMAGES[:2])
    assert torch.equal(model(IMAGES), net()(IMAGES))


def test_a_frozen_stage_is_mixed_after_too() -> None:
    model, mix = mixed_at(2)
    model.layer2.eval()  # it has no BatchNorm: only its mode changes
    assert torch.allclose(model(mix(IMAGES, LABELS)[0]), mixed_by_hand(2), atol=1e-6)


def test_manifold_mixup_leaves_the_model_as_it_was() -> None:
    before = net().state_dict()
    model, mix = mixed_at(1)
    assert list(model.state_dict()) == list(before)
    mix(IMAGES, LABELS)
    twin = copy.deepcopy(model)  # with its plan, as an average of the weights would be made
    torch.save(model, io.BytesIO())
    mixed = model(IMAGES)
    assert torch.equal(twin(IMAGES), mixed) and not torch.equal(twin(IMAGES), mixed)
    mix.remove()
    mix(IMAGES, LABELS)
    assert torch.equal(model(IMAGES), twin(IMAGES))
    hooks = (model._forward_hooks, model._forward_pre_hooks, model._forward_hooks_always_called)
    assert not any(hooks) and not model.layer1._forward_hooks


def test_places_are_uniform() -> None:
    mix = ManifoldMixup(net(), ("layer1", "layer2"), 3, generator=seeded())
    counts = [0, 0, 0]
    images, labels = own_channel(3, 1, 1)
    for _ in range(1500):
        mixed, targets = mix(images, labels)
        weights = [float(w) for w in mix.plan.weights]
        counts[next((i for i, w in enumerate(weights, 1) if w > 0), 0)] += 1
        assert sum(w > 0 for w in weights) <= 1
        if any(weights):
            assert torch.equal(mixed, images)
    for count in counts:
        assert_share(count, 1500, 1 / 3)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch 2.10, of its own making
@pytest.mark.parametrize("place", [0, 1])
def test_a_compiled_model_is_mixed_too(place: int) -> None:
    model, mix = mixed_at(place)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(mix(IMAGES, LABELS)[0]), mixed_by_hand(place), atol=1e-6)
    model.load_state_dict(net().state_dict())
    assert torch.allclose(compiled(IMAGES), net()(IMAGES), atol=1e-6)


# Attentive CutMix


def test_attentive_cutmix_by_hand() -> None:
    importance = torch.zeros(2, 7, 7)
    importance[0, 0, :6] = 1.0  # the top row but its last cell
    importance[1, 6, 1:] = 1.0  # the bottom row but its first
    images = torch.stack((torch.full((3, 14, 14), 1.0), torch.full((3, 14, 14), 2.0)))
    method = AttentiveCutMix(lambda x: importance, 2, generator=given(0.9, 0.1))  # they swap
    mixed, targets = method(images, torch.tensor([0, 1]))
    expected = images.clone()
    expected[0, :, 12:, 2:] = 2.0
    expected[1, :, :2, :12] = 1.0
    assert torch.equal(mixed, expected)
    assert torch.allclose(targets, torch.tensor([[43, 6], [6, 43]]) / 49)


@pytest.mark.parametrize("shape", [(32, 32), (33, 40), (56, 28), (224, 224), (9, 7)])
def test_cells_are_those_of_a_nearest_neighbour_resize(shape: tuple[int, int]) -> None:
    importance = rand(5, 7, 7)
    mask = AttentiveCutMix(lambda x: importance, 5).mask(torch.zeros(5, 3, *shape))
    limit = importance.flatten(1).sort(1).values[:, -6, None, None]
    cells = (importance >= limit).float()[:, None]
    assert torch.equal(mask, F.interpolate(cells, shape, mode="nearest") > 0)


@pytest.mark.parametrize("side", [14, 32])
def test_targets_are_the_shares_of_the_pixels(side: int) -> None:
    images, labels = own_channel(6, side, side)
    method = AttentiveCutMix(lambda x: rand(6, 7, 7), 6, generator=seeded())
    mixed, targets = method(images, labels)
    assert torch.allclose(mixed.mean((2, 3)), targets, atol=1e-6)
    assert torch.allclose(targets.sum(1), torch.ones(6))
    if side == 14:
        shares = targets[targets > 0]
        assert ((shares - 6 / 49).abs() < 1e-6).any()
        assert all(min(abs(s - v) for v in (6 / 49, 43 / 49, 1)) < 1e-6 for s in shares)


def test_a_map_that_is_constant_still_gives_six_cells() -> None:
    mask = AttentiveCutMix(lambda x: torch.zeros(3, 7, 7), 3).mask(torch.zeros(3, 3, 7, 7))
    assert mask.sum((1, 2, 3)).tolist() == [6, 6, 6]


def test_attention_is_the_mean_over_channels_in_evaluation() -> None:
    torch.manual_seed(1)
    model = net().train()
    model(rand(6, 3, 8, 8) * 3)  # running statistics that are not those of the start
    twin = copy.deepcopy(model).eval()
    before = copy.deepcopy(model.state_dict())
    attention = attention_of(
        model, "layer2", mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD, size=8
    )
    importance = attention(IMAGES.requires_grad_(False))
    expected = twin.layer2(twin.layer1(twin.conv1(IMAGES))).mean(1)
    assert torch.allclose(importance, expected, atol=1e-6) and not importance.requires_grad
    assert model.training and model.layer1[1].training and not model.layer2._forward_hooks
    assert all(torch.equal(before[name], v) for name, v in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_the_network_sees_resized_images_normalised_as_imagenet_is() -> None:
    pixels = rand(2, 3, 5, 5)
    mean, std = torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.5, 0.2, 0.1])
    images = (pixels - mean[:, None, None]) / std[:, None, None]
    seen = nn.Sequential(nn.Identity())
    sizes = {}
    for size in (5, 10):
        attention = attention_of(seen, "0", mean=mean.tolist(), std=std.tolist(), size=size)
        resized = F.interpolate(pixels, (size, size), mode="bilinear")
        expected = torchvision.transforms.functional.normalize(
            resized, list(IMAGENET_DEFAULT_MEAN), list(IMAGENET_DEFAULT_STD)
        )
        sizes[size] = attention(images)
        assert torch.allclose(sizes[size], expected.mean(1), atol=1e-5)


def test_a_resnet_has_seven_by_seven_cells_and_a_name_means_trained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def create_model(name: str, pretrained: bool) -> nn.Module:
        asked.append((name, pretrained))
        return torchvision.models.resnet18(num_classes=2)

    monkeypatch.setattr(timm, "create_model", create_model)
    stats: dict[str, Any] = {"mean": [0.5] * 3, "std": [0.25] * 3}
    attention_of(nn.Sequential(nn.Identity()), "0", **stats)
    assert asked == []
    assert attention_of("resnet18", **stats)(rand(1, 3, 32, 32)).shape == (1, 7, 7)
    assert asked == [("resnet18", True)]


# DropBlock


def torchvision_resnet(basic: bool = False) -> nn.Module:
    torch.manual_seed(0)
    block: Any = (
        torchvision.models.resnet.BasicBlock if basic else torchvision.models.resnet.Bottleneck
    )
    width = 64 if basic else 4
    return torchvision.models.ResNet(block, [1, 1, 2, 2], num_classes=3, width_per_group=width)


def timm_resnet(basic: bool = False) -> nn.Module:
    torch.manual_seed(0)
    block: Any = timm.models.resnet.BasicBlock if basic else timm.models.resnet.Bottleneck
    return timm.models.ResNet(
        block, (1, 1, 2, 2), num_classes=3, channels=(4, 4, 8, 8), zero_init_last=False
    )


RESNETS = {"torchvision": torchvision_resnet, "timm": timm_resnet}
every_resnet = pytest.mark.parametrize("make", RESNETS.values(), ids=RESNETS)


def block_by_hand(block: Any, x: Tensor, drop: Callable[[Tensor], Tensor], shortcut: Any) -> Tensor:
    """A bottleneck of tensorflow/tpu's resnet_model.py, dropping after every convolution's ReLU."""
    out = drop(F.relu(block.bn1(block.conv1(x))))
    out = drop(F.relu(block.bn2(block.conv2(out))))
    out = drop(block.bn3(block.conv3(out)))
    return F.relu(out + drop(x if shortcut is None else shortcut(x)))


@every_resnet
@pytest.mark.parametrize("index", [0, 1])
def test_a_block_with_dropblock_by_hand(make: Callable[..., nn.Module], index: int) -> None:
    plain, model = make(), make()
    add_dropblock(model, keep_prob=0.8, block_size=3)
    own, dropping = (m.get_submodule(f"layer4.{index}") for m in (plain, model))
    chans = next(own.get_submodule("conv1").parameters()).shape[1]
    x = torch.randn(8, chans, 6, 6, generator=seeded())
    torch.manual_seed(5)
    out = dropping(x)
    torch.manual_seed(5)
    drop = torchvision.ops.DropBlock2d(0.2, 3)
    expected = block_by_hand(own, x, drop, own.downsample)
    assert torch.allclose(out, expected, atol=1e-6) and not torch.allclose(out, own(x), atol=0.1)


@every_resnet
@pytest.mark.parametrize("basic", [False, True])
def test_dropblock_leaves_state_and_evaluation_alone(
    make: Callable[..., nn.Module], basic: bool
) -> None:
    plain, model = make(basic), make(basic)
    add_dropblock(model)
    assert list(model.state_dict()) == list(plain.state_dict())
    model.load_state_dict(plain.state_dict())
    x = rand(2, 3, 64, 64)
    assert torch.equal(model.eval()(x), plain.eval()(x))
    with no_trace(model.train(), CPU):
        assert torch.equal(model(x), plain(x))
    set_drop_block(model, 0.0)
    assert torch.equal(model(x), plain.train()(x))
    set_drop_block(model, 1.0)
    assert torch.isfinite(model(x)).all() and not torch.equal(model(x), plain(x))
    twin = copy.deepcopy(model)
    set_drop_block(twin, 0.0)
    assert torch.equal(twin.eval()(x), model.eval()(x))
    assert torch.equal(twin.train()(x), make(basic)(x))
    assert not torch.equal(model.train()(x), make(basic)(x))


@every_resnet
def test_rates_of_the_stages_grow_linearly(make: Callable[..., nn.Module]) -> None:
    model = make()
    add_dropblock(model)
    for share in (None, 0.0, 0.25, 1.0):
        if share is not None:
            set_drop_block(model, share)
        for layer, end, count in (("layer1", 0, 0), ("layer3", 0.025, 8), ("layer4", 0.1, 8)):
            found = [m for m in model.get_submodule(layer).modules() if isinstance(m, _DropBlock)]
            assert len(found) == count  # 3 convolutions and a skip in each of 2 blocks
            for block in found:
                assert block.p == pytest.approx(end * (1.0 if share is None else share))
                assert block.block_size == 7


def test_a_block_as_large_as_the_map_drops_whole_channels() -> None:
    torch.manual_seed(0)
    dropped = _DropBlock(0.1, 7)(torch.ones(64, 64, 7, 7))
    share = (dropped == 0).float().mean((2, 3))
    assert set(share.unique().tolist()) == {0.0, 1.0}
    assert_share(int(share.sum()), 64 * 64, 0.1)
    assert float(dropped.mean()) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(("side", "block"), [(6, 5), (2, 1), (9, 7)])
def test_blocks_are_the_largest_odd_ones_that_fit(side: int, block: int) -> None:
    torch.manual_seed(0)
    p = 0.1
    dropped = _DropBlock(p, 7)(torch.ones(300, 40, side, side)) == 0
    seeds = side - block + 1
    gamma = p * side**2 / (block**2 * seeds**2)
    corner, share = dropped[:, :, 0, 0], dropped.float().mean()  # one seed reaches the corner
    assert_share(int(corner.sum()), corner.numel(), gamma)
    assert 0.7 * p < share < 1.05 * p  # blocks overlap a little


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dropblock_in_half_precision_keeps_the_mean(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.ones(32, 64, 7, 7, dtype=dtype)  # 100 352 elements: more than float16 can count
    dropped = _DropBlock(0.1, 7)(x)
    assert dropped.dtype == dtype
    assert float(dropped.float().mean()) == pytest.approx(1.0, abs=4e-3)


# Dropout and stochastic depth


@pytest.mark.parametrize("arch", ["resnet18.a1_in1k", "vit_tiny_patch16_224"])
@pytest.mark.parametrize("method", ["none", "dropout", "droppath"])
def test_timm_takes_the_regularisers(arch: str, method: str) -> None:
    options: dict[str, Any] = dict(regularisers(method))
    model = timm.create_model(arch, pretrained=False, num_classes=2, **options)
    check_regularised(model, options)
    if options:
        with pytest.raises(ValueError, match="was to have drop_.*found 0.0"):
            check_regularised(timm.create_model(arch, num_classes=2), options)


def test_the_options_are_the_papers_and_cannot_be_changed() -> None:
    regularisers("dropout")["drop_rate"] = 0.9
    assert regularisers("dropout") == {"drop_rate": 0.3}
    assert regularisers("droppath") == {"drop_path_rate": 0.1}


# All


def identity(images: Tensor) -> Tensor:
    return images[:, 0, :7, :7]


METHODS: dict[str, Callable[[Any], Any]] = {
    "grid": lambda source: GridMask(generator=source),
    "turned grid": lambda source: GridMask(rotate=360, generator=source),
    "mixup": lambda source: Mixup(10, generator=source),
    "manifold": lambda source: ManifoldMixup(net(), ["layer1"], 10, generator=source),
    "attentive": lambda source: AttentiveCutMix(identity, 10, generator=source),
}


@pytest.mark.parametrize("name", METHODS)
def test_one_seed_one_batch_and_the_input_is_left_alone(name: str) -> None:
    images, labels = rand(8, 3, 32, 32), torch.arange(8)
    before = images.clone()
    first, second, other = (METHODS[name](seeded(seed)) for seed in (3, 3, 4))
    differs = False
    for _ in range(4):
        a, b, c = (method(images, labels) for method in (first, second, other))
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
        differs |= not all(torch.equal(x, y) for x, y in zip(a, c, strict=True))
    assert differs and torch.equal(images, before)


@pytest.mark.parametrize("name", METHODS)
def test_nothing_is_read_back_from_the_device(name: str) -> None:
    images, labels = torch.empty(4, 3, 32, 32, device=META), torch.zeros(4, device=META).long()
    result = METHODS[name](unknown)(images, labels)  # to read a number of the meta device raises
    changed, *targets = result if isinstance(result, tuple) else (result,)
    assert changed.shape == images.shape and changed.device == META
    assert all(t.shape == (4, 10) and t.device == META for t in targets)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_images_keep_their_precision(name: str, dtype: torch.dtype) -> None:
    result = METHODS[name](seeded())(rand(4, 3, 32, 32).to(dtype), torch.arange(4))
    changed, *targets = result if isinstance(result, tuple) else (result,)
    assert changed.dtype == dtype and all(t.dtype == torch.float32 for t in targets)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GridMask((0, 5)), "at least one pixel, found \\(0, 5\\)"),
        (lambda: GridMask((9, 5)), "d must be a range"),
        (lambda: GridMask(ratio=1.5), "found 1.5"),
        (lambda: GridMask(rotate=-1), "found -1"),
        (lambda: Mixup(10, 0.0), "must be positive, found 10 and 0.0"),
        (lambda: ManifoldMixup(net(), "layer1", 3), "sequence of names, found 'layer1'"),
        (lambda: ManifoldMixup(net(), ["stage9"], 3), "no layer 'stage9' in Net; it has conv1"),
        (lambda: AttentiveCutMix(identity, 3, top=50), "found 50 of 7 x 7"),
        (lambda: AttentiveCutMix(identity, 3, 6)(IMAGES, LABELS), "must give \\(3, 6, 6\\)"),
        (lambda: attention_of(net(), "fc", mean=[0.5], std=[0.5]), "three channels"),
        (lambda: add_dropblock(net()), "no layer 'layer3'"),
        (lambda: add_dropblock(net(), ["layer1"]), "must have bn1.*found Conv2d"),
        (lambda: add_dropblock(net(), ["layer1"], keep_prob=1.5), "found 1.5"),
        (lambda: set_drop_block(net(), 0.5), "call add_dropblock before"),
        (lambda: set_drop_block(net(), 1.5), "found 1.5"),
        (lambda: regularisers("drop"), "one of none, dropout, droppath, found 'drop'"),
        (lambda: Mixup(2)(IMAGES, LABELS), "in \\[0, 2\\), found 0 to 2"),
        (lambda: Mixup(3)(IMAGES.long(), LABELS), "floating point"),
        (lambda: GridMask()(IMAGES[0]), "\\(B, C, H, W\\)"),
    ],
)
def test_errors_say_what_was_found(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_dropblock_is_added_once() -> None:
    model = timm_resnet()
    add_dropblock(model)
    with pytest.raises(ValueError, match="has DropBlock already"):
        add_dropblock(model)


def test_attention_needs_a_feature_map() -> None:
    stats: dict[str, Any] = {"mean": [0.5] * 3, "std": [0.25] * 3, "size": 8}
    with pytest.raises(ValueError, match="give a tensor \\(B, C, h, w\\)"):
        attention_of(net(), "fc", **stats)(IMAGES)
