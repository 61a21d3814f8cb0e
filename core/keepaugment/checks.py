"""Checks of what enters the public functions. Every error says what was found and what to do.

Values are only looked at where that costs no synchronisation: on a CPU, outside a compiler.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

Size = int | Sequence[int] | Tensor
"""Height and width in pixels: an int, (height, width), or a (B, 2) tensor with a size per image."""

_NARROW = (torch.bool, torch.uint8, torch.int8, torch.int16)


def readable(tensor: Tensor) -> bool:
    """Whether the values of `tensor` may be looked at without stalling a GPU or a compiler.

    A fake tensor has none, and one within `torch.func.vmap` has those of many.
    """
    if torch.compiler.is_compiling() or hasattr(tensor, "fake_mode"):
        return False
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return False
    return tensor.device.type == "cpu"


def _check_tensor(name: str, value: Any, shape: str) -> None:
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} must be a tensor {shape}, found {type(value).__name__}")


def check_images(images: Tensor) -> None:
    """Raise ValueError unless `images` are floating point (B, C, H, W)."""
    _check_tensor("images", images, "(B, C, H, W)")
    if images.ndim != 4:
        raise ValueError(f"images must be (B, C, H, W), found shape {tuple(images.shape)}")
    if not images.is_floating_point():
        raise ValueError(
            f"images must be floating point, found {images.dtype}; convert and normalise them first"
        )


def check_labels(labels: Tensor, batch: int, num_classes: int) -> None:
    """Raise ValueError unless `labels` are (B,) whole numbers in [0, num_classes)."""
    _check_tensor("labels", labels, f"({batch},)")
    fractional = labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool
    if labels.shape != (batch,) or fractional:
        raise ValueError(
            f"labels must be ({batch},) class numbers, "
            f"found {labels.dtype} of shape {tuple(labels.shape)}"
            + ("; apply Keep before mixing" if labels.ndim == 2 else "")
        )
    if batch and readable(labels):
        low, high = int(labels.long().min()), int(labels.long().max())
        if low < 0 or high >= num_classes:
            raise ValueError(f"labels must be in [0, {num_classes}), found {low} to {high}")


def check_augmented(augmented: Tensor, images: Tensor) -> None:
    """Raise ValueError unless `augmented` are like `images`: shape, device, floating point."""
    _check_tensor("augmented", augmented, "(B, C, H, W)")
    if images.shape != augmented.shape:
        raise ValueError(
            f"images {tuple(images.shape)} and augmented {tuple(augmented.shape)} must be "
            "views of the same size"
        )
    if images.device != augmented.device:
        raise ValueError(f"augmented is on {augmented.device}, the images on {images.device}")
    if not augmented.is_floating_point():
        raise ValueError(
            f"augmented must be floating point, found {augmented.dtype}; convert and normalise it "
            "as the images"
        )


def check_saliency(saliency: Tensor, images: Tensor | None = None) -> None:
    """Raise ValueError unless `saliency` is a real, finite (B, H, W), the images' own B, H and W.

    It becomes float32, so it may not have wider integers.
    """
    _check_tensor("saliency", saliency, "(B, H, W)")
    if saliency.ndim != 3:
        raise ValueError(f"saliency must be (B, H, W), found shape {tuple(saliency.shape)}")
    if not saliency.is_floating_point() and saliency.dtype not in _NARROW:
        raise ValueError(f"saliency must be floating point, found {saliency.dtype}")
    if images is not None and saliency.device != images.device:
        raise ValueError(f"saliency is on {saliency.device}, the images on {images.device}")
    if images is not None and saliency.shape != (images.shape[0], *images.shape[2:]):
        raise ValueError(
            f"saliency of shape {tuple(saliency.shape)} does not fit images of shape "
            f"{tuple(images.shape)}"
        )
    if readable(saliency) and not bool(saliency.float().isfinite().all()):
        raise ValueError("saliency holds NaN or infinite values; has the model diverged?")


def check_not_negative(saliency: Tensor) -> None:
    """Raise ValueError if a map (B, H, W) that is to be stored is negative somewhere.

    It is not shifted instead: that would change which boxes are allowed, of those that the border
    clips and of an image that is seen in parts.
    """
    if readable(saliency) and bool((saliency < 0).any()):
        raise ValueError(
            f"a stored map must not be negative, found {float(saliency.min()):.3g}; let it begin "
            "at 0, as by `saliency - saliency.amin((1, 2), keepdim=True)`"
        )


def check_index(index: Tensor, number: int | None = None) -> Tensor:
    """The numbers `index` (B,) of images as int64.

    Raises:
        ValueError: Another shape or kind, or an image that is not among the `number` of them.
    """
    _check_tensor("index", index, "(B,)")
    fractional = index.is_floating_point() or index.is_complex() or index.dtype == torch.bool
    if index.ndim != 1 or fractional:
        raise ValueError(
            f"index must be (B,) whole numbers, found {index.dtype} of shape {tuple(index.shape)}"
        )
    index = index.long()  # torch finds no minimum of wide unsigned numbers
    if number is not None and len(index) and readable(index):
        low, high = int(index.min()), int(index.max())
        if low < 0 or high >= number:
            raise ValueError(f"index must be in [0, {number}), found {low} to {high}")
    return index


def warn_of_repeats(index: Tensor, consequence: str) -> None:
    """Warn if an image is several times in a batch, as a sampler that repeats has it."""
    if readable(index) and len(index.unique()) < len(index):
        warnings.warn(f"an image is several times in the batch: {consequence}", stacklevel=3)


def check_generator(generator: Any) -> None:
    """Raise ValueError unless `generator` is a `keepaugment.draws.Source`."""
    if generator is None or isinstance(generator, torch.Generator) or callable(generator):
        return
    raise ValueError(
        "generator must be a torch.Generator, a function (shape, device) -> numbers or None, "
        f"found {type(generator).__name__}; torch.Generator().manual_seed(seed) makes one"
    )


def check_no_transform() -> None:
    """Raise ValueError within `torch.func`'s vmap, grad and the like, where no map can be taken."""
    if torch._C._functorch.maybe_current_level() is not None:
        raise ValueError(
            "a map cannot be taken within torch.func.vmap, grad, jvp and the like; change the "
            "images by the method first, and transform what comes after it"
        )


