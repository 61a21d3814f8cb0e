"""Which images a step trains on, and its random numbers: functions of the seed and the step."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


def mixed_seed(*numbers: int) -> int:
    """A seed for these whole numbers: equal for equal ones, unrelated for any others."""
    text = ",".join(map(str, numbers)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def even_subset(labels: list[int], number: int, seed: int) -> list[int]:
    """Numbers of images drawn at random, evenly from the classes: `number` of them, 0 for all."""
    if not 0 <= number <= len(labels):
        raise ValueError(f"a subset of {number} images was asked for, the set has {len(labels)}")
    if number == 0:
        return list(range(len(labels)))
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator).tolist()
    seen: dict[int, int] = {}
    ranked: list[tuple[int, int, int]] = []
    for index in order:  # the n-th image of every class before the n+1-st of any
        seen[labels[index]] = seen.get(labels[index], 0) + 1
        ranked.append((seen[labels[index]], len(ranked), index))
    return sorted(index for _, _, index in sorted(ranked)[:number])


@dataclass(frozen=True, kw_only=True)
class EpochBatches:
    """The numbers of the images in each training step of an epoch, for one of several processes.

    The order follows from (seed, epoch). A step takes the next `batch_size` images of it, and each
    process every `world_size`-th of these, so a step has the same images for any number of
    processes. Every process has as many steps, as DistributedDataParallel needs: a last step with
    fewer images than processes is left out.

    Attributes:
        num_images: of the set.
        batch_size: images in a step, of all processes together; divides by `world_size`.
        seed: of the run.
        epoch: from 0.
        rank: of this process, from 0.
        world_size: number of processes.
        start: steps of this epoch that are done already.
    """

    num_images: int
    batch_size: int
    seed: int = 0
    epoch: int = 0
    rank: int = 0
    world_size: int = 1
    start: int = 0

    def __post_init__(self) -> None:
        check_split(self.batch_size, self.rank, self.world_size)
        _check_divides(self.batch_size, self.world_size)
        if not self.steps:
            raise ValueError(
                f"{self.num_images} images are too few for a step of {self.batch_size} on "
                f"{self.world_size} processes; lower the batch size"
            )
        if not 0 <= self.start <= self.steps:
            raise ValueError(f"start must be in [0, {self.steps}] steps, found {self.start}")

    @property
    def steps(self) -> int:
        """Steps of the whole epoch."""
        rest = self.num_images % self.batch_size
        return self.num_images // self.batch_size + (rest >= self.world_size)

    def images_in(self, step: int) -> int:
        """Images of a step of the epoch, from 0, in all processes together."""
        return min(self.batch_size, self.num_images - step * self.batch_size)

    @property
    def fewest(self) -> int:
        """Images of the smallest step in the process that has the fewest."""
        return self.images_in(self.steps - 1) // self.world_size

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, self.epoch))
        order = torch.randperm(self.num_images, generator=generator)
        for batch in order.split(self.batch_size)[self.start : self.steps]:
            yield batch[self.rank :: self.world_size].tolist()


def check_split(batch_size: int, rank: int, world_size: int) -> None:
    """Raise ValueError unless a batch size and a rank are possible."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, found {batch_size}")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be in [0, {world_size}), the processes, found {rank}")


def _check_divides(batch_size: int, world_size: int) -> None:
    if batch_size % world_size:
        raise ValueError(
            f"a batch of {batch_size} images does not divide by {world_size} processes; "
            f"take a multiple of {world_size}"
        )


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
        _check_divides(self.batch_size, self.world_size)

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


def seed_noise(seed: int, device: torch.device) -> None:
    """Seed the generators that a model's own noise on `device` comes from, in microseconds.

    `torch.manual_seed` takes a millisecond where a GPU is possible but unused.
    """
    torch.default_generator.manual_seed(seed % 2**63)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed % 2**63)
