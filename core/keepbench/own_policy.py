"""Anybody's augmentation as a policy: a transform of one's own, or timm's by its words."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import auto_augment
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from keepaugment.draws import Source, uniform
from keepbench.own_network import find_function, is_function, source_files
from keepbench.policies import Policy
from keepbench.settings import setting

Transform = Callable[[Tensor], Any]


def _seeds(generator: Source, images: Tensor) -> list[int]:
    """A seed for each image; a GPU waits for the host here, as it does for such transforms."""
    return (uniform(generator, (len(images), 1), images.device)[:, 0] * 2**31).long().tolist()


def _seeded(transform: Callable[[Any], Any], seed: int, images: Any) -> Any:
    """Call a transform with all of Python's usual random numbers begun at a seed."""
    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        try:
            return transform(images)
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


def _as_bytes(found: Any, like: Tensor, name: str) -> Tensor:
    """What a transform gave, if it fits in the image's place.

    Raises:
        ValueError: It does not.
    """
    pixels = pil_to_tensor(found) if isinstance(found, Image.Image) else found
    if not isinstance(pixels, Tensor) or pixels.dtype != torch.uint8 or pixels.shape != like.shape:
        about = (
            f"{pixels.dtype} {tuple(pixels.shape)}" if isinstance(pixels, Tensor) else type(found)
        )
        raise ValueError(
            f"{name} must return bytes of the shape that it was given, {tuple(like.shape)} uint8, "
            f"found {about}; images are normalised later"
        )
    return pixels.to(like.device)


class Applied:
    """A transform on a batch (B, C, H, W) uint8: the same for an image in any batch.

    Args:
        transform: of an image (C, H, W) uint8, or of a batch.
        name: in messages.
        whole: it takes the batch.
        generator: where the seeds of its random numbers come from.
    """

    def __init__(self, transform: Transform, name: str, whole: bool, generator: Source) -> None:
        self.transform, self.name, self.whole = transform, name, whole
        self.generator = generator

    def __call__(self, images: Tensor) -> Tensor:
        """Augment images (B, C, H, W), uint8: new images of the same shape."""
        seeds = _seeds(self.generator, images)
        try:
            if self.whole:
                return _as_bytes(_seeded(self.transform, seeds[0], images), images, self.name)
            found = [
                _as_bytes(_seeded(self.transform, seed, image), image, self.name)
                for seed, image in zip(seeds, images, strict=True)
            ]
        except Exception as error:  # the user's code may raise anything
            if isinstance(error, ValueError) and str(error).startswith(self.name):
                raise
            raise ValueError(f"{self.name} failed: {type(error).__name__}: {error}") from error
        return torch.stack(found)


def _of_albumentations(transform: Any) -> Transform:
    """A pipeline of albumentations, which takes arrays (H, W, C) by keyword."""

    def run(image: Tensor) -> Tensor:
        if hasattr(transform, "set_random_seed"):  # its own generator follows no other
            transform.set_random_seed(random.getrandbits(31))
        found = transform(image=image.cpu().permute(1, 2, 0).numpy())["image"]
        return torch.as_tensor(found).permute(2, 0, 1)

    return run


@dataclass(frozen=True, kw_only=True)
class Own(Policy):
    """A transform of the user's own."""

    name = "own"
    title = "own transform"
    transform: str = setting(
        "",
        "FILE.py:NAME of a transform of an image (C, H, W) uint8, such as torchvision's v2, of a "
        "function of a batch `images`, or of a pipeline of albumentations",
        files=source_files,
    )

    def build(  # noqa: D102
        self, mean: tuple[float, ...], generator: Source, interpolation: str = "nearest"
    ) -> Callable[[Tensor], Tensor]:
        if not is_function(self.transform):
            raise ValueError(
                f"policy=own needs --policy.transform FILE.py:NAME, found {self.transform!r}"
            )
        transform: Any = find_function(self.transform)
        if isinstance(transform, type):
            transform = transform()
        if not callable(transform):
            raise ValueError(f"{self.transform} is no transform: it cannot be called")
        whole = inspect.isfunction(transform) and [*inspect.signature(transform).parameters][
            :1
        ] == ["images"]
        if type(transform).__module__.partition(".")[0] == "albumentations":
            transform = _of_albumentations(transform)
        return Applied(transform, self.transform, whole, generator)


@dataclass(frozen=True, kw_only=True)
class Timm(Policy):
    """timm's RandAugment, AugMix or AutoAugment by its configuration string, image by image."""

    name = "timm"
    title = "timm's"
    config: str = setting("rand-m9-mstd0.5", "as timm's --aa: rand-m9-n2, augmix-m5, original, ...")

    def __post_init__(self) -> None:  # noqa: D105
        super().__post_init__()
        try:
            self._made((0.5, 0.5, 0.5), 224)
        except (AssertionError, KeyError, ValueError) as error:
            reason = str(error) or "it is none"
            raise ValueError(f"config={self.config!r} is no policy of timm: {reason}") from None

    def _made(self, mean: tuple[float, ...], side: int) -> Callable[[Any], Any]:
        options = {
            "translate_const": int(side * 0.45),
            "img_mean": tuple(round(255 * value) for value in mean),
        }
        kind = self.config.partition("-")[0]
        if kind == "rand":
            return auto_augment.rand_augment_transform(self.config, options)
        if kind == "augmix":
            return auto_augment.augment_and_mix_transform(
                self.config, {**options, "translate_pct": 0.3}
            )
        return auto_augment.auto_augment_transform(self.config, options)

    def build(  # noqa: D102
        self, mean: tuple[float, ...], generator: Source, interpolation: str = "nearest"
    ) -> Callable[[Tensor], Tensor]:
        made: dict[int, Callable[[Any], Any]] = {}

        def transform(image: Tensor) -> Tensor:
            side = min(image.shape[1:])
            if side not in made:
                made[side] = self._made(mean, side)
            return pil_to_tensor(made[side](to_pil_image(image)))

        return Applied(transform, f"timm's {self.config}", False, generator)