def check_p(p: float) -> None:
    """Raise ValueError unless `p` is a probability."""
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"p must be a probability in [0, 1], found {p}")


def check_tau(tau: float) -> None:
    """Raise ValueError unless `tau` is a quantile."""
    if not 0.0 <= tau <= 1.0:
        raise ValueError(f"tau must be a quantile in [0, 1], found {tau}")


def check_scale(scale: float) -> None:
    """Raise ValueError unless `scale` makes a smaller copy, or one of the same size."""
    if not 0.0 < scale <= 1.0:
        raise ValueError(f"scale must be in (0, 1], found {scale}")


def check_fill(fill: Any, images: Tensor) -> None:
    """Raise ValueError unless `fill` is a finite number or tensor that broadcasts to `images`."""
    if not isinstance(fill, Tensor):
        if not isinstance(fill, Real):
            raise ValueError(f"fill must be a number or a tensor, found {fill!r}")
        fill_numbers(fill)
    elif fill.ndim and fill.device != images.device:
        raise ValueError(f"fill is on {fill.device}, the images on {images.device}")
    elif (
        fill.is_complex()
        or fill.ndim > 4
        or any(
            side not in (1, length)
            for side, length in zip(reversed(fill.shape), reversed(images.shape), strict=False)
        )
    ):
        raise ValueError(
            f"fill, {fill.dtype} of shape {tuple(fill.shape)}, does not fit images of shape "
            f"{tuple(images.shape)}; one number per channel is of shape (C, 1, 1)"
        )
    elif readable(fill) and not bool(fill.isfinite().all()):
        raise ValueError("fill holds NaN or infinite values")


def fill_numbers(fill: Any) -> float | tuple[float, ...] | None:
    """A fill as Python's numbers, one per channel where there are several; None if random."""
    if isinstance(fill, str) and fill == "random":
        return None
    values = fill.tolist() if hasattr(fill, "tolist") else fill  # NumPy's and torch's
    several = isinstance(values, Sequence)
    numbers = tuple(values) if several else (values,)
    if not all(isinstance(value, Real) for value in numbers):
        raise ValueError(f"fill must be a number, one per channel or 'random', found {fill!r}")
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"fill must be finite, found {fill!r}")
    return tuple(map(float, numbers)) if several else float(values)


def whole_size(size: Any) -> Size:
    """`size` with Python's whole numbers in place of NumPy's, or as it is."""
    sides = size if isinstance(size, Sequence) else (size,)
    if not all(isinstance(side, Integral) for side in sides):
        return size  # a tensor, or for `check_size` to refuse
    return tuple(map(int, size)) if isinstance(size, Sequence) else int(size)


def check_size(size: Size, batch: int, image_size: tuple[int, int]) -> None:
    """Raise ValueError unless boxes of `size` fit in images of `image_size` (H, W)."""
    if isinstance(size, Tensor):
        if size.shape != (batch, 2) or size.is_floating_point():
            raise ValueError(
                f"size must be an int, (h, w) or a ({batch}, 2) tensor of whole pixels, "
                f"found {size.dtype} of shape {tuple(size.shape)}"
            )
        if batch and readable(size):
            low, high = size.amin(0).tolist(), size.amax(0).tolist()
            if min(low) < 0 or high[0] > image_size[0] or high[1] > image_size[1]:
                raise ValueError(f"sizes from {low} to {high} do not fit in images of {image_size}")
        return
    sides = tuple(size) if isinstance(size, Sequence) else (size, size)
    if len(sides) != 2 or not all(isinstance(side, int) for side in sides):
        raise ValueError(f"size must be an int, (h, w) or a (B, 2) tensor, found {size!r}")
    if not all(0 <= side <= length for side, length in zip(sides, image_size, strict=True)):
        raise ValueError(f"size {sides} does not fit in images of {image_size}")
