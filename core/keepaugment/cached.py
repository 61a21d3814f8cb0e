"""Maps that are computed in some epochs and read from memory in the others.

KeepAugment (Gong et al., CVPR 2021, https://arxiv.org/abs/2011.11778) computes a map at every step.
What is important in an image changes slowly while a network trains, so a map can serve for some
epochs, if it follows the crop and the flip of each view (see `keepaugment.stored`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from keepaugment.checks import Size, check_images, check_saliency
from keepaugment.regions import Border, Side
from keepaugment.saliency import Saliency
from keepaugment.selective import allowed_regions
from keepaugment.stored import ScaledView, StoredMaps, View


class CachedSaliency(StoredMaps):
    """A map that is computed in some epochs and read from memory in the others.

    A view's fresh map replaces the cells that the view shows (see `StoredMaps`). Cells that were
    never seen count as unimportant, so an image without a map is cut as by the plain method.

        cached = CachedSaliency(GradientSaliency(model, 0.5), 50_000, (32, 32), every=20)
        keep = KeepCutout(saliency=cached)
        for epoch in range(300):
            for index, images, labels, view in loader:   # index (B,): the images' numbers
                cached.at(index, view, epoch=epoch)
                images = keep(images, labels)
            cached.merge()                               # with DistributedDataParallel

    Of an image that is several times in a batch only one view's map is stored.

    With several processes each stores the maps of the images that it sees; `merge` then gives all
    of them every map, so that a checkpoint of one process holds all, too.

    Args:
        saliency: the map that is stored.
        num_images: of the training set.
        image_size: (H, W) of an image, in pixels, as in `StoredMaps`.
        every: epochs between refreshes of all maps. Before the first of them, while the network
            changes most, epochs 1, 2, 4, 8, ... refresh them, too. 1 stores nothing for later.
        size: of a stored map, as in `StoredMaps`.
        device: of the stored maps.

    Raises:
        ValueError: Numbers below 1, or a map larger than its image.
    """

    def __init__(
        self,
        saliency: Saliency,
        num_images: int,
        image_size: tuple[int, int],
        *,
        every: int = 20,
        size: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(num_images, image_size, size=size, device=device)
        if every < 1:
            raise ValueError(f"maps of every {every} epochs: none may be below 1")
        self.saliency = saliency
        self.every = every
        self.refreshing = False

    def refresh_due(self, epoch: int) -> bool:
        """Whether maps are computed in an epoch, from 0, instead of read."""
        return epoch % self.every == 0 or (epoch < self.every and epoch & (epoch - 1) == 0)

    def at(  # noqa: D102
        self,
        index: Tensor,
        view: View | ScaledView | None = None,
        *,
        epoch: int | None = None,
        images: Tensor | None = None,
    ) -> None:
        if epoch is None:
            raise ValueError("stored maps are renewed by the epoch; call at(index, view, epoch=)")
        super().at(index, view, epoch=epoch, images=images)
        self.refreshing = self.refresh_due(epoch)

    def __call__(self, images: Tensor, targets: Any = None) -> Tensor:
        """Map the present views, images (B, C, H, W), to saliency (B, H, W) float32, at least 0."""
        check_images(images)
        index, view = self._present(len(images), "at(index, view, epoch=)")
        height, width = images.shape[2:]
        if not self.refreshing:
            return self.read(index, view, (height, width))
        check_saliency(saliency := self.saliency(images, targets), images)
        self.write(index, view, saliency)
        return saliency

    def merge(self) -> None:
        """As `StoredMaps.merge`; after an epoch that only read maps there is no work."""
        if self.refreshing:
            super().merge()


def box_agreement(
    first: Tensor,
    second: Tensor,
    size: Size,
    *,
    side: Side = "low",
    tau: float = 0.6,
    border: Border = "inside",
) -> Tensor:
    """How far two maps allow the same boxes: intersection over union of the two sets of boxes.

    1 if the maps lead to the same decision for every box. Maps that know nothing of each other
    reach 0.43 for cuts at tau 0.6, and 0.25 for pastes. With boxes that the border clips any two
    maps agree much more, about the smaller boxes at the border.

    Args:
        first: (B, H, W).
        second: (B, H, W).
        size: of the boxes, as in `region_scores`.
        side: "low" for boxes that may be cut, "high" for those that may be pasted.
        tau: quantile.
        border: as in `region_scores`.

    Returns:
        (B,) in [0, 1].
    """
    a, b = (
        allowed_regions(each, each[:, None], size, side=side, tau=tau, border=border)[0].flatten(1)
        for each in (first, second)
    )
    return (a & b).sum(1) / (a | b).sum(1)
