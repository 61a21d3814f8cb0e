"""CutMix, plain and Keep: one code path, as in `keepaugment.cutting`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from keepaugment.checks import Size, check_images, check_labels
from keepaugment.cutting import Cut, Keep
from keepaugment.draws import Source, symmetric_beta, uniform
from keepaugment.no_trace import Forward
from keepaugment.regions import Border, pair
from keepaugment.saliency import Saliency


class CutMix(Cut):
    """Replace a box of each image by another image's, and mix the labels (arXiv:1905.04899).

    Lambda ~ Beta(alpha, alpha) and with it the box's size are shared by the batch, as in the
    original; its position is drawn per image, so that the Keep arm differs in nothing else.

    Args:
        num_classes: length of the targets.
        alpha: of the Beta distribution.
        p: probability that a batch is mixed.
        border: "clip", the original's, or "inside".
        generator: where random numbers come from.
        keep: makes it Selective-Cut (KeepAugment section 4.2): important boxes of the image that is
            cut are not replaced.
    """

    def __init__(
        self,
        num_classes: int,
        alpha: float = 1.0,
        *,
        p: float = 1.0,
        border: Border = "clip",
        generator: Source = None,
        keep: Keep | None = None,
    ) -> None:
        super().__init__(p, border, 0.0, generator, keep)
        if not 0.0 < alpha < math.inf:
            raise ValueError(f"alpha must be positive, found {alpha}")
        self.num_classes = num_classes
        self.alpha = alpha

    def draw(self, images: Tensor) -> tuple[Size, Tensor]:
        """Draw the batch's box and whether it is mixed."""
        u = uniform(self.generator, (len(images), 3), images.device)[:1]  # the batch's draw
        share = (1.0 - symmetric_beta(self.alpha, u[:, :1, None], u[:, 1:2, None])).sqrt()
        height, width = images.shape[2:]
        size = (share * pair(height, width, images.device)).long()[:, :, 0]
        size = size & ~1  # even: CutMix spans [c - side // 2, c + side // 2)
        return size.expand(len(images), 2), u[:, 2:]

    def __call__(
        self, images: Tensor, labels: Tensor, *, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mix images (B, C, H, W) and labels (B,): new images and targets (B, num_classes).

        A target's weights are the pixel shares of the two images in it. Partners are a random
        permutation of the batch. `mask` may have been drawn before.
        """
        check_images(images)
        check_labels(labels, len(images), self.num_classes)
        mask = self.mask(images, labels) if mask is None else mask
        partner = uniform(self.generator, (len(images), 1), images.device)[:, 0].argsort()
        hidden = mask.sum((2, 3), dtype=torch.int32)
        lam, labels = 1.0 - hidden / images.shape[2:].numel(), labels.long()[:, None]
        targets = lam.new_zeros(len(images), self.num_classes).scatter_(1, labels, lam)
        targets.scatter_add_(1, labels[partner], 1.0 - lam)
        # Faster than indexing, but it gives contiguous images of channels-last ones.
        others = images.index_select(0, partner) if images.is_contiguous() else images[partner]
        return torch.where(mask, others, images), targets


class KeepCutMix(CutMix):
    """CutMix that keeps the important region, the short way to `keep=Keep(...)`.

    Args:
        model: images to logits; or None with `saliency`.
        num_classes: as in `CutMix`.
        alpha: as in `CutMix`.
        tau: as in `Keep`.
        saliency: a map of your choice instead of the model.
        match_area: as in `Keep`.
        **options: of `CutMix`: p, border and generator.
    """

    def __init__(
        self,
        model: Forward | None,
        num_classes: int,
        alpha: float = 1.0,
        tau: float = 0.6,
        *,
        saliency: Saliency | None = None,
        match_area: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            num_classes, alpha, keep=Keep.of(model, saliency, tau, match_area), **options
        )
