"""AutoAugment, RandAugment, TrivialAugment and AugMix on a batch of uint8 images.

AutoAugment (Cubuk et al., 2018, arXiv:1805.09501), RandAugment (Cubuk et al., 2019,
arXiv:1909.13719), TrivialAugment (Mueller and Hutter, 2021, arXiv:2103.10158), AugMix (Hendrycks
et al., 2019, arXiv:1912.02781). Each class draws which operations every image gets and how strong
they are (`draw`), then applies them (`apply_layers`). By default the laws and magnitudes are
torchvision's, and images are sampled by nearest neighbours.

Nothing synchronises with the device, unless the generator lives on another one than the images.
"""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from keepaugment.draws import Source, uniform
from keeppolicies.magnitudes import (
    SUB_POLICIES,
    Magnitudes,
    Method,
    RandAugmentSpace,
    Space,
    build_ramps,
    build_space,
    build_sub_policies,
)
from keeppolicies.operations import (
    Decisions,
    Fill,
    Interpolation,
    apply_layers,
    check_interpolation,
    check_pixels,
)

POLICIES = tuple(SUB_POLICIES)
_SCALE = 31  # bins of a common magnitude 0..30
_TIMM_NOISE = 0.05  # of the scale: mstd0.5 of 10


def _pick(u: Tensor, count: int) -> Tensor:
    """Whole numbers, uniform in 0..count - 1, from uniform numbers of any shape."""
    return (u * count).long().clamp(max=count - 1)


def _magnitude(space: Space, index: Tensor, level: Tensor | int, u: Tensor) -> Tensor:
    """Magnitudes at `level` of the operations at `index`; signed ones are negative for u < 1/2."""
    magnitude = space.magnitude[index, level]
    return torch.where(space.signed[index] & (u < 0.5), -magnitude, magnitude)


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, found {value!r}")


def _check_range(name: str, value: int, low: int, high: int | None = None) -> None:
    if value < low or (high is not None and value > high):
        bounds = f"at least {low}" if high is None else f"in {low}..{high}"
        raise ValueError(f"{name} must be {bounds}, found {value}")


class _Policy:
    """Draw and apply: what the policies on single images have in common."""

    def __init__(self, fill: Fill, interpolation: Interpolation, generator: Source) -> None:
        check_interpolation(interpolation)
        self.fill = fill
        self.interpolation = interpolation
        self.generator = generator

    def draw(self, batch: int, size: tuple[int, int], device: torch.device) -> Decisions:
        """Decide for `batch` images of `size` (H, W): operations and magnitudes (B, L)."""
        raise NotImplementedError

    def __call__(self, images: Tensor) -> Tensor:
        """Augment images (B, C, H, W), uint8, C = 1 or 3: new images of the same shape."""
        check_pixels(images)
        decisions = self.draw(len(images), (images.shape[2], images.shape[3]), images.device)
        changed = apply_layers(images, decisions, fill=self.fill, interpolation=self.interpolation)
        last = torch.channels_last
        kept = images.is_contiguous() or not images.is_contiguous(memory_format=last)
        return changed if kept else changed.contiguous(memory_format=last)


