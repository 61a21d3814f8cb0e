"""The views of a step's images: weak, and strong with the important region pasted back.

The strong view is made of the weak one, so both have the same crop and flip, and a region of the
one fits in the other (KeepAugment, Eq. 3). UDA crops its two views apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from keepaugment import Cutout, KeepPaste, Saliency, SampleDraws
from keepaugment.draws import Source
from keepbench.clock import Clock
from keepbench.images import Normalise
from keepbench.methods import make_policy
from keepbench.pipeline import Pipeline, Stage, TimedMap, Values
from keepbench.small_images import StoredData
from keepbench.views import draw_view, reflect_crop
from semisup_uda.config import Config
from semisup_uda.policy import UDARandAugment


def strong_policy(
    config: Config, mean: tuple[float, ...], generator: Source
) -> Callable[[Tensor], Tensor] | None:
    """The image-level part of the strong view; beyond an image lies the mean colour."""
    if config.policy == "uda":
        return UDARandAugment(fill=[round(255 * value) for value in mean], generator=generator)
    return make_policy(
        config.policy, mean, generator, num_ops=config.num_ops, magnitude=config.magnitude
    )


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
        clock: counts the time of each stage by its name, of maps as "map".
    """

    def __init__(
        self,
        config: Config,
        data: StoredData,
        saliency: Saliency,
        draws: SampleDraws,
        noise: SampleDraws,
        clock: Clock,
    ) -> None:
        self.config = config
        self.draws, self.noise = draws, noise
        self.inputs = Normalise(data.mean, data.std, channels_last=config.channels_last)
        weak = [
            Stage("view", self._crop, ("pixels",), ("weak",)),
            Stage("clean", self.inputs, ("weak",), ("clean",)),
        ]
        strong = self._strong_stages(data.mean, TimedMap(saliency, clock))
        self._weak, self._strong = Pipeline(weak, clock), Pipeline([*weak, *strong], clock)

    def _strong_stages(self, mean: tuple[float, ...], saliency: Saliency) -> Iterator[Stage]:
        config, draws = self.config, self.draws
        if policy := strong_policy(config, mean, draws):
            yield Stage("policy", policy, ("weak",), ("augmented",))
            yield Stage("colour", self.inputs, ("augmented",), ("strong",))
        else:
            yield Stage("colour", lambda clean: clean, ("clean",), ("strong",))
        if config.cutout:
            cutout = Cutout(config.cutout, generator=draws)
            yield Stage("cut", cutout, ("strong",), ("strong",))
        if config.keep:
            paste = KeepPaste(
                size=config.paste_size, tau=config.tau, saliency=saliency, generator=draws
            )
            yield Stage("paste", _pasting(paste), ("clean", "strong"), ("strong", "pasted"))

    def _crop(self, pixels: Tensor) -> Tensor:
        """Crop images padded by reflection, and mirror half of them."""
        view = draw_view(
            len(pixels), pixels.device,
            padding=self.config.padding, flip=self.config.flip, generator=self.draws,
        )  # fmt: skip
        return reflect_crop(pixels, view)

    def _start(self, pixels: Tensor, stream: int, positions: Tensor) -> Values:
        for source in (self.draws, self.noise):
            source.at(stream, positions)
        return {"pixels": pixels}

    def weak(self, pixels: Tensor, stream: int, positions: Tensor) -> Values:
        """Crop and mirror images.

        Args:
            pixels: (B, C, H, W) uint8.
            stream: they belong to.
            positions: (B,), theirs in it.

        Returns:
            "weak", the views in bytes, and "clean", the same normalised.
        """
        return self._weak(self._start(pixels, stream, positions))

    def strong(self, pixels: Tensor, stream: int, positions: Tensor) -> Values:
        """Crop, mirror and augment images; arguments as in `weak`.

        Returns:
            "weak" and "clean" as in `weak`; "strong", the augmented view, normalised; "pasted", the
            share of pixels that the paste has changed.
        """
        values = self._start(pixels, stream, positions)
        return self._strong(values | {"pasted": torch.zeros((), device=pixels.device)})


def _pasting(paste: KeepPaste) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """A stage's function that pastes from clean views on strong ones."""

    def run(clean: Tensor, strong: Tensor) -> tuple[Tensor, Tensor]:
        pasted = paste(clean, strong, None)
        return pasted, (pasted != strong).any(1).float().mean()

    return run
