"""Cutout and Random Erasing, plain and Keep, and Selective-Paste for training loops.

A plain method and its Keep arm are one code path. They differ in the law of the box's position:
uniform over all candidates, or over those whose importance is at most the tau-quantile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from keepaugment.checks import Size, check_generator, check_images, check_p, check_tau, fill_numbers
from keepaugment.draws import Source, uniform
from keepaugment.no_trace import Forward
from keepaugment.regions import Border, Spare, pair
from keepaugment.saliency import GradientSaliency, Saliency
from keepaugment.selective import allowed_regions, choose_region, selective_paste

Fill = float | Sequence[float] | Literal["random"]
"""Value of a cut region: a number, a number per channel, or normal noise in every pixel."""

_TRIES = 10  # sizes drawn before Random Erasing leaves an image as it is, as in torchvision


def per_channel(values: Sequence[float], images: Tensor) -> Tensor:
    """A number for each channel of images (B, C, H, W), as (C, 1, 1) of their type.

    Made on the device: a copy from the host would make a GPU wait.
    """
    parts = [images.new_full((1, 1, 1), value) for value in values]
    return torch.cat(parts)


@dataclass(frozen=True)
class Keep:
    """The one difference between a Keep arm and its plain method: a map, and a limit by it.

        cut = Cutout(16, keep=Keep(GradientSaliency(model, scale=0.5)))

    Args:
        saliency: the map: a function of (images, targets) to (B, H, W).
        tau: a region is cut only if its importance is at most this quantile of all candidates'.
        match_area: keep the plain method's law of the cut area. Without it sums favour the small
            boxes that the border clips, and at tau 0.6 a sixth less is cut even for a random map.
        p: probability that an image's region obeys the map; else it is the plain method's.

    Raises:
        ValueError: The map cannot be called, or tau or p is not in [0, 1].
    """

    saliency: Saliency
    tau: float = 0.6
    match_area: bool = False
    p: float = 1.0

    def __post_init__(self) -> None:
        check_tau(self.tau)
        check_p(self.p)
        if not callable(self.saliency):
            raise ValueError(
                f"saliency must be a function of (images, targets), found {self.saliency!r}"
            )

    def map(self, images: Tensor, targets: Any) -> Tensor:
        """The map of images; None would be taken for a plain method's."""
        saliency = self.saliency(images, targets)
        if saliency is None:
            raise ValueError("saliency must be a tensor (B, H, W), but its function returned None")
        return saliency

    @classmethod
    def of(
        cls,
        model: Forward | None,
        saliency: Saliency | None,
        tau: float,
        match_area: bool = False,
    ) -> Keep:
        """With the gradient map of `model`, or the map `saliency`; exactly one is given."""
        if (model is None) == (saliency is None):
            raise ValueError(
                "give either a model, for its gradient map, or saliency=, your own map"
            )
        return cls(saliency or GradientSaliency(model), tau, match_area)  # type: ignore[arg-type]


class Cut:
    """Base of all cutting methods: the choice of a region, and its value.

    Args:
        p: probability that an image is cut.
        border: "clip" boxes at the image's border, or choose them "inside".
        fill: what a region becomes.
        generator: where random numbers come from.
        keep: the one difference between a plain method and its Keep arm; None is plain.
    """

    def __init__(
        self, p: float, border: Border, fill: Fill, generator: Source, keep: Keep | None
    ) -> None:
        check_p(p)
        self.p = p
        self.border = border
        self.fill = fill_numbers(fill)
        check_generator(generator)
        self.generator = generator
        self.keep = keep

    def draw(self, images: Tensor) -> tuple[Size, Tensor]:
        """Draw the regions' size, and a number (B or 1, 1) by image: one below p is cut."""
        raise NotImplementedError

    def _choice(self, images: Tensor, targets: Any, spare: Any, saliency: Any) -> dict[str, Any]:
        """Arguments of `allowed_regions` and `choose_region`, but for the size."""
        keep = self.keep
        if keep is not None and saliency is None:
            saliency = keep.map(images, targets)
        return {
            "saliency": None if keep is None else saliency,
            "side": "low",
            "tau": 1.0 if keep is None else keep.tau,
            "border": self.border,
            "match_area": keep is not None and keep.match_area,
            "spare": spare,
        }

    def mask(
        self,
        images: Tensor,
        targets: Any = None,
        *,
        spare: Spare | None = None,
        saliency: Tensor | None = None,
    ) -> Tensor:
        """Draw the regions to cut out of images (B, C, H, W): a (B, 1, H, W) bool mask.

        Args:
            images: as the map takes them.
            targets: labels (B,) or whatever else the map is taken for.
            spare: objects of which no region may hide too much; an image all of whose regions
                would is not cut.
            saliency: the map of a Keep arm (B, H, W), if it was taken before.
        """
        check_images(images)
        size, u = self.draw(images)
        choice = self._choice(images, targets, spare, saliency)
        chosen = choose_region(images=images, size=size, generator=self.generator, **choice)
        if self.keep is not None and self.keep.p < 1.0:
            obeys = uniform(self.generator, (len(images), 1), images.device) < self.keep.p
            plain = choice | {"saliency": None, "match_area": False}
            free = choose_region(images=images, size=size, generator=self.generator, **plain)
            chosen = torch.where(obeys[:, :, None, None], chosen, free)
        return chosen if self.p == 1.0 else chosen & (u < self.p)[:, :, None, None]

    def allowed(self, images: Tensor, targets: Any = None, *, spare: Spare | None = None) -> Tensor:
        """Which regions `mask` may choose from, uniformly: (B, P, Q) bool, one per candidate.

        A candidate is known by the pixel that it is centred on, so that P = H and Q = W, where the
        border clips, and by its top-left pixel where it lies inside: P = H - h + 1 and
        Q = W - w + 1, or P = H and Q = W if each image has a size of its own. A random size is
        drawn anew; every image obeys the map, whatever `Keep.p`.
        """
        check_images(images)
        u = uniform(self.generator, (len(images), 1), images.device)[:, 0]
        choice = self._choice(images, targets, spare, None)
        return allowed_regions(images=images, size=self.draw(images)[0], u=u, **choice)[0]