class AutoAugment(_Policy):
    """One of 25 learned sub-policies per image: two operations, each with its own probability.

    Args:
        policy: the data set it was learned for: "cifar10", "imagenet" or "svhn".
        magnitudes: what a magnitude id means: "torchvision" (relative to the image size, ten bins
            to the end of the range, enhancing by 1 +- 0.1 id) or "original" (the TensorFlow code
            for CIFAR, see `keeppolicies.magnitudes`).
        magnitude: None for the policy's own ids; 0..30 replaces them all: the sub-policies and
            their probabilities at one common strength, on RandAugment's scale.
        fill: what comes in from outside the image, in [0, 255]: a number or one per channel.
        interpolation: "nearest", or "bilinear" as Pillow does.
        generator: where random numbers come from.
    """

    def __init__(
        self,
        policy: str = "cifar10",
        *,
        magnitudes: Magnitudes = "torchvision",
        magnitude: int | None = None,
        fill: Fill = 0,
        interpolation: Interpolation = "nearest",
        generator: Source = None,
    ) -> None:
        super().__init__(fill, interpolation, generator)
        _check_choice("policy", policy, POLICIES)
        _check_choice("magnitudes", magnitudes, get_args(Magnitudes))
        if magnitude is not None:
            _check_range("magnitude", magnitude, 0, _SCALE - 1)
        self.policy = policy
        self.magnitudes = magnitudes
        self.magnitude = magnitude

    def draw(self, batch: int, size: tuple[int, int], device: torch.device) -> Decisions:
        """Decide for `batch` images of `size` (H, W): operations and magnitudes (B, 2).

        Uniform numbers of an image: sub-policy; whether to apply, twice; sign, twice.
        """
        bins = 10 if self.magnitude is None else _SCALE
        space = build_space("auto_augment", self.magnitudes, bins, size, device)
        policies = build_sub_policies(self.policy, device)
        u = uniform(self.generator, (batch, 5), device)
        chosen = _pick(u[:, 0], len(policies.p))
        index = policies.which[chosen]
        level = policies.level[chosen] if self.magnitude is None else self.magnitude
        applied = u[:, 1:3] < policies.p[chosen]
        operation = torch.where(applied, space.operation[index], 0)  # 0 is the identity
        return Decisions(operation, _magnitude(space, index, level, u[:, 3:5]))


class RandAugment(_Policy):
    """A number of operations per image, drawn uniformly, all at one magnitude.

    Args:
        num_ops: operations per image (N in the paper).
        magnitude: their strength (M), 0..num_magnitude_bins - 1.
        num_magnitude_bins: how many strengths there are.
        space: "torchvision": 14 operations, signed, stronger with the magnitude.
            "timm": 15, with Invert and SolarizeAdd and without the identity, each applied with
            probability 1/2, its magnitude plus normal noise of a twentieth of the scale.
            "original": the 16 of the first public codes, timm's and Cutout, with their magnitudes
            (see `keeppolicies.magnitudes`). Where these codes differ: SolarizeAdd adds to values
            below 128 (TensorFlow), Posterize keeps at least one bit and Cutout has the side
            40 M / 30 (PyTorch). Translations soon empty a small image.
        fill: what comes in from outside the image, in [0, 255]: a number or one per channel.
        interpolation: "nearest", or "bilinear" as Pillow does.
        generator: where random numbers come from.
    """

    def __init__(
        self,
        num_ops: int = 3,
        magnitude: int = 9,
        *,
        num_magnitude_bins: int = _SCALE,
        space: RandAugmentSpace = "torchvision",
        fill: Fill = 0,
        interpolation: Interpolation = "nearest",
        generator: Source = None,
    ) -> None:
        super().__init__(fill, interpolation, generator)
        _check_choice("space", space, get_args(RandAugmentSpace))
        _check_range("num_ops", num_ops, 1)
        _check_range("num_magnitude_bins", num_magnitude_bins, 2)
        _check_range("magnitude", magnitude, 0, num_magnitude_bins - 1)
        self.num_ops = num_ops
        self.magnitude = magnitude
        self.num_magnitude_bins = num_magnitude_bins
        self.space = space

    def draw(self, batch: int, size: tuple[int, int], device: torch.device) -> Decisions:
        """Decide for `batch` images of `size` (H, W): operations and magnitudes (B, num_ops).

        Uniform numbers of an image, per operation: which, sign, and for "original" the centre, for
        "timm" whether and the noise.
        """
        numbers = 2 if self.space == "torchvision" else 4
        u = uniform(self.generator, (batch, self.num_ops * numbers), device)
        u = u.reshape(batch, self.num_ops, numbers)
        if self.space == "timm":
            return self._timm(size, u)
        space = build_space("rand_augment", self.space, self.num_magnitude_bins, size, device)
        index = _pick(u[..., 0], len(space.operation))
        magnitude = _magnitude(space, index, self.magnitude, u[..., 1])
        return Decisions(space.operation[index], magnitude, u[..., 2:] if numbers == 4 else None)

    def _timm(self, size: tuple[int, int], u: Tensor) -> Decisions:
        ramps = build_ramps("rand_augment", size, u.device)
        index = _pick(u[..., 0], len(ramps.operation))
        noise = _TIMM_NOISE * torch.special.ndtri(u[..., 3].clamp(1e-7, 1 - 1e-7))
        level = (self.magnitude / (self.num_magnitude_bins - 1) + noise).clamp(0, 1)
        operation = torch.where(u[..., 2] < 0.5, ramps.operation[index], 0)  # 0 is the identity
        return Decisions(operation, ramps.magnitude(index, level, u[..., 1]))


