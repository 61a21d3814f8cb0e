"""Cuts as torchvision transforms v2, with boxes, masks and keypoints.

`torchvision.transforms.v2.RandomErasing` passes boxes, masks and keypoints on as they were and
takes one region for a whole batch. This one takes a region per image, where the method's map allows
one, and tells the targets. It alone in this library imports torchvision.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils._pytree import tree_flatten, tree_unflatten
from torchvision import tv_tensors
from torchvision.transforms import v2

from keepaugment.cutting import Cutout, RandomErasing
from keepaugment.regions import Spare

_TARGETS = {
    "boxes": tv_tensors.BoundingBoxes,
    "masks": tv_tensors.Mask,
    "keypoints": tv_tensors.KeyPoints,
}


def _corners(boxes: tv_tensors.BoundingBoxes) -> Tensor:
    """The corners of boxes of any format, in turn: (N, 4, 2) float32, x before y."""
    plain = boxes.as_subclass(Tensor).float()
    convert = v2.functional.convert_bounding_box_format
    if tv_tensors.is_rotated_bounding_format(boxes.format):
        return convert(plain, boxes.format, tv_tensors.BoundingBoxFormat.XYXYXYXY).view(-1, 4, 2)
    xyxy = convert(plain, boxes.format, tv_tensors.BoundingBoxFormat.XYXY)
    return xyxy[:, [0, 1, 2, 1, 2, 3, 0, 3]].view(-1, 4, 2)


def _spans(corners: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The pixels [first, stop), each (N, H), of every row whose middles lie in convex boxes.

    `corners` are (N, 4, 2). A row's line meets two edges of a box, between which its pixels lie.
    """
    height, width = image_size
    y = torch.arange(height, device=corners.device) + 0.5
    start, stop = corners[:, :, :, None], corners.roll(-1, 1)[:, :, :, None]
    tall = stop[:, :, 1] - start[:, :, 1]
    share = (y - start[:, :, 1]) / torch.where(tall == 0, 1.0, tall)  # (N, 4, H)
    x = start[:, :, 0] + share * (stop[:, :, 0] - start[:, :, 0])
    meets = (tall != 0) & (share >= 0) & (share <= 1)
    left = torch.where(meets, x, torch.inf).amin(1)
    right = torch.where(meets, x, -torch.inf).amax(1)
    first = (left - 0.5).ceil().clamp(0, width)
    return first.long(), torch.maximum((right - 0.5).floor().clamp(-1, width - 1) + 1, first).long()


