"""Image files as tensors, and the colours that networks are normalised by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from keepaugment.cutting import per_channel

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def read_image(path: str | Path) -> Tensor:
    """Read an image file of any colour mode as RGB: (3, H, W) uint8."""
    with Image.open(path) as image:
        if "transparency" in image.info:  # a palette with it cannot become RGB without a warning
            return pil_to_tensor(image.convert("RGBA").convert("RGB"))
        return pil_to_tensor(image.convert("RGB"))


def read_or_error(path: str) -> Tensor | str:
    """An image's pixels, or what is wrong with its file."""
    try:
        return read_image(path)
    except Exception as error:  # damaged files make Pillow's decoders raise almost anything
        return f"{type(error).__name__}: {error}"


@dataclass(frozen=True)
class Normalise:
    """What a network sees of images: shifted and scaled by a mean and a deviation per channel.

    Attributes:
        mean: in [0, 1].
        std: likewise.
        channels_last: the memory layout of the result.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels_last: bool = False

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
