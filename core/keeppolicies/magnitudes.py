"""Tables of the policies: operations, magnitudes and sub-policies.

AutoAugment: arXiv:1805.09501, Appendix; RandAugment: arXiv:1909.13719; TrivialAugment:
arXiv:2103.10158, Table 1; AugMix: arXiv:1912.02781. Several sets of magnitudes exist under the same
names: torchvision's, relative to the image and mostly signed, those of the first public codes, and
timm's for RandAugment ("rand-mstd0.5-inc1").
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from keeppolicies.operations import ID, remembered

Method = Literal["auto_augment", "rand_augment", "trivial_augment", "aug_mix", "aug_mix_all"]
Magnitudes = Literal["torchvision", "original"]
RandAugmentSpace = Literal["torchvision", "original", "timm"]

# Sub-policies in torchvision's order: operation, probability, magnitude id of 0..9 (- for none).
SUB_POLICIES = {
    "cifar10": """
        invert .1 - contrast .2 6 | rotate .7 2 translate_x .3 9 | sharpness .8 1 sharpness .9 3
        shear_y .5 8 translate_y .7 9 | autocontrast .5 - equalize .9 -
        shear_y .2 7 posterize .3 7 | color .4 3 brightness .6 7 | sharpness .3 9 brightness .7 9
        equalize .6 - equalize .5 - | contrast .6 7 sharpness .6 5
        color .7 7 translate_x .5 8 | equalize .3 - autocontrast .4 -
        translate_y .4 3 sharpness .2 6 | brightness .9 6 color .2 8 | solarize .5 2 invert 0 -
        equalize .2 - autocontrast .6 - | equalize .2 - equalize .6 - | color .9 9 equalize .6 -
        autocontrast .8 - solarize .2 8 | brightness .1 3 color .7 0
        solarize .4 5 autocontrast .9 - | translate_y .9 9 translate_y .7 9
        autocontrast .9 - solarize .8 3 | equalize .8 - invert .1 -
        translate_y .7 9 autocontrast .9 -""",
    "imagenet": """
        posterize .4 8 rotate .6 9 | solarize .6 5 autocontrast .6 - | equalize .8 - equalize .6 -
        posterize .6 7 posterize .6 6 | equalize .4 - solarize .2 4
        equalize .4 - rotate .8 8 | solarize .6 3 equalize .6 - | posterize .8 5 equalize 1 -
        rotate .2 3 solarize .6 8 | equalize .6 - posterize .4 6
        rotate .8 8 color .4 0 | rotate .4 9 equalize .6 - | equalize 0 - equalize .8 -
        invert .6 - equalize 1 - | color .6 4 contrast 1 8
        rotate .8 8 color 1 2 | color .8 8 solarize .8 7 | sharpness .4 7 invert .6 -
        shear_x .6 5 equalize 1 - | color .4 0 equalize .6 -
        equalize .4 - solarize .2 4 | solarize .6 5 autocontrast .6 - | invert .6 - equalize 1 -
        color .6 4 contrast 1 8 | equalize .8 - equalize .6 -""",
    "svhn": """
        shear_x .9 4 invert .2 - | shear_y .9 8 invert .7 - | equalize .6 - solarize .6 6
        invert .9 - equalize .6 - | equalize .6 - rotate .9 3
        shear_x .9 4 autocontrast .8 - | shear_y .9 8 invert .4 - | shear_y .9 5 solarize .2 6
        invert .9 - autocontrast .8 - | equalize .6 - rotate .9 3
        shear_x .9 4 solarize .3 3 | shear_y .8 8 invert .7 - | equalize .9 - translate_y .6 6
        invert .9 - equalize .6 - | contrast .3 3 rotate .8 4
        invert .8 - translate_y 0 2 | shear_y .7 6 solarize .4 8 | invert .6 - rotate .8 4
        shear_y .3 7 translate_x .9 3 | shear_x .1 6 invert .6 -
        solarize .7 2 translate_y .6 7 | shear_y .8 4 invert .8 - | shear_x .7 9 translate_y .8 3
        shear_y .8 5 autocontrast .7 - | shear_x .7 2 invert .1 -""",
}

_GEOMETRIC = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
_ENHANCE = ("brightness", "color", "contrast", "sharpness")
_VALUES = ("posterize", "solarize", "autocontrast", "equalize")
_ORIGINAL_RAND_AUGMENT = (
    *("autocontrast", "equalize", "invert", "rotate", "posterize", "solarize", "solarize_add"),
    *("color", "contrast", "brightness", "sharpness", "shear_x", "shear_y", "cutout_abs"),
    *("translate_x", "translate_y"),
)
_TIMM_RAND_AUGMENT = tuple(name for name in _ORIGINAL_RAND_AUGMENT if name != "cutout_abs")
_NAMES: dict[Method, tuple[str, ...]] = {
    "auto_augment": (*_GEOMETRIC, *_ENHANCE, *_VALUES, "invert"),
    "rand_augment": ("identity", *_GEOMETRIC, *_ENHANCE, *_VALUES),
    "trivial_augment": ("identity", *_GEOMETRIC, *_ENHANCE, *_VALUES),
    "aug_mix": (*_GEOMETRIC, *_VALUES),
    "aug_mix_all": (*_GEOMETRIC, *_VALUES, *_ENHANCE),
}


class Space(NamedTuple):
    """The n operations a method chooses from: ids (n,), magnitudes (n, bins), signed (n,) bool."""

    operation: Tensor
    magnitude: Tensor
    signed: Tensor


class Ramps(NamedTuple):
    """The n operations of a method with continuous magnitudes: base + reach * level, (n,) each.

    `whole` says that the product is truncated.
    """

    operation: Tensor
    base: Tensor
    reach: Tensor
    whole: Tensor
    signed: Tensor

    def magnitude(self, index: Tensor, level: Tensor, u: Tensor) -> Tensor:
        """Magnitudes at `level`, in [0, 1]; signed ones are negative for u < 1/2."""
        step = self.reach[index] * level
        magnitude = self.base[index] + torch.where(self.whole[index], step.trunc(), step)
        return torch.where(self.signed[index] & (u < 0.5), -magnitude, magnitude)


class SubPolicies(NamedTuple):
    """n sub-policies of two operations: index in the space, probability, magnitude id: (n, 2)."""

    which: Tensor
    p: Tensor
    level: Tensor


def _rows(
    bins: int,
    *,
    shear: float,
    translate: tuple[float, float],
    rotate: float,
    enhance: float,
    bits: tuple[int, int],
) -> dict[str, Tensor]:
    """Magnitudes of torchvision, from weakest to strongest: (bins,) per operation."""
    ranges = dict(zip(_GEOMETRIC, (shear, shear, *translate, rotate), strict=True))
    ranges |= dict.fromkeys(_ENHANCE, enhance)
    rows = {name: torch.linspace(0.0, high, bins) for name, high in ranges.items()}
    for name in ("translate_x", "translate_y"):  # torchvision drops the fraction of a pixel
        rows[name].trunc_()
    rows["posterize"] = bits[0] - (torch.arange(bins) / ((bins - 1) / bits[1])).round()
    rows["solarize"] = torch.linspace(255.0, 0.0, bins)
    return rows


def _torchvision(method: Method, bins: int, height: int, width: int) -> dict[str, Tensor]:
    if method == "trivial_augment":
        wide = (32.0, 32.0)
        return _rows(bins, shear=0.99, translate=wide, rotate=135.0, enhance=0.99, bits=(8, 6))
    if method in ("aug_mix", "aug_mix_all"):
        third = (width / 3.0, height / 3.0)
        return _rows(bins, shear=0.3, translate=third, rotate=30.0, enhance=0.9, bits=(4, 4))
    share = (150.0 / 331.0 * width, 150.0 / 331.0 * height)
    return _rows(bins, shear=0.3, translate=share, rotate=30.0, enhance=0.9, bits=(8, 4))


def _original_auto_augment(bins: int) -> dict[str, Tensor]:
    """The TensorFlow AutoAugment code for CIFAR: ids 0..9 of 10, or levels 0..bins - 1 of bins - 1.

    Unlike torchvision's: at most 10 pixels of translation at any image size, the enhancing factor
    is 0.1 + 1.8 k / top without a sign (5 of 10 is the identity), posterize keeps 4 bits or less.
    """
    top = 10 if bins == 10 else bins - 1
    levels = range(bins)
    rows: dict[str, list[float]] = {
        "rotate": [30 * k // top for k in levels],
        "posterize": [4 - 4 * k // top for k in levels],
        "solarize": [256 - 256 * k // top for k in levels],
    }
    rows |= dict.fromkeys(("shear_x", "shear_y"), [0.3 * k / top for k in levels])
    rows |= dict.fromkeys(("translate_x", "translate_y"), [float(10 * k // top) for k in levels])
    rows |= dict.fromkeys(_ENHANCE, [1.8 * k / top - 0.9 for k in levels])
    return {name: torch.tensor(row, dtype=torch.float32) for name, row in rows.items()}


def _original_rand_augment(bins: int) -> dict[str, Tensor]:
    """The first public RandAugment codes, level k of bins - 1.

    posterize and solarize run backwards (the highest level is the weakest), the enhancing factor
    0.1 + 1.8 k / top is the identity halfway, and translations reach 100 pixels at any image size.
    """
    top = bins - 1
    levels = range(bins)
    rows: dict[str, list[float]] = {
        "rotate": [30 * k / top for k in levels],
        "posterize": [max(1, 4 * k // top) for k in levels],
        "solarize": [256 * k / top for k in levels],
        "solarize_add": [110 * k // top for k in levels],
        "cutout_abs": [40 * k / top for k in levels],
    }
    rows |= dict.fromkeys(_ENHANCE, [1.8 * k / top - 0.9 for k in levels])
    rows |= dict.fromkeys(("shear_x", "shear_y"), [0.3 * k / top for k in levels])
    nearest = [float((200 * k + top) // (2 * top)) for k in levels]  # 100 k / top, rounded
    rows |= dict.fromkeys(("translate_x", "translate_y"), nearest)
    return {name: torch.tensor(row, dtype=torch.float32) for name, row in rows.items()}


@remembered
def build_space(
    method: Method, magnitudes: Magnitudes, bins: int, size: tuple[int, int], device: torch.device
) -> Space:
    """The operations and magnitudes of a method for images of `size` (H, W). Do not write to it."""
    names, signed = _NAMES[method], set(_GEOMETRIC)
    if magnitudes == "torchvision":
        rows = _torchvision(method, bins, *size)
        signed |= set(_ENHANCE)
    elif method == "auto_augment":
        rows = _original_auto_augment(bins)
    else:
        rows, names = _original_rand_augment(bins), _ORIGINAL_RAND_AUGMENT
    space = Space(
        torch.tensor([ID[name] for name in names]),
        torch.stack([rows.get(name, torch.zeros(bins)) for name in names]),
        torch.tensor([name in signed for name in names]),
    )
    return Space(*(table.to(device, non_blocking=True) for table in space))


@remembered
def build_ramps(method: Method, size: tuple[int, int], device: torch.device) -> Ramps:
    """The operations of timm's RandAugment, or of AugMix's published code. Do not write to them.

    Args:
        method: "rand_augment" for timm's, "aug_mix" or "aug_mix_all".
        size: height and width of the images.
        device: of the result.
    """
    timm = method == "rand_augment"
    share, whole = (0.45, False) if timm else (1 / 3, True)
    rows = dict.fromkeys(_ENHANCE, (0.0, 0.9, False, True) if timm else (-0.9, 1.8, False, False))
    rows |= dict.fromkeys(("shear_x", "shear_y"), (0.0, 0.3, False, True))
    rows |= {
        "rotate": (0.0, 30.0, whole, True),
        "translate_x": (0.0, share * size[1], whole, True),
        "translate_y": (0.0, share * size[0], whole, True),
        "posterize": (4.0, -4.0, True, False),
        "solarize": (256.0, -256.0, True, False),
        "solarize_add": (0.0, 110.0, True, False),
    }
    names = _TIMM_RAND_AUGMENT if timm else _NAMES[method]
    columns = zip(*(rows.get(name, (0.0, 0.0, False, False)) for name in names), strict=True)
    tables = torch.tensor([ID[name] for name in names]), *map(torch.tensor, columns)
    return Ramps(*(table.to(device, non_blocking=True) for table in tables))


@remembered
def build_sub_policies(policy: str, device: torch.device) -> SubPolicies:
    """The sub-policies of AutoAugment for a data set. Do not write to them."""
    words = SUB_POLICIES[policy].replace("|", " ").split()
    which = torch.tensor([_NAMES["auto_augment"].index(name) for name in words[0::3]])
    p = torch.tensor([float(number) for number in words[1::3]])
    level = torch.tensor([0 if number == "-" else int(number) for number in words[2::3]])
    tables = (which, p, level)
    return SubPolicies(*(table.view(-1, 2).to(device, non_blocking=True) for table in tables))
