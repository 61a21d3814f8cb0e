"""Image operations of AutoAugment and its successors on a batch, one per image, without a loop.

The seventeen operations fall into three families, and a family costs the same whatever the images
of the batch ask for: shears, translations and rotations are one gather with a matrix per image (or
four gathers, if bilinear); operations on single pixel values are one look-up in a table per image
and channel; brightness, colour, contrast and sharpness are one blend with a degenerate image. An
image of another family passes with the identity matrix, the identity table, or unblended.

By nearest neighbours, the pixels are those of torchvision's tensor operations but where rounding
decides: within 1/1000 of the border between two pixels or two grey levels. Bilinear ones are
Pillow's, as the codes that interpolate work with it. Nothing synchronises with the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

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

Fill = float | Sequence[float]
"""What is seen beyond the image's edge, in [0, 255]: a number, or one per channel."""

Interpolation = Literal["nearest", "bilinear"]
"""How shears, translations and rotations sample the image."""

_CUTOUT_COLOR = (125, 123, 114)  # the mean colour in the RandAugment code that has this operation


class Decisions(NamedTuple):
    """What happens to each image: L operations, one after the other.

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
    images = _warp(images, operation, magnitude, fill, interpolation)
    images = _look_up(images, operation, magnitude)
    images = _blend(images, operation, magnitude)
    return images if position is None else _cutout(images, operation, magnitude, position)


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


def _chosen(operation: Tensor, *names: str) -> Tensor:
    """Which images have one of the named operations: (B, 1, 1, 1)."""
    chosen = torch.stack([operation == ID[name] for name in names]).any(dim=0)
    return chosen[:, None, None, None]


def _pixel(value: Fill, channels: int, device: torch.device) -> Tensor:
    """A pixel (1, C, 1, 1), uint8, made on the device: a copy from the host would synchronise."""
    values = tuple(value) if isinstance(value, Sequence) else (value,)
    if len(values) not in (1, channels) or not all(0 <= number <= 255 for number in values):
        raise ValueError(f"fill must be 1 or {channels} numbers in [0, 255], found {value!r}")
    parts = [torch.full((1,), round(x), dtype=torch.uint8, device=device) for x in values]
    return torch.cat(parts).expand(channels)[None, :, None, None]


def _wide(tensor: Tensor) -> torch.dtype:
    """Double precision for a few numbers per image, where the device has it."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def _truncate(values: Tensor) -> Tensor:
    """Float values in [0, 255] to uint8; by way of int16, which a CPU does much faster."""
    return values.short().to(torch.uint8)


def _matrices(operation: Tensor, magnitude: Tensor, height: int, width: int) -> Tensor:
    """Matrices from output to source pixels, origin at the image's centre: (B, 2, 3), float32."""
    wide = _wide(magnitude)
    wanted = magnitude.to(wide)

    def only(name: str) -> Tensor:
        return torch.where(operation == ID[name], wanted, 0.0)

    angle = torch.deg2rad(-only("rotate"))
    cosine, sine = angle.cos(), angle.sin()
    across, down = only("shear_x") + sine, only("shear_y") - sine  # one of the terms is zero
    # Shears are about the top-left corner, rotations about the centre; torchvision's order of sums.
    sheared = _chosen(operation, "shear_x", "shear_y").flatten()
    corner_x = torch.where(sheared, -width * 0.5, 0.0).to(wide)
    corner_y = torch.where(sheared, -height * 0.5, 0.0).to(wide)
    to_x = -corner_x - only("translate_x")
    to_y = -corner_y - only("translate_y")
    offset_x = (cosine * to_x + across * to_y) + corner_x
    offset_y = (down * to_x + cosine * to_y) + corner_y
    rows = (cosine, across, offset_x, down, cosine, offset_y)
    return torch.stack(rows, dim=1).float().view(-1, 2, 3)


def _source(row: Tensor, x: Tensor, y: Tensor, size: int) -> Tensor:
    """Source pixel along one axis of length `size`, for a row (B, 3) of the matrices: (B, H, W).

    The nearest pixel, -1 before the first and `size` after the last. Where a place falls between
    two pixels the roundings decide, so they are torchvision's: every product and sum of the place
    in [-1, 1] rounded, those that make it a pixel (a fused instruction there) only at their end.
    No matrix product: TF32 or autocast would move pixels.
    """
    row = row / torch.full_like(row, size * 0.5)
    place = (x * row[:, 0, None, None] + y * row[:, 1, None, None]).add_(row[:, 2, None, None])
    pixel = place.add_(1.0).to(_wide(place)).mul_(size * 0.5).sub_(0.5).float()
    return pixel.round_().clamp_(-1, size).int()


