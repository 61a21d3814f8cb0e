"""Recipes that bear a name, against the code that they are named after."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import timm
import torch
from timm.data import create_transform
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from torchvision import transforms as tv
from torchvision.models import ResNet50_Weights
from torchvision.ops._utils import split_normalization_params
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from classification.config import Config
from classification.data import open_data
from classification.experiments import EXPERIMENTS
from classification.image_trees import _MiddleCrop, _RandomCrop
from classification.train import Trainer, learning_rate, make_model
from keepbench.loop import train_epoch
from keepbench.network import make_optimizer
from runs import CPU

V2 = EXPERIMENTS["imagenet-resnet50-v2"].config
A3 = EXPERIMENTS["imagenet-resnet50-a3"].config
CUTMIX = EXPERIMENTS["imagenet-resnet50-cutmix"].config


def groups(config: Config, model: nn.Module) -> torch.optim.Optimizer:
    return make_optimizer(
        [model], kind=config.optimizer, lr=config.lr, momentum=config.momentum,
        weight_decay=config.weight_decay, norm_decay=config.norm_decay,
        bias_decay=config.bias_decay,
    )  # fmt: skip


def decays(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, float]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        names[p]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }


@pytest.fixture(scope="module")
def resnet50() -> nn.Module:
    return timm.create_model("resnet50", num_classes=10)


def test_v2_decays_what_torchvision_decays_by_plain_momentum(resnet50: nn.Module) -> None:
    norms, others = split_normalization_params(resnet50)
    optimizer = groups(V2, resnet50)
    found = decays(optimizer, resnet50)
    names = {parameter: name for name, parameter in resnet50.named_parameters()}
    assert found == {names[p]: 0.0 for p in norms} | {names[p]: 2e-5 for p in others}
    assert found["fc.bias"] == 2e-5
    assert type(optimizer) is torch.optim.SGD
    assert not optimizer.defaults["nesterov"] and optimizer.defaults["momentum"] == 0.9


def test_a3_optimises_as_timm_does(resnet50: nn.Module) -> None:
    theirs = create_optimizer_v2(resnet50, "lamb", lr=8e-3, weight_decay=0.02)
    ours = groups(A3, resnet50)
    assert type(ours) is type(theirs)
    assert decays(ours, resnet50) == decays(theirs, resnet50)
    assert {**ours.defaults, "weight_decay": 0} == {**theirs.defaults, "weight_decay": 0}


def rates(schedule: object, optimizer: torch.optim.Optimizer, epochs: int) -> Iterator[float]:
    for epoch in range(epochs):
        yield optimizer.param_groups[0]["lr"]
        optimizer.step()
        schedule.step(*([epoch + 1] if isinstance(schedule, CosineLRScheduler) else []))


def test_v2_has_torchvisions_learning_rates() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    parts = [LinearLR(optimizer, 0.01, total_iters=5), CosineAnnealingLR(optimizer, 595)]
    theirs = rates(SequentialLR(optimizer, parts, [5]), optimizer, 600)
    for epoch, rate in enumerate(theirs):
        for step in (0, 6):
            assert learning_rate(V2, 7 * epoch + step, 7) == pytest.approx(rate, rel=1e-6), epoch


def test_a3_has_timms_learning_rates() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=8e-3)
    schedule = CosineLRScheduler(optimizer, 100, lr_min=1e-6, warmup_t=5, warmup_lr_init=1e-4)
    for epoch, rate in enumerate(rates(schedule, optimizer, 100)):
        for step in (0, 6):
            assert learning_rate(A3, 7 * epoch + step, 7) == pytest.approx(rate), epoch


def law(config: Config, step: int, steps: int) -> float:
    """A schedule, written out."""
    warm, total = config.warmup * steps, config.epochs * steps
    if config.schedule in ("torchvision", "timm"):
        step -= step % steps
    if config.schedule == "timm":
        if step < warm:
            return 1 / 80 + 79 / 80 * step / warm
        return 1 / 8000 + 7999 / 16000 * (1.0 + math.cos(math.pi * step / total))
    if step < warm:
        return 0.01 + 0.99 * step / warm
    if config.schedule == "step":
        quarters = [round(share * config.epochs) * steps for share in (0.25, 0.5, 0.75)]
        return 0.1 ** sum(step >= quarter for quarter in quarters)
    return 0.5 * (1.0 + math.cos(math.pi * (step - warm) / (total - warm)))


@pytest.mark.parametrize("schedule", ["cosine", "step", "torchvision", "timm"])
def test_schedules_are_their_laws(schedule: str) -> None:
    """At every step of short runs, and around each epoch of one of two million steps."""
    for epochs in (1, 2, 3, 10, 50):
        for warmup in {0, 1, epochs // 3, epochs}:
            config = Config(schedule=schedule, epochs=epochs, warmup=warmup, lr=1.0)
            for step in range(7 * epochs):
                assert learning_rate(config, step, 7) == pytest.approx(
                    law(config, step, 7), abs=1e-14
                ), (config, step)
    long = Config(schedule=schedule, epochs=300, warmup=5, lr=1.0)
    for epoch in range(1, 300):
        for step in (7000 * epoch - 1, 7000 * epoch, 7000 * epoch + 1):
            assert learning_rate(long, step, 7000) == pytest.approx(
                law(long, step, 7000), abs=1e-14
            ), step


@pytest.mark.parametrize("schedule", ["cosine", "step", "torchvision", "timm"])
def test_the_first_and_the_last_step_have_a_rate(schedule: str) -> None:
    config = Config(schedule=schedule, epochs=2, warmup=1)
    assert 0 < learning_rate(config, 0, 3) <= config.lr
    assert 0 < learning_rate(config, 5, 3) <= config.lr


def test_test_images_are_those_of_torchvision_and_timm() -> None:
    pixels = torch.randint(0, 256, (3, 260, 300), dtype=torch.uint8)
    image = to_pil_image(pixels)

    def difference(config: Config, theirs: tv.Compose) -> float:
        size = config.test_size or config.image_size
        crop = _MiddleCrop(size, config.test_resize, config.interpolation == "random")
        return (crop(pixels)[0].int() - pil_to_tensor(theirs(image)).int()).abs().max().item()

    weights = ResNet50_Weights.IMAGENET1K_V2.transforms()
    assert (weights.resize_size, weights.crop_size) == ([V2.test_resize], [V2.test_size])
    assert difference(V2, tv.Compose([tv.Resize(232), tv.CenterCrop(224)])) <= 1
    assert difference(CUTMIX, tv.Compose([tv.Resize(256), tv.CenterCrop(224)])) <= 1
    trained = timm.create_model("resnet50.a3_in1k").pretrained_cfg
    assert trained["test_crop_pct"] == 0.95 and trained["input_size"][1] == A3.image_size
    timms = create_transform(
        trained["test_input_size"], crop_pct=0.95, interpolation=trained["interpolation"]
    )
    assert difference(A3, tv.Compose(timms.transforms[:2])) <= 1


def test_half_of_a3s_training_crops_are_bicubic(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.randint(0, 256, (3, 40, 40), dtype=torch.uint8)
    crop = _RandomCrop(64, bicubic=True)
    modes: list[str] = []
    for each in crop.crops:
        named = each.interpolation.value
        monkeypatch.setattr(each, "transform", lambda p, box, m=named: modes.append(m) or p)
    for _ in range(400):
        crop(pixels)
    assert {mode: modes.count(mode) for mode in ("bilinear", "bicubic")} == pytest.approx(
        {"bilinear": 200, "bicubic": 200}, abs=50
    )


def areas(erased: torch.Tensor) -> torch.Tensor:
    return (erased == 0).float().mean((1, 2, 3))


def test_v2_erases_as_torchvision_does() -> None:
    """Zeros in as large a share of as many images, and in boxes of the same shapes."""
    theirs, count = tv.RandomErasing(p=1.0), 3000
    boxes = torch.ones(count, 1, 44, 44)
    expected = torch.stack([theirs(image) for image in boxes])
    found = replace(V2.cut, p=1.0).build(None, torch.Generator().manual_seed(0), True)(boxes)
    assert set(found.unique().tolist()) == {0.0, 1.0}
    shares = [areas(erased) for erased in (found, expected)]
    for quantile in (0.0, 0.1, 0.5, 0.9, 1.0):
        low, high = (share.quantile(quantile).item() for share in shares)
        assert low == pytest.approx(high, abs=0.012)
    assert shares[0].mean().item() == pytest.approx(shares[1].mean().item(), abs=0.006)
    heights = [(erased == 0).any(3).sum(2).float().mean().item() for erased in (found, expected)]
    widths = [(erased == 0).any(2).sum(2).float().mean().item() for erased in (found, expected)]
    assert heights[0] == pytest.approx(heights[1], rel=0.03)
    assert widths[0] == pytest.approx(widths[1], rel=0.03)
    cut = V2.cut.build(None, torch.Generator().manual_seed(0), True)
    assert (areas(cut(boxes)) > 0).float().mean().item() == pytest.approx(0.1, abs=0.02)


def test_policies_of_the_recipes() -> None:
    def made(name: str) -> dict[str, object]:
        config = EXPERIMENTS[name].config
        interpolation = "nearest" if config.interpolation == "nearest" else "bilinear"
        policy = config.policy.build((0.485, 0.456, 0.406), torch.Generator(), interpolation)
        return {"kind": type(policy).__name__, **vars(policy)}

    v2, a3 = made("imagenet-resnet50-v2"), made("imagenet-resnet50-a3")
    augmix = made("cifar10-wrn28_10-augmix")
    assert (v2["kind"], v2["fill"], v2["interpolation"]) == ("TrivialAugment", 0, "bilinear")
    assert (a3["kind"], a3["space"], a3["interpolation"]) == ("RandAugment", "timm", "bilinear")
    assert (a3["fill"], a3["num_ops"], a3["magnitude"]) == ([124, 116, 104], 2, 18)  # 6 of 10
    assert (augmix["kind"], augmix["space"], augmix["interpolation"], augmix["fill"]) == (
        "AugMix", "original", "bilinear", 0,
    )  # fmt: skip
    plain = made("imagenet-resnet50-autoaugment")
    assert (plain["interpolation"], plain["fill"]) == ("nearest", [124, 116, 104])


def test_the_last_normalisation_of_a_block_starts_where_its_recipe_says() -> None:
    """At 0 in timm and DropBlock's code, at 1 in torchvision and CutMix's; all else is timm's."""
    for zero, names in {True: ["a3", "dropblock"], False: ["v2", "cutmix", "keep_v2"]}.items():
        for name in names:
            config = EXPERIMENTS[f"imagenet-resnet50-{name}"].config
            assert config.zero_init_last == zero
    small = replace(A3, arch="resnet26", regulariser="")
    for zero in (True, False):
        made = make_model(replace(small, zero_init_last=zero), 10, 3).state_dict()
        torch.manual_seed(small.seed)
        theirs = timm.create_model("resnet26", num_classes=10, zero_init_last=zero).state_dict()
        assert all(torch.equal(made[name], theirs[name]) for name in theirs)
        assert made["layer1.0.bn3.weight"].unique().tolist() == [0.0 if zero else 1.0]


def test_weights_of_v2_are_averaged_as_torchvision_averages_them() -> None:
    """Every so many steps of an epoch; in the warm-up the average is a copy."""
    assert V2.ema_every == 32 and V2.ema == pytest.approx(0.998908, abs=1e-6)
    config = Config(
        dataset="digits", arch="resnet8", subset=56, test_subset=4, batch_size=8, epochs=3,
        warmup=1, ema=0.75, ema_every=3,
    )  # fmt: skip
    trainer = Trainer(config, open_data(config, CPU.device), CPU)
    weight, kept = trainer.model.fc.weight, trainer.tested.module.fc.weight
    average = weight.detach().clone()
    updates = 0

    def check() -> None:
        nonlocal average, updates
        epoch, step = trainer.epoch, trainer.step - 1
        if step % 3 == 0:
            copy = updates == 0 or epoch == 0
            now = weight.detach()
            average = now.clone() if copy else 0.75 * average + 0.25 * now
            updates = updates + 1 if epoch else 0
        assert torch.allclose(kept, average), (epoch, step)

    for _ in range(3):
        train_epoch(trainer, check)
    assert updates == 6 and not torch.allclose(kept, weight)
