"""Prove an export: the same features on a real image, before and after.

Features are compared in float64, so that rounding does not hide a layer that is another, and after
each side's own normalisation of the same uint8 pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
import yaml
from sklearn.datasets import load_sample_image
from torch import Tensor, nn

from detection.checkpoints import make_checkpointer
from detection.detectron import backbone_places, its_warnings, require, zoo_config
from detection.names import is_left_out
from detection.sources import Source

TOLERANCE = 1e-4
STAGES = ("stem", "res2", "res3", "res4", "res5")
HEIGHT, WIDTH = 320, 416  # multiples of 32, so that no detector pads them

Features = dict[str, Tensor]
Differences = dict[str, float]


def photograph() -> Tensor:
    """scikit-learn's picture of a temple, its middle: (3, 320, 416) uint8, RGB."""
    pixels = torch.tensor(load_sample_image("china.jpg")).permute(2, 0, 1)
    top, left = (pixels.shape[1] - HEIGHT) // 2, (pixels.shape[2] - WIDTH) // 2
    return pixels[:, top : top + HEIGHT, left : left + WIDTH]


def normalised(image: Tensor, source: Source) -> Tensor:
    """An image (3, H, W) uint8 as the source network takes it: (1, 3, H, W) float64."""
    mean, std = (
        torch.tensor(list(v), dtype=torch.float64)[:, None, None] for v in (source.mean, source.std)
    )
    return ((image.double() / 255 - mean) / std)[None]


def load_backbone(model: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """Load a network's weights but for the classifier, and put it in eval mode.

    Raises:
        ValueError: A weight is missing or too many, or a layer has another epsilon than Detectron2.
    """
    wanted = {name: value for name, value in weights.items() if not is_left_out(name)}
    found = model.load_state_dict(wanted, strict=False)
    missing = [name for name in found.missing_keys if not is_left_out(name)]
    if missing or found.unexpected_keys:
        raise ValueError(f"missing {missing[:6]}, unmatched {found.unexpected_keys[:6]}")
    epsilons = {m.eps for m in model.modules() if isinstance(m, nn.BatchNorm2d)}
    if epsilons != {1e-5}:
        raise ValueError(f"BatchNorm has epsilon {epsilons}; Detectron2's FrozenBN has 1e-5")
    return model.eval()


def source_models(source: Source) -> dict[str, nn.Module]:
    """The networks of torchvision and timm with the source's backbone, by library."""
    name = f"resnet{source.depth}"
    models = {
        "torchvision": torchvision.models.get_model(name, weights=None),
        "timm": timm.create_model(name),
    }
    return {library: load_backbone(model, source.weights) for library, model in models.items()}


@torch.no_grad()
def stage_features(model: Any, images: Tensor) -> Features:
    """Features of normalised images by torchvision's or timm's ResNet, by Detectron2's stages."""
    activation = model.relu if hasattr(model, "relu") else model.act1
    output = model.maxpool(activation(model.bn1(model.conv1(images))))
    features = {"stem": output}
    for number, stage in enumerate((model.layer1, model.layer2, model.layer3, model.layer4), 2):
        output = stage(output)
        features[f"res{number}"] = output.clone()  # the next stage may work in place
    return features


@torch.no_grad()
def detector_features(model: Any, image: Tensor) -> Features:
    """Features of an image (3, H, W) uint8, RGB, by a Detectron2 detector's ResNet, by stage."""
    resnet = getattr(model.backbone, "bottom_up", model.backbone)
    images = model.preprocess_image([{"image": image.to(model.pixel_mean.dtype)}])
    output = resnet.stem(images.tensor)
    features = {"stem": output}
    for name in STAGES[1:]:
        stage = getattr(resnet, name, None) or model.roi_heads.res5
        output = stage(output)
        features[name] = output.clone()
    return features


def differences(these: Mapping[str, Tensor], those: Mapping[str, Tensor]) -> Differences:
    """The largest absolute difference in each stage.

    Raises:
        ValueError: The stages or their sizes are not the same.
    """
    shapes = [{k: tuple(v.shape) for k, v in each.items()} for each in (these, those)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"the features have other sizes: {shapes[0]} and {shapes[1]}")
    return {name: float((these[name] - those[name]).abs().max()) for name in these}


def load_detector(
    detector: str, depth: int, settings: Path, path: Path, weights: Mapping[str, Tensor]
) -> nn.Module:
    """A detector with an exported backbone, loaded by Detectron2's own checkpointer, in eval mode.

    Args:
        detector: a key of `DETECTORS`.
        depth: the backbone's.
        settings: the YAML of the export.
        path: its `.pkl`.
        weights: what was read from it.
    """
    cfg = zoo_config(detector, depth)
    from detectron2.modeling import build_model

    cfg.merge_from_other_cfg(type(cfg)(yaml.safe_load(settings.read_text())))
    cfg.MODEL.DEVICE = "cpu"
    with its_warnings():
        model = build_model(cfg)
        make_checkpointer(model, backbone=weights).load(str(path))
    return model.eval()


def check_loaded(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless a detector's ResNet holds exactly these weights.

    Detectron2's checkpointer leaves a weight of another name or shape at its random start and only
    logs it.

    Args:
        model: the detector.
        weights: by the names of Detectron2's ResNet.
    """
    state = model.state_dict()
    places = backbone_places(list(state))
    wrong = sorted(places.keys() ^ weights.keys())
    wrong += [
        name
        for name in sorted(places.keys() & weights.keys())
        if not torch.equal(state[places[name]].cpu(), weights[name])
    ]
    if wrong:
        raise ValueError(
            f"{len(wrong)} weights of the backbone did not reach the detector: "
            f"{', '.join(wrong[:6])}"
        )


def compare_detectors(
    source: Source, settings: Path, path: Path, weights: Mapping[str, Tensor]
) -> dict[str, Differences]:
    """Compare the source network with Detectron2's, under FPN and, from depth 50 on, in C4.

    Args:
        source: where the weights come from.
        settings: the YAML of the export.
        path: its `.pkl`.
        weights: what was read from it.

    Returns:
        By "detector/library", the largest absolute difference in each stage.
    """
    require()
    image = photograph()
    references = {
        library: stage_features(model.double(), normalised(image, source))
        for library, model in source_models(source).items()
    }
    found = {}
    for detector in ("faster_rcnn_fpn", "faster_rcnn_c4")[: 2 if source.depth >= 50 else 1]:
        model = load_detector(detector, source.depth, settings, path, weights)
        check_loaded(model, weights)
        features = detector_features(model.double(), image)
        for library, reference in references.items():
            found[f"{detector}/{library}"] = differences(features, reference)
    return found