class TrivialAugment(_Policy):
    """One operation per image at a random magnitude: TrivialAugment Wide.

    Args:
        num_magnitude_bins: how many strengths there are.
        fill: what comes in from outside the image, in [0, 255]: a number or one per channel.
        interpolation: "nearest", or "bilinear" as Pillow does.
        generator: where random numbers come from.
    """

    def __init__(
        self,
        *,
        num_magnitude_bins: int = _SCALE,
        fill: Fill = 0,
        interpolation: Interpolation = "nearest",
        generator: Source = None,
    ) -> None:
        super().__init__(fill, interpolation, generator)
        _check_range("num_magnitude_bins", num_magnitude_bins, 2)
        self.num_magnitude_bins = num_magnitude_bins

    def draw(self, batch: int, size: tuple[int, int], device: torch.device) -> Decisions:
        """Decide for `batch` images of `size` (H, W): operations and magnitudes (B, 1).

        Uniform numbers of an image: operation, magnitude, sign.
        """
        bins = self.num_magnitude_bins
        space = build_space("trivial_augment", "torchvision", bins, size, device)
        u = uniform(self.generator, (batch, 3), device)[:, :, None]
        index = _pick(u[:, 0], len(space.operation))
        magnitude = _magnitude(space, index, _pick(u[:, 1], bins), u[:, 2])
        return Decisions(space.operation[index], magnitude)


