"""The one door through which random numbers enter the library."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Source = torch.Generator | Callable[[tuple[int, ...], torch.device], Tensor] | None
"""A torch generator, None for torch's global one, or any `(shape, device) -> uniform numbers`."""


def uniform(generator: Source, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Uniform numbers in [0, 1) of `shape` on `device`; row i belongs to image i of the batch.

    Everything random in this library is a function of these numbers, so a callable that computes
    them from (seed, epoch, sample index) replays any image without a change to its callers.
    """
    if generator is None or isinstance(generator, torch.Generator):
        source = generator.device if generator is not None else device
        return torch.rand(shape, generator=generator, device=source).to(device)
    return generator(shape, device)
