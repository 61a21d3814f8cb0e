"""An augmentation by its settings: a baseline and its Keep arm differ in one switch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from keepaugment import (
    CentreSaliency,
    CutMix,
    Cutout,
    EarlyHead,
    GradientSaliency,
    InvertedSaliency,
    KeepCutMix,
    KeepCutout,
    KeepRandomErasing,
    RandomErasing,
    RandomSaliency,
    Saliency,
    ShuffledSaliency,
)

if TYPE_CHECKING:
    from classification.experiments import Config

SALIENCIES: dict[str, Callable[[Saliency, torch.Generator], Saliency]] = {
    "gradient": lambda gradient, generator: gradient,
    "random": lambda gradient, generator: RandomSaliency(generator),
    "shuffled": ShuffledSaliency,
    "inverted": lambda gradient, generator: InvertedSaliency(gradient),
    "centre": lambda gradient, generator: CentreSaliency(),
}

METHODS = ("none", "cutout", "random_erasing", "cutmix")


def make_saliency(
    config: Config, model: nn.Module, head: EarlyHead | None, generator: torch.Generator
) -> Saliency:
    """The map of a config: the model's gradient, full or cheap, or a control in its place."""
    gradient = GradientSaliency(model, config.scale, head)
    return SALIENCIES[config.saliency](gradient, generator)


def make_method(
    config: Config, saliency: Saliency, num_classes: int, generator: torch.Generator
) -> Cutout | RandomErasing | CutMix | None:
    """The augmentation of a config, or None for crop and flip alone."""
    keep: dict[str, Any] = {"saliency": saliency, "tau": config.tau} if config.keep else {}
    area: dict[str, Any] = {"match_area": config.match_area} if config.keep else {}
    if config.method == "cutout":
        cutout = KeepCutout if config.keep else Cutout
        return cutout(size=config.size, generator=generator, **keep, **area)
    if config.method == "random_erasing":
        erasing = KeepRandomErasing if config.keep else RandomErasing
        return erasing(generator=generator, **keep)
    if config.method == "cutmix":
        cutmix = partial(KeepCutMix, None) if config.keep else CutMix
        return cutmix(num_classes, p=0.5, generator=generator, **keep, **area)
    return None


def augment(
    method: Cutout | RandomErasing | CutMix | None, images: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Augment a batch.

    Args:
        method: of `make_method`.
        images: (B, C, H, W), normalised.
        labels: (B,).

    Returns:
        Images (B, C, H, W), targets for the loss, and the cut share of the batch's area, a scalar.
    """
    if method is None:
        return images, labels, images.new_zeros(())
    mask = method.mask(images, labels)
    if isinstance(method, CutMix):
        return *method(images, labels, mask=mask), mask.float().mean()
    return method(images, mask=mask), labels, mask.float().mean()