class AugMix:
    """A convex mixture of each image and several chains of weak operations on it.

    Without the consistency loss of the paper. The image is weighed against the mixture by a Beta
    number, the chains by a Dirichlet one; a random depth is 1, 2 or 3.

    Args:
        severity: the greatest magnitude, 1..10 of 10.
        width: the number of chains.
        depth: operations per chain; a negative one is drawn per chain from 1, 2, 3.
        alpha: of the Beta and Dirichlet distributions, a positive whole number: a Gamma(alpha)
            number is then exactly a sum of alpha exponential ones. Others need rejection sampling,
            which is no fixed number of uniform numbers.
        all_ops: also use brightness, color, contrast and sharpness (not the paper's default, since
            they overlap with the corruptions it tests on).
        space: "original", the published code's: magnitudes are uniform in [0.1, severity] of 10 and
            the mixture is not rounded, so images become float32 in [0, 255]; or "torchvision":
            magnitudes are the first `severity` of ten bins, of which the first changes nothing.
        fill: what comes in from outside the image, in [0, 255]: a number or one per channel.
        interpolation: "nearest", or "bilinear" as Pillow does.
        generator: where random numbers come from.
    """

    def __init__(
        self,
        severity: int = 3,
        width: int = 3,
        depth: int = -1,
        alpha: float = 1.0,
        *,
        all_ops: bool = False,
        space: Magnitudes = "torchvision",
        fill: Fill = 0,
        interpolation: Interpolation = "nearest",
        generator: Source = None,
    ) -> None:
        _check_choice("space", space, get_args(Magnitudes))
        check_interpolation(interpolation)
        _check_range("severity", severity, 1, 10)
        _check_range("width", width, 1)
        if alpha < 1 or alpha != int(alpha):
            raise ValueError(
                f"alpha must be a positive whole number, found {alpha}: only then is a "
                "Gamma(alpha) number a function of finitely many uniform ones"
            )
        self.severity = severity
        self.width = width
        self.depth = depth
        self.alpha = alpha
        self.all_ops = all_ops
        self.space = space
        self.fill = fill
        self.interpolation: Interpolation = interpolation
        self.generator = generator

    def draw(
        self, batch: int, size: tuple[int, int], device: torch.device
    ) -> tuple[Decisions, Tensor]:
        """Decide for `batch` images of `size` (H, W).

        Uniform numbers of an image: for the weights, alpha each for the image, the mixture and the
        chains; per chain its depth; per chain and layer operation, magnitude, sign.

        Returns:
            Decisions (B, width, D), the identity beyond a chain's depth, and weights
            (B, 1 + width), of the image and of the chains.
        """
        layers = self.depth if self.depth > 0 else 3
        counts = [(2 + self.width) * int(self.alpha), self.width, self.width * layers * 3]
        u = uniform(self.generator, (batch, sum(counts)), device)
        for_weights, for_depth, for_layers = u.split(counts, dim=1)
        method: Method = "aug_mix_all" if self.all_ops else "aug_mix"
        which, level, sign = for_layers.reshape(batch, self.width, layers, 3).unbind(dim=3)
        if self.space == "original":
            ramps = build_ramps(method, size, device)
            index = _pick(which, len(ramps.operation))
            severity = (0.1 + (self.severity - 0.1) * level) / 10
            operation, magnitude = ramps.operation[index], ramps.magnitude(index, severity, sign)
        else:
            space = build_space(method, "torchvision", 10, size, device)
            index = _pick(which, len(space.operation))
            magnitude = _magnitude(space, index, _pick(level, self.severity), sign)
            operation = space.operation[index]
        depth = layers if self.depth > 0 else 1 + _pick(for_depth, 3)[:, :, None]
        present = torch.arange(layers, device=device) < depth
        operation = torch.where(present, operation, 0)  # 0 is the identity
        return Decisions(operation, magnitude), self._weights(for_weights)

    def _weights(self, u: Tensor) -> Tensor:
        """Weights (B, 1 + width) of the image and the chains, from (B, (2 + width) alpha)."""
        exponential = (-torch.log1p(-u)).clamp(min=1e-30)  # all zeros have no ratio
        gamma = exponential.view(len(u), 2 + self.width, int(self.alpha)).sum(dim=2)
        kept, mixed = (gamma[:, :2] / gamma[:, :2].sum(dim=1, keepdim=True)).split(1, dim=1)
        chains = gamma[:, 2:] / gamma[:, 2:].sum(dim=1, keepdim=True)
        return torch.cat((kept, chains * mixed), dim=1)

    def __call__(self, images: Tensor) -> Tensor:
        """Augment images (B, C, H, W), uint8, C = 1 or 3: new ones, float32 for "original"."""
        check_pixels(images)
        size = (images.shape[2], images.shape[3])
        decisions, weights = self.draw(len(images), size, images.device)
        flat = Decisions(decisions.operation.flatten(0, 1), decisions.magnitude.flatten(0, 1))
        copies = images[:, None].expand(-1, self.width, -1, -1, -1)
        chains = apply_layers(
            copies.flatten(0, 1), flat, fill=self.fill, interpolation=self.interpolation
        )
        mixed = _mix(images, chains.view(copies.shape), weights)
        return mixed if self.space == "original" else mixed.to(torch.uint8)


def _mix(images: Tensor, chains: Tensor, weights: Tensor) -> Tensor:
    """Sum images (B, C, H, W) and chains (B, N, C, H, W) by weights (B, 1 + N): float32."""
    weights = weights[:, :, None, None, None]
    mixed = weights[:, 0] * images
    for chain in range(chains.shape[1]):
        mixed = mixed + weights[:, 1 + chain] * chains[:, chain]
    return mixed
