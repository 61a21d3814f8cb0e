"""Image files as tensors, and the colours that networks are normalised by."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from keepaugment.cutting import per_channel

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


CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class Normalised:
    """What normalises images by a mean and a deviation of its own."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalise(self, images: Tensor) -> Tensor:
        """Shift and scale images (B, C, H, W) in [0, 1] to mean 0 and deviation 1 over the set."""
        mean, std = (per_channel(values, images) for values in (self.mean, self.std))
        return (images - mean) / std