def _nearest(images: Tensor, matrices: Tensor, x: Tensor, y: Tensor, fill: Tensor) -> Tensor:
    """Sample images at matrices (B, 2, 3) times the output's centred places x (W,) and y (H, 1)."""
    batch, channels, height, width = images.shape
    column = _source(matrices[:, 0], x, y, width)
    row = _source(matrices[:, 1], x, y, height)
    # Outside is a frame one pixel wide.
    framed = fill.repeat(batch, 1, height + 2, width + 2)
    framed[:, :, 1:-1, 1:-1] = images
    index = (row + 1).mul_(width + 2).add_(column + 1).flatten(1).long()
    moved = framed.flatten(2).gather(2, index[:, None].expand(-1, channels, -1))
    return moved.view(images.shape)


def _bilinear(images: Tensor, matrices: Tensor, x: Tensor, y: Tensor, fill: Tensor) -> Tensor:
    """The same by Pillow's rule: a place in the image is a mean of four pixels, at its edge of two.

    Their mean is truncated.
    """
    channels, height, width = images.shape[1:]
    pixels = images.flatten(2)

    def split(row: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """The pixel before a place, how far it lies behind that one's centre, if it is inside."""
        place = x * row[:, 0, None, None] + y * row[:, 1, None, None] + row[:, 2, None, None]
        place = place + size * 0.5
        before = (place - 0.5).floor()
        share = (place - 0.5 - before)[:, None]
        return before.long(), share, (place >= 0) & (place < size)

    column, across, inside_x = split(matrices[:, 0], width)
    row, down, inside_y = split(matrices[:, 1], height)

    def line(row: Tensor) -> Tensor:
        start = row.clamp(0, height - 1) * width
        left, right = (
            pixels.gather(2, index.flatten(1)[:, None].expand(-1, channels, -1)).view(images.shape)
            for index in (start + (column + n).clamp(0, width - 1) for n in (0, 1))
        )
        return left + (right.float() - left) * across

    upper = line(row)
    mean = upper + (line(row + 1) - upper) * down
    # Pillow computes with 64 bits: what here falls just short of a whole number is that number.
    return torch.where((inside_x & inside_y)[:, None], _truncate(mean + 1 / 256), fill)


def _warp(
    images: Tensor, operation: Tensor, magnitude: Tensor, fill: Fill, interpolation: Interpolation
) -> Tensor:
    """Shear, translate or rotate each image; others stay as they are."""
    channels, height, width = images.shape[1:]
    matrices = _matrices(operation, magnitude, height, width)
    x = torch.arange(width, device=images.device) - (width - 1) * 0.5
    y = (torch.arange(height, device=images.device) - (height - 1) * 0.5)[:, None]
    sample = _nearest if interpolation == "nearest" else _bilinear
    return sample(images, matrices, x, y, _pixel(fill, channels, images.device))


def _autocontrast_table(levels: Tensor, value: Tensor) -> Tensor:
    """Stretch each channel of `levels` (B, C, HW) to [0, 255]; a constant stays: (B, C, 256)."""
    # Of int64, because compiled code for a CPU (torch 2.15) finds a wrong minimum of uint8.
    low = levels.amin(dim=2, keepdim=True).float()
    high = levels.amax(dim=2, keepdim=True).float()
    constant = low == high
    scale = torch.where(constant, 1.0, (high - low).reciprocal() * 255)
    return ((value - torch.where(constant, 0.0, low)) * scale).clamp(0, 255).short()


def _equalize_table(levels: Tensor, value: Tensor) -> Tensor:
    """Flatten the histogram of each channel of `levels` (B, C, HW), int64: (B, C, 256)."""
    one = torch.ones((), dtype=torch.int32, device=levels.device)
    count = torch.zeros(*levels.shape[:2], 256, dtype=torch.int32, device=levels.device)
    count.scatter_add_(2, levels, one.expand(levels.shape))
    # The count of the highest value present takes no part in the size of a step.
    highest = count.gather(2, levels.amax(dim=2, keepdim=True))
    step = (levels.shape[2] - highest) // 255
    below = count.cumsum(dim=2, dtype=torch.int32) - count
    table = ((below + step // 2) // step.clamp(min=1)).clamp(0, 255)
    return torch.where(step == 0, value, table.short())


def _look_up(images: Tensor, operation: Tensor, magnitude: Tensor) -> Tensor:
    """Replace the values of each image by its table's; others keep theirs."""
    levels = images.flatten(2).long()
    value = torch.arange(256, dtype=torch.int16, device=images.device)

    def only(name: str, otherwise: float) -> Tensor:
        return torch.where(operation == ID[name], magnitude, otherwise)[:, None, None]

    # Each of these leaves the table as it is where the image has another operation.
    lost = (8 - only("posterize", 8).short()).clamp(0, 8)
    threshold = only("solarize", 256).masked_fill(_chosen(operation, "invert")[:, 0], 0)
    added = torch.where(value < 128, only("solarize_add", 0).short(), 0)
    table = value >> lost << lost
    table = torch.where(table < threshold, table, 255 - table)
    table = (table + added).clamp(0, 255)
    stretched, equalized = _autocontrast_table(levels, value), _equalize_table(levels, value)
    table = torch.where(_chosen(operation, "autocontrast")[:, 0], stretched, table)
    table = torch.where(_chosen(operation, "equalize")[:, 0], equalized, table)
    return table.to(torch.uint8).gather(2, levels).view(images.shape)


def _gray(images: Tensor) -> Tensor:
    """Luminance (B, 1, H, W), uint8, truncated."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, dim=1)
    return _truncate(0.2989 * red + 0.587 * green + 0.114 * blue)


def _smooth(images: Tensor) -> Tensor:
    """Mean of 3x3 pixels, the middle one counted five times, float; the outermost pixels stay."""
    pixels = images.short()
    rows = pixels[:, :, :-2] + pixels[:, :, 1:-1] + pixels[:, :, 2:]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * pixels[:, :, 1:-1, 1:-1]
    smoothed = images.float()
    smoothed[:, :, 1:-1, 1:-1] = (total / 13).round_()  # thirteenths are never halves: no ties
    return smoothed


def _blend(images: Tensor, operation: Tensor, magnitude: Tensor) -> Tensor:
    """Move each image away from black, grey, mean grey or its smoothed self, by a factor.

    One sum for all: the weights of what an image does not blend with are zero.
    """
    names = ["brightness", "contrast"]
    names += ["color"] if images.shape[1] == 3 else []  # a grey image has no colour to change
    names += ["sharpness"] if min(images.shape[2:]) > 2 else []  # nor a small one an interior
    factor = 1.0 + magnitude.to(_wide(magnitude))[:, None, None, None]
    factor = torch.where(_chosen(operation, *names), factor, 1.0)

    def rest(name: str) -> Tensor:
        return torch.where(_chosen(operation, name), (1.0 - factor).float(), 0.0)

    gray = _gray(images)
    mean = gray.sum(dim=(1, 2, 3), keepdim=True).float() / (gray.shape[2] * gray.shape[3])
    blended = factor.float() * images
    blended.add_(rest("contrast") * mean).add_(rest("color") * gray)
    blended.add_(_smooth(images).mul_(rest("sharpness")))
    return _truncate(blended.clamp_(0, 255))


def _cutout(images: Tensor, operation: Tensor, magnitude: Tensor, position: Tensor) -> Tensor:
    """Fill a square with the mean colour; it starts in the image and includes its last pixel."""
    hidden = []
    for axis, size in enumerate(images.shape[2:]):
        first = (position[:, axis] * size - magnitude / 2).clamp(min=0).trunc()[:, None]
        pixel = torch.arange(size, device=images.device)
        hidden.append((pixel >= first) & (pixel <= first + magnitude[:, None]))
    square = (hidden[0][:, :, None] & hidden[1][:, None, :])[:, None]
    color = _pixel(_CUTOUT_COLOR[: images.shape[1]], images.shape[1], images.device)
    return torch.where(square & _chosen(operation, "cutout_abs"), color, images)
