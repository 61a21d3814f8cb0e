"""Which images a step trains on: a function of the seed and the step alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from classification.folders import mixed_seed

CHUNK = 256  # steps whose numbers go to the device at once


class Samples(NamedTuple):
    """Images of a step.

    Attributes:
        numbers: (B,) int64, of the images in their set.
        positions: (B,) int64, of the samples in their stream; no two are equal, so that an image
            that a step holds twice is cropped and augmented in two ways.
    """

    numbers: Tensor
    positions: Tensor


@dataclass(frozen=True, kw_only=True)
class Stream:
    """An endless order of a set's images: one shuffle of them all after another.

    A set smaller than a batch is repeated within it. Of a step's samples, each process takes every
    `world_size`-th, so a step has the same samples for any number of processes.

    Attributes:
        name: sets the order of one stream apart from another's.
        num_images: of the set.
        batch_size: samples in a step, of all processes together; divides by `world_size`.
        seed: of the run.
        rank: of this process, from 0.
        world_size: number of processes.
    """

    name: int
    num_images: int
    batch_size: int
    seed: int = 0
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.num_images < 1:
            raise ValueError("there are no images to train on")
        if self.batch_size % self.world_size:
            raise ValueError(
                f"a batch of {self.batch_size} images does not divide by {self.world_size} "
                f"processes; take a multiple of {self.world_size}"
            )

    def numbers(self, start: int, stop: int) -> Tensor:
        """Numbers of the images at positions start to stop - 1: (stop - start,) int64."""
        first, last = start // self.num_images, -(-stop // self.num_images)
        shuffles = [self._shuffle(number) for number in range(first, last)]
        offset = start - first * self.num_images
        return torch.cat(shuffles)[offset : offset + stop - start]

    def _shuffle(self, number: int) -> Tensor:
        seed = mixed_seed(self.seed, self.name, number)
        return torch.randperm(self.num_images, generator=torch.Generator().manual_seed(seed))

    def steps(self, start: int, stop: int, device: torch.device) -> Iterator[Samples]:
        """This process's samples of steps start to stop - 1 of the run."""
        for first in range(start, stop, CHUNK):
            low, high = first * self.batch_size, min(first + CHUNK, stop) * self.batch_size
            both = torch.stack((self.numbers(low, high), torch.arange(low, high)))
            own = both.view(2, -1, self.batch_size)[:, :, self.rank :: self.world_size]
            numbers, positions = own.contiguous().to(device)  # one copy for the chunk
            yield from map(Samples, numbers, positions)
