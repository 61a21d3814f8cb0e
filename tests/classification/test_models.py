from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classification.models import (
    MODELS,
    ShakeDrop,
    ShakeShake,
    check_side,
    cifar_resnet,
    create_model,
    find_model,
    pyramidnet,
    resnet18,
    shake_shake,
    wide_resnet,
)
from classification.models.layers import two_way_scale
from classification.models.resnet import PadShortcut, resnet
from classification.models.shake_shake import ShiftedShortcut

TINY: dict[str, Callable[..., nn.Sequential]] = {
    "resnet A": partial(cifar_resnet, 8),
    "resnet B": partial(cifar_resnet, 8, shortcut="B"),
    "four stages": partial(resnet, (1, 1, 1, 1), (4, 8, 12, 16)),
    "wide_resnet": partial(wide_resnet, 10, 1, dropout=0.3),
    "shake_shake": partial(shake_shake, 8, 4),
    "pyramidnet": partial(pyramidnet, 11, 12),
}
every_family = pytest.mark.parametrize("make", TINY.values(), ids=TINY)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def num_params(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


# Architectures


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("resnet20", {}, 269_722),
        ("resnet110", {}, 1_727_962),
        ("resnet110", {"shortcut": "B"}, 1_730_714),
        ("resnet18", {}, 11_173_962),
        ("wrn28_10", {}, 36_479_194),
        ("wrn28_10", {"dropout": 0.3}, 36_479_194),
        ("wrn28_2", {}, 1_467_610),
        ("shake_shake_26_2x96d", {}, 26_192_922),
        ("pyramidnet272_a200_shakedrop", {}, 26_210_842),
        ("air64_256_256", {}, 1_971_640 + 2 * (64 + 256 + 256)),  # airbench94's, and scales of 1
    ],
)
def test_parameter_counts(name: str, options: dict, expected: int) -> None:
    with torch.device("meta"):
        assert num_params(create_model(name, 10, **options)) == expected


def test_a_name_of_timms_trains_on_photographs_as_timms_alone() -> None:
    assert [check_side(name, 64) for name in ("resnet18", "wrn28_2")] == ["", ""]
    assert not any(check_side(name, 224) for name in ("resnet18.tv_in1k", "resnet50", "a.py:b"))
    assert "made for images of 32 pixels" in check_side("cifar_resnet18", 224)
    with pytest.raises(ValueError, match=r"resnet18\.\w+_in1k, or ours .* cifar_resnet18"):
        check_side("resnet18", 65)


@pytest.mark.parametrize(
    "name",
    [
        "resnet20",
        "cifar_resnet18",
        "resnet18.a1_in1k",
        "wide_resnet50_2.racm_in1k",
        "test_vit.r160_in1k",
    ],
)
def test_weights_tell_their_model(name: str) -> None:
    with torch.device("meta"):
        weights = create_model(name, 7, in_chans=1).state_dict()
    assert find_model(weights, like=name.partition("_")[0]) == name
    assert find_model({"weight": torch.zeros(2, 3)}, like=name) == ""


def test_resnet8_has_the_parameters_one_counts_by_hand() -> None:
    convs = 9 * (3 * 16 + 2 * 16 * 16 + 16 * 32 + 32 * 32 + 32 * 64 + 64 * 64)
    norms = 2 * (3 * 16 + 2 * 32 + 2 * 64)
    assert num_params(create_model("resnet8", 10)) == convs + norms + 64 * 10 + 10


def test_an_airbench_group_passes_its_input_on_at_first() -> None:
    images = randn(2, 24, 8, 8)
    group = create_model("air32_64_128", 10).layer1
    torch.testing.assert_close(group.conv1(images)[:, :24], images)
    assert [p.requires_grad for p in group.norm1.parameters()] == [False, True]


@pytest.mark.parametrize("name", MODELS)
def test_classes_and_input_channels_are_free(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name, 7, in_chans=1)
        assert model(torch.empty(2, 1, 32, 32)).shape == (2, 7)


@every_family
@pytest.mark.parametrize("size", [(32, 32), (16, 16), (19, 27)])
def test_logits_for_images_of_any_size(make: Callable, size: tuple[int, int]) -> None:
    for training in (True, False):
        assert make(5).train(training)(randn(3, 3, *size)).shape == (3, 5)


