"""How much of torchvision's boxes and keypoints can be seen beside a hidden rectangle."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from keepaugment.checks import readable
from keepaugment.objects import as_boxes, check_canvas, check_numbers


def corners_of(boxes: tv_tensors.BoundingBoxes) -> Tensor:
    """The corners of boxes of any format, in turn: (N, 4, 2) float32, x before y."""
    plain = boxes.as_subclass(Tensor).float()
    convert = v2.functional.convert_bounding_box_format
    if tv_tensors.is_rotated_bounding_format(boxes.format):
        return convert(plain, boxes.format, tv_tensors.BoundingBoxFormat.XYXYXYXY).view(-1, 4, 2)
    xyxy = convert(plain, boxes.format, tv_tensors.BoundingBoxFormat.XYXY)
    return xyxy[:, [0, 1, 2, 1, 2, 3, 0, 3]].view(-1, 4, 2)


def checked_corners(boxes: tv_tensors.BoundingBoxes, image_size: tuple[int, int]) -> Tensor:
    """The same, of boxes that lie in an image of `image_size` and have sides.

    Raises:
        ValueError: As `keepaugment.objects.as_boxes`.
    """
    columns = {"XYWHR": 5, "CXCYWHR": 5, "XYXYXYXY": 8}.get(boxes.format.name, 4)
    if not boxes.numel():
        return boxes.new_zeros(0, 4, 2, dtype=torch.float32)
    if boxes.shape[1] != columns:
        raise ValueError(
            f"boxes of format {boxes.format.name} must be (N, {columns}), "
            f"found shape {tuple(boxes.shape)}; leave out classes and scores"
        )
    check_canvas(boxes, image_size)
    check_numbers("boxes", boxes)
    plain = boxes.as_subclass(Tensor)
    if columns == 5 and readable(plain) and bool((plain[:, 2:4] < 0).any()):
        raise ValueError("boxes must not have a negative width or height")
    corners = corners_of(boxes)
    if columns == 4:
        as_boxes(corners[:, ::2].flatten(1), image_size)
    return corners


def spans(corners: Tensor, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
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


def count_visible(boxes: tv_tensors.BoundingBoxes, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """How many pixels of boxes (N, ...) the rectangles `hidden` (1 or N, H, W) leave, of how many.

    Returns:
        (N,) and (N,).
    """
    first, stop = spans(corners_of(boxes), (hidden.shape[1], hidden.shape[2]))
    rows, columns = hidden.any(2), hidden.any(1).int()
    left, right = columns.argmax(1), columns.argmax(1) + columns.sum(1)
    covered = torch.minimum(stop, right[:, None]) - torch.maximum(first, left[:, None])
    of = (stop - first).sum(1)
    return of - (covered.clamp(min=0) * rows).sum(1), of


def boxes_around(corners: Tensor) -> Tensor:
    """Boxes (N, 4) xyxy around `corners` (N, 4, 2)."""
    return torch.cat((corners.amin(1), corners.amax(1)), 1)


def enough(seen: Tensor, of: Tensor, min_visible: float) -> Tensor:
    """Whether as much of an object is seen as shall be; of one without pixels nothing is asked."""
    return (of == 0) | (seen >= (min_visible * of).clamp(min=1))


def seen_points(points: Tensor, hidden: Tensor, min_visible: float) -> Tensor:
    """Whether enough points of each group (N, ..., 2) are outside `hidden` (1 or N, H, W): (N,)."""
    height, width = hidden.shape[1:]
    x, y = points.floor().long().unbind(-1)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    group = torch.arange(len(hidden), device=x.device).view(-1, *[1] * (x.ndim - 1))
    seen = inside & ~hidden[group, y.clamp(0, height - 1), x.clamp(0, width - 1)]
    if x.ndim > 1:
        seen, inside = seen.flatten(1), inside.flatten(1)
        return enough(seen.sum(1), inside.sum(1), min_visible)
    return enough(seen.int(), inside.int(), min_visible)
