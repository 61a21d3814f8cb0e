"""Image operations of AutoAugment and its successors on a batch, one per image, without a loop.

On a CPU each operation is applied to its own images alone. To know them the host would have to wait
for a GPU: there all images pass three families of operations, of which each keeps its own. These
are shears, translations and rotations, which sample where each image's magnitude says; operations
on single values, one look-up in a table per image and channel; and brightness, colour, contrast and
sharpness, one blend with a degenerate image. Both ways give the same pixels.

By nearest neighbours, these are those of torchvision's tensor operations but where rounding
decides: within 1/1000 of the border between two pixels or two grey levels. Bilinear ones are
Pillow's, as the codes that interpolate work with it. Nothing synchronises with the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, wraps
from typing import Any, Literal, NamedTuple, TypeVar, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._guards import detect_fake_mode
from torch.utils._python_dispatch import _get_current_dispatch_mode

OPERATIONS = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
    "invert",
    "solarize_add",
    "cutout_abs",
)
ID = {name: index for index, name in enumerate(OPERATIONS)}
_GEOMETRIC, _BLENDS, _VALUES = OPERATIONS[1:6], OPERATIONS[6:10], OPERATIONS[10:16]
_CUTOUT = OPERATIONS[16:]
_FAMILIES = (_GEOMETRIC, _BLENDS, _VALUES, _CUTOUT)
_GROUPS = (OPERATIONS[:1], _GEOMETRIC, *((name,) for name in OPERATIONS[6:]))

Fill = float | Sequence[float]
"""Colour beyond the image's edge, in [0, 255]: a number, or one per channel."""

Interpolation = Literal["nearest", "bilinear"]
"""How shears, translations and rotations sample the image."""

_CUTOUT_COLOR = (125, 123, 114)  # the mean colour in the RandAugment code that has this operation


class Decisions(NamedTuple):
    """Decisions for each image: L operations, one after the other.

    `operation` (B, L) int64 and `magnitude` (B, L) float32 are what `apply_operations` takes;
    `position` (B, L, 2) holds uniform numbers for cutout_abs, or is None where it cannot occur.
    """

    operation: Tensor
    magnitude: Tensor
    position: Tensor | None = None


def check_pixels(images: Tensor) -> None:
    """Raise ValueError unless `images` are uint8 (B, 1 or 3, H, W)."""
    if images.dtype != torch.uint8:
        raise ValueError(
            f"images must be uint8, found {images.dtype}; apply policies before normalising"
        )
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            f"images must be (B, 1 or 3, H, W), found shape {tuple(images.shape)}; "
            "give a single image a batch dimension"
        )


