"""The one layout of boxes, masks and keypoints that this library takes; any other is refused.

Coordinates are pixels, x before y; pixel i is [i, i + 1). Maps of objects and `adapters.Erasing`
read targets here, so that neither takes a class for a coordinate. No objects may be an empty tensor
of any kind.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from keepaugment.checks import readable


def check_canvas(target: Any, image_size: tuple[int, int]) -> None:
    """Raise ValueError if a target, of torchvision's kinds, is of an image of another size."""
    canvas = getattr(target, "canvas_size", None)
    if canvas is not None and tuple(canvas) != image_size:
        raise ValueError(
            f"{type(target).__name__} of a canvas of {tuple(canvas)} do not fit an image of "
            f"{image_size}; transform targets together with their image"
        )


def check_numbers(name: str, values: Tensor) -> None:
    """Raise ValueError unless coordinates or masks are real and finite."""
    if values.is_complex():
        raise ValueError(f"{name} must be real numbers, found {values.dtype}")
    if values.is_floating_point() and readable(values) and not bool(values.isfinite().all()):
        raise ValueError(f"{name} hold NaN or infinite values; mend or leave out these objects")


def _is_empty(values: Tensor) -> bool:
    return not values.numel() and (values.ndim < 2 or not values.shape[-1])


def as_boxes(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Boxes of an image as (N, 4) float32: left, top, right, bottom.

    Raises:
        ValueError: Another layout, right before left, bottom before top, or values not finite.
    """
    if _is_empty(boxes):
        return boxes.new_zeros(0, 4, dtype=torch.float32)
    known = getattr(boxes, "format", None)  # torchvision's say what their numbers are
    if known is not None and known.name != "XYXY":
        raise ValueError(f"boxes must be XYXY, found {known.name}; convert them first")
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(
            f"boxes must be (N, 4), found shape {tuple(boxes.shape)}: left, top, right, bottom; "
            "leave out classes and scores, and convert other layouts, such as corners (N, 8)"
        )
    check_canvas(boxes, image_size)
    check_numbers("boxes", boxes)
    boxes = boxes.float()
    if readable(boxes) and bool((turned := (boxes[:, 2:] < boxes[:, :2]).any(1)).any()):
        raise ValueError(
            "boxes must be left, top, right, bottom with left <= right and top <= bottom, found "
            f"{boxes[turned][0].tolist()}; are they x, y, width, height?"
        )
    return boxes


def as_masks(masks: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Masks of an image, (N, H, W) or one (H, W), as (N, H, W) bool: not 0.

    Raises:
        ValueError: Another layout or size, or values not finite.
    """
    if _is_empty(masks):
        return masks.new_zeros(0, *image_size, dtype=torch.bool)
    if masks.ndim not in (2, 3) or masks.shape[-2:] != image_size:
        height, width = image_size
        raise ValueError(
            f"masks must be (N, {height}, {width}), found shape {tuple(masks.shape)}; "
            f"a single one may be ({height}, {width})"
        )
    check_numbers("masks", masks)
    return masks.reshape(-1, *image_size) != 0


def as_keypoints(points: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Keypoints of an image, (..., 2) or (..., 3) with a visibility, as (N, 3) float32.

    A point whose visibility is 0 is not labelled: whatever its coordinates, it becomes 0.

    Raises:
        ValueError: Another layout, or values of a visible point that are not finite.
    """
    if _is_empty(points):
        return points.new_zeros(0, 3, dtype=torch.float32)
    if not points.ndim or points.shape[-1] not in (2, 3):
        raise ValueError(
            f"keypoints must be (..., 2 or 3), found shape {tuple(points.shape)}: x, y and perhaps "
            "a visibility; reshape flat ones, such as (N, 51), to (N, 17, 3)"
        )
    check_canvas(points, image_size)
    if points.shape[-1] == 2:
        points = torch.cat((points, torch.ones_like(points[..., :1])), -1)
    points = points.reshape(-1, 3)
    points = points.masked_fill(points[:, 2:] <= 0, 0)
    check_numbers("keypoints", points)
    return points.float()
