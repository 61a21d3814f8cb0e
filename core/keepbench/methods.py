"""Maps and policies by the names that settings give them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from keepaugment import (
    CentreSaliency,
    InvertedSaliency,
    RandomSaliency,
    Saliency,
    ShuffledSaliency,
)
from keepaugment.draws import Source
from keeppolicies import AugMix, AutoAugment, RandAugment, TrivialAugment


def make_saliency(kind: str, gradient: Saliency, generator: Source) -> Saliency:
    """A map by its name: the model's gradient or what serves as it, or a control in its place."""
    if kind == "random":
        return RandomSaliency(generator)
    if kind == "shuffled":
        return ShuffledSaliency(gradient, generator)
    if kind in ("inverted", "inverted_oracle"):
        return InvertedSaliency(gradient)
    if kind == "centre":
        return CentreSaliency()
    return gradient


def make_policy(
    name: str,
    mean: tuple[float, ...],
    generator: Source,
    *,
    num_ops: int,
    magnitude: int = -1,
    policy_set: str = "cifar10",
    space: str = "torchvision",
    fill: str = "mean",
    interpolation: str = "nearest",
) -> Callable[[Tensor], Tensor] | None:
    """An image-level policy on bytes.

    Args:
        name: "autoaugment", "randaugment", "trivialaugment", "augmix", or "" for none.
        mean: of each channel, in [0, 1].
        generator: where random numbers come from.
        num_ops: RandAugment's operations in a row.
        magnitude: strength of RandAugment and AutoAugment, 0 to 30; -1 is their own.
        policy_set: AutoAugment's sub-policies.
        space: the operations and their magnitudes, as in `keeppolicies`.
        fill: what comes in from outside: "mean" colour or "black".
        interpolation: "nearest" or "bilinear".
    """
    common: dict[str, Any] = {"interpolation": interpolation, "generator": generator}
    common["fill"] = [round(255 * value) for value in mean] if fill == "mean" else 0
    strength = None if magnitude < 0 else magnitude
    known: Any = space
    if name == "autoaugment":
        return AutoAugment(policy_set, magnitudes=known, magnitude=strength, **common)
    if name == "randaugment":
        return RandAugment(num_ops, 9 if strength is None else strength, space=known, **common)
    if name == "trivialaugment":
        return TrivialAugment(**common)
    if name == "augmix":
        return AugMix(space=known, **common)
    return None
