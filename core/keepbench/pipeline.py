"""The way of a batch from bytes to the network: named stages, one after another.

A stage is a function of tensors with names for what it takes and gives. So a stage can be compiled,
timed and looked at by its name, and a task's augmentation is a list that one can read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from keepaugment import Saliency
from keepbench.clock import Clock
from keepbench.network import compiled

Values = dict[str, Any]
"""What is known of a batch so far, by name: the stages read it and add to it."""
Listener = Callable[[str, Values], None]


class Stage(NamedTuple):
    """A step on the way.

    Attributes:
        name: of the stage.
        run: values by position to one value, or to a tuple of them if it gives several.
        takes: names of the values that it takes.
        gives: names of the values that it gives, new or in place of older ones.
        compiles: whether `--compile` may compile it.
    """

    name: str
    run: Callable[..., Any]
    takes: tuple[str, ...]
    gives: tuple[str, ...] = ()
    compiles: bool = True


class Pipeline:
    """Stages one after another.

    Args:
        stages: in their order; their names differ.
        clock: counts each stage's time by its name, and a map's as "map".
        compile: compile the stages that may be.
    """

    def __init__(self, stages: Iterable[Stage], clock: Clock, *, compile: bool = False) -> None:
        self.stages = {
            stage.name: stage._replace(run=compiled(stage.run))
            if compile and stage.compiles
            else stage
            for stage in stages
        }
        self.clock = clock

    def __call__(self, values: Values, listen: Listener | None = None) -> Values:
        """Take a batch through all stages.

        Args:
            values: what is known of the batch; not changed.
            listen: called after each stage with its name and all values, to look at a batch.

        Returns:
            What is known of the batch at the end.
        """
        values = dict(values)
        for stage in self.stages.values():
            with self.clock(stage.name):
                given = stage.run(*(values[name] for name in stage.takes))
            given = (given,) if len(stage.gives) == 1 else given or ()
            values.update(zip(stage.gives, given, strict=True))
            if listen:
                listen(stage.name, values)
        return values


class TimedMap:
    """A map whose time is counted as "map", not as that of the stage that asks for it.

    Args:
        saliency: the map.
        clock: that counts.

    Attributes:
        last: the last map (B, H, W), or None.
    """

    def __init__(self, saliency: Saliency, clock: Clock) -> None:
        self.saliency = saliency
        self.clock = clock
        self.last: Tensor | None = None

    @torch.compiler.disable  # code cannot read clocks; what is called within runs compiled if it is
    def __call__(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map images (B, C, H, W) and labels to saliency (B, H, W)."""
        with self.clock("map"):
            self.last = self.saliency(images, labels)
        return self.last


def cutting(cut: Any) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
    """A stage's function that cuts: images and labels to images, mean share cut, and mask."""

    def run(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mask = cut.mask(images, labels)
        return cut(images, mask=mask), mask.float().mean(), mask

    return run
