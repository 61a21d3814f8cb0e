"""CutMix, plain and Keep: one code path, as in `keepaugment.cutting`."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from keepaugment.checks import Size, check_images, check_labels, check_saliency
from keepaugment.cutting import Cut, Keep
from keepaugment.draws import Source, symmetric_beta, uniform
from keepaugment.no_trace import Forward
from keepaugment.regions import Border, pair
from keepaugment.saliency import Saliency

Labels = Literal["area", "importance"]
"""The weights of a mixed image's labels."""


def importance_shares(saliency: Tensor, mask: Tensor, partner: Tensor) -> Tensor:
    """The weight of each image's own label when a box of its partner replaces one of it.

    An image's share is that of its importance which can be seen, the two shares are scaled to a sum
    of 1; without importance, or where nothing important is left of either, the area decides.

    Args:
        saliency: (B, H, W), at least 0; what is below counts as 0.
        mask: (B, 1, H, W) bool, what is replaced.
        partner: (B,) int64, the image in the box.

    Returns:
        (B,) float32 in [0, 1]; the partner's label has the rest.
    """
    replaced = mask[:, 0]
    area = replaced.sum((1, 2), dtype=torch.float32) / replaced.shape[1:].numel()
    weights = saliency.detach().float().clamp(min=0.0)
    weights = weights / weights.amax((1, 2), keepdim=True).clamp(
        min=torch.finfo(torch.float32).tiny
    )
    whole = weights.sum((1, 2))
    hidden = (weights * replaced).sum((1, 2))
    seen = (weights * ~replaced).sum((1, 2))
    shown = (weights[partner] * replaced).sum((1, 2))
    own = torch.where(whole > 0, seen / (seen + hidden), 1.0 - area)
    other = torch.where(whole[partner] > 0, shown / whole[partner], area)
    both = own + other
    return torch.where(both > 0, own / both, 1.0 - area)


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
        labels: "area" weights each label by its image's share of the pixels; "importance" by the
            share of its importance that can be seen, by the map of `keep` (as SnapMix,
            arXiv:2012.04846). With `Keep(map, tau=1)` the boxes are plain CutMix's.

    Raises:
        ValueError: An alpha that is not positive, or labels by importance without a map.
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
        labels: Labels = "area",
    ) -> None:
        super().__init__(p, border, 0.0, generator, keep)
        if not 0.0 < alpha < math.inf:
            raise ValueError(f"alpha must be positive, found {alpha}")
        if labels not in get_args(Labels):
            raise ValueError(f"labels must be area or importance, found {labels!r}")
        if labels == "importance" and keep is None:
            raise ValueError(
                'labels="importance" needs a map: keep=Keep(map), or with tau=1 for CutMix\'s boxes'
            )
        self.num_classes = num_classes
        self.alpha = alpha
        self.labels = labels

    def draw(self, images: Tensor) -> tuple[Size, Tensor]:
        """Draw the batch's box and whether it is mixed."""
        u = uniform(self.generator, (len(images), 3), images.device)[:1]  # the batch's draw
        share = (1.0 - symmetric_beta(self.alpha, u[:, :1, None], u[:, 1:2, None])).sqrt()
        height, width = images.shape[2:]
        size = (share * pair(height, width, images.device)).long()[:, :, 0]
        size = size & ~1  # even: CutMix spans [c - side // 2, c + side // 2)
        return size.expand(len(images), 2), u[:, 2:]

    def importance(self, images: Tensor, labels: Tensor) -> Tensor | None:
        """The map (B, H, W) that labels are weighted by, None where the area does."""
        return self.keep.map(images, labels) if self.keep and self.labels == "importance" else None

    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        mask: Tensor | None = None,
        saliency: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Mix images (B, C, H, W) and labels (B,): new images and targets (B, num_classes).

        A target's weights are the shares of the two images in it, as `labels` of the class has it.
        Partners are a random permutation of the batch. `mask`, and the map of `importance`, may
        have been taken before.
        """
        check_images(images)
        check_labels(labels, len(images), self.num_classes)
        saliency = self.importance(images, labels) if saliency is None else saliency
        mask = self.mask(images, labels, saliency=saliency) if mask is None else mask
        partner = uniform(self.generator, (len(images), 1), images.device)[:, 0].argsort()
        if saliency is None or self.labels == "area":
            lam = 1.0 - mask.sum((2, 3), dtype=torch.int32) / images.shape[2:].numel()
        else:
            check_saliency(saliency, images)
            lam = importance_shares(saliency, mask, partner)[:, None]
        labels = labels.long()[:, None]
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
        **options: of `CutMix`: p, border, generator and labels.
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
