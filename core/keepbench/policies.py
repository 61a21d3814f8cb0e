"""Image-level policies as settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

import keeppolicies
from keepaugment.draws import Source
from keepbench.settings import Method, setting

_SPACE = "whose operations a magnitude is for"


@dataclass(frozen=True, kw_only=True)
class Policy(Method):
    """An image-level policy on bytes."""

    fill: str = setting("mean", "colour beyond the image", choices=["mean", "black"])

    def build(
        self, mean: tuple[float, ...], generator: Source, interpolation: str = "nearest"
    ) -> Callable[[Tensor], Tensor]:
        """The policy.

        Args:
            mean: of each channel, in [0, 1].
            generator: where random numbers come from.
            interpolation: "nearest" or "bilinear".
        """
        fill = [round(255 * value) for value in mean] if self.fill == "mean" else 0
        return self.make(fill=fill, interpolation=interpolation, generator=generator)

    def make(self, **common: Any) -> Callable[[Tensor], Tensor]:
        """The policy with fill, interpolation and generator as in `keeppolicies`."""
        raise ValueError(f"policy={self.name} has neither make nor build")


@dataclass(frozen=True, kw_only=True)
class AutoAugment(Policy):
    """Cubuk et al., 2018, arXiv:1805.09501."""

    name = "autoaugment"
    title = "AutoAugment"
    policy_set: str = setting(
        "cifar10", "its sub-policies", choices=["cifar10", "imagenet", "svhn"]
    )
    magnitude: int = setting(-1, "strength, 0-30; -1 = the policy's own", range="[-1, 30]")
    space: str = setting("torchvision", _SPACE, choices=["torchvision", "original"])

    def make(self, **common: Any) -> Callable[[Tensor], Tensor]:  # noqa: D102
        return keeppolicies.AutoAugment(
            self.policy_set,
            magnitudes=self.space,  # type: ignore[arg-type]
            magnitude=None if self.magnitude < 0 else self.magnitude,
            **common,
        )


@dataclass(frozen=True, kw_only=True)
class RandAugment(Policy):
    """Cubuk et al., 2019, arXiv:1909.13719."""

    name = "randaugment"
    title = "RandAugment"
    num_ops: int = setting(3, "operations per image", range="[1, 100]")
    magnitude: int = setting(9, "strength, 0-30", range="[0, 30]")
    space: str = setting("torchvision", _SPACE, choices=["torchvision", "original", "timm"])

    def make(self, **common: Any) -> Callable[[Tensor], Tensor]:  # noqa: D102
        return keeppolicies.RandAugment(
            self.num_ops,
            self.magnitude,
            space=self.space,  # type: ignore[arg-type]
            **common,
        )


@dataclass(frozen=True, kw_only=True)
class TrivialAugment(Policy):
    """Mueller and Hutter, 2021, arXiv:2103.10158."""

    name = "trivialaugment"
    title = "TrivialAugment"

    def make(self, **common: Any) -> Callable[[Tensor], Tensor]:  # noqa: D102
        return keeppolicies.TrivialAugment(**common)


@dataclass(frozen=True, kw_only=True)
class AugMix(Policy):
    """Hendrycks et al., 2019, arXiv:1912.02781."""

    name = "augmix"
    title = "AugMix"
    space: str = setting("torchvision", _SPACE, choices=["torchvision", "original"])

    def make(self, **common: Any) -> Callable[[Tensor], Tensor]:  # noqa: D102
        return keeppolicies.AugMix(
            space=self.space,  # type: ignore[arg-type]
            **common,
        )


POLICIES = (Policy, AutoAugment, RandAugment, TrivialAugment, AugMix)
"""The base class, and the kinds that every task may have."""