@every_family
def test_stages_are_attributes_and_each_but_the_first_halves_the_image(make: Callable) -> None:
    model = make(5)
    names = [name for name, _ in model.named_children() if name.startswith("layer")]
    assert names == [f"layer{i + 1}" for i in range(len(names))]
    sizes: list[tuple[int, ...]] = []
    for name in names:
        stage = model.get_submodule(name)
        stage.register_forward_hook(lambda module, args, out: sizes.append(tuple(out.shape[2:])))
    model(randn(2, 3, 19, 27))
    assert sizes == [(19, 27), (10, 14), (5, 7), (3, 4)][: len(names)]


@every_family
def test_no_later_layer_overwrites_a_stage_output(make: Callable) -> None:
    model, seen = make(5), []
    model.layer1.register_forward_hook(lambda module, args, out: seen.append((out, out.clone())))
    model(randn(2, 3, 8, 8))
    assert torch.equal(*seen[0])


def test_option_a_takes_every_second_pixel_and_appends_zeros() -> None:
    x = randn(2, 3, 5, 5)
    out = PadShortcut(7, 2)(x)
    assert torch.equal(out[:, :3], x[:, :, ::2, ::2])
    assert out.shape == (2, 7, 3, 3) and not out[:, 3:].any()


def test_the_paths_of_the_shake_shake_shortcut_see_different_pixels() -> None:
    shortcut: Any = ShiftedShortcut(1, 2, 2)
    shortcut.bn = nn.Identity()
    nn.init.ones_(shortcut.conv1.weight)
    nn.init.ones_(shortcut.conv2.weight)
    ramp = torch.arange(16.0).view(1, 1, 4, 4)
    assert shortcut(ramp).tolist() == [[[[0, 2], [8, 10]], [[5, 7], [13, 15]]]]


def test_the_wide_resnet_shortcut_sees_the_activated_input_and_has_no_norm() -> None:
    block: Any = wide_resnet(10, 1, 5).get_submodule("layer2.0").eval()
    x = randn(2, 16, 6, 6)
    nn.init.zeros_(block.conv2.weight)
    assert isinstance(block.shortcut, nn.Conv2d)
    assert torch.equal(block(x), block.shortcut(F.relu(block.bn1(x))))


def test_pyramidnet_widens_by_alpha_and_drops_ever_more() -> None:
    model: Any = pyramidnet(11, 12, 5)
    drops = [m.p_drop for m in model.modules() if isinstance(m, ShakeDrop)]
    widths = [m.num_features for n, m in model.named_modules() if n.endswith("bn3")]
    assert widths == [20, 24, 28]
    assert model.fc.in_features == 4 * 28
    assert drops == pytest.approx([0.5 / 3, 1.0 / 3, 1.5 / 3])


def test_the_pyramidnet_shortcut_averages_squares_and_appends_zeros() -> None:
    block: Any = pyramidnet(11, 12, 5).get_submodule("layer2.0").eval()
    nn.init.zeros_(block.branch.bn4.weight)
    x = randn(2, 80, 6, 6)
    out = block(x)
    torch.testing.assert_close(
        out[:, :80], x.unflatten(3, (3, 2)).unflatten(2, (3, 2)).mean((3, 5))
    )
    assert out.shape == (2, 96, 3, 3) and not out[:, 80:].any()


def test_the_resnet18_weights_are_pytorch_defaults() -> None:
    torch.manual_seed(0)
    expected = nn.Conv2d(3, 64, 3, bias=False).weight
    torch.manual_seed(0)
    model: Any = resnet18(10)
    assert torch.equal(model.conv1.weight, expected)
    assert model.fc.bias.any()


@pytest.mark.parametrize(
    "make",
    [
        partial(cifar_resnet, 8, shortcut="B"),
        partial(wide_resnet, 10, 2),
        partial(shake_shake, 8, 32),
        partial(pyramidnet, 11, 48),
    ],
)
def test_the_other_weights_are_he_normal_by_fan_out(make: Callable) -> None:
    torch.manual_seed(0)
    model = make(10)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            k, out = module.kernel_size[0], module.out_channels
            count = module.weight.numel()
            ratio = module.weight.std() / (2 / (k * k * out)) ** 0.5
            assert abs(ratio - 1) < 4 / (2 * count) ** 0.5  # four standard errors
            assert module.bias is None
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all()
    assert not model.fc.bias.any()


