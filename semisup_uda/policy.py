"""The RandAugment of UDA's own code, on a batch.

github.com/google-research/uda, image/randaugment/policies.py and augmentation_transforms.py: two
operations of fifteen in a row, each with probability one half at a level of 1 to 9. The levels are
those of the AutoAugment code for CIFAR, and enhancing has no sign. Here its Cutout, of side twice
the level, keeps its full area at the top and left border, where theirs is clipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from keepaugment.draws import Source, uniform
from keepbench import policies
from keepbench.own_policy import Own, Timm
from keeppolicies.magnitudes import Space, build_space
from keeppolicies.operations import ID, Decisions, Fill, apply_layers, check_pixels

_LEVELS = 10  # 0 to 9, of which 0 is never drawn
_OPS = 2


def _space(size: tuple[int, int], device: torch.device) -> Space:
    """AutoAugment's fourteen operations, and Cutout; `size` is that of the images."""
    space = build_space("auto_augment", "original", _LEVELS, size, device)
    side = 2.0 * torch.arange(_LEVELS, device=device) - 1.0  # the operation adds a pixel
    return Space(
        torch.cat((space.operation, space.operation.new_full((1,), ID["cutout_abs"]))),
        torch.cat((space.magnitude, side[None])),
        torch.cat((space.signed, space.signed.new_zeros(1))),
    )


class UDARandAugment:
    """UDA's strong augmentation before its Cutout.

    Args:
        fill: what comes in from outside the image, in [0, 255]: a number or one per channel.
        generator: where random numbers come from.
    """

    def __init__(self, *, fill: Fill = 0, generator: Source = None) -> None:
        self.fill = fill
        self.generator = generator

    def draw(self, batch: int, size: tuple[int, int], device: torch.device) -> Decisions:
        """Decide for `batch` images of `size` (H, W): operations and magnitudes (B, 2).

        Uniform numbers of an image, per operation: which, whether, level, sign, Cutout's centre.
        """
        space = _space(size, device)
        u = uniform(self.generator, (batch, _OPS * 6), device).view(batch, _OPS, 6)
        index = (u[..., 0] * len(space.operation)).long()
        operation = torch.where(u[..., 1] < 0.5, space.operation[index], ID["identity"])
        level = 1 + (u[..., 2] * (_LEVELS - 1)).long()
        magnitude = space.magnitude[index, level]
        magnitude = torch.where(space.signed[index] & (u[..., 3] < 0.5), -magnitude, magnitude)
        return Decisions(operation, magnitude, u[..., 4:])

    def __call__(self, images: Tensor) -> Tensor:
        """Augment images (B, C, H, W), uint8, C = 1 or 3: new images of the same shape."""
        check_pixels(images)
        size = (images.shape[2], images.shape[3])
        return apply_layers(images, self.draw(len(images), size, images.device), fill=self.fill)


@dataclass(frozen=True, kw_only=True)
class UDAPolicy(policies.Policy):
    """UDA's own RandAugment as a setting."""

    name = "uda"
    title = "RandAugment"

    def make(self, **common: Any) -> UDARandAugment:  # noqa: D102
        return UDARandAugment(fill=common["fill"], generator=common["generator"])


POLICIES = (
    policies.Policy,
    UDAPolicy,
    policies.RandAugment,
    policies.TrivialAugment,
    policies.AutoAugment,
    Own,
    Timm,
)
"""The base class, and the kinds of a strong view."""
