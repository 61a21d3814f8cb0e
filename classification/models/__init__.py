"""The classifiers of the benchmark by name: residual networks for 32x32 images, and timm's.

Models of our own end in a mean or maximum over all pixels, so they take images of any size, and
name their stages `layer1`, `layer2`, `layer3` (and `layer4`), so that an auxiliary head can hook
one. What is random in them sits in modules without children (`nn.Dropout`, `ShakeShake`,
`ShakeDrop`): putting these and BatchNorm in eval mode gives the deterministic model.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import timm
import torch
from torch import nn

from classification.models.airbench import airbench
from classification.models.pyramidnet import ShakeDrop, pyramidnet
from classification.models.resnet import cifar_resnet, resnet18
from classification.models.shake_shake import ShakeShake, shake_shake
from classification.models.wide_resnet import wide_resnet
from keepbench import flops
from keepbench.own_network import find_function, is_function, make_network

__all__ = [
    "MODELS",
    "ShakeDrop",
    "ShakeShake",
    "airbench",
    "check_arch",
    "cifar_resnet",
    "create_model",
    "forward_flop",
    "pyramidnet",
    "resnet18",
    "shake_shake",
    "wide_resnet",
]

MODELS: dict[str, Callable[..., nn.Module]] = {
    "resnet8": partial(cifar_resnet, 8),
    "resnet20": partial(cifar_resnet, 20),
    "resnet110": partial(cifar_resnet, 110),
    "resnet18": resnet18,
    "cifar_resnet18": resnet18,
    "wrn28_10": partial(wide_resnet, 28, 10),
    "wrn28_2": partial(wide_resnet, 28, 2),
    "shake_shake_26_2x96d": partial(shake_shake, 26, 96),
    "pyramidnet272_a200_shakedrop": partial(pyramidnet, 272, 200),
    "air32_64_128": partial(airbench, (32, 64, 128)),
    "air32_128_128": partial(airbench, (32, 128, 128)),
    "air64_256_256": partial(airbench, (64, 256, 256)),
}
"""Our own models; each value takes `num_classes`, then `in_chans` and its options by keyword.

`resnet18` is timm's name, too: where photographs are looked at, it means timm's network, and
`cifar_resnet18` ours.
"""


def create_model(
    name: str, num_classes: int, *, in_chans: int = 3, download: bool = False, **options: Any
) -> nn.Module:
    """Make a model that maps images (B, in_chans, H, W) to logits (B, num_classes).

    Args:
        name: a key of `MODELS`, any name `timm.create_model` takes, or MODULE:FUNCTION or
            FILE.py:FUNCTION, whose parameters `num_classes` and `in_chans` are given if it has
            them. Our `resnet18` hides timm's ImageNet network of that name, which a tag still
            reaches: `resnet18.tv_in1k`.
        num_classes: logits.
        in_chans: channels of the images.
        download: fetch a network of a hub ("hf-hub:owner/model") that is described elsewhere.
        **options: passed on. Ours: `shortcut="A"` or `"B"` (resnet8, 20, 110), `dropout=0.0`
            (wrn), `p_drop=0.5` (pyramidnet). timm's: `pretrained=True`, `drop_path_rate=0.1`, ...

    Raises:
        ValueError: neither we nor timm know `name`; the message gives the nearest known names.
    """
    check_arch(name, download=download)
    if is_function(name):
        return make_network(name, num_classes=num_classes, in_chans=in_chans, **options)
    if name in MODELS:
        return MODELS[name](num_classes, in_chans=in_chans, **options)
    return timm.create_model(name, num_classes=num_classes, in_chans=in_chans, **options)


def check_arch(name: str, *, download: bool = False) -> None:
    """Raise ValueError, with the nearest known names, unless `create_model` takes a model."""
    if is_function(name):
        find_function(name)
        return
    if name.startswith(("hf-hub:", "hf_hub:")) and not download:
        raise ValueError(f"{name} lies elsewhere; --download fetches its description")
    if name not in MODELS and not timm.is_model(name) and ":" not in name:  # "hf-hub:owner/model"
        ours, timms = (
            ", ".join(difflib.get_close_matches(name.lower(), known, n=2, cutoff=0.0))
            for known in (MODELS, timm.list_models())
        )
        raise ValueError(f"unknown model {name!r}; nearest of ours: {ours}; of timm's: {timms}")


@cache
def forward_flop(name: str, length: int) -> float:
    """Operations of one forward pass of an image (3, length, length), counted by fvcore."""
    return flops.forward_flop(create_model(name, 10), torch.zeros(1, 3, length, length))
