"""Generators of random numbers that a pass draws from, given back as they were."""

from __future__ import annotations

import functools
import random
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes


def _numpy_random() -> Any:
    return getattr(sys.modules.get("numpy"), "random", None)


def is_generator(value: Any) -> bool:
    """Whether a value is a generator of torch, Python or NumPy."""
    if isinstance(value, torch.Generator | random.Random):
        return not isinstance(value, random.SystemRandom)
    numpy = _numpy_random()
    return numpy is not None and isinstance(value, numpy.Generator | numpy.RandomState)


def generator_state(generator: Any) -> Any:
    """The state of a generator, of any kind."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        return generator.getstate()
    numpy = _numpy_random()
    if isinstance(generator, numpy.Generator):
        return generator.bit_generator.state
    return generator.get_state()


def _set_state(generator: Any, state: Any) -> None:
    if isinstance(generator, random.Random):
        generator.setstate(state)
    elif isinstance(generator, _numpy_random().Generator if _numpy_random() else ()):
        generator.bit_generator.state = state
    else:
        generator.set_state(state)


def same_state(a: Any, b: Any) -> bool:
    """Whether two states of one generator are equal."""
    if isinstance(a, Tensor):
        with _disable_current_modes():  # such as that of fake tensors, which these are not
            return torch.equal(a, b)
    if isinstance(a, dict):
        return repr(a) == repr(b)
    return a == b if isinstance(a[1], tuple) else a[2:] == b[2:] and bool((a[1] == b[1]).all())


class Generators:
    """The global generators, torch's (CPU and `device`), Python's and NumPy's if used, and others.

    A GPU's is asked for its state, which a CUDA graph forbids while it is captured, only when it
    is about to be drawn from.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.known: set[Any] = set()
        self.noted: list[tuple[Callable[[], Any], Callable[[Any], Any], Any]] = []
        self._note(random.getstate, random.setstate)
        self._note(torch.get_rng_state, torch.set_rng_state)
        if numpy := _numpy_random():
            self._note(numpy.get_state, numpy.set_state)

    def _note(self, get: Callable[[], Any], put: Callable[[Any], Any]) -> None:
        self.noted.append((get, put, get()))

    def keep(self, generator: Any) -> None:
        """Note the state of a generator that somebody holds; a GPU's when it draws."""
        if not (isinstance(generator, torch.Generator) and generator.device.type == "cuda"):
            self.before_draw(generator)

    def before_draw(self, generator: Any = None) -> None:
        """Note the state of a generator that is drawn from; None: the GPU's own."""
        if id(generator) in self.known or (generator is None and self.device.type != "cuda"):
            return
        self.known.add(id(generator))
        if generator is None:
            self._note(
                functools.partial(torch.cuda.get_rng_state, self.device),
                functools.partial(torch.cuda.set_rng_state, device=self.device),
            )
        else:
            self._note(
                functools.partial(generator_state, generator),
                functools.partial(_set_state, generator),
            )

    def moved(self) -> bool:
        """Whether one of them was drawn from, or set to another state."""
        return not all([same_state(state, get()) for get, _, state in self.noted])

    def put_back(self) -> None:
        """Give all the state that they had."""
        for _, put, state in reversed(self.noted):
            put(state)
