"""Image files as tensors, and the colours that networks are normalised by."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from keepaugment.cutting import per_channel

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that are read, whatever a file is called: Pillow would run Ghostscript on PostScript."""
_GREY_16 = ("PNG", "PPM")  # formats whose 16-bit grey Pillow may open as mode I
FAINTEST = 1 << 14
"""Least brightest value of a 16-bit image: below it are data of 10, 12 or 14 bits, not of 16."""


def open_image(path: str | Path) -> Image.Image:
    """Read an image file of any colour mode as 8-bit RGB, turned as its EXIF orientation says.

    Transparent pixels are shown on white. Of 16 bits the high byte is taken.

    Raises:
        ValueError: No regular file (a pipe would be waited for), pixels without a known white
            (32-bit integers, floating-point numbers, values of 14 bits or fewer in 16), or an image
            of which nothing shows on white.
        Exception: What Pillow raises for a damaged file.
    """
    image, wide = decoded(path, check_depth)
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int32)
        grey = Image.fromarray((values >> 8).astype(np.uint8))
        if "transparency" in image.info:  # one value
            clear = values == image.info["transparency"]
            grey.putalpha(Image.fromarray(255 * (1 - clear.astype(np.uint8))))
        top, image = int(values.max()), grey
    elif wide:  # Pillow has taken the high bytes, so that 0 may be anything below 256
        top = max(1, 256 * int(np.asarray(image.convert("RGB")).max()))
    if wide and 0 < top < FAINTEST:
        raise ValueError(
            f"its 16-bit values end near {top}, so that white is not known; scale those of all "
            "images so that white is 65535, or store 8 bits"
        )
    return _on_white(image) if is_transparent(image) else image.convert("RGB")


def decoded(
    path: str | Path, check: Callable[[Image.Image], None] = lambda image: None
) -> tuple[Image.Image, bool]:
    """Read an image file in its own mode, turned as its EXIF orientation says.

    Args:
        path: of the file.
        check: what is asked before pixels are decoded.

    Returns:
        The image, and whether it has 16 bits whose white the file does not tell; of 16-bit colours
        Pillow keeps the high byte.

    Raises:
        ValueError: No regular file, or what `check` raises.
        Exception: What Pillow raises for a damaged file.
    """
    if not os.path.isfile(path):
        raise ValueError(f"{path} is no regular file")
    with Image.open(path, formats=FORMATS) as image:
        if image.format == "PNG":
            check_sums(path)
        check(image)
        wide = is_wide(image)
        with suppress(Exception):  # damaged EXIF says nothing; damaged pixels raise below
            ImageOps.exif_transpose(image, in_place=True)
        image.load()
    return image, wide


def is_wide(image: ImageFile.ImageFile) -> bool:
    """Whether an image that is not yet decoded has 12 or 16 bits, and does not tell its white."""
    parts = [part for tile in image.tile for part in tile]
    return any(bits in str(part) for part in parts for bits in (";12", ";16"))


def is_transparent(image: Image.Image) -> bool:
    """Whether some pixels of an image are not opaque."""
    known = image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info
    return known and bool(np.asarray(image.convert("RGBA"))[..., 3].min() < 255)


def _is_plain(image: Image.Image) -> bool:
    """Whether all pixels are equal."""
    pixels = np.asarray(image)
    return bool((pixels == pixels[0, 0]).all())


def _on_white(image: Image.Image) -> Image.Image:
    """An image with transparent pixels on white: RGB.

    Raises:
        ValueError: It has a shape, but white shows none.
    """
    image = image.convert("RGBA")
    shown = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if _is_plain(shown) and not _is_plain(image):
        raise ValueError(
            "its transparent pixels are shown on white, where nothing of it is seen; store it "
            "without transparency, on a colour that sets it off"
        )
    return shown


def check_sums(path: str | Path) -> None:
    """Raise SyntaxError if a PNG fails its checksums, which Pillow does not compare as it reads."""
    with Image.open(path, formats=["PNG"]) as image:
        image.verify()


def check_depth(image: Image.Image) -> None:
    """Raise ValueError if an image that is not yet decoded cannot be scaled to 8 bits."""
    wide = image.mode.startswith("I;16") or (image.mode == "I" and image.format in _GREY_16)
    if image.mode in ("I", "F") and not wide:
        kind = "32-bit integers" if image.mode == "I" else "floating-point numbers"
        raise ValueError(f"pixels are {kind}, whose white is not known; store 8 or 16 bits")


def read_image(path: str | Path) -> Tensor:
    """Read an image file as `open_image` does: (3, H, W) uint8."""
    return pil_to_tensor(open_image(path))


def read_or_error(path: str) -> Tensor | str:
    """An image's pixels, or what is wrong with its file."""
    try:
        return read_image(path)
    except Exception as error:  # damaged files make Pillow's decoders raise almost anything
        return f"{type(error).__name__}: {error}"


def check_colours(mean: Sequence[float], std: Sequence[float]) -> None:
    """Raise ValueError unless a mean and deviation per channel are of images in [0, 1]."""
    within = all(0 <= value <= 1 for value in mean) and all(0 < value <= 1 for value in std)
    if not within or len(mean) != len(std):
        raise ValueError(
            "mean and std are of channels in [0, 1], a number each, and std is above 0 (divide "
            f"those of bytes by 255); found {[*mean]} and {[*std]}"
        )


@dataclass(frozen=True)
class Normalise:
    """Normalisation: images shifted and scaled by a mean and a deviation per channel.

    Attributes:
        mean: in [0, 1].
        std: likewise.
        channels_last: the memory layout of the result.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels_last: bool = False

    def __post_init__(self) -> None:
        """Refuse a mean or a deviation of bytes."""
        check_colours(self.mean, self.std)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Normalise images (B, C, H, W) uint8: float32 of the same shape."""
        return self.images(pixels.float() / 255)

    def images(self, images: Tensor) -> Tensor:
        """Normalise images (B, C, H, W) in [0, 1]."""
        mean, std = (per_channel(values, images) for values in (self.mean, self.std))
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return ((images - mean) / std).contiguous(memory_format=layout)


class Batch(NamedTuple):
    """A batch of images with their numbers in the set."""

    numbers: Tensor  # (B,) int64
    images: Tensor  # (B, C, H, W) uint8
    labels: Tensor  # (B,) int64
    frames: Tensor | None = None  # (B, 5), each training crop's Frame; None if they are not cropped

    def to(self, device: torch.device) -> Batch:
        """The same on a device, which need not be waited for."""
        moved = (each if each is None else each.to(device, non_blocking=True) for each in self)
        return Batch(*moved)  # type: ignore[arg-type]
