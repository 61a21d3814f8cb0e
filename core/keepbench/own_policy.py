"""Anybody's augmentation as a policy: a transform of one's own, or timm's by its words."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import auto_augment
from torch import Tensor, nn
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from keepaugment.draws import Source, uniform
from keepbench.order import seed_noise
from keepbench.own_network import find_function, in_words, is_function, source_files
from keepbench.policies import Policy
from keepbench.progress import say
from keepbench.settings import setting

Transform = Callable[[Tensor], Any]
_TRIED = 8  # images
_SETS = ("tweights", "t3a", "t3aw")
"""timm's words for sets of operations; of any other it takes the usual one."""


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Within it all of Python's usual random numbers begin at a seed; then they are as before."""
    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        seed_noise(seed, device)
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


def _checked(found: Any, like: Tensor, name: str) -> Tensor:
    """A transform's result as a tensor of its own, checked against its input.

    Raises:
        ValueError: It does not.
    """
    pixels = pil_to_tensor(found) if isinstance(found, Image.Image) else found
    if not isinstance(pixels, Tensor):
        about = type(found).__name__
    elif pixels.dtype != torch.uint8 or pixels.shape != like.shape:
        about = f"{tuple(pixels.shape)} {str(pixels.dtype).removeprefix('torch.')}"
    else:
        return pixels.to(like.device, copy=True)  # it may be the transform's buffer
    raise ValueError(
        f"{name} must return bytes of the shape that it was given, {tuple(like.shape)} uint8, "
        f"found {about}; images are normalised later"
    )


class Applied:
    """A transform on a batch (B, C, H, W) uint8: the same for an image in any batch.

    That holds for what draws from the global random numbers of torch, Python or NumPy. What a
    transform of the batch draws follows from its first image.

    Args:
        transform: of an image (C, H, W) uint8 on the CPU, or of a batch on its device.
        name: in messages.
        whole: it takes the batch.
        generator: where the seeds of its random numbers come from.
    """

    def __init__(self, transform: Transform, name: str, whole: bool, generator: Source) -> None:
        self.transform, self.name, self.whole = transform, name, whole
        self.generator = generator
        self.tried = False

    def __call__(self, images: Tensor) -> Tensor:
        """Augment images (B, C, H, W), uint8: new images of the same shape.

        A GPU waits for the host here.
        """
        draws = uniform(self.generator, (len(images), 1), images.device)[:, 0]
        seeds = (draws * 2**31).long().tolist()
        if not self.tried:
            self.tried = True
            self._try(images[:_TRIED], seeds[0])
        if self.whole:
            return self._called(images, seeds[0])
        found = [self._called(each, seed) for each, seed in zip(images.cpu(), seeds, strict=True)]
        return torch.stack(found).to(images.device)

    def _try(self, images: Tensor, seed: int) -> None:
        """Say it if a transform gives another result for the same random numbers."""
        some = [images] if self.whole else images.cpu()
        if any(not self._called(each, seed).equal(self._called(each, seed)) for each in some):
            say(
                f"{self.name} draws from a generator of its own, or keeps count: a run of it "
                "cannot be repeated, nor resumed to the bit"
            )

    def _called(self, images: Tensor, seed: int) -> Tensor:
        """The transform's result for an image or a batch.

        Raises:
            ValueError: It fails, or gives no bytes of the same shape.
        """
        exact = torch.autocast(images.device.type, enabled=False)
        with _seeded(seed, images.device), torch.no_grad(), exact:
            try:
                found = self.transform(images.clone())  # it may write into what it is given
            except (Exception, SystemExit) as error:  # the user's code may raise anything
                raise ValueError(f"{self.name} failed: {in_words(error)}") from error
        return _checked(found, images, self.name)


def _of_albumentations(transform: Any) -> Transform:
    """A pipeline of albumentations, which takes arrays (H, W, C) by keyword."""

    def run(image: Tensor) -> Any:
        if hasattr(transform, "set_random_seed"):  # its own generator follows no other
            transform.set_random_seed(random.getrandbits(31))
        found = transform(image=image.permute(1, 2, 0).numpy())["image"]
        if not isinstance(found, np.ndarray):  # made a tensor by the pipeline
            return found
        return torch.as_tensor(found.reshape(*found.shape[:2], -1)).permute(2, 0, 1)

    return run


