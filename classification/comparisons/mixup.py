"""Mixup (Zhang et al., 2017, https://arxiv.org/abs/1710.09412)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from keepaugment.checks import check_images, check_labels
from keepaugment.draws import Source, symmetric_beta, uniform


def blend(x: Tensor, partner: Tensor, weight: Tensor) -> Tensor:
    """Mix every row of a batch with another: (1 - weight) * x + weight * x[partner].

    Args:
        x: (B, ...), floating point.
        partner: (B,) numbers of rows.
        weight: of the partner, in [0, 1], broadcasts against `x`; where it is 0 the row stays as it
            is, bit by bit.
    """
    return x.lerp(x.index_select(0, partner), weight.to(x.dtype))


def blend_labels(labels: Tensor, partner: Tensor, weight: Tensor, num_classes: int) -> Tensor:
    """Targets (B, num_classes) of mixed images, from labels (B,); the rest as in `blend`."""
    return blend(F.one_hot(labels.long(), num_classes).float(), partner, weight)


def check_mixup(num_classes: int, alpha: float) -> None:
    """Raise ValueError unless there are classes and a Beta(alpha, alpha) distribution."""
    if num_classes < 1 or alpha <= 0.0:
        raise ValueError(f"num_classes and alpha must be positive, found {num_classes} and {alpha}")


class Mixup:
    """Mix the images of a batch in pairs, and their labels likewise.

    Lambda ~ Beta(alpha, alpha) is shared by the batch and partners are a random permutation of it,
    as in the published code.

    Args:
        num_classes: length of the targets.
        alpha: of the Beta distribution; 0.2 is the paper's for ImageNet, 1 for CIFAR-10.
        generator: where random numbers come from.
    """

    def __init__(
        self,
        num_classes: int,
        alpha: float = 0.2,
        *,
        generator: Source = None,
    ) -> None:
        check_mixup(num_classes, alpha)
        self.num_classes = num_classes
        self.alpha = alpha
        self.generator = generator

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mix images (B, C, H, W) and labels (B,): new images and targets (B, num_classes)."""
        check_images(images)
        check_labels(labels, len(images), self.num_classes)
        u = uniform(self.generator, (len(images), 3), images.device)
        weight = 1.0 - symmetric_beta(self.alpha, u[:1, 0], u[:1, 1])  # (1,), the batch's draw
        partner = u[:, 2].argsort()
        targets = blend_labels(labels, partner, weight, self.num_classes)
        return blend(images, partner, weight), targets
