"""The views of a step's images: weak, and strong with the important region pasted back.

The strong view is made of the weak one, so both have the same crop and flip, and a region of the
one fits in the other (KeepAugment, Eq. 3). UDA crops its two views apart.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from classification.augmentation import make_policy
from keepaugment import Cutout, KeepPaste, Saliency, SampleDraws
from keepaugment.draws import Source
from keepbench.small_images import StoredData
from keepbench.views import draw_view, reflect_crop
from semisup_uda.config import Config, shared
from semisup_uda.policy import UDARandAugment


def strong_policy(
    config: Config, mean: tuple[float, ...], generator: Source
) -> Callable[[Tensor], Tensor] | None:
    """The image-level part of the strong view; beyond an image lies the mean colour."""
    if config.policy == "uda":
        return UDARandAugment(fill=[round(255 * value) for value in mean], generator=generator)
    return make_policy(shared(config), mean, generator)


class Views:
    """Weak and strong views of bytes, normalised.

    Every choice follows from (seed, stream, position in the stream). The arms of one seed see the
    same views but for what is pasted.

    Args:
        config: the run's settings.
        data: for colours and the image size.
        saliency: the map, asked without labels: it explains the largest logit (section 4.3).
        draws: random numbers of images.
        noise: those of the map itself, for the controls that have any.

    Raises:
        ValueError: Lengths that do not fit in the images.
    """

    def __init__(
        self,
        config: Config,
        data: StoredData,
        saliency: Saliency,
        draws: SampleDraws,
        noise: SampleDraws,
    ) -> None:
        check_lengths(config, data.image_size)
        self.config = config
        self.data = data
        self.draws, self.noise = draws, noise
        self.policy = strong_policy(config, data.mean, draws)
        self.cutout = Cutout(config.cutout, generator=draws) if config.cutout else None
        self.paste = None
        if config.keep:
            self.paste = KeepPaste(
                size=config.paste_size, tau=config.tau, saliency=saliency, generator=draws
            )

    def inputs(self, pixels: Tensor) -> Tensor:
        """What the network sees of images (B, C, H, W) uint8."""
        layout = torch.channels_last if self.config.channels_last else torch.contiguous_format
        return self.data.normalise(pixels.float() / 255).contiguous(memory_format=layout)

    def weak(self, pixels: Tensor, stream: int, positions: Tensor) -> Tensor:
        """Crop images (B, C, H, W) uint8 padded by reflection, and mirror half of them.

        Args:
            pixels: of the samples.
            stream: they belong to.
            positions: (B,), theirs in it.
        """
        for source in (self.draws, self.noise):
            source.at(stream, positions)
        padding, flip = self.config.padding, self.config.flip
        view = draw_view(
            len(pixels), pixels.device, padding=padding, flip=flip, generator=self.draws
        )
        return reflect_crop(pixels, view)

    def strong(self, weak: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Augment weak views; call right after `weak`.

        Args:
            weak: (B, C, H, W) uint8.
            clean: the same, normalised.

        Returns:
            (B, C, H, W), normalised, and the share of pixels that the paste has changed.
        """
        strong = self.inputs(self.policy(weak)) if self.policy else clean
        if self.cutout:
            strong = self.cutout(strong)
        if self.paste is None:
            return strong, strong.new_zeros((), dtype=torch.float32)
        pasted = self.paste(clean, strong, None)
        return pasted, (pasted != strong).any(1).float().mean()


def check_lengths(config: Config, image_size: tuple[int, int]) -> None:
    """Raise ValueError unless the crop's padding and the pasted region fit in the images."""
    side = min(image_size)
    if config.padding >= side:
        raise ValueError(f"padding {config.padding} must be below the image's {side} pixels")
    if config.keep and config.paste_size > side:
        raise ValueError(f"paste_size {config.paste_size} does not fit in images of {image_size}")