def _takes_batches(transform: Callable[..., Any]) -> bool:
    """Whether a transform's first parameter is called `images`."""
    call = transform.forward if isinstance(transform, nn.Module) else transform
    with suppress(ValueError, TypeError):  # some builtins have no signature
        return [*inspect.signature(call).parameters][:1] == ["images"]
    return False


@dataclass(frozen=True, kw_only=True)
class Own(Policy):
    """A transform of the user's own."""

    name = "own"
    title = "own transform"
    transform: str = setting(
        "",
        "FILE.py:NAME of a transform of an image (C, H, W) uint8, such as torchvision's v2, of a "
        "pipeline of albumentations, or of what takes a batch `images`",
        files=source_files,
    )

    def __post_init__(self) -> None:  # noqa: D105
        super().__post_init__()
        if self.fill != "mean":
            raise ValueError(f"fill={self.fill}: a transform of your own has a fill of its own")

    def build(  # noqa: D102
        self, mean: tuple[float, ...], generator: Source, interpolation: str = "nearest"
    ) -> Callable[[Tensor], Tensor]:
        if not is_function(self.transform):
            raise ValueError(
                f"policy=own needs --policy.transform FILE.py:NAME, found {self.transform!r}"
            )
        transform: Any = find_function(self.transform)
        if isinstance(transform, type):
            try:
                transform = transform()
            except Exception as error:  # the user's code may raise anything
                raise ValueError(f"{self.transform} cannot be made: {in_words(error)}") from error
        if not callable(transform):
            raise ValueError(f"{self.transform} is no transform: it cannot be called")
        bases = {each.__module__.partition(".")[0] for each in type(transform).__mro__}
        if "albumentations" in bases:
            return Applied(_of_albumentations(transform), self.transform, False, generator)
        return Applied(transform, self.transform, _takes_batches(transform), generator)


def _posterize(image: Image.Image, bits: int, **options: Any) -> Image.Image:
    """As timm's, whose higher magnitudes keep no bit: black, but an error of today's Pillow."""
    if bits < 1:
        return Image.new(image.mode, image.size)
    return auto_augment.posterize(image, bits, **options)


@dataclass(frozen=True, kw_only=True)
class Timm(Policy):
    """timm's RandAugment, AugMix or AutoAugment by its configuration string, image by image."""

    name = "timm"
    title = "timm's"
    config: str = setting("rand-m9-mstd0.5", "as timm's --aa: rand-m9-n2, augmix-m5, original, ...")

    def __post_init__(self) -> None:  # noqa: D105
        super().__post_init__()
        kind, *words = self.config.split("-")
        for word in words:
            if kind == "rand" and word.startswith("t"):
                if word not in _SETS:
                    raise ValueError(
                        f"config={self.config!r} is no policy of timm: {word!r}, whose sets of "
                        f"operations are {', '.join(_SETS)}"
                    )
            elif not any(map(str.isdigit, word)):  # timm leaves it out
                raise ValueError(f"config={self.config!r} is no policy of timm: {word!r}")
        try:
            made = self._made((0.5, 0.5, 0.5), 224)
        except Exception as error:  # timm raises many kinds
            reason = str(error) or type(error).__name__
            raise ValueError(f"config={self.config!r} is no policy of timm: {reason}") from None
        if kind == "rand" and not (made.num_layers and made.ops[0].prob):
            raise ValueError(f"config={self.config!r} changes nothing; n and p must be above 0")

    def _colour(self, mean: tuple[float, ...]) -> int | tuple[int, ...]:
        """The fill colour as Pillow takes it: a number if the image is grey."""
        found = [round(255 * value) if self.fill == "mean" else 0 for value in mean]
        return tuple(found) if len(found) > 1 else found[0]

    def _made(self, mean: tuple[float, ...], side: int) -> Any:
        options: dict[str, Any] = {
            "translate_const": int(side * 0.45),
            "img_mean": self._colour(mean),
        }
        kind = self.config.partition("-")[0]
        if kind == "rand":
            made = auto_augment.rand_augment_transform(self.config, options)
            ops = made.ops
        elif kind == "augmix":
            options["translate_pct"] = 0.3
            made = auto_augment.augment_and_mix_transform(self.config, options)
            ops = made.ops
        else:
            made = auto_augment.auto_augment_transform(self.config, options)
            ops = [op for some in made.policy for op in some]
        for op in ops:
            if op.name.startswith("Posterize"):
                op.aug_fn = _posterize
        return made

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