def apply_operations(
    images: Tensor,
    operation: Tensor,
    magnitude: Tensor,
    *,
    fill: Fill = 0,
    interpolation: Interpolation = "nearest",
    position: Tensor | None = None,
) -> Tensor:
    """Apply one operation to each image.

    What a magnitude is: the tangent of the angle for shears; pixels for translations; degrees,
    counter-clockwise, for rotate; the factor minus 1 (0 changes nothing) for brightness, color,
    contrast, sharpness; the number of bits kept for posterize; the first value inverted for
    solarize; what is added to values below 128 for solarize_add; the side in pixels for cutout_abs.
    The other operations ignore it.

    Args:
        images: (B, C, H, W), uint8, C = 1 or 3.
        operation: (B,), int64, indices into `OPERATIONS` (see `ID`).
        magnitude: (B,), float32.
        fill: what shears, translations and rotations bring in from outside.
        interpolation: how they sample the image.
        position: (B, 2) in [0, 1), row and column of the centre for cutout_abs, as shares of the
            height and width. Without it that operation changes nothing.

    Returns:
        (B, C, H, W), uint8: new images.

    Raises:
        ValueError: Images that are not uint8 (B, 1 or 3, H, W), a fill that does not fit, an
            operation or magnitude that is not (B,).
    """
    check_pixels(images)
    if operation.shape != images.shape[:1] or magnitude.shape != images.shape[:1]:
        raise ValueError(
            f"operation and magnitude must be ({len(images)},), "
            f"found {tuple(operation.shape)} and {tuple(magnitude.shape)}"
        )
    channels, height, width = images.shape[1:]
    outside = tuple(fill) if isinstance(fill, Sequence) else (fill,)
    around, color = (
        _pixel(values, channels, images.device) for values in (outside, _CUTOUT_COLOR[:channels])
    )
    places = _places(height, width, images.device)

    def apply(
        names: Sequence[str],
        images: Tensor,
        operation: Tensor,
        magnitude: Tensor,
        position: Tensor | None = None,
    ) -> Tensor:
        if names == _GEOMETRIC:
            return _warp(images, operation, magnitude, places, around, interpolation)
        if names[0] in _BLENDS:
            return _blend(images, names, operation, magnitude)
        if names[0] in _VALUES:
            return _look_up(images, names, operation, magnitude)
        if names == _CUTOUT and position is not None:
            return _cutout(images, magnitude, position, color)
        return images

    for name, changes in (("color", channels == 3), ("sharpness", min(height, width) > 2)):
        operation = operation if changes else operation.where(operation != ID[name], 0)
    given = (operation, magnitude) if position is None else (operation, magnitude, position)
    traced = torch.compiler.is_compiling() or _get_current_dispatch_mode() is not None
    way = _all if traced or images.device.type != "cpu" else _each
    return way(apply, images, *given)


def _all(apply: Callable[..., Tensor], images: Tensor, operation: Tensor, *given: Tensor) -> Tensor:
    """Change all images by every family, and keep of each its own."""
    for names in _FAMILIES if len(given) > 1 else _FAMILIES[:-1]:  # without a position, no Cutout
        own = operation == operation.clamp(ID[names[0]], ID[names[-1]])
        changed = apply(names, images, operation, *given)
        images = torch.where(own[:, None, None, None], changed, images)
    return images


def _each(apply: Callable[..., Tensor], images: Tensor, *given: Tensor) -> Tensor:
    """Apply each operation to its own images, no more at a time than stay in a CPU's cache."""
    order = given[0].argsort()
    counts = given[0].bincount(minlength=len(OPERATIONS)).tolist()
    sizes = [sum(counts[ID[name]] for name in names) for names in _GROUPS]
    in_order = (values.index_select(0, order).split(sizes) for values in (images, *given))
    most = 2**19 // images.shape[1:].numel() or 1
    changed = [images[:0]]
    for names, *group in zip(_GROUPS, *in_order, strict=True):
        for part in zip(*(values.split(most) for values in group), strict=True):
            if len(part[0]):
                changed.append(apply(names, *part))
    return torch.cat(changed).index_select(0, order.argsort())


def check_interpolation(interpolation: str) -> None:
    """Raise ValueError unless `interpolation` is one."""
    if interpolation not in get_args(Interpolation):
        known = " or ".join(get_args(Interpolation))
        raise ValueError(f"interpolation must be {known}, found {interpolation!r}")


def apply_layers(
    images: Tensor,
    decisions: Decisions,
    *,
    fill: Fill = 0,
    interpolation: Interpolation = "nearest",
) -> Tensor:
    """Apply the L operations of each image (B, C, H, W), uint8, in turn."""
    for layer in range(decisions.operation.shape[1]):
        images = apply_operations(
            images,
            decisions.operation[:, layer],
            decisions.magnitude[:, layer],
            fill=fill,
            interpolation=interpolation,
            position=None if decisions.position is None else decisions.position[:, layer],
        )
    return images


Build = TypeVar("Build", bound=Callable[..., Any])


def remembered(build: Build) -> Build:
    """Keep the latest tables of a function, but for those made while tensors are fake or traced."""
    kept = lru_cache(maxsize=64)(build)

    @wraps(build)
    def tables(*arguments: Any) -> Any:
        fake = torch.compiler.is_compiling() or detect_fake_mode() is not None
        return (build if fake else kept)(*arguments)

    return cast(Build, tables)


