"""Colour augmentation of ImageNet recipes on a batch: jitter and PCA lighting, without a loop.

Both are those of the CutMix code (github.com/clovaai/CutMix-PyTorch, utils.py) and work on floating
point images in [0, 1], before normalisation. Nothing is clamped, there as here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from keepaugment.checks import check_images
from keepaugment.draws import Source, uniform

# Of the colours of ImageNet's training pixels (Krizhevsky et al., 2012, section 4.1; values of
# fb.resnet.torch). Rows are red, green, blue; columns belong to the eigenvalues.
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)


def _check_colours(images: Tensor, channels: tuple[int, ...]) -> None:
    check_images(images)
    if images.shape[1] not in channels:
        wanted = " or ".join(map(str, channels))
        raise ValueError(
            f"images must be (B, {wanted}, H, W) for this, found shape {tuple(images.shape)}"
        )


def jitter_colours(images: Tensor, amounts: Tensor) -> Tensor:
    """Blend images with black, with their mean grey and with their grey copy.

    Each blend is `lerp(image, other, amount)`; a negative amount leads away from the other. The
    grey of a pixel is 0.299 R + 0.587 G + 0.114 B, and mean grey is its mean over the image.
    Without a clamp the three blends are linear and commute: a darker image has a grey copy and a
    mean grey darker by as much, and contrast and saturation leave mean grey where it is. So one
    formula holds for any order.

    Args:
        images: (B, 1 or 3, H, W), floating point, in [0, 1].
        amounts: (B, 3), for brightness, contrast and saturation.

    Returns:
        (B, 1 or 3, H, W): new images, which may leave [0, 1].
    """
    _check_colours(images, (1, 3))
    if amounts.shape != (len(images), 3):
        raise ValueError(f"amounts must be ({len(images)}, 3), found {tuple(amounts.shape)}")
    grey = images
    if images.shape[1] == 3:
        red, green, blue = images.split(1, dim=1)
        grey = (0.299 * red).add(green, alpha=0.587).add(blue, alpha=0.114)
    blends = amounts.to(images.dtype)[:, :, None, None, None]
    (bright, rich, colourful), (_, contrast, saturation) = (1 - blends).unbind(1), blends.unbind(1)
    mean = bright * contrast * grey.mean((2, 3), keepdim=True)
    others = torch.addcmul(mean, bright * rich * saturation, grey)
    return torch.addcmul(others, bright * rich * colourful, images)  # the one full-size pass


class ColorJitter:
    """Random brightness, contrast and saturation, an amount per image.

    The original shuffles the order of the three per image. That has no effect without a clamp (see
    `jitter_colours`), so no order is drawn.

    Args:
        brightness: the amount is uniform in [-brightness, brightness]; 0 leaves it as it is.
        contrast: likewise.
        saturation: likewise.
        generator: where random numbers come from.
    """

    def __init__(
        self,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.4,
        *,
        generator: Source = None,
    ) -> None:
        self.ranges = (brightness, contrast, saturation)
        if min(self.ranges) < 0:
            raise ValueError(
                f"brightness, contrast and saturation must be >= 0, found {self.ranges}"
            )
        self.generator = generator

    def amounts(self, images: Tensor) -> Tensor:
        """Draw what happens to images (B, C, H, W): (B, 3)."""
        u = 2 * uniform(self.generator, (len(images), 3), images.device) - 1
        return torch.stack([u[:, n] * limit for n, limit in enumerate(self.ranges)], dim=1)

    def __call__(self, images: Tensor) -> Tensor:
        """Jitter floating point images (B, 1 or 3, H, W) in [0, 1]."""
        return jitter_colours(images, self.amounts(images))


class Lighting:
    """Shift an image along the principal components of ImageNet's colours (AlexNet's noise).

    Args:
        alphastd: standard deviation of the normal number by which each component, times its
            eigenvalue, is added to all pixels of an image.
        generator: where random numbers come from.
    """

    def __init__(self, alphastd: float = 0.1, *, generator: Source = None) -> None:
        if alphastd < 0:
            raise ValueError(f"alphastd must be >= 0, found {alphastd}")
        self.alphastd = alphastd
        self.generator = generator

    def shifts(self, images: Tensor) -> Tensor:
        """Draw what is added to images (B, 3, H, W): (B, 3), red, green and blue."""
        u = uniform(self.generator, (len(images), 3), images.device)
        alpha = self.alphastd * torch.special.ndtri(u.clamp(1e-7, 1 - 1e-7))
        components = torch.tensor(EIGENVECTORS) * torch.tensor(EIGENVALUES)
        components = components.to(images.device, non_blocking=True)
        return (alpha[:, None, :] * components).sum(2)

    def __call__(self, images: Tensor) -> Tensor:
        """Light floating point images (B, 3, H, W) in [0, 1]."""
        _check_colours(images, (3,))
        return images + self.shifts(images).to(images.dtype)[:, :, None, None]
