"""The augmentation of a run, from bytes to the network's inputs, a batch at a time.

Crop, flip and Random Erasing, or the same where it is not important (KeepAugment, section 4.4).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from keepaugment import RandomErasing, Saliency, SampleDraws
from keepaugment.cutting import Fill
from keepaugment.draws import Source
from keepaugment.no_trace import Forward
from keepbench.clock import Clock
from keepbench.images import IMAGENET_MEAN, IMAGENET_STD, Normalise
from keepbench.maps import Gradient, Scene
from keepbench.pipeline import Pipeline, Stage, TimedMap, cutting
from keepbench.processes import Processes
from keepbench.views import draw_view, show
from reid.config import Config
from reid.data import Data

_FILLS: dict[str, Fill] = {"mean": IMAGENET_MEAN, "zero": 0.0, "random": "random"}


def make_erasing(config: Config, saliency: Saliency, generator: Source) -> RandomErasing:
    """The erasing of normalised images, by the law of Bag of Tricks and of torchreid.

    The area is uniform in 2 to 40 % of the image, height over width uniform in 0.3 to 1/0.3, a size
    per image, wholly inside. `keep` changes nothing but where the box may lie, so its area needs no
    control. Fill "mean" is ImageNet's mean colour written into images that are normalised already:
    a slip of the original, kept because its figures have it.

    Args:
        config: the run's settings.
        saliency: the map.
        generator: where boxes come from, the same ones' sizes in every arm.
    """
    keep = config.keep.build(saliency, generator) if config.keep else None
    fill = _FILLS[config.erase_fill]
    return RandomErasing(config.erase_p, fill=fill, generator=generator, keep=keep)


@dataclass(frozen=True, kw_only=True)
class Augmented:
    """A batch on its way from bytes to the network.

    Attributes:
        pixels: (B, C, H, W) uint8.
        labels: (B,).
        inputs: (B, C, H, W), normalised from "colour" on.
        changed: share of the pixels that were erased, a number.
        mask: (B, 1, H, W) bool, which those are.
    """

    pixels: Tensor
    labels: Tensor
    inputs: Tensor
    changed: Tensor
    mask: Tensor | None = None


class Augmentation:
    """Everything between the stored bytes and the network.

    The order is Bag of Tricks': pad with black, crop, mirror, normalise, erase.

    Args:
        config: the run's settings.
        data: what it trains on.
        network: images to logits, of which maps are taken.
        processes: this process among those of the run.
        clock: counts the time of each stage by its name, of maps as "map".
    """

    def __init__(
        self, config: Config, data: Data, network: Forward, processes: Processes, clock: Clock
    ) -> None:
        self.config, self.data, self.processes = config, data, processes
        self.sources = (SampleDraws(config.seed), SampleDraws(config.seed + 1_000_003))
        self.inputs = Normalise(IMAGENET_MEAN, IMAGENET_STD, channels_last=config.channels_last)
        draws, noise = self.sources
        kind = config.keep.map if config.keep else Gradient()
        saliency = TimedMap(kind.build(Scene(network, noise)), clock)
        erase = make_erasing(config, saliency, draws)
        stages = [
            Stage("view", self._view, ("pixels",), ("pixels",)),
            Stage("colour", self.inputs, ("pixels",), ("inputs",)),
            Stage("cut", cutting(erase), ("inputs", "labels"), ("inputs", "changed", "mask")),
        ]
        self.pipeline: Pipeline[Augmented] = Pipeline(stages, clock)

    def _view(self, pixels: Tensor) -> Tensor:
        config = self.config
        view = draw_view(
            len(pixels), pixels.device,
            padding=config.padding, flip=config.flip, generator=self.sources[0],
        )  # fmt: skip
        return show(pixels, view, config.padding)

    def __call__(self, epoch: int, step: int, index: Tensor) -> tuple[Tensor, Tensor]:
        """This process's images of a step by number (b,), and the share of pixels erased.

        Random numbers follow from the place in the epoch, since the sampler takes an image twice
        where people have few.
        """
        first = step * self.config.batch_size + self.processes.rank * len(index)
        places = torch.arange(first, first + len(index), device=self.processes.device)
        for source in self.sources:
            source.at(epoch, places)
        images, labels = self.data.images[index], self.data.labels[index]
        nothing = torch.zeros((), device=images.device)
        seen = self.pipeline(
            Augmented(pixels=images, labels=labels, inputs=images, changed=nothing)
        )
        return seen.inputs, seen.changed
