"""One's own images, cut to squares of one size, and pictures as text for a page."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from keepbench.images import read_image
from keepbench.trees import list_below

SAMPLE = "sample"
LOSSLESS = 64  # pixels a side up to which pictures are kept exactly; larger ones become JPEG


class Pictures(NamedTuple):
    """Images to look at.

    Attributes:
        names: of the N images.
        pixels: (N, 3, S, S) uint8.
    """

    names: list[str]
    pixels: Tensor


def square(pixels: Tensor, size: int) -> Tensor:
    """The middle square of an image (3, H, W) uint8, `size` pixels a side: (3, S, S) uint8."""
    height, width = pixels.shape[1:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    middle = pixels[None, :, top : top + side, left : left + side].float()
    scaled = F.interpolate(middle, (size, size), mode="bilinear", antialias=True)
    return scaled.round().clamp(0, 255).byte()[0]


def _sample() -> list[tuple[str, Tensor]]:
    """The temple and the flower that scikit-learn carries."""
    from sklearn.datasets import load_sample_images

    sample = load_sample_images()
    names = [Path(name).stem for name in sample.filenames]
    pixels = [torch.tensor(image).permute(2, 0, 1) for image in sample.images]
    return list(zip(names, pixels, strict=True))


def _files(place: Path) -> list[Path]:
    """An image file, or all those under a folder in order."""
    if not place.exists():
        raise ValueError(f"there is no image or folder {place}; 'sample' takes two photographs")
    if place.is_file():
        return [place]
    return [Path(path) for path in list_below(place)]


def read_pictures(places: list[str], size: int, most: int) -> Pictures:
    """Read images as squares.

    Args:
        places: files, folders, or "sample" for scikit-learn's two photographs.
        size: S, in pixels.
        most: as many images are read; the others are left out.

    Raises:
        ValueError: No images there, or a file that cannot be read.
    """
    named: list[tuple[str, Tensor]] = []
    for place in places:
        if place == SAMPLE:
            named += _sample()
            continue
        for path in _files(Path(place))[: most - len(named)]:
            try:
                named.append((path.name, read_image(path)))
            except Exception as error:  # damaged files make Pillow's decoders raise almost anything
                raise ValueError(f"cannot read {path}: {error}") from error
    named = named[:most]
    return Pictures([name for name, _ in named], torch.stack([square(p, size) for _, p in named]))


def as_uri(pixels: Tensor, *, lossless: bool = True) -> str:
    """An image (1 or 3, H, W) uint8 as the text of a `data:` address."""
    array = pixels.cpu().expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
    exact = lossless or max(array.shape[:2]) <= LOSSLESS
    file = BytesIO()
    if exact:
        Image.fromarray(array).save(file, "PNG", optimize=True)
    else:
        Image.fromarray(array).save(file, "JPEG", quality=85)
    kind = "png" if exact else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def packed_map(saliency: Tensor) -> str:
    """A map (H, W), not negative, as base64 of 16-bit whole numbers, 65535 where it is largest."""
    return base64.b64encode(levels(saliency).numpy().astype("<u2").tobytes()).decode()


def levels(saliency: Tensor) -> Tensor:
    """A map (H, W), not negative, in whole steps from 0 to 65535: int64."""
    largest = saliency.double().max().clamp(min=torch.finfo(torch.float64).tiny)
    return (saliency.double() / largest * 65535).round().long().cpu()


def packed_bits(mask: Tensor) -> str:
    """A mask (H, W) bool as base64 of bits, row by row, the first of each byte the highest."""
    return base64.b64encode(np.packbits(mask.cpu().numpy()).tobytes()).decode()


def heat(saliency: Tensor) -> Tensor:
    """A map (H, W) in the colours of Matplotlib's inferno: (3, H, W) uint8."""
    from matplotlib import colormaps

    shown = saliency.double() - saliency.double().min()
    shares = shown / shown.max().clamp(min=torch.finfo(torch.float64).tiny)
    colours = colormaps["inferno"](shares.cpu().numpy())[..., :3]
    return torch.tensor(255 * colours).round().byte().permute(2, 0, 1)
