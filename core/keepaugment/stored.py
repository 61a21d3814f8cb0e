"""Stored saliency maps: one small map per training image, in the image's own frame.

A map follows the crop and the flip of each view of its image. What computes maps, and when, is for
the classes that are built on this: `CachedSaliency` and `RecycledSaliency`.
"""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from keepaugment.checks import (
    check_images,
    check_index,
    check_not_negative,
    check_saliency,
    warn_of_repeats,
)
from keepaugment.saliency import Saliency


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
    `image_size` of its `StoredMaps`.

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


class StoredMaps:
    """A map of each image: `size` x `size` bytes, the means of its cells, 255 where it is largest.

    Boxes are compared within an image, so a map's scale is not kept, but 0 is what is unimportant:
    no map is negative. A view's map changes the cells that the view shows, scaled so that the sum
    of those that were known stays what it was; the others stay as they were. Padding counts as
    unimportant.

    Args:
        num_images: of the training set.
        image_size: (H, W) of an image, in pixels; of images of many sizes, what they all are
            thought to be scaled to (see `ScaledView`).
        size: of a stored map; None takes 16 for images of up to 64 pixels and 32 for larger ones,
            256 bytes and 1 KB.
        device: of the stored maps.

    Raises:
        ValueError: Numbers below 1, or a map larger than its image.
    """

    memory = 0.0  # what a known cell keeps of its value when a view shows it again
    least = 0  # byte of the least important cell that was seen

    def __init__(
        self,
        num_images: int,
        image_size: tuple[int, int],
        *,
        size: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        size = size or min(16 if max(image_size) <= 64 else 32, *image_size)
        if num_images < 1 or not 1 <= size <= min(image_size):
            raise ValueError(
                f"{num_images} images of {tuple(image_size)} and maps of {size} x {size}: none may "
                "be below 1, and a map not above its image"
            )
        self.image_size = image_size
        self.maps = torch.zeros(num_images, size, size, dtype=torch.uint8, device=device)
        self.fresh = torch.zeros(num_images, dtype=torch.bool, device=device)
        self.index: Tensor | None = None
        self.view: View | ScaledView | None = None
        self.cells: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}  # of the view, by its size

    def at(
        self,
        index: Tensor,
        view: View | ScaledView | None = None,
        *,
        epoch: int | None = None,
        images: Tensor | None = None,
    ) -> None:
        """Go to a batch; all stored maps are told the same of it, and take what they need.

        Args:
            index: numbers of its images (B,) int64.
            view: where their views lie; None: they are whole.
            epoch: from 0; `CachedSaliency` needs it.
            images: the views (B, C, H, W) before any pixel is changed, for `RecycledSaliency`.

        Raises:
            ValueError: Numbers or views that cannot be, or what is needed is missing.
        """
        self.index = index = check_index(index, len(self.maps))
        self.view = whole(len(index), index.device) if view is None else view
        if any(each.shape != index.shape for each in self.view):
            shapes = ", ".join(str(tuple(each.shape)) for each in self.view)
            raise ValueError(f"a view of {len(index)} images is that many numbers, found {shapes}")
        self.cells = {}

    def _present(self, batch: int, call: str) -> tuple[Tensor, View | ScaledView]:
        """The numbers and the views of the present batch."""
        if self.index is None or self.view is None or len(self.index) != batch:
            known = "none" if self.index is None else len(self.index)
            raise ValueError(
                f"maps of {batch} images were asked for, the numbers of {known} are known; "
                f"call {call} with the batch first"
            )
        return self.index, self.view

    def _placed(self, view: View | ScaledView, view_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The cells of a view's rows (B, H, size) and columns (B, W, size), one-hot."""
        if view is self.view and view_size in self.cells:
            return self.cells[view_size]
        (height, width), size = self.image_size, self.maps.shape[1]
        rows = _cells(view.rows(view_size[0]), height, size)
        cells = rows, _cells(view.columns(view_size[1]), width, size)
        if view is self.view:
            self.cells[view_size] = cells
        return cells

    def _known(self, index: Tensor) -> Tensor:
        """The stored maps of images `index` (B,), as they are read: (B, size, size) float32."""
        return self.maps[index].float()

    def read(self, index: Tensor, view: View | ScaledView, view_size: tuple[int, int]) -> Tensor:
        """The stored maps of images `index` (B,) in their views (B, H, W), from 0 to 255."""
        with torch.autocast(self.maps.device.type, enabled=False):
            rows, columns = self._placed(view, view_size)
            return rows @ self._known(index) @ columns.mT

    def write(
        self,
        index: Tensor,
        view: View | ScaledView,
        saliency: Tensor,
        shown: Tensor | None = None,
    ) -> None:
        """Store the maps (B, H, W) of views of the images `index` (B,), each image once.

        Of an image that is several times in a batch only one view is stored.

        `shown` (B, H, W) is true where a pixel tells of its image; None: everywhere.

        Raises:
            ValueError: A map is negative, on a CPU; on a GPU, which is not asked, that counts as 0.
        """
        check_not_negative(saliency)
        warn_of_repeats(index, "the map of only one of its views is stored")
        with torch.no_grad(), torch.autocast(self.maps.device.type, enabled=False):
            size, tiny = (saliency.shape[1], saliency.shape[2]), torch.finfo(torch.float32).tiny
            rows, columns = self._placed(view, size)
            if shown is None:
                pixels = rows.sum(1)[:, :, None] * columns.sum(1)[:, None, :]
            else:
                pixels = rows.mT @ shown.float() @ columns
                saliency = torch.where(shown, saliency, 0.0)
            means = rows.mT @ saliency.float() @ columns / pixels.clamp(min=1)
            before, seen = self.maps[index].float(), pixels > 0
            known = before > 0
            again = seen & known
            old, new = ((again * each).sum((1, 2), keepdim=True) for each in (before, means))
            means = means * torch.where(new > 0, old / new.clamp(min=tiny), 1.0)
            means = torch.where(again, torch.lerp(means, before, self.memory), means)
            after = torch.where(seen, means, before)
            largest = after.amax((1, 2), keepdim=True).clamp(min=tiny)
            stored = (after / largest * 255).round().clamp(min=self.least) * (seen | known)
            self.maps[index] = stored.to(torch.uint8)
            self.fresh.index_fill_(0, index, True)

    def merge(self) -> None:
        """Give every process the maps that the others stored since the last call.

        To be called by all processes at the end of each epoch; with one process there is no work.
        """
        if dist.is_available() and dist.is_initialized():
            changed = self.fresh.to(torch.uint8)
            maps = self.maps * changed[:, None, None]
            for tensor in (changed, maps):
                dist.all_reduce(tensor, dist.ReduceOp.MAX)
            self.maps = torch.where(changed[:, None, None] > 0, maps, self.maps)
        self.fresh.zero_()

    def save(self, path: str | PathLike[str]) -> None:
        """Write all maps to a file that `keepaugment.SavedSaliency` reads."""
        torch.save({"maps": self.maps.cpu(), "image_size": tuple(self.image_size)}, path)

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint at the end of an epoch, after `merge`."""
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


class GivenMaps(StoredMaps):
    """Maps that were there before a run, and are only read: of objects, or from a file."""

    def __call__(self, images: Tensor, targets: Any = None) -> Tensor:
        """The maps of images (B, C, H, W), the present views: (B, H, W) float32."""
        check_images(images)
        index, view = self._present(len(images), "at(index, view)")
        return self.read(index, view, (images.shape[2], images.shape[3])).to(images.device)

    def fill(self, saliency: Saliency, batches: Iterable[tuple[Tensor, Tensor, Any]]) -> None:
        """Store a map of each image of batches, as `TeacherSaliency` takes them."""
        for index, images, targets in batches:
            check_saliency(found := saliency(images, targets), images)
            index = check_index(index, len(self.maps)).to(self.maps.device)
            self.write(index, whole(len(index), index.device), found.to(index.device))


class TeacherSaliency(GivenMaps):
    """Maps that are computed once, by a network that is trained already, and then only read.

    A pretrained network's maps are good from the first step, and free in every later one:

        maps = TeacherSaliency(GradientSaliency(teacher), whole_images, number, (224, 224))
        cut = KeepCutout(saliency=maps)
        for index, view, images, labels in loader:     # view: where the crops lie
            maps.at(index, view)
            images = cut(images, labels)

    `save` writes them for `SavedSaliency`, which workers and later runs read.

    Args:
        saliency: the map; of a network with other classes, one that is asked without targets.
        batches: of all images, each whole and scaled to `image_size`: numbers (B,), images
            (B, C, H, W) as the network takes them, and targets or None.
        num_images: of the training set.
        image_size: (H, W), as in `StoredMaps`.
        size: of a stored map, as in `StoredMaps`.
        device: of the stored maps.

    Raises:
        ValueError: An image is in no batch.
    """

    def __init__(
        self,
        saliency: Saliency,
        batches: Iterable[tuple[Tensor, Tensor, Any]],
        num_images: int,
        image_size: tuple[int, int],
        *,
        size: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(num_images, image_size, size=size, device=device)
        self.fill(saliency, batches)
        if missing := int((~self.fresh).sum()):
            raise ValueError(f"{missing} of {num_images} images are in no batch")
        self.fresh.zero_()
