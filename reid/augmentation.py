"""The augmentation of a run, from bytes to the network's inputs, a batch at a time.

Crop, flip and Random Erasing, or the same where it is not important (KeepAugment, section 4.4).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from classification.augmentation import make_saliency
from keepaugment import KeepRandomErasing, RandomErasing, Saliency, SampleDraws
from keepaugment.cutting import Fill, per_channel
from keepaugment.draws import Source
from keepbench.images import IMAGENET_MEAN, IMAGENET_STD
from keepbench.processes import Processes
from keepbench.views import draw_view, show
from reid.config import Config
from reid.data import Data

_FILLS: dict[str, Fill] = {"mean": IMAGENET_MEAN, "zero": 0.0, "random": "random"}


def make_erasing(
    config: Config, gradient: Saliency, generator: Source, noise: Source
) -> RandomErasing:
    """The erasing of normalised images, by the law of Bag of Tricks and of torchreid.

    The area is uniform in 2 to 40 % of the image, height over width uniform in 0.3 to 1/0.3, a size
    per image, wholly inside. `keep` changes nothing but where the box may lie, so its area needs no
    control. Fill "mean" is ImageNet's mean colour written into images that are normalised already:
    a slip of the original, kept because its figures have it.

    Args:
        config: the run's settings.
        gradient: the map of the model.
        generator: where boxes come from, the same ones' sizes in every arm.
        noise: where a control map comes from.
    """
    keep: dict[str, Any] = {}
    if config.keep:
        saliency = make_saliency(config, gradient, noise)  # type: ignore[arg-type]
        keep = {"saliency": saliency, "tau": config.tau}
    kind = KeepRandomErasing if keep else RandomErasing
    return kind(p=config.erase_p, fill=_FILLS[config.erase_fill], generator=generator, **keep)


class Augmentation:
    """Everything between the stored bytes and the network.

    Args:
        config: the run's settings.
        data: what it trains on.
        gradient: the map of the model.
        processes: this process among those of the run.
    """

    def __init__(
        self, config: Config, data: Data, gradient: Saliency, processes: Processes
    ) -> None:
        self.config, self.data, self.processes = config, data, processes
        self.layout = torch.channels_last if config.channels_last else torch.contiguous_format
        self.sources = (SampleDraws(config.seed), SampleDraws(config.seed + 1_000_003))
        self.erase = make_erasing(config, gradient, *self.sources)

    def inputs(self, pixels: Tensor) -> Tensor:
        """What the network sees of images (B, 3, H, W) uint8."""
        images = pixels.float() / 255
        mean, std = (per_channel(values, images) for values in (IMAGENET_MEAN, IMAGENET_STD))
        return ((images - mean) / std).contiguous(memory_format=self.layout)

    def __call__(self, epoch: int, step: int, index: Tensor) -> tuple[Tensor, Tensor]:
        """This process's images of a step by number (b,), and the share of pixels erased.

        The order is Bag of Tricks': pad with black, crop, mirror, normalise, erase. Random numbers
        follow from the place in the epoch, since the sampler takes an image twice where people have
        few.
        """
        config, device = self.config, self.processes.device
        first = step * config.batch_size + self.processes.rank * len(index)
        places = torch.arange(first, first + len(index), device=device)
        for source in self.sources:
            source.at(epoch, places)
        view = draw_view(
            len(index), device,
            padding=config.padding, flip=config.flip, generator=self.sources[0],
        )  # fmt: skip
        inputs = self.inputs(show(self.data.images[index], view, config.padding))
        mask = self.erase.mask(inputs, self.data.labels[index])
        return self.erase(inputs, mask=mask), mask.float().mean()