class Erase(Cut):
    """A cut whose region becomes a constant or noise, in a share `p` of the images.

    A subclass says by `box_size` how large its regions are.
    """

    def box_size(self, images: Tensor) -> Size:
        """The regions' size in images (B, C, H, W): an int, (h, w), or sizes (B, 2) in pixels."""
        raise NotImplementedError

    def draw(self, images: Tensor) -> tuple[Size, Tensor]:
        """Draw which images are cut, then the regions' size."""
        u = uniform(self.generator, (len(images), 1), images.device)
        return self.box_size(images), u

    def filling(self, images: Tensor) -> float | Tensor:
        """Value of regions of images (B, C, H, W): a number, (C, 1, 1), or the images' shape."""
        if self.fill is None:  # "random"
            u = uniform(self.generator, tuple(images.shape), images.device)
            return torch.empty_like(images).copy_(torch.special.ndtri(u.clamp(1e-7, 1 - 1e-7)))
        if not isinstance(self.fill, tuple):
            return self.fill
        if len(self.fill) != images.shape[1]:
            raise ValueError(
                f"fill {self.fill} must have a number for each of {images.shape[1]} channels"
            )
        return per_channel(self.fill, images)

    def __call__(
        self, images: Tensor, targets: Any = None, *, mask: Tensor | None = None
    ) -> Tensor:
        """Cut images (B, C, H, W) by a fresh mask, or by one that `mask` has drawn before."""
        mask = self.mask(images, targets) if mask is None else mask
        return torch.where(mask, self.filling(images), images)


