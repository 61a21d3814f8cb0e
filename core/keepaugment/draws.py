"""The one door through which random numbers enter the library."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from keepaugment.checks import check_generator, check_index, warn_of_repeats

Source = torch.Generator | Callable[[tuple[int, ...], torch.device], Tensor] | None
"""A torch generator, None for torch's global one, or any `(shape, device) -> uniform numbers`."""

_GOLDEN = -7046029254386353131  # 2**64 / the golden ratio, odd, as a signed 64-bit number
_INVERSE = -1018231460777725123  # _GOLDEN * _INVERSE = 1 modulo 2**64
_MIX = (-4658895280553007687, -7723592293110705685)


def uniform(generator: Source, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Uniform numbers in [0, 1) of `shape` on `device`; row i belongs to image i of the batch.

    Everything random in this library is a function of these numbers, so a callable that computes
    them from (seed, epoch, sample index) replays any image without a change to its callers.

    Raises:
        ValueError: No such source, or a generator in a DataLoader's worker.
    """
    check_generator(generator)
    if isinstance(generator, torch.Generator) and get_worker_info() is not None:
        raise ValueError(
            "a torch.Generator in a DataLoader worker is a copy: all workers and all epochs would "
            "draw the same numbers; take generator=None, which the loader seeds for each"
        )
    if generator is None or isinstance(generator, torch.Generator):
        source = generator.device if generator is not None else device
        return torch.rand(shape, generator=generator, device=source).to(device)
    return generator(shape, device)


def symmetric_beta(alpha: float, u: Tensor, v: Tensor) -> Tensor:
    """Beta(alpha, alpha) numbers from uniform `u` and `v` (Devroye, 1996, "one line of code")."""
    cosine = torch.cos(2 * math.pi * v)
    growth = (u.clamp(1e-12).double() ** (-1 / alpha) - 1).clamp(max=1e300)
    return 0.5 + 0.5 * (cosine * (growth / (1 + growth * cosine**2)).sqrt()).to(u.dtype)


def mix(number: Tensor) -> Tensor:
    """Scramble int64 numbers: the output function of SplitMix64 (Steele et al., OOPSLA 2014)."""
    number = (number ^ ((number >> 30) & (2**34 - 1))) * _MIX[0]
    number = (number ^ ((number >> 27) & (2**37 - 1))) * _MIX[1]
    return number ^ ((number >> 31) & (2**33 - 1))


class SampleDraws:
    """Uniform numbers that follow from (seed, epoch, sample index) and the order of the calls.

    An image then gets the same augmentation in any batch, on any number of GPUs, on a CPU or a GPU,
    after a resume and in a replay. What a batch shares (CutMix's lambda) follows from its first
    image.

        draws = SampleDraws(seed=0)
        keep = KeepCutout(model, generator=draws)
        draws.at(epoch, index)                       # index (B,): the samples of the next batch
        images = keep(images, labels)

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int) -> None:
        if not 0 <= seed < 2**31:
            raise ValueError(f"seed must be in [0, 2**31), found {seed}")
        self.seed = seed
        self.samples: tuple[Tensor, Tensor] | None = None
        self.keys: Tensor | None = None
        self.calls = 0

    def at(self, epoch: int, index: Tensor) -> None:
        """Go to the samples numbered `index` (B,) of an epoch; calls are counted from here.

        A number that comes again, in the batch or in another process, brings the same draws: if an
        image shall be several times in an epoch, number the places in the epoch, not the images.
        """
        index = check_index(index)
        warn_of_repeats(index, "it gets the same draws each time; number the places in the epoch")
        self.samples = (torch.full_like(index[:1], self.seed * 2**32 + epoch), index)
        self.keys = None  # until the first call, which may be compiled
        self.calls = 0

    def again(self) -> None:
        """Go back to the first call for the same samples."""
        self.calls = 0

    def __call__(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """Uniform numbers of `shape`, whose first axis is the batch: 24 random bits each."""
        known = 0 if self.samples is None else len(self.samples[1])
        if self.samples is None or known != shape[0]:
            raise ValueError(
                f"numbers for {shape[0]} images were asked for, {known or 'none'} are known; "
                "call at(epoch, index) with the samples of the batch first"
            )
        if self.keys is None:
            start, index = self.samples
            self.keys = mix(mix(start) + (index + 1) * _GOLDEN) * _INVERSE
        self.calls += 1
        # Not each * _GOLDEN, nor each + (calls << 32): Inductor works out what is done to `each`
        # alone, on a GPU in 32 bits, and finds it too large.
        each = torch.arange(1, math.prod(shape[1:]) + 1, device=device)
        keys = self.keys.to(device) + (self.calls << 32)
        bits = mix((keys[:, None] + each) * _GOLDEN)
        return (((bits >> 40) & (2**24 - 1)).float() * 2.0**-24).view(shape)
