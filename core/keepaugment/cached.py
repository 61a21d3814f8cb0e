"""Stored saliency maps: one small map per training image, reused for many of its views.

KeepAugment (Gong et al., CVPR 2021, https://arxiv.org/abs/2011.11778) computes a map at every step.
What is important in an image changes slowly while a network trains, so a map can serve for some
epochs, if it follows the crop and the flip of each view.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from keepaugment.checks import Size, check_images, check_saliency
from keepaugment.regions import Border, Side
from keepaugment.saliency import Saliency
from keepaugment.selective import allowed_regions


class View(NamedTuple):
    """Where the views of a batch lie in their images: a crop of the view's size, then a flip.

    Attributes:
        top: (B,) int64, the image's row in the view's first row; negative in padding above it.
        left: (B,) int64, the image's column in the first column before the flip.
        mirrored: (B,) bool, flipped left to right.
    """

    top: Tensor
    left: Tensor
    mirrored: Tensor

    def rows(self, height: int) -> Tensor:
        """The image's row in each of a view's rows: (B, height), beyond the image in padding."""
        return self.top[:, None] + torch.arange(height, device=self.top.device)

    def columns(self, width: int) -> Tensor:
        """The image's column in each of a view's columns: (B, width)."""
        columns = self.left[:, None] + torch.arange(width, device=self.left.device)
        return torch.where(self.mirrored[:, None], columns.flip(1), columns)


class ScaledView(NamedTuple):
    """The same for crops of any size that are scaled to the view's, then flipped.

    Images may have different sizes: lengths are those of the image when it is scaled to the
    `image_size` of its `CachedSaliency`.

    Attributes:
        top: (B,) float, the crop's upper edge.
        left: (B,) float, its left edge.
        height: (B,) float.
        width: (B,) float.
        mirrored: (B,) bool, flipped left to right.
    """

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    mirrored: Tensor

    def rows(self, height: int) -> Tensor:
        """The image's row at the middle of each of a view's rows: (B, height)."""
        return self.top[:, None] + self.height[:, None] * _middles(height, self.top.device)

    def columns(self, width: int) -> Tensor:
        """The image's column at the middle of each of a view's columns: (B, width)."""
        columns = self.left[:, None] + self.width[:, None] * _middles(width, self.left.device)
        return torch.where(self.mirrored[:, None], columns.flip(1), columns)


def _middles(number: int, device: torch.device) -> Tensor:
    """The middles of equal parts of [0, 1]."""
    return (torch.arange(number, device=device) + 0.5) / number


def whole(batch: int, device: torch.device) -> View:
    """The views that are their images."""
    zero = torch.zeros(batch, dtype=torch.int64, device=device)
    return View(zero, zero, zero.bool())


def _cells(positions: Tensor, length: int, size: int) -> Tensor:
    """Which of `size` equal cells of an axis pixels (B, L) lie in: one-hot (B, L, size) float32.

    All zero for a pixel outside the image, [0, length).
    """
    cell = (positions * size).div(length, rounding_mode="floor")
    return (cell[:, :, None] == torch.arange(size, device=positions.device)).float()


class CachedSaliency:
    """A map that is computed in some epochs and read from memory in the others.

    Each image's map is kept in the image's own frame as `size` x `size` bytes, the means of its
    cells, 255 where they are largest: boxes are compared within an image, so its scale is not kept.
    A view's fresh map replaces the cells that the view shows, scaled so that the sum of those that
    were known stays what it was; the others stay as they were. Cells that were never seen, and
    padding, count as unimportant, so an image without a map is cut as by the plain method.

        cached = CachedSaliency(GradientSaliency(model, 0.5), 50_000, (32, 32), every=20)
        keep = KeepCutout(saliency=cached)
        for epoch in range(300):
            for index, images, labels, view in loader:   # index (B,): the images' numbers
                cached.at(epoch, index, view)
                images = keep(images, labels)
            cached.merge()                               # with DistributedDataParallel

    With several processes each stores the maps of the images that it sees; `merge` then gives all
    of them every map, so that a checkpoint of one process holds all, too.

    Args:
        saliency: the map that is stored.
        num_images: of the training set.
        image_size: (H, W) of an image, in pixels; of images of many sizes, what they all are
            thought to be scaled to (see `ScaledView`).
        every: epochs between refreshes of all maps. Before the first of them, while the network
            changes most, epochs 1, 2, 4, 8, ... refresh them, too. 1 stores nothing for later.
        size: of a stored map; None takes 16 for images of up to 64 pixels and 32 for larger ones,
            256 bytes and 1 KB.
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
        size = size or min(16 if max(image_size) <= 64 else 32, *image_size)
        if num_images < 1 or every < 1 or not 1 <= size <= min(image_size):
            raise ValueError(
                f"{num_images} images of {tuple(image_size)}, every {every} epochs and maps of "
                f"{size} x {size}: none may be below 1, and a map not above its image"
            )
        self.saliency = saliency
        self.image_size = image_size
        self.every = every
        self.maps = torch.zeros(num_images, size, size, dtype=torch.uint8, device=device)
        self.fresh = torch.zeros(num_images, dtype=torch.bool, device=device)
        self.refreshing = False
        self.index: Tensor | None = None
        self.view: View | ScaledView | None = None

    def refresh_due(self, epoch: int) -> bool:
        """Whether maps are computed in an epoch, from 0, instead of read."""
        return epoch % self.every == 0 or (epoch < self.every and epoch & (epoch - 1) == 0)

    def at(self, epoch: int, index: Tensor, view: View | ScaledView | None = None) -> None:
        """Go to the images numbered `index` (B,) of an epoch, in these views; None: whole."""
        self.refreshing = self.refresh_due(epoch)
        self.index = index
        self.view = whole(len(index), index.device) if view is None else view

    def __call__(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map the present views, images (B, C, H, W), to saliency (B, H, W) float32, at least 0."""
        check_images(images)
        if self.index is None or self.view is None or len(self.index) != len(images):
            known = "none" if self.index is None else len(self.index)
            raise ValueError(
                f"maps of {len(images)} images were asked for, the numbers of {known} are known; "
                "call at(epoch, index, view) with the batch first"
            )
        height, width = images.shape[2:]
        if not self.refreshing:
            return self.read(self.index, self.view, (height, width))
        check_saliency(saliency := self.saliency(images, labels), images)
        self.write(self.index, self.view, saliency)
        return saliency

    def _placed(self, view: View | ScaledView, view_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The cells of a view's rows (B, H, size) and columns (B, W, size), one-hot."""
        (height, width), size = self.image_size, self.maps.shape[1]
        rows = _cells(view.rows(view_size[0]), height, size)
        return rows, _cells(view.columns(view_size[1]), width, size)

    def read(self, index: Tensor, view: View | ScaledView, view_size: tuple[int, int]) -> Tensor:
        """The stored maps of images `index` (B,) in their views (B, H, W), from 0 to 255."""
        with torch.autocast(self.maps.device.type, enabled=False):
            rows, columns = self._placed(view, view_size)
            return rows @ self.maps[index].float() @ columns.mT

    def write(self, index: Tensor, view: View | ScaledView, saliency: Tensor) -> None:
        """Store the maps (B, H, W) of views of the images `index` (B,), each image once."""
        with torch.no_grad(), torch.autocast(self.maps.device.type, enabled=False):
            size, tiny = (saliency.shape[1], saliency.shape[2]), torch.finfo(torch.float32).tiny
            rows, columns = self._placed(view, size)
            pixels = rows.sum(1)[:, :, None] * columns.sum(1)[:, None, :]
            means = rows.mT @ saliency.float() @ columns / pixels.clamp(min=1)
            before, shown = self.maps[index].float(), pixels > 0
            again = shown & (before > 0)
            old, new = ((again * each).sum((1, 2), keepdim=True) for each in (before, means))
            scale = torch.where((old > 0) & (new > 0), old / new.clamp(min=tiny), 1.0)
            after = torch.where(shown, means * scale, before)
            largest = after.amax((1, 2), keepdim=True).clamp(min=tiny)
            self.maps[index] = (after / largest * 255).round().to(torch.uint8)
            self.fresh.index_fill_(0, index, True)

    def merge(self) -> None:
        """Give every process the maps that the others stored since the last call.

        To be called by all processes at the end of each epoch; with one process there is no work.
        """
        if self.refreshing and dist.is_available() and dist.is_initialized():
            changed = self.fresh.to(torch.uint8)
            maps = self.maps * changed[:, None, None]
            for tensor in (changed, maps):
                dist.all_reduce(tensor, dist.ReduceOp.MAX)
            self.maps = torch.where(changed[:, None, None] > 0, maps, self.maps)
        self.fresh.zero_()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint at the end of an epoch, after `merge`, needs."""
        return {"maps": self.maps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the maps of a `state_dict`.

        Raises:
            ValueError: They are of another number or size.
        """
        if state["maps"].shape != self.maps.shape:
            raise ValueError(
                f"stored maps of shape {tuple(state['maps'].shape)} do not fit "
                f"{tuple(self.maps.shape)}"
            )
        self.maps.copy_(state["maps"])


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
