from __future__ import annotations

import pytest
import timm
import torch
import torchvision

from detection.names import (
    BLOCKS,
    backbone_shapes,
    check_depth,
    check_shapes,
    convert,
    depth_of,
    to_detectron2,
)


def meta(name: str) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return torchvision.models.get_model(name).state_dict()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("conv1.weight", "stem.conv1.weight"),
        ("bn1.running_var", "stem.conv1.norm.running_var"),
        ("layer1.0.conv2.weight", "res2.0.conv2.weight"),
        ("layer2.3.bn3.bias", "res3.3.conv3.norm.bias"),
        ("layer4.0.downsample.0.weight", "res5.0.shortcut.weight"),
        ("layer3.0.downsample.1.running_mean", "res4.0.shortcut.norm.running_mean"),
    ],
)
def test_a_weight_gets_detectron2s_name(ours: str, theirs: str) -> None:
    assert to_detectron2(ours) == theirs


@pytest.mark.parametrize("depth", BLOCKS)
def test_torchvisions_networks_convert_whole(depth: int) -> None:
    weights = meta(f"resnet{depth}")
    assert depth_of(list(weights)) == depth
    renamed = convert(weights, depth)
    assert {name: tuple(value.shape) for name, value in renamed.items()} == backbone_shapes(depth)
    left = len(weights) - len(renamed)
    assert left == 2 + sum(name.endswith("num_batches_tracked") for name in weights)


@pytest.mark.parametrize("depth", BLOCKS)
def test_timms_networks_have_torchvisions_names(depth: int) -> None:
    with torch.device("meta"):
        theirs = timm.create_model(f"resnet{depth}").state_dict()
    assert theirs.keys() == meta(f"resnet{depth}").keys()


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("resnet50d", "a stem of several convolutions"),
        ("resnet50c", "a stem of several convolutions"),
        ("seresnet50", "squeeze-and-excitation"),
        ("resnet26", "bottleneck blocks"),
        ("resnext50_32x4d", "of another shape"),
        ("wide_resnet50_2", "of another shape"),
        ("resnet50_gn", "missing"),
        ("vit_tiny_patch16_224", "no ResNet-18"),
    ],
)
def test_a_variant_is_refused(variant: str, message: str) -> None:
    with torch.device("meta"):
        weights = timm.create_model(variant).state_dict()
    with pytest.raises(ValueError, match=message):
        convert(weights, depth_of(list(weights)))


def test_a_cifar_network_is_refused() -> None:
    from classification.models import create_model

    weights = create_model("resnet18", 10).state_dict()
    with pytest.raises(ValueError, match=r"stem.conv1.weight \(64, 3, 3, 3\)"):
        convert(weights, 18)


def test_missing_and_unmatched_weights_are_named() -> None:
    weights = meta("resnet18")
    del weights["layer3.1.bn2.running_mean"]
    weights["layer1.0.extra.weight"] = weights["conv1.weight"]
    with pytest.raises(ValueError) as error:
        convert(weights, 18)
    assert "1 missing: res4.1.conv2.norm.running_mean" in str(error.value)
    assert "1 unmatched: res2.0.extra.weight" in str(error.value)


def test_classifiers_are_left_out_by_name_only() -> None:
    weights = meta("resnet18")
    weights["early_head.classifier.weight"] = weights["fc.weight"]
    weights["head.classifier.bias"] = weights["fc.bias"]
    assert convert(weights, 18).keys() == backbone_shapes(18).keys()


def test_a_resnet34_is_no_resnet50() -> None:
    with pytest.raises(ValueError, match="not the weights of a plain ResNet-50"):
        check_shapes(backbone_shapes(34), 50)


def test_only_five_depths_are_known() -> None:
    check_depth(152)
    with pytest.raises(ValueError, match="18, 34, 50, 101, 152"):
        check_depth(26)
