"""The one door through which random numbers enter the library."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from keepaugment.checks import check_generator, check_index, warn_of_repeats

Source = torch.Generator | Callable[[tuple[int, ...], torch.device], Tensor] | None
"""A torch generator, None for torch's global one, or any `(shape, device) -> uniform numbers`."""

_GOLDEN = -7046029254386353131  # 2**64 / the golden ratio, odd, as a signed 64-bit number
_INVERSE = -1018231460777725123  # _GOLDEN * _INVERSE = 1 modulo 2**64
_MIX = (-4658895280553007687, -7723592293110705685)
_CALLS, _NUMBERS = 8, 32  # of a sample are drawn at once: few kernels, not some for each call

T = TypeVar("T", int, Tensor)


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


def draw_place(allowed: Tensor | tuple[int, int], u: Tensor) -> Tensor:
    """One of the allowed places of each image, uniformly: its row and column, (B, 2) int64.

    Args:
        allowed: (B, P, Q) bool, at least one true per image; or P and Q if all are.
        u: (B,) uniform numbers in [0, 1).
    """
    if isinstance(allowed, tuple):
        rows, columns = allowed
        index = (u * (rows * columns)).long().clamp(max=rows * columns - 1)
        return torch.stack((index // columns, index % columns), 1)
    # A cumulative sum over all places takes longer, and Inductor cannot write it for a GPU.
    by_row = allowed.sum(2, dtype=torch.int32).cumsum(1)
    total = by_row[:, -1:]
    rank = torch.minimum((u[:, None] * total).long(), total - 1)
    row = torch.searchsorted(by_row, rank, right=True)
    in_row = allowed.gather(1, row[:, :, None].expand(-1, -1, allowed.shape[2]))[:, 0].cumsum(1)
    from_end = by_row.gather(1, row) - rank
    column = torch.searchsorted(in_row, in_row[:, -1:] - from_end, right=True)
    return torch.cat((row, column), 1)


def _mixed_high(number: T) -> T:
    """`mix` but for the low 33 bits."""
    number = (number ^ ((number >> 30) & (2**34 - 1))) * _MIX[0]
    return (number ^ ((number >> 27) & (2**37 - 1))) * _MIX[1]


def mix(number: T) -> T:
    """Scramble int64 numbers: the output function of SplitMix64 (Steele et al., OOPSLA 2014).

    Python's numbers are as good, modulo 2**64.
    """
    number = _mixed_high(number)
    return number ^ ((number >> 31) & (2**33 - 1))


def _keys(samples: Tensor) -> Tensor:
    return mix(samples) * _INVERSE


def _numbers(keys: Tensor, each: Tensor) -> Tensor:
    """Uniform numbers (B, n), 24 bits each, of keys (B,) and counts (n,)."""
    high = _mixed_high((keys[:, None] + each) * _GOLDEN) >> 40
    return (high & (2**24 - 1)).float() * 2.0**-24


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
        self.samples: Tensor | None = None  # (B,) where each sample's numbers start
        self.counters: Tensor | None = None  # what is added for each number of the first calls
        self.first: Tensor | None = None  # the numbers of the first calls
        self.calls = 0

    def at(self, epoch: int, index: Tensor) -> None:
        """Go to the samples numbered `index` (B,) of an epoch; calls are counted from here.

        A number that comes again, in the batch or in another process, brings the same draws: if an
        image shall be several times in an epoch, number the places in the epoch, not the images.
        """
        index = check_index(index)
        warn_of_repeats(index, "it gets the same draws each time; number the places in the epoch")
        start = (mix(self.seed * 2**32 + epoch) + _GOLDEN + 2**63) % 2**64 - 2**63
        self.samples = index * _GOLDEN + start
        if self.counters is None or self.counters.device != index.device:
            call, number = (torch.arange(n, device=index.device) + 1 for n in (_CALLS, _NUMBERS))
            self.counters = ((call[:, None] << 32) + number).flatten()
        self.first = None  # until the first call, which may be compiled
        self.calls = 0

    def again(self) -> None:
        """Go back to the first call for the same samples."""
        self.calls = 0

    def __call__(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """Uniform numbers of `shape`, whose first axis is the batch: 24 random bits each."""
        known = 0 if self.samples is None else len(self.samples)
        if self.samples is None or self.counters is None or known != shape[0]:
            raise ValueError(
                f"numbers for {shape[0]} images were asked for, {known or 'none'} are known; "
                "call at(epoch, index) with the samples of the batch first"
            )
        self.calls += 1
        number = math.prod(shape[1:])
        if self.calls > _CALLS or number > _NUMBERS:
            # Not each + (calls << 32), nor each * _GOLDEN: Inductor works out what is done to
            # `each` alone, on a GPU in 32 bits, and finds it too large.
            each = torch.arange(1, number + 1, device=device)
            return _numbers((_keys(self.samples) + (self.calls << 32)).to(device), each).view(shape)
        if self.first is None:
            self.first = _numbers(_keys(self.samples), self.counters)
        start = (self.calls - 1) * _NUMBERS
        return self.first[:, start : start + number].to(device).reshape(shape)
