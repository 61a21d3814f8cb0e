"""The way of a batch from bytes to the network: named stages, one after another.

A stage is a function of tensors that says which fields of a batch it takes and sets. So a stage can
be compiled, timed and looked at by name, and a task's augmentation is a list that one can read.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from keepaugment import Saliency
from keepbench.clock import Clock
from keepbench.network import compiled

OnItsWay = TypeVar("OnItsWay")
"""A task's dataclass of what is known of a batch so far: stages read its fields and set others."""
Listener = Callable[[str, OnItsWay], None]


class Stage(NamedTuple):
    """A step on the way.

    Attributes:
        name: of the stage.
        run: fields by position to one value, or to a tuple of them if it gives several.
        takes: names of the fields that it takes.
        gives: names of the fields that it sets.
        compiles: whether `--compile` may compile it.
        like: whether its first value is of shape and type of the first tensor that it takes.
    """

    name: str
    run: Callable[..., Any]
    takes: tuple[str, ...]
    gives: tuple[str, ...] = ()
    compiles: bool = True
    like: bool = False


class Pipeline(Generic[OnItsWay]):
    """Stages one after another.

    Args:
        stages: in their order; their names differ.
        clock: counts each stage's time by its name, and a map's as "map".
        compile: compile the stages that may be.

    Raises:
        ValueError: A stage cannot be called.
    """

    def __init__(self, stages: Iterable[Stage], clock: Clock, *, compile: bool = False) -> None:
        self.stages = {}
        for stage in stages:
            if not takes(stage.run, *stage.takes):
                given = ", ".join(stage.takes)
                raise ValueError(f"{stage.name} must be a function of {given}, found {stage.run!r}")
            run = compiled(stage.run) if compile and stage.compiles else stage.run
            self.stages[stage.name] = stage._replace(run=run)
        self.clock = clock

    def __call__(self, batch: OnItsWay, listen: Listener[OnItsWay] | None = None) -> OnItsWay:
        """Take a batch through all stages.

        Args:
            batch: what is known of it; not changed.
            listen: called after each stage with its name and the batch, to look at it.

        Returns:
            What is known of the batch at the end.

        Raises:
            ValueError: A stage gives other values than it says.
        """
        for stage in self.stages.values():
            taken = [getattr(batch, name) for name in stage.takes]
            with self.clock(stage.name):
                found = stage.run(*taken)
            given: tuple[Any, ...] = (found,) if len(stage.gives) == 1 else found or ()
            if stage.like:
                _check_like(
                    stage.name, next(iter(given)), next(t for t in taken if isinstance(t, Tensor))
                )
            known = dict(zip(stage.gives, given, strict=True))
            batch = replace(batch, **known)  # type: ignore[type-var]
            if listen:
                listen(stage.name, batch)
        return batch


def _check_like(name: str, given: Any, taken: Tensor) -> None:
    """Raise ValueError unless what a stage gives has shape and type of what it takes.

    Of bytes it may give fractions, from 0 to 255, as AugMix does.
    """
    found, like = (
        f"{tuple(each.shape)} {each.dtype}" if isinstance(each, Tensor) else type(each).__name__
        for each in (given, taken)
    )
    if found not in (like, like.replace("torch.uint8", "torch.float32")):
        raise ValueError(f"{name} must give images as it takes them, {like}, found {found}")


def takes(function: Any, *values: Any, **named: Any) -> bool:
    """Whether a function can be called with these arguments, as far as its signature says."""
    try:
        inspect.signature(function).bind(*values, **named)
    except TypeError:
        return False
    except ValueError:  # some builtins have no signature
        return callable(function)
    return True


class TimedMap:
    """A map whose time is counted as "map", not as that of the stage that asks for it.

    Args:
        saliency: the map.
        clock: that counts.

    Raises:
        ValueError: The map cannot be called.

    Attributes:
        last: the last map (B, H, W), or None.
    """

    def __init__(self, saliency: Saliency, clock: Clock) -> None:
        if not takes(saliency, "images", "labels"):
            raise ValueError(f"a map must be a function of images and labels, found {saliency!r}")
        self.saliency = saliency
        self.clock = clock
        self.last: Tensor | None = None

    @torch.compiler.disable  # code cannot read clocks; what is called within runs compiled if it is
    def __call__(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map images (B, C, H, W) and labels to saliency (B, H, W)."""
        version = images._version
        with self.clock("map"):
            self.last = self.saliency(images, labels)
        if images._version != version:
            raise ValueError("the map has written into the images that it was given")
        return self.last


def cutting(cut: Any) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
    """A stage's function that cuts: images and labels to images, mean share cut, and mask.

    Raises:
        ValueError: It is no cut.
    """
    mask_of = getattr(cut, "mask", None)
    if not takes(cut, "images", mask="mask") or not takes(mask_of, "images", "labels"):
        raise ValueError(
            "a cut must be called with images, labels and mask, and have mask(images, labels), as "
            f"keepaugment.Cutout; found {cut!r}"
        )

    def run(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mask = cut.mask(images, labels)
        return cut(images, mask=mask), mask.float().mean(), mask

    return run
