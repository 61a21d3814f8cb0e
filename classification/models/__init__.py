"""The classifiers of the benchmark by name: residual networks for 32x32 images, and timm's.

Models of our own end in a mean or maximum over all pixels, so they take images of any size, and
name their stages `layer1`, `layer2`, `layer3` (and `layer4`), so that an auxiliary head can hook
one. What is random in them sits in modules without children (`nn.Dropout`, `ShakeShake`,
`ShakeDrop`): putting these and BatchNorm in eval mode gives the deterministic model.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache, partial
from typing import Any

import timm
import torch
from timm.models import get_pretrained_cfg
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from classification.models.airbench import airbench
from classification.models.pyramidnet import ShakeDrop, pyramidnet
from classification.models.resnet import cifar_resnet, resnet18
from classification.models.shake_shake import ShakeShake, shake_shake
from classification.models.wide_resnet import wide_resnet
from keepbench import flops
from keepbench.own_network import find_function, is_function, make_network
from keepbench.progress import say
from keepbench.settings import nearest
from keepbench.starting import (
    TIMM,
    begin_from,
    check_source,
    find_weights,
    pretrained_config,
    timm_name,
)
from keepbench.training import Training
from keepbench.weights import plain_names

__all__ = [
    "MODELS",
    "SMALL",
    "ShakeDrop",
    "ShakeShake",
    "airbench",
    "check_arch",
    "check_side",
    "check_weights",
    "cifar_resnet",
    "colours_of",
    "create_model",
    "find_model",
    "forward_flop",
    "load_start",
    "pretrained",
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
`cifar_resnet18` ours; to train on photographs, it is refused (`check_side`).
"""
SMALL = tuple(name for name in MODELS if not timm.is_model(name))
"""Names that are ours alone, of networks for 32-pixel images."""
LARGEST_SMALL = 64
"""Side of images in pixels up to which these are taken for granted."""


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
        raise ValueError(
            f"{name} lies elsewhere; --download fetches its description (preview: --pretrained)"
        )
    if name not in MODELS and not timm.is_model(name) and ":" not in name:  # "hf-hub:owner/model"
        ours, timms = (
            ", ".join(difflib.get_close_matches(name.lower(), known, n=2, cutoff=0.0))
            for known in (MODELS, timm.list_models())
        )
        raise ValueError(f"unknown model {name!r}; nearest of ours: {ours}; of timm's: {timms}")
    if name not in MODELS and timm.is_model(name):
        try:
            get_pretrained_cfg(name)
        except RuntimeError as error:  # a tag that is not there
            raise ValueError(f"{error}{nearest(name, timm.list_pretrained())}") from None


def _tagged(name: str) -> str:
    """A name of timm's with its usual tag, which no model of ours has."""
    config = get_pretrained_cfg(name)
    return f"{name}.{config.tag}" if config and config.tag else name


def check_side(name: str, side: int) -> str:
    """A remark on a model that is to train on images with `side` pixels; "" if there is none.

    Raises:
        ValueError: Its name is timm's, of a network for photographs, but would give ours.
    """
    if name not in MODELS or side <= LARGEST_SMALL:
        return ""
    if name not in SMALL:
        raise ValueError(
            f"{name} is our network for images of 32 pixels, and timm's for photographs; for these "
            f"images of {side} pixels take timm's, {_tagged(name)}, or ours by its other name, "
            f"cifar_{name}"
        )
    return f"{name} is made for images of 32 pixels and keeps their resolution; these have {side}"


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shapes of a network's weights by its own names, without BatchNorm's counters."""
    return {
        name: tuple(value.shape)
        for name, value in plain_names(weights).items()
        if not name.endswith("num_batches_tracked")
    }


def find_model(weights: Mapping[str, Tensor], like: str) -> str:
    """The name of a model that has such weights: ours, a ResNet, or one of timm's named alike.

    Args:
        weights: by the network's own names.
        like: the name that was thought to be theirs.

    Returns:
        A name that means the same model wherever it is given; "" if none was found.
    """
    layers = [value.shape for value in weights.values() if value.ndim in (2, 4)]
    if not layers:
        return ""
    wanted, channels = _shapes(weights), next((s[1] for s in layers if len(s) == 4), 3)
    plain = [f"resnet{depth}" for depth in (18, 34, 50, 101, 152)]
    plain += ["wide_resnet50_2", "wide_resnet101_2", "resnext50_32x4d", "resnext101_32x8d"]
    near = difflib.get_close_matches(like, timm.list_models(), n=12, cutoff=0.5)
    for name in [*SMALL, *map(_tagged, [*plain, *near])]:
        with suppress(Exception), torch.device("meta"):  # some models compute with their weights
            made = create_model(name, layers[-1][0], in_chans=channels)
            if _shapes(made.state_dict()) == wanted:
                return name
    return ""


def check_weights(source: str, arch: str, *, download: bool) -> None:
    """Raise ValueError for initial weights that cannot be had, before data are read.

    Args:
        source: a setting, as `keepbench.starting.find_weights` takes it; "" is none.
        arch: the model that they are for.
        download: they may be fetched.
    """
    if source == TIMM and arch in MODELS:
        other = "" if arch in SMALL else f", or timm's network, {_tagged(arch)}"
        raise ValueError(
            f"{arch} is our network, of which timm has no weights; give --weights FILE{other}"
        )
    check_source(source, arch, download=download)


def load_start(training: Training, num_classes: int) -> None:
    """Put the weights that a run's settings name, if any, into its model and their average.

    The classifier's stay as they are: new.

    Raises:
        ValueError: They cannot be had, or are another model's.
    """
    config, model = training.config, training.model
    if not config.weights:
        return
    weights = find_weights(config.weights, config.arch, download=config.download)
    try:
        begin_from(model, weights, num_classes)
    except ValueError as error:
        other = find_model(weights.tensors, config.arch)
        raise ValueError(f"{error}" + (f" They fit {other}." if other else "")) from None
    if isinstance(training.tested, AveragedModel):
        training.tested.module.load_state_dict(model.state_dict())
    if training.processes.first:
        say(f"{config.arch} begins with the {weights} of {config.weights}")


def pretrained(source: str, arch: str) -> Mapping[str, Any]:
    """Mean, std and input_size that timm has of the network that weights are of.

    Empty where it knows nothing, as of a model of ours, whatever timm's of that name is.
    """
    named = timm_name(source, arch)
    if arch in MODELS and source != f"{TIMM}:{named}":
        return {}
    return pretrained_config(named or arch)


def colours_of(choice: str, source: str, arch: str, channels: int) -> dict[str, Any]:
    """The mean and std that images are normalised by in place of the data's; {} if by these.

    Args:
        choice: "data", "network", or "auto": the network's if it begins with weights.
        source: these; "" is none.
        arch: the model.
        channels: of an image.

    Raises:
        ValueError: Those of the network are asked for, and timm has none for such images.
    """
    if choice == "data" or (choice == "auto" and not source):
        return {}
    known = pretrained(source, arch)
    found = {name: tuple(known.get(name) or ()) for name in ("mean", "std")}
    if len(found["mean"]) == channels == len(found["std"]):
        return found
    if choice == "network":
        raise ValueError(
            f"colours=network: timm says no mean and std of {channels} channels for {arch}; "
            "take auto or data"
        )
    return {}


@cache
def forward_flop(name: str, length: int) -> float:
    """Operations of one forward pass of an image (3, length, length), counted by fvcore."""
    return flops.forward_flop(create_model(name, 10), torch.zeros(1, 3, length, length))