# What is random


def assert_uniform(sample: Tensor, low: float, high: float) -> None:
    """Kolmogorov-Smirnov at the 0.1 % level, and the range."""
    assert low <= sample.min() and sample.max() <= high
    ranks = (torch.arange(len(sample)) + 0.5) / len(sample)
    distance = ((sample.sort().values - low) / (high - low) - ranks).abs().max()
    assert distance < 1.95 / len(sample) ** 0.5


def assert_independent(a: Tensor, b: Tensor) -> None:
    """A correlation within four standard errors of zero."""
    assert torch.corrcoef(torch.stack((a, b)))[0, 1].abs() < 4 / len(a) ** 0.5


def per_image(x: Tensor) -> Tensor:
    """The one value that each image of `x` (B, C, H, W) holds: (B,)."""
    assert (x == x[:, :1, :1, :1]).all()
    return x[:, 0, 0, 0]


def coefficients_of_shake_shake(num: int) -> tuple[Tensor, Tensor, Tensor]:
    """Share of `a` in the value, and the gradients to `a` and `b`, each (num,)."""
    a = torch.ones(num, 2, 3, 3, requires_grad=True)
    b = torch.zeros(num, 2, 3, 3, requires_grad=True)
    out = ShakeShake()(a, b)
    grads = torch.autograd.grad(out.sum(), (a, b))
    return per_image(out.detach()), per_image(grads[0]), per_image(grads[1])


def coefficients_of_shake_drop(p_drop: float, num: int) -> tuple[Tensor, Tensor]:
    """Scale of the value and of the gradient, each (num,)."""
    x = torch.ones(num, 2, 3, 3, requires_grad=True)
    out = ShakeDrop(p_drop)(x)
    (grad,) = torch.autograd.grad(out.sum(), x)
    return per_image(out.detach()), per_image(grad)


def test_two_way_scale_has_one_scale_for_the_value_and_one_for_the_gradient() -> None:
    x = randn(2, 1, 2, 2).requires_grad_()
    forward, backward = torch.tensor([0.25, -1.0]), torch.tensor([0.5, 2.0])
    out = two_way_scale(x, forward=forward.view(2, 1, 1, 1), backward=backward.view(2, 1, 1, 1))
    torch.testing.assert_close(out, x * forward.view(2, 1, 1, 1))
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(per_image(grad), backward)


def test_shake_shake_draws_two_uniform_blends_per_image() -> None:
    torch.manual_seed(0)
    alpha, beta, rest = coefficients_of_shake_shake(4000)
    assert_uniform(alpha, 0, 1)
    assert_uniform(beta, 0, 1)
    assert_independent(alpha, beta)
    assert_independent(alpha[:-1], alpha[1:])
    torch.testing.assert_close(beta + rest, torch.ones(4000))
    assert len(alpha.unique()) > 3900


def test_shake_shake_value_is_a_blend_of_both_branches() -> None:
    a, b = randn(6, 2, 4, 4, seed=1), randn(6, 2, 4, 4, seed=2)
    torch.manual_seed(0)
    alpha, _, _ = coefficients_of_shake_shake(6)
    torch.manual_seed(0)
    alpha = alpha.view(6, 1, 1, 1)
    torch.testing.assert_close(ShakeShake()(a, b), alpha * a + (1 - alpha) * b)


def test_shake_shake_in_eval_mode_is_the_mean() -> None:
    a, b = randn(2, 3, 4, 4, seed=1), randn(2, 3, 4, 4, seed=2)
    a.requires_grad_()
    out = ShakeShake().eval()(a, b)
    (grad,) = torch.autograd.grad(out.sum(), a)
    assert torch.equal(out, (a + b) / 2)
    assert (grad == 0.5).all()


