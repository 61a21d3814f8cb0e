"""The views of a step's images: weak, and strong with the important region pasted back.

The strong view is made of the weak one, so both have the same crop and flip, and a region of the
one fits in the other (KeepAugment, Eq. 3). UDA crops its two views apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from keepaugment import Cutout, KeepPaste, Saliency, SampleDraws
from keepbench.clock import Clock
from keepbench.images import Normalise
from keepbench.pipeline import Pipeline, Stage, TimedMap
from keepbench.small_images import StoredData
from keepbench.views import draw_view, reflect_crop
from semisup_uda.config import Config


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A batch on its way to its views.

    Attributes:
        pixels: (B, C, H, W) uint8, as stored.
        weak: the same, cropped and mirrored.
        clean: weak views (B, C, H, W), normalised.
        augmented: weak views after the policy, uint8.
        strong: (B, C, H, W), the augmented view, normalised.
        pasted: share of pixels that the paste has changed, a number.
    """

    pixels: Tensor
    weak: Tensor
    clean: Tensor
    augmented: Tensor | None = None
    strong: Tensor
    pasted: Tensor


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
        self._weak: Pipeline[Seen] = Pipeline(weak, clock)
        self._strong: Pipeline[Seen] = Pipeline([*weak, *strong], clock)

    def _strong_stages(self, mean: tuple[float, ...], saliency: Saliency) -> Iterator[Stage]:
        config, draws = self.config, self.draws
        if config.policy:
            policy = config.policy.build(mean, draws)
            yield Stage("policy", policy, ("weak",), ("augmented",), like=True)
            yield Stage("colour", self.inputs, ("augmented",), ("strong",))
        else:
            yield Stage("colour", lambda clean: clean, ("clean",), ("strong",))
        if config.cutout:
            cutout = Cutout(config.cutout, generator=draws)
            yield Stage("cut", cutout, ("strong",), ("strong",))
        if config.keep:
            paste = config.keep.build(saliency, draws)
            yield Stage("paste", _pasting(paste), ("clean", "strong"), ("strong", "pasted"))

    def _crop(self, pixels: Tensor) -> Tensor:
        """Crop images padded by reflection, and mirror half of them."""
        view = draw_view(
            len(pixels), pixels.device,
            padding=self.config.padding, flip=self.config.flip, generator=self.draws,
        )  # fmt: skip
        return reflect_crop(pixels, view)

    def _start(self, pixels: Tensor, stream: int, positions: Tensor) -> Seen:
        for source in (self.draws, self.noise):
            source.at(stream, positions)
        nothing = torch.zeros((), device=pixels.device)
        return Seen(pixels=pixels, weak=pixels, clean=pixels, strong=pixels, pasted=nothing)

    def weak(self, pixels: Tensor, stream: int, positions: Tensor) -> Seen:
        """Crop and mirror images.

        Args:
            pixels: (B, C, H, W) uint8.
            stream: they belong to.
            positions: (B,), theirs in it.

        Returns:
            With `weak` and `clean`.
        """
        return self._weak(self._start(pixels, stream, positions))

    def strong(self, pixels: Tensor, stream: int, positions: Tensor) -> Seen:
        """Crop, mirror and augment images; arguments as in `weak`.

        Returns:
            With all views.
        """
        return self._strong(self._start(pixels, stream, positions))


def _pasting(paste: KeepPaste) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """A stage's function that pastes from clean views on strong ones."""

    def run(clean: Tensor, strong: Tensor) -> tuple[Tensor, Tensor]:
        pasted = paste(clean, strong, None)
        return pasted, (pasted != strong).any(1).float().mean()

    return run