def _counts(boxes: tv_tensors.BoundingBoxes, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """How many pixels of boxes (N, ...) the rectangles `hidden` (1 or N, H, W) leave, of how many.

    Returns:
        (N,) and (N,).
    """
    first, stop = _spans(_corners(boxes), (hidden.shape[1], hidden.shape[2]))
    rows, columns = hidden.any(2), hidden.any(1).int()
    left, right = columns.argmax(1), columns.argmax(1) + columns.sum(1)
    covered = torch.minimum(stop, right[:, None]) - torch.maximum(first, left[:, None])
    of = (stop - first).sum(1)
    return of - (covered.clamp(min=0) * rows).sum(1), of


def _around(corners: Tensor) -> Tensor:
    """Boxes (N, 4) xyxy around `corners` (N, 4, 2)."""
    return torch.cat((corners.amin(1), corners.amax(1)), 1)


def _enough(seen: Tensor, of: Tensor, min_visible: float) -> Tensor:
    """Whether as much of an object is seen as shall be; of one without pixels nothing is asked."""
    return (of == 0) | (seen >= (min_visible * of).clamp(min=1))


def _seen_points(points: Tensor, hidden: Tensor, min_visible: float) -> Tensor:
    """Whether enough points of each group (N, ..., 2) are outside `hidden` (1 or N, H, W): (N,)."""
    height, width = hidden.shape[1:]
    x, y = points.floor().long().unbind(-1)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    group = torch.arange(len(hidden), device=x.device).view(-1, *[1] * (x.ndim - 1))
    seen = inside & ~hidden[group, y.clamp(0, height - 1), x.clamp(0, width - 1)]
    if x.ndim > 1:
        seen, inside = seen.flatten(1), inside.flatten(1)
        return _enough(seen.sum(1), inside.sum(1), min_visible)
    return _enough(seen.int(), inside.int(), min_visible)


def _per_image(leaves: list[Any], batch: int | None) -> list[Any]:
    """A target for each image: of a sample the first; of a batch as many, or the parts of one."""
    if batch is None or len(leaves) == batch:
        return leaves[: batch or 1]
    if len(leaves) != 1 or len(leaves[0]) != batch:
        raise ValueError(
            f"expected a {type(leaves[0]).__name__} for each of {batch} images, or one of {batch} "
            f"rows, found {len(leaves)}, the first of shape {tuple(leaves[0].shape)}"
        )
    return [tv_tensors.wrap(leaves[0][i : i + 1], like=leaves[0]) for i in range(batch)]


class Erasing(v2.Transform):
    """Any cut of this library among torchvision's transforms v2, on a sample or on a batch.

        erase = Erasing(KeepRandomErasing(saliency=BoxSaliency(), p=0.5), min_visible=0.3)
        transform = v2.Compose([..., v2.ToDtype(torch.float32, scale=True), erase,
                                v2.SanitizeBoundingBoxes()])

    A sample has one image (C, H, W) or video (T, C, H, W), a batch one tensor of images
    (B, C, H, W) or videos (B, T, C, H, W), with a region each; in a loader's collate function, or
    behind it on a GPU. Every frame of a video has the region of its middle frame. Targets of a
    batch are one per image, in the images' order, or one tensor whose first axis is the batch's.

    What becomes of the targets: a box, or a group of keypoints, is *dropped* if less than
    `min_visible` of it, or nothing, can still be seen. Dropped boxes become 0 and dropped keypoints
    -1, which `v2.SanitizeBoundingBoxes` and `v2.SanitizeKeyPoints` remove with their labels. The
    visible share of a box, rotated or not, is that of the pixels whose middles lie in it; a box
    without any stays. That of keypoints (N, ..., 2) is of the N groups' points. Masks, and
    importance that is taken from boxes, are of the same pixels; a map takes rotated boxes as the
    upright ones around them.

    What is guaranteed: a Keep method with `BoxSaliency()` chooses among the share tau of all
    regions that hide least of the boxes, summed over the boxes. So where that share of the regions
    can do without a box, none is touched; in a full image one may still be hidden. With `protect`
    no box is ever hidden beyond 1 - `min_visible`, with any method and any tau: such regions are no
    candidates, tau counts among the others, and an image without another is left as it is.

    The map gets, of each image, a dict with the `boxes` (as xyxy), `masks` and `keypoints` that
    there are; in a sample without these the label, the only plain whole number per image. A method
    with a model belongs behind the loader; a `SavedSaliency` may take its place before.

    Args:
        method: `Cutout`, `RandomErasing`, `KeepCutout` or `KeepRandomErasing`; its p is per image.
        min_visible: share of a box or of a group of keypoints that is to be seen, in [0, 1].
        protect: allow only regions that leave so much of every box.
        mask_fill: what masks become in the region; None leaves them.
    """

    def __init__(
        self,
        method: Cutout | RandomErasing,
        *,
        min_visible: float = 0.0,
        protect: bool = False,
        mask_fill: float | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(method, Cutout | RandomErasing):
            raise ValueError(
                "Erasing takes Cutout, RandomErasing or their Keep arms, found "
                f"{type(method).__name__}; put any other step into adapters.KeepTransform"
            )
        if not 0.0 <= min_visible <= 1.0:
            raise ValueError(f"min_visible must be a share in [0, 1], found {min_visible}")
        self.method = method
        self.min_visible = min_visible
        self.protect = protect
        self.mask_fill = mask_fill

    def _image(self, flat_inputs: list[Any]) -> Tensor:
        """The one image, video or batch of a sample's leaves."""
        wanted = self._needs_transform_list(flat_inputs)
        found = [each for each, is_wanted in zip(flat_inputs, wanted, strict=True) if is_wanted]
        images = [each for each in found if not isinstance(each, tuple(_TARGETS.values()))]
        if len(images) != 1 or not isinstance(images[0], Tensor):
            kinds = ", ".join(type(each).__name__ for each in images) or "none"
            raise ValueError(
                f"expected one image, video or batch as a tensor, found {kinds}; call v2.ToImage "
                "first, and stack images or transform each in the data set"
            )
        low, high = (4, 5) if isinstance(images[0], tv_tensors.Video) else (3, 4)
        if images[0].ndim not in (low, high):
            raise ValueError(
                f"expected {low} or, of a batch, {high} axes, found {tuple(images[0].shape)}"
            )
        return images[0]

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the regions of a sample or a batch, of which `flat_inputs` are all leaves.

        Returns:
            `mask`, bool, true where an image is cut, (1, H, W) of a sample or (B, 1, H, W) of a
            batch; `fill`, what it becomes there; and `batch`, B or None.
        """
        image = self._image(flat_inputs)
        video = isinstance(image, tv_tensors.Video)
        batch = len(image) if image.ndim == 4 + video else None
        images = image.as_subclass(Tensor) if batch is not None else image.as_subclass(Tensor)[None]
        images = images[:, images.shape[1] // 2] if video else images
        targets = self._targets(flat_inputs, batch, images.device)
        spare = self._spare(flat_inputs, batch, images) if self.protect else None
        mask = self.method.mask(images, targets, spare=spare)
        fill = self.method.filling(images)
        if batch is None:
            whole = isinstance(fill, Tensor) and fill.ndim == 4
            mask, fill = mask[0], fill[0] if whole else fill  # type: ignore[index]
        return {"mask": mask, "fill": fill, "batch": batch}

    def _targets(self, flat_inputs: list[Any], batch: int | None, device: torch.device) -> Any:
        """What the method's map is taken for."""
        found = {}
        for key, kind in _TARGETS.items():
            leaves = [each for each in flat_inputs if isinstance(each, kind)]
            if leaves:
                found[key] = _per_image(leaves, batch)
        if "boxes" in found:
            found["boxes"] = [_around(_corners(each)) for each in found["boxes"]]
        if found:
            return [
                dict(zip(found, parts, strict=True)) for parts in zip(*found.values(), strict=True)
            ]
        numbers = [torch.as_tensor(each) for each in flat_inputs if isinstance(each, int | Tensor)]
        whole = (torch.uint8, torch.int16, torch.int32, torch.int64)
        labels = [each for each in numbers if each.dtype in whole and each.numel() == (batch or 1)]
        return labels[0].reshape(-1).to(device) if len(labels) == 1 else None

    def _spare(self, flat_inputs: list[Any], batch: int | None, images: Tensor) -> Spare:
        """How many pixels of each box may be hidden."""
        leaves = [each for each in flat_inputs if isinstance(each, tv_tensors.BoundingBoxes)]
        if not leaves:
            raise ValueError("protect=True needs BoundingBoxes in the sample, found none")
        corners = [_corners(each).to(images.device) for each in _per_image(leaves, batch)]
        size = (images.shape[2], images.shape[3])
        limits = []
        for each in corners:
            first, stop = _spans(each, size)
            of = (stop - first).sum(1)
            shown = (self.min_visible * of).ceil().clamp(min=1).long()
            limits.append(torch.where(of > 0, of - shown, size[0] * size[1]))
        around = pad_sequence([_around(each) for each in corners], batch_first=True)
        low, high = (around - 0.5).split(2, 2)
        edges = torch.cat((low.ceil(), high.floor() + 1), 2)
        most = edges.new_tensor([size[1], size[0]] * 2)
        boxes = torch.minimum(edges.clamp(min=0), most).long()
        return Spare(boxes, pad_sequence(limits, batch_first=True))

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """A sample's or a batch's image or target under the regions of `params`."""
        mask, plain = params["mask"].to(inpt.device), inpt.as_subclass(Tensor)
        hidden = mask[:, 0] if mask.ndim == 4 else mask  # (1 or B, H, W)
        if isinstance(inpt, tv_tensors.BoundingBoxes):
            seen = _enough(*_counts(inpt, hidden), self.min_visible)
            result = plain.masked_fill(~seen[:, None], 0)
        elif isinstance(inpt, tv_tensors.KeyPoints):
            seen = _seen_points(plain, hidden, self.min_visible)
            result = plain.masked_fill(~seen.view(-1, *[1] * (plain.ndim - 1)), -1)
        elif isinstance(inpt, tv_tensors.Mask):
            if self.mask_fill is None:
                return inpt
            hidden = {2: hidden[0], 3: hidden, 4: hidden[:, None]}[plain.ndim]
            result = plain.masked_fill(hidden, self.mask_fill)
        else:
            fill = params["fill"]
            fill = fill.to(plain) if isinstance(fill, Tensor) else fill
            if isinstance(inpt, tv_tensors.Video) and mask.ndim == 4:  # with an axis of frames
                mask = mask[:, None]
                fill = fill[:, None] if isinstance(fill, Tensor) and fill.ndim == 4 else fill
            result = torch.where(mask, fill, plain)
        return tv_tensors.wrap(result, like=inpt)

    def replay(self, params: dict[str, Any], *inputs: Any) -> Any:
        """Cut a sample or a batch of the same form as that of `make_params`, by its regions."""
        flat, spec = tree_flatten(inputs if len(inputs) > 1 else inputs[0])
        batch, changed = params["batch"], []
        kinds = [next((k for k in _TARGETS.values() if isinstance(x, k)), None) for x in flat]
        turns = {kind: iter(range(batch or 0)) for kind in kinds}
        for each, kind, wanted in zip(flat, kinds, self._needs_transform_list(flat), strict=True):
            own = params
            if batch is not None and kind is not None and kinds.count(kind) == batch:
                own = {"mask": params["mask"][next(turns[kind])]}
            changed.append(self.transform(each, own) if wanted else each)
        return tree_unflatten(changed, spec)

    def forward(self, *inputs: Any) -> Any:
        """Cut a sample or a batch, packed or not, of any form that torchvision takes."""
        flat = tree_flatten(inputs if len(inputs) > 1 else inputs[0])[0]
        return self.replay(self.make_params(flat), *inputs)