@pytest.mark.parametrize("p_drop", [0.1, 0.5])
def test_shake_drop_draws_a_gate_and_two_scales_per_image(p_drop: float) -> None:
    torch.manual_seed(0)
    num = 8000
    forward, backward = coefficients_of_shake_drop(p_drop, num)
    dropped = forward != 1
    assert (backward[~dropped] == 1).all()
    share = dropped.float().mean().item()
    assert abs(share - p_drop) < 4 * (p_drop * (1 - p_drop) / num) ** 0.5
    assert_uniform(forward[dropped], -1, 1)
    assert_uniform(backward[dropped], 0, 1)
    assert_independent(forward[dropped], backward[dropped])
    assert_independent(dropped[:-1].float(), dropped[1:].float())
    assert abs(forward.mean() - (1 - p_drop)) < 4 * forward.std() / num**0.5


def test_shake_drop_at_the_ends_of_its_probability() -> None:
    forward, backward = coefficients_of_shake_drop(0.0, 100)
    assert (forward == 1).all() and (backward == 1).all()
    forward, backward = coefficients_of_shake_drop(1.0, 100)
    assert (forward < 1).all() and (backward < 1).all()
    with pytest.raises(ValueError, match="p_drop 1.5"):
        ShakeDrop(1.5)


def test_shake_drop_in_eval_mode_is_the_expectation() -> None:
    x = randn(2, 3, 4, 4).requires_grad_()
    out = ShakeDrop(0.25).eval()(x)
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(out, 0.75 * x)
    assert (grad == 0.75).all()


@contextmanager
def leaves_in_eval_mode(model: nn.Module) -> Iterator[None]:
    leaves = [m for m in model.modules() if m.training and not any(m.children())]
    for leaf in leaves:
        leaf.eval()
    yield
    for leaf in leaves:
        leaf.train()


@every_family
def test_eval_mode_of_the_leaves_is_eval_mode_of_the_model(make: Callable) -> None:
    model, images = make(5).train(), randn(4, 3, 16, 16)
    with torch.no_grad():
        model(images)  # moves the running statistics
        with leaves_in_eval_mode(model):
            assert model.training
            once = model(images)
        assert torch.equal(once, model.eval()(images))


@pytest.mark.parametrize("family", ["wide_resnet", "shake_shake", "pyramidnet"])
def test_two_training_passes_differ_until_the_seed_is_repeated(family: str) -> None:
    model, images = TINY[family](5), randn(8, 3, 16, 16)
    torch.manual_seed(0)
    first, second = model(images), model(images)
    torch.manual_seed(0)
    assert not torch.equal(first, second)
    assert torch.equal(first, model(images))


@every_family
def test_training_step_under_bfloat16_autocast(make: Callable) -> None:
    model, images = make(5), randn(4, 3, 16, 16)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(images)
    assert logits.dtype == torch.bfloat16
    F.cross_entropy(logits.float(), torch.arange(4)).backward()
    for parameter in model.parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all()


# Names and options


def test_other_names_are_timms() -> None:
    model = create_model("resnet10t", 5, in_chans=1, pretrained=False).eval()
    assert model(randn(2, 1, 32, 32)).shape == (2, 5)


def test_a_tag_reaches_the_timm_model_that_ours_hides() -> None:
    with torch.device("meta"):
        assert num_params(create_model("resnet18.tv_in1k", 1000)) == 11_689_512


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("wrn28-10", "wrn28_10"), ("ResNet110", "resnet110"), ("vit_smal_patch16_224", "vit_small")],
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"unknown model '{name}'.*{nearest}"):
        create_model(name, 10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(cifar_resnet, 9), r"depth 9 is not 6n \+ 2"),
        (partial(cifar_resnet, 2), r"depth 2 is not 6n \+ 2"),
        (partial(wide_resnet, 26, 2), r"depth 26 is not 6n \+ 4"),
        (partial(pyramidnet, 30, 12), r"depth 30 is not 9n \+ 2"),
        (partial(shake_shake, 8, 5), "width 5 is odd"),
        (partial(cifar_resnet, 8, shortcut="C"), 'neither "A" nor "B"'),
    ],
)
def test_impossible_shapes_are_refused(make: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(10)


def test_nothing_is_fetched_from_a_hub_unless_asked_for() -> None:
    with pytest.raises(ValueError, match="hf-hub:a/b lies elsewhere; --download"):
        create_model("hf-hub:a/b", 10)