def size_in(images: Tensor, size: Size | None) -> Size:
    """The size of a box in images (B, C, H, W), the usual one if None is given.

    A straight line through what the paper takes (section 4): 16 of 32 pixels, 40 of 224; at most
    half the image.
    """
    side = min(images.shape[2:])
    return min(side // 2, 12 + side // 8) if size is None else size


class Cutout(Erase):
    """Cut a box of one size out of every image (DeVries and Taylor, 2017, arXiv:1708.04552).

    Args:
        size: of the box in pixels, an int or (h, w); None follows the image, 16 of 32 pixels and 40
            of 224 (see `size_in`).
        p: probability that an image is cut.
        border: "clip", the original's: centred on any pixel, clipped at the border; or "inside".
        fill: what the box becomes; 0 is the mean colour of normalised images.
        generator: where random numbers come from.
        keep: makes it Selective-Cut (KeepAugment section 3): important boxes are not cut.
    """

    def __init__(
        self,
        size: Size | None = None,
        *,
        p: float = 1.0,
        border: Border = "clip",
        fill: Fill = 0.0,
        generator: Source = None,
        keep: Keep | None = None,
    ) -> None:
        super().__init__(p, border, fill, generator, keep)
        self.size = size

    def box_size(self, images: Tensor) -> Size:  # noqa: D102
        return size_in(images, self.size)


class KeepCutout(Cutout):
    """Cutout that keeps the important region (Selective-Cut, KeepAugment section 3).

    The short way to `Cutout(size, keep=Keep(...))`. Three lines in a training loop, of which the
    second is yours already:

        keep = KeepCutout(model)
        for images, labels in loader:
            images = keep(images, labels)

    Args:
        model: images to logits; explained by its full gradient map. Or None with `saliency`.
        size: of the box in pixels, as in `Cutout`.
        tau: as in `Keep`.
        saliency: a map of your choice instead of the model, such as
            `GradientSaliency(model, scale=0.5, head=head)`.
        match_area: as in `Keep`.
        **options: of `Cutout`: p, border, fill and generator.
    """

    def __init__(
        self,
        model: Forward | None = None,
        size: Size | None = None,
        tau: float = 0.6,
        *,
        saliency: Saliency | None = None,
        match_area: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(size, keep=Keep.of(model, saliency, tau, match_area), **options)


class RandomErasing(Erase):
    """Erase a box of random area and aspect, a size per image (Zhong et al., arXiv:1708.04896).

    Args:
        p: probability that an image is erased.
        scale: range of the box's share of the image's area, uniform.
        ratio: range of its height over its width.
        log_ratio: draw the ratio uniformly in its logarithm, as torchvision and timm do, instead of
            uniformly as the original, Bag of Tricks and torchreid do.
        fill: what the box becomes: a number, one per channel, or "random" normal noise.
        generator: where random numbers come from.
        keep: makes it Selective-Cut (KeepAugment section 4.4). The quantile is that of all places
            of each image's own box size.
    """

    def __init__(
        self,
        p: float = 0.5,
        scale: tuple[float, float] = (0.02, 0.4),
        ratio: tuple[float, float] = (0.3, 1 / 0.3),
        *,
        log_ratio: bool = False,
        fill: Fill = 0.0,
        generator: Source = None,
        keep: Keep | None = None,
    ) -> None:
        super().__init__(p, "inside", fill, generator, keep)
        if not 0.0 <= scale[0] <= scale[1] <= 1.0 or not 0.0 < ratio[0] <= ratio[1] < math.inf:
            raise ValueError(f"scale {scale} and ratio {ratio} must be ranges, scale within [0, 1]")
        self.scale = scale
        self.ratio = ratio
        self.log_ratio = log_ratio

    def box_size(self, images: Tensor) -> Tensor:
        """Sizes (B, 2) in pixels; (0, 0) where none of the drawn ones fits, as in the originals."""
        height, width = images.shape[2:]
        u = uniform(self.generator, (len(images), 2 * _TRIES), images.device)
        low, high = (math.log(r) for r in self.ratio) if self.log_ratio else self.ratio
        area = (self.scale[0] + (self.scale[1] - self.scale[0]) * u[:, :_TRIES]) * height * width
        ratio = low + (high - low) * u[:, _TRIES:]
        ratio = ratio.exp() if self.log_ratio else ratio
        sizes = torch.stack((area * ratio, area / ratio), dim=1).sqrt().round()
        fits = (sizes < pair(height, width, images.device)).all(1)
        first = fits.view(torch.uint8).argmax(1)[:, None, None].expand(-1, 2, 1)
        return (sizes * fits[:, None]).gather(2, first)[:, :, 0].long()


class KeepRandomErasing(RandomErasing):
    """Random Erasing that keeps the important region, the short way to `keep=Keep(...)`.

    Args:
        model: images to logits; or None with `saliency`.
        tau: as in `Keep`.
        saliency: a map of your choice instead of the model.
        **options: of `RandomErasing`.
    """

    def __init__(
        self,
        model: Forward | None = None,
        tau: float = 0.6,
        *,
        saliency: Saliency | None = None,
        **options: Any,
    ) -> None:
        super().__init__(keep=Keep.of(model, saliency, tau), **options)


class KeepPaste:
    """Paste an important region of the clean image on its augmented version (Selective-Paste).

    KeepAutoAugment and KeepRandAugment are this after their policy (KeepAugment section 3). A
    policy takes uint8 pixels, cropped and flipped already, the map and paste what the model takes:

        paste = KeepPaste(model)
        images, augmented = normalise(pixels), normalise(policy(pixels))
        augmented = paste(images, augmented, labels)

    Args:
        model: images to logits; or None with `saliency`.
        size: of the region in pixels, wholly inside the image; None as in `Cutout`.
        tau: the region's importance is at least this quantile of all candidates'; 0 pastes a
            random region.
        saliency: a map of your choice instead of the model.
        generator: where random numbers come from.
    """

    def __init__(
        self,
        model: Forward | None = None,
        size: Size | None = None,
        tau: float = 0.6,
        *,
        saliency: Saliency | None = None,
        generator: Source = None,
    ) -> None:
        self.keep = Keep.of(model, saliency, tau)
        self.size = size
        check_generator(generator)
        self.generator = generator

    def allowed(self, images: Tensor, targets: Any = None) -> Tensor:
        """Which regions may be pasted, by their top-left pixels: (B, H - h + 1, W - w + 1) bool."""
        check_images(images)
        size, saliency = size_in(images, self.size), self.keep.map(images, targets)
        return allowed_regions(saliency, images, size, side="high", tau=self.keep.tau)[0]

    def __call__(self, images: Tensor, augmented: Tensor, targets: Any = None) -> Tensor:
        """Paste regions of images (B, C, H, W) on augmented; targets as the map takes them."""
        check_images(images)
        return selective_paste(
            images,
            augmented,
            self.keep.map(images, targets),
            size=size_in(images, self.size),
            tau=self.keep.tau,
            generator=self.generator,
        )
