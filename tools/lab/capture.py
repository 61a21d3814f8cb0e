"""Stop a training at one step, with the batch that the network was about to see."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from classification.augmentation import Augmentation, Augmented


class Reached(Exception):
    """The step to replay was augmented."""

    def __init__(self, batch: Augmented, index: Tensor, pixels: Tensor, labels: Tensor) -> None:
        super().__init__("the step was reached")
        self.batch, self.index, self.pixels, self.labels = batch, index, pixels, labels


class UntilStep:
    """An augmentation that stops the training at one step, before the network sees the batch.

    What happens on the way there is noted.
    """

    def __init__(self, augment: Augmentation, epoch: int, step: int) -> None:
        self.augment, self.target = augment, (epoch, step)
        self.notes: dict[str, Tensor] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.augment, name)

    def __call__(
        self,
        epoch: int,
        step: int,
        index: Tensor,
        pixels: Tensor,
        labels: Tensor,
        frames: Tensor | None = None,
    ) -> Augmented:
        """Augment a step's samples; raise `Reached` with them if it is the one."""
        if (epoch, step) != self.target:
            return self.augment(epoch, step, index, pixels, labels, frames)
        self._listen()
        batch = self.augment(epoch, step, index, pixels, labels, frames)
        raise Reached(batch, index, pixels, labels)

    def _noted(self, function: Any, before: str, after: str) -> Any:
        """A function of images whose first argument and result are noted."""

        def noted(images: Tensor, *rest: Any) -> Any:
            self.notes.setdefault(before, images)
            result = function(images, *rest)
            self.notes[after] = result
            return result

        return noted

    def _listen(self) -> None:
        augment: Any = self.augment
        if augment.policy:
            name = augment.config.policy
            augment.policy = self._noted(augment.policy, "after crop and flip", f"after {name}")
        for method in (augment.cut, augment.paste, *augment.mixings):
            if keep := getattr(method, "keep", None):
                noted = self._noted(keep.saliency, "what the map was taken of", "map")
                method.keep = replace(keep, saliency=noted)
            if hasattr(method, "mask"):
                method.mask = self._noted(method.mask, "before the cut", "where it was cut")
