"""How many kernels a step starts, and that a CUDA graph can hold them, by fake tensors of a GPU.

An operation that is dispatched and is no view starts a kernel, or a few. Counts are of eager mode;
they are what a step of a small network waits for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from keepaugment import (
    CutMix,
    Cutout,
    KeepCutMix,
    KeepCutout,
    KeepPaste,
    KeepRandomErasing,
    RandomErasing,
    RecycledSaliency,
    SampleDraws,
    View,
)

_NO_KERNEL = ("_unsafe_view", "detach", "empty")


class Operations(TorchDispatchMode):
    """Looks at what is dispatched, views apart.

    Attributes:
        names: of the operations.
        on_host: tensors that they made there, but for numbers, which go with a kernel's arguments.
        random: whether any drew random numbers from a generator.
        longest_sum: the most places that a cumulative sum goes over.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.on_host: list[Tensor] = []
        self.random = False
        self.longest_sum = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        aliases = [each.alias_info for each in func._schema.returns]
        view = any(alias is not None and not alias.is_write for alias in aliases)
        space, name = func._schema.name.split("::")
        if space == "aten" and not view and name not in _NO_KERNEL:
            self.names.append(name)
            self.random |= torch.Tag.nondeterministic_seeded in func.tags
            tensors = [each for each in tree_leaves(result) if isinstance(each, Tensor)]
            self.on_host += [each for each in tensors if each.device.type == "cpu" and each.ndim]
            if name == "cumsum":
                self.longest_sum = max(self.longest_sum, args[0].shape[args[1]])
        return result


class Step:
    """A step's tensors on a GPU that need not be there."""

    def __init__(self, length: int = 32) -> None:
        self.images = torch.empty(8, 3, length, length, device="cuda")
        self.labels = torch.empty(8, dtype=torch.int64, device="cuda")
        self.draws = SampleDraws(0)
        for _ in range(2):  # the first time makes what all steps share
            self.draws.at(0, self.labels)
        self.draws((8, 3), self.labels.device)  # as crop and flip do
        self.recycled = RecycledSaliency(50, (length, length), device="cuda")
        self.view = View(self.labels, self.labels, self.labels > 0)

    def given(self, images: Tensor, labels: Tensor | None) -> Tensor:
        return self.images[:, 0]

    def recycle(self) -> None:
        self.recycled.at(self.labels, self.view)
        keep = KeepCutout(saliency=self.recycled, generator=self.draws)
        inputs = keep(self.images, self.labels).requires_grad_()
        inputs.grad = self.images
        self.recycled.take(inputs)

    def draw(self) -> None:
        self.draws.at(0, self.labels)
        self.draws((8, 3), self.labels.device)


WORK: dict[str, tuple[int, Callable[[Step], Any]]] = {
    "numbers of a step": (28, Step.draw),
    "Cutout": (16, lambda s: Cutout(generator=s.draws)(s.images)),
    "KeepCutout": (
        38, lambda s: KeepCutout(saliency=s.given, generator=s.draws)(s.images, s.labels)
    ),
    "KeepCutout, equal area": (
        65,
        lambda s: KeepCutout(saliency=s.given, match_area=True, generator=s.draws)(
            s.images, s.labels
        ),
    ),
    "RandomErasing": (50, lambda s: RandomErasing(generator=s.draws)(s.images)),
    "KeepRandomErasing": (
        77, lambda s: KeepRandomErasing(saliency=s.given, generator=s.draws)(s.images, s.labels)
    ),
    "CutMix": (47, lambda s: CutMix(5, generator=s.draws)(s.images, s.labels)),
    "KeepCutMix": (
        79, lambda s: KeepCutMix(None, 5, saliency=s.given, generator=s.draws)(s.images, s.labels)
    ),
    "KeepPaste": (
        36,
        lambda s: KeepPaste(saliency=s.given, generator=s.draws)(s.images, s.images, s.labels),
    ),
    "recycled maps": (112, Step.recycle),
}  # fmt: skip


def done(name: str, length: int = 32) -> Operations:
    """What a step's part does on images of `length`."""
    with FakeTensorMode():
        step = Step(length)
        with Operations() as operations:
            WORK[name][1](step)
    return operations


@pytest.mark.parametrize("name", WORK)
def test_a_step_starts_few_kernels(name: str) -> None:
    names = done(name).names
    assert len(names) <= WORK[name][0], names


@pytest.mark.parametrize("name", WORK)
def test_a_step_can_be_captured_in_a_graph(name: str) -> None:
    """Nothing is made on the host, no generator is asked, and nothing waits (`test_fake.py`)."""
    operations = done(name)
    assert not operations.on_host and not operations.random


@pytest.mark.parametrize("name", WORK)
def test_no_sum_goes_over_all_places(name: str) -> None:
    """Over a row or a column, with the zeros around it; Inductor cannot write longer ones."""
    assert done(name, 224).longest_sum < 2 * 224


def test_a_look_finds_what_it_looks_for() -> None:
    with FakeTensorMode(), Operations() as operations:
        torch.rand(3, device="cuda")[:2].cumsum(0)
        assert not operations.on_host
        torch.zeros(2)
    assert operations.names == ["rand", "cumsum", "zeros"] and len(operations.on_host) == 1
    assert operations.random and operations.longest_sum == 2
