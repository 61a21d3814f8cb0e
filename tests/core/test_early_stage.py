"""Which stage is early: by operations, never a bare stem."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from small import Mean, blocks, randn
from torch import nn

from keepaugment import EarlyHead, early_stage
from keepaugment.early_stage import stages

IMAGES = randn(6, 3, 16, 16)


def test_stages_of_equal_blocks() -> None:
    model = blocks(10)
    found = {stage.name: stage for stage in stages(model, IMAGES)}
    for number in range(10):
        assert found[str(number)].share == pytest.approx((number + 1) / 10, rel=1e-3)
        assert found[str(number)].shape == (6, 3, 16, 16)
    assert found["10"].share == 1.0
    assert not any(module._forward_hooks for module in model.modules())


def test_layers_that_run_twice_are_no_stages() -> None:
    shared = nn.Tanh()
    model = nn.Sequential(nn.Conv2d(3, 3, 1), shared, nn.Conv2d(3, 3, 1), shared, Mean(3))
    assert [stage.name for stage in stages(model, IMAGES)] == ["0", "2", "4.fc", "4"]


@pytest.mark.parametrize(
    ("number", "expected"), [(10, "2"), (4, "0"), (3, "0"), (7, "1"), (16, "4")]
)
def test_the_early_stage_takes_about_a_third(number: int, expected: str) -> None:
    assert early_stage(blocks(number), IMAGES).name == expected


def test_the_outermost_layer_is_preferred() -> None:
    model = nn.Sequential(blocks(3)[:2], blocks(4)[:4], Mean(3))  # 33 % and 67 %; "0.0" at 17 %
    assert early_stage(model, IMAGES).name == "0"


@pytest.mark.parametrize(
    ("arch", "expected"),
    [("resnet10t", "layer1"), ("mobilenetv3_small_050", "blocks.0"), ("levit_128s", "stages.0")],
)
def test_no_bare_stem_is_an_early_stage(arch: str, expected: str) -> None:
    """It ends after 30 %, 23 % and 16 % of these networks' operations."""
    assert early_stage(timm.create_model(arch), torch.zeros(1, 3, 224, 224)).name == expected


def test_nor_is_a_pooling() -> None:
    """Of AlexNet at 64 pixels `features`, of one place, and `avgpool` end where they might."""
    assert early_stage(torchvision.models.alexnet()).name == "features.6"


def test_a_model_without_an_early_stage_is_refused() -> None:
    with pytest.raises(ValueError, match="no layer of Sequential ends after 15% to 45%"):
        early_stage(blocks(1), IMAGES)


@pytest.mark.parametrize("arch", ["resnet18", "vit_tiny_patch16_224"])
def test_a_grey_image_finds_the_same_stage(arch: str) -> None:
    model = timm.create_model(arch, num_classes=5)
    name = early_stage(model).name
    assert name == early_stage(model, torch.zeros(1, 3, 224, 224)).name
    head = EarlyHead(model, name, 5)
    assert head.early_logits(torch.zeros(2, 3, 224, 224)).shape == (2, 5)


def test_a_model_that_takes_no_grey_image_is_told_so() -> None:
    with pytest.raises(ValueError, match="the model takes no grey image .*; give images"):
        early_stage(nn.Sequential(nn.Flatten(), nn.Linear(7, 5)))
