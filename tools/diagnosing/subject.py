"""The model that is examined, and images for it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from classification.models import SMALL, create_model, find_model
from keepaugment.no_trace import Forward, no_trace
from keepbench.images import IMAGENET_MEAN, IMAGENET_STD, Normalise
from keepbench.own_network import is_function, make_network
from keepbench.weights import load_weights, read_weights
from previewing.images import SAMPLE, read_pictures


@dataclass(frozen=True)
class Subject:
    """A maker of the model, in this process and in others.

    Attributes:
        model: MODULE:FACTORY or FILE.py:FACTORY, a function without arguments that returns a
            module, or the name of a model of classification.models or timm.
        classes: of a model by name.
        channels: of its images.
        output: number or name of the logits in what the model returns; empty if it is the logits.
        weights: file of weights.
        download: fetch the description of a hub's network.
    """

    model: str
    classes: int = 10
    channels: int = 3
    output: str = ""
    weights: Path | None = None
    download: bool = False

    @property
    def usual_size(self) -> int:
        """Side of its images if nothing else is said, in pixels."""
        return 32 if self.model in SMALL else 224

    def make(self) -> nn.Module:
        """The model in training mode, its random weights the same each time.

        Raises:
            ValueError: There is no such model, it is no module, or the weights do not fit.
        """
        torch.manual_seed(0)
        if is_function(self.model):
            model = make_network(self.model)
        else:
            ours = partial(create_model, download=self.download)
            make = timm.create_model if timm.is_model(self.model) else ours
            model = make(self.model, num_classes=self.classes, in_chans=self.channels)
        if self.weights:
            weights = read_weights(self.weights)
            try:
                load_weights(model, weights)
            except ValueError as error:
                fitting = find_model(weights.tensors, self.model)
                other = fitting.partition(".")[0] not in ("", self.model)  # not of other --classes
                advice = f"; its weights are those of {fitting}" if other else ""
                raise ValueError(
                    f"{self.weights} does not fit {self.model}: {error}{advice}"
                ) from None
        return model.train()

    def weights_in_words(self) -> str:
        """Which weights the model has."""
        if self.weights:
            return f"{read_weights(self.weights)} in {self.weights.name}"
        return "its factory's weights" if is_function(self.model) else "random weights"

    def logits(self, model: Forward) -> Forward:
        """Images to logits (B, K), by the model or by what was made of it."""
        if not self.output:
            return model
        key: Any = int(self.output) if self.output.isdigit() else self.output

        def logits(images: Tensor) -> Tensor:
            result = model(images)
            named = isinstance(key, str) and hasattr(result, key)
            return getattr(result, key) if named else result[key]

        return logits

    def code(self) -> str:
        """The logits of `images` by `model`, as an expression."""
        if not self.output:
            return "model(images)"
        picked = f"[{self.output}]" if self.output.isdigit() else f".{self.output}"
        return f"model(images){picked}"


def read_images(places: list[str], size: int, channels: int, number: int) -> Tensor:
    """Images (B, C, S, S) as most networks take them: by ImageNet's mean and deviation.

    Args:
        places: files and folders; none takes parts of scikit-learn's two photographs.
        size: S, in pixels.
        channels: C; other than 3 gives each the mean of the colours.
        number: B, or fewer if there are not so many.

    Raises:
        ValueError: No images there, or a file that cannot be read.
    """
    if places:
        pixels = read_pictures(places, size, number).pixels
    else:
        photographs = read_pictures([SAMPLE], 2 * size, 2).pixels
        generator = torch.Generator().manual_seed(0)
        corners = torch.randint(size + 1, (number, 2), generator=generator).tolist()
        pixels = torch.stack(
            [
                photographs[n % 2, :, row : row + size, column : column + size]
                for n, (row, column) in enumerate(corners)
            ]
        )
    images = Normalise(IMAGENET_MEAN, IMAGENET_STD)(pixels)
    return images if channels == 3 else images.mean(1, keepdim=True).repeat(1, channels, 1, 1)


@torch.no_grad()
def predicted(logits: Forward, images: Tensor) -> tuple[Tensor, int]:
    """The likeliest class of each image (B,), and the number of classes.

    Raises:
        ValueError: The model does not take the images, or does not return logits (B, K).
    """
    try:
        with no_trace(logits, images.device):
            found: Any = logits(images)
    except Exception as error:  # models refuse images in many ways
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"the model does not take images {tuple(images.shape)} ({reason}); see --size, "
            "--channels and --output"
        ) from error
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(images):
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(
            f"the model returns {shape}, not logits ({len(images)}, K); name them with --output"
        )
    return found.argmax(1), found.shape[1]
