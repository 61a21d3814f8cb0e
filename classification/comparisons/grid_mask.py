"""GridMask (Chen et al., 2020, https://arxiv.org/abs/2001.04086).

Zero a grid of squares in an image. The published code, imagenet_grid/utils/grid.py, works on one
image at a time; here a pixel is in a square or not by its coordinates modulo the grid's period.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from keepaugment.checks import check_images
from keepaugment.draws import Source, uniform


class GridMask:
    """Zero a grid of squares of each image, in a share of the images that grows with the epoch.

    A grid has the period d in both axes. Stripes of width ceil(d * ratio) are kept, and between
    them squares are zeroed that take ((d - width) / d) ** 2 of the area: 36 % at ratio 0.4. This is
    the published code's mode 1. The defaults are its author's for CIFAR-10 (32 x 32 pixels, issues
    8 and 11 of the repository); those for ImageNet (224 x 224) are `d=(96, 223), ratio=0.6,
    rotate=360, ramp_epochs=240`.

    Args:
        d: smallest and largest period in pixels, both included, where the published `d1, d2`
            leave the largest out; a whole number, uniform, per image.
        ratio: share of the period that is kept, in each axis, in [0, 1].
        p: probability that an image is masked, once it has grown.
        rotate: the grid is turned by a whole number of degrees, uniform in [0, rotate); 0 or 1 for
            none. It is then cut from the centre of a larger one, as wide as the image's diagonal.
        ramp_epochs: epochs in which the probability grows linearly from 0 to `p`; 0 for none.
        generator: where random numbers come from.
    """

    def __init__(
        self,
        d: tuple[int, int] = (24, 32),
        ratio: float = 0.4,
        p: float = 0.8,
        *,
        rotate: int = 1,
        ramp_epochs: int = 280,
        generator: Source = None,
    ) -> None:
        if not 1 <= d[0] <= d[1]:
            raise ValueError(f"d must be a range of at least one pixel, found {d}")
        if not 0.0 <= ratio <= 1.0 or not 0.0 <= p <= 1.0:
            raise ValueError(f"ratio and p must be in [0, 1], found {ratio} and {p}")
        if rotate < 0 or ramp_epochs < 0:
            raise ValueError(
                f"rotate and ramp_epochs must not be negative, found {rotate} and {ramp_epochs}"
            )
        self.d = d
        self.ratio = ratio
        self.p = p
        self.rotate = rotate
        self.ramp_epochs = ramp_epochs
        self.generator = generator
        self.epoch = math.inf

    def set_epoch(self, epoch: float) -> None:
        """Say how many epochs are done, 0 in the first; before the first call p has fully grown."""
        self.epoch = epoch

    @property
    def current_p(self) -> float:
        """The probability in this epoch, in [0, p]."""
        return self.p * min(1.0, self.epoch / self.ramp_epochs) if self.ramp_epochs else self.p

    def _coordinates(self, images: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and columns of all pixels in their unturned grid, each broadcasts to (B, H, W)."""
        height, width = images.shape[2:]
        side = math.ceil(math.hypot(height, width))
        y, x = (
            torch.arange(n, device=images.device) + (side - n) // 2 + 0.5 for n in (height, width)
        )
        y, x = y[:, None] - side / 2, x - side / 2  # (H, 1), (W,)
        if self.rotate > 1:
            angle = torch.deg2rad((u * self.rotate).floor())[:, None, None]
            sine, cosine = angle.sin(), angle.cos()
            y, x = sine * x + cosine * y, cosine * x - sine * y
        return (y + side / 2).floor(), (x + side / 2).floor()

    def mask(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Draw the squares to zero in images (B, C, H, W): a (B, 1, H, W) bool mask."""
        check_images(images)
        u = uniform(self.generator, (len(images), 5), images.device)[:, :, None, None]
        low, high = self.d
        d = low + (u[:, 1] * (high - low + 1)).floor()  # (B, 1, 1)
        width = (d.double() * self.ratio).ceil()
        y, x = self._coordinates(images, u[:, 4, 0, 0])
        rows = (y - (u[:, 2] * d).floor()) % d >= width
        columns = (x - (u[:, 3] * d).floor()) % d >= width
        return (rows & columns & (u[:, 0] < self.current_p))[:, None]

    def __call__(
        self, images: Tensor, labels: Tensor | None = None, *, mask: Tensor | None = None
    ) -> Tensor:
        """Zero squares of images (B, C, H, W) by a fresh mask, or by one that `mask` has drawn."""
        return images.masked_fill(self.mask(images, labels) if mask is None else mask, 0.0)
