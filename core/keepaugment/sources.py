"""Importance without a model: maps from boxes, masks and keypoints, or from a file.

The box, mask and keypoint sources know where objects are. Their maps make a region's score
(KeepAugment, Eq. 1, https://arxiv.org/abs/2011.11778) the share of the objects that it hides.

`targets` are a list with one entry per image: its tensor, or a dict that holds the tensor as
torchvision's detection models take it. `keepaugment.objects` has their layouts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from keepaugment.checks import check_images
from keepaugment.objects import as_boxes, as_keypoints, as_masks
from keepaugment.stored import GivenMaps


def _of_images(
    targets: Any, key: str, images: Tensor, form: str, read: Callable[..., Tensor]
) -> list[Tensor]:
    """Each image's tensor, as `read` gives it: (N, ...)."""
    check_images(images)
    if not isinstance(targets, list | tuple) or len(targets) != len(images):
        found = f"{len(targets)}" if isinstance(targets, list | tuple) else type(targets).__name__
        raise ValueError(
            f"targets must be a list of {len(images)} tensors {form}, or of dicts with {key!r}, "
            f"found {found}"
        )
    parts = []
    for target in targets:
        part = target.get(key) if isinstance(target, Mapping) else target
        if not isinstance(part, Tensor):
            raise ValueError(f"a target must be a tensor {form} or hold one as {key!r}")
        parts.append(read(part, (images.shape[2], images.shape[3])).to(images.device))
    return parts


def _padded(parts: list[Tensor], empty: Tensor) -> Tensor:
    """Tensors (N, ...) as one (B, N, ...), padded by zeros; of none as `empty`."""
    return pad_sequence(parts, batch_first=True) if parts else empty


def covered_pixels(boxes: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The rows (..., H) and columns (..., W) whose pixels have their middles in boxes (..., 4)."""
    y, x = (torch.arange(side, device=boxes.device) + 0.5 for side in image_size)
    left, top, right, bottom = (edge[..., None] for edge in boxes.unbind(-1))
    return (y >= top) & (y <= bottom), (x >= left) & (x <= right)


def _outer_sum(rows: Tensor, columns: Tensor) -> Tensor:
    """Sum over N of the products of rows (B, N, H) and columns (B, N, W): (B, H, W) float32."""
    with torch.autocast(rows.device.type, enabled=False):
        return rows.float().mT @ columns.float()


class BoxSaliency:
    """Ground-truth boxes: a region's score is the sum of the shares that it hides of each box.

    So a small object counts as much as a large one. An image without boxes has a constant map:
    every region may be cut.

    Args:
        margin: what every box grows by on each side, as a share of its width and height.
    """

    def __init__(self, margin: float = 0.0) -> None:
        if not 0.0 <= margin < math.inf:
            raise ValueError(f"margin must not be negative, found {margin}")
        self.margin = margin

    def __call__(self, images: Tensor, targets: Any) -> Tensor:
        """Map images (B, C, H, W) and boxes, B of (N, 4) xyxy, to saliency (B, H, W)."""
        parts = _of_images(targets, "boxes", images, "(N, 4)", as_boxes)
        low, high = _padded(parts, images.new_zeros(0, 0, 4)).split(2, dim=2)
        grown = torch.cat((low - self.margin * (high - low), high + self.margin * (high - low)), 2)
        rows, columns = covered_pixels(grown, (images.shape[2], images.shape[3]))
        area = (rows.sum(2) * columns.sum(2)).clamp(min=1)
        return _outer_sum(rows / area[:, :, None], columns)


class MaskSaliency:
    """Masks: a region's score is the sum of the shares that it hides of each mask.

    A pixel that is not 0 belongs to its mask: (N, H, W) are N instances, (H, W) is a single mask or
    a class map with background 0. An image whose masks are empty has a constant map.
    """

    def __call__(self, images: Tensor, targets: Any) -> Tensor:
        """Map images (B, C, H, W) and masks, B of (N, H, W) or (H, W), to saliency (B, H, W)."""
        size = (images.shape[2], images.shape[3])
        parts = _of_images(targets, "masks", images, f"(N, {size[0]}, {size[1]})", as_masks)
        masks = _padded(parts, images.new_zeros(0, 0, *size))
        area = masks.sum((2, 3), keepdim=True).clamp(min=1)
        return (masks / area).sum(1)


class KeypointSaliency:
    """Keypoints: a Gaussian bell of height 1 around each visible one; the bells are added.

    Args:
        sigma: of the bells, as a share of the image's shorter side.
    """

    def __init__(self, sigma: float = 0.05) -> None:
        if not 0.0 < sigma < math.inf:
            raise ValueError(f"sigma must be positive, found {sigma}")
        self.sigma = sigma

    def __call__(self, images: Tensor, targets: Any) -> Tensor:
        """Map images (B, C, H, W) and keypoints to saliency (B, H, W).

        Keypoints are B of (..., 2), x and y, or (..., 3) with a visibility that is 0 for a point
        that is not labelled, whatever its coordinates.
        """
        parts = _of_images(targets, "keypoints", images, "(..., 2 or 3)", as_keypoints)
        points = _padded(parts, images.new_zeros(0, 0, 3))
        sides, unit = images.shape[2:], self.sigma * min(images.shape[2:])
        y, x = (torch.arange(side, device=images.device) + 0.5 for side in sides)
        rows, columns = (
            torch.exp(-0.5 * ((place - points[:, :, axis, None]) / unit) ** 2)
            for place, axis in ((y, 1), (x, 0))
        )
        return _outer_sum(rows * (points[:, :, 2:] > 0), columns)


class SavedSaliency(GivenMaps):
    """Maps from a file that `StoredMaps.save` wrote, for methods that run where no model is.

    The file is mapped into memory, so that the workers of a loader share its pages. A data set says
    which image a sample is:

        cached.save("maps.pt")                         # such as a CachedSaliency, one byte a cell
        saved = SavedSaliency("maps.pt")
        keep = KeepRandomErasing(saliency=saved)

        def __getitem__(self, i):                      # of a data set, in a worker
            saved.at(torch.tensor([i]))                # and, of a crop, its View
            return keep(self.images[i][None])[0], self.labels[i]

    Args:
        path: of the file.

    Raises:
        ValueError: The file holds no maps.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        state = torch.load(path, mmap=True, weights_only=True, map_location="cpu")
        if not isinstance(state, dict) or not {"maps", "image_size"} <= state.keys():
            raise ValueError(f"{path} holds no maps; StoredMaps.save writes them")
        self.path = path
        self.maps, self.image_size = state["maps"], tuple(state["image_size"])
        self.index = self.view = None

    def __reduce__(self) -> Any:
        """A copy in another process opens the file again."""
        return SavedSaliency, (self.path,)