@remembered
def _pixel(values: tuple[float, ...], channels: int, device: torch.device) -> Tensor:
    """A pixel (1, C, 1, 1), float32."""
    if len(values) not in (1, channels) or not all(0 <= number <= 255 for number in values):
        raise ValueError(f"fill must be 1 or {channels} numbers in [0, 255], found {values}")
    pixel = torch.tensor([float(round(number)) for number in values]).expand(channels)
    return pixel[None, :, None, None].to(device, non_blocking=True)


def _own(operation: Tensor, made: Iterable[tuple[str, Tensor]]) -> Tensor:
    """Each image's own of the results of several operations."""
    (_, found), *rest = made
    for name, value in rest:
        found = torch.where(operation == ID[name], value, found)
    return found


def _truncate(values: Tensor) -> Tensor:
    """Float values in [0, 255] to uint8; by way of int16, which a CPU does much faster."""
    return values.short().to(torch.uint8)


@remembered
def _places(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The displacement of places by a magnitude of 1, and an image's places, from -1 to 1.

    Returns:
        (17, 5), by operation: how much of the row is added to the column, and of the column to the
        row; an angle; what is added to column and row. Then columns (W, 2) in half widths and
        heights, and rows (H, 1, 2).
    """
    effect = torch.zeros(len(OPERATIONS), 5)
    effect[ID["shear_x"], 0] = effect[ID["shear_y"], 1] = 1.0
    effect[ID["shear_x"], 3], effect[ID["shear_y"], 4] = height / width, width / height
    effect[ID["rotate"], 2] = -math.pi / 180
    effect[ID["translate_x"], 3], effect[ID["translate_y"], 4] = -2 / width, -2 / height
    sides = torch.tensor([width, height])
    x, y = (2 * torch.arange(n)[:, None] - (n - 1) for n in (width, height))
    tables = (effect, x / sides, (y / sides)[:, None])
    return tuple(table.to(device, non_blocking=True) for table in tables)  # type: ignore[return-value]


def _warp(
    images: Tensor,
    operation: Tensor,
    magnitude: Tensor,
    places: tuple[Tensor, Tensor, Tensor],
    fill: Tensor,
    interpolation: Interpolation,
) -> Tensor:
    """Shear about the top left corner, translate, or rotate about the middle."""
    effect, x, y = places
    effect = (effect[operation] * magnitude[:, None])[:, None, None]
    across, down, angle, offset = effect.split((1, 1, 1, 2), dim=3)
    cosine, sine = angle.cos(), angle.sin()
    # No product of matrices: TF32 or autocast would move pixels.
    grid = torch.cat((cosine, down - sine), 3) * x + offset
    grid = grid + torch.cat((across + sine, cosine), 3) * y
    pixels = images.float()
    if interpolation == "nearest":
        moved = F.grid_sample(pixels.sub_(fill), grid, mode="nearest", align_corners=False)
        return _truncate(moved.add_(fill))
    # Pillow's rule: a place in the image is a mean of four pixels, at its edge of two, truncated.
    # It computes with 64 bits: what here falls just short of a whole number is that number.
    moved = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    inside = (grid.abs().amax(dim=3) < 1)[:, None]
    return _truncate(((moved + 1 / 256).floor() - fill) * inside + fill)


def _stretched(value: Tensor, levels: Tensor) -> Tensor:
    """A table that stretches each channel of `levels` (B, C, HW) to [0, 255]; a constant stays."""
    # Of int64, because compiled code for a CPU (torch 2.15) finds a wrong minimum of uint8.
    low, high = levels.amin(dim=2, keepdim=True), levels.amax(dim=2, keepdim=True)
    scaled = ((value - low) * (255 / (high - low))).int()  # beyond low and high it is never read
    return torch.where(low == high, value, scaled)


def _equalized(value: Tensor, levels: Tensor) -> Tensor:
    """A table that flattens the histogram of each channel of `levels` (B, C, HW)."""
    one = torch.ones((), dtype=torch.int32, device=levels.device)
    count = torch.zeros(*levels.shape[:2], 256, dtype=torch.int32, device=levels.device)
    count.scatter_add_(2, levels, one.expand(levels.shape))
    # The count of the highest value present takes no part in the size of a step.
    highest = count.gather(2, levels.amax(dim=2, keepdim=True))
    step = (levels.shape[2] - highest) // 255
    below = count.cumsum(dim=2, dtype=torch.int32) - count
    return torch.where(step == 0, value, (below + step // 2) // step.clamp(min=1))


_TABLES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "posterize": lambda value, m, _: value & (0xFF00 >> m.int()),
    "solarize": lambda value, m, _: torch.where(value < m, value, 255 - value),
    "autocontrast": lambda value, _, levels: _stretched(value, levels),
    "equalize": lambda value, _, levels: _equalized(value, levels),
    "invert": lambda value, *_: 255 - value,
    "solarize_add": lambda value, m, _: torch.where(value < 128, value + m.int(), value),
}


def _look_up(images: Tensor, names: Sequence[str], operation: Tensor, magnitude: Tensor) -> Tensor:
    """Replace each value by what its image's table says."""
    levels, magnitude = images.flatten(2).long(), magnitude[:, None, None]
    value = torch.arange(256, dtype=torch.int32, device=images.device)
    made = ((name, _TABLES[name](value, magnitude, levels)) for name in names)
    table = _own(operation[:, None, None], made).clamp(0, 255).to(torch.uint8)
    return table.expand(*levels.shape[:2], 256).gather(2, levels).view(images.shape)


def _gray(pixels: Tensor) -> Tensor:
    """Luminance (B, 1, H, W), truncated."""
    if pixels.shape[1] == 1:
        return pixels
    red, green, blue = pixels.split(1, dim=1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).trunc_()


def _mean(gray: Tensor) -> Tensor:
    """Mean luminance (B, 1, 1, 1), of an exact sum."""
    return gray.sum(dim=(1, 2, 3), keepdim=True, dtype=torch.int64) / gray[0].numel()


def _smooth(pixels: Tensor) -> Tensor:
    """Mean of 3x3 pixels, the middle one counted five times; the outermost pixels stay."""
    rows = pixels[:, :, :-2] + pixels[:, :, 1:-1] + pixels[:, :, 2:]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * pixels[:, :, 1:-1, 1:-1]
    smoothed = pixels.clone()
    smoothed[:, :, 1:-1, 1:-1] = (total / 13).round_()  # thirteenths are never halves: no ties
    return smoothed


_DEGENERATE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": lambda pixels, _: pixels.new_zeros(()),
    "color": lambda _, gray: gray,
    "contrast": lambda _, gray: _mean(gray),
    "sharpness": lambda pixels, _: _smooth(pixels),
}


def _blend(images: Tensor, names: Sequence[str], operation: Tensor, magnitude: Tensor) -> Tensor:
    """Move each image away from black, grey, mean grey or its smoothed self, by a factor."""
    pixels, magnitude = images.float(), magnitude[:, None, None, None]
    gray = _gray(pixels) if "color" in names or "contrast" in names else pixels
    made = ((name, _DEGENERATE[name](pixels, gray)) for name in names)
    rest = _own(operation[:, None, None, None], made) * magnitude
    return _truncate((pixels * (1 + magnitude)).sub_(rest).clamp_(0, 255))


def _cutout(images: Tensor, magnitude: Tensor, position: Tensor, color: Tensor) -> Tensor:
    """Fill a square with the mean colour; it starts in the image and includes its last pixel."""
    hidden = []
    for axis, size in enumerate(images.shape[2:]):
        first = (position[:, axis] * size - magnitude / 2).clamp(min=0).trunc()[:, None]
        pixel = torch.arange(size, device=images.device)
        hidden.append((pixel >= first) & (pixel <= first + magnitude[:, None]))
    square = (hidden[0][:, :, None] & hidden[1][:, None, :])[:, None]
    return torch.where(square, color.to(torch.uint8), images)
