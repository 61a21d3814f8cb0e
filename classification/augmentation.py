"""The augmentation of a run: from bytes to the network's inputs and targets, a batch at a time.

Crop and flip, then an image-level policy, colour, a region-level cut, the paste of what is
important, and a mix of labels, each if the settings name it. A baseline and its Keep arm differ in
the setting `keep` alone.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from classification.caching import scaled_view
from classification.colour import ColorJitter, Lighting
from classification.comparisons import AttentiveCutMix, GridMask, ManifoldMixup, Mixup, attention_of
from classification.config import Config
from classification.data import Data
from classification.models import create_model
from keepaugment import (
    AugMix,
    AutoAugment,
    CachedSaliency,
    CentreSaliency,
    CutMix,
    Cutout,
    InvertedSaliency,
    KeepCutMix,
    KeepCutout,
    KeepPaste,
    KeepRandomErasing,
    RandAugment,
    RandomErasing,
    RandomSaliency,
    Saliency,
    SampleDraws,
    ScaledView,
    ShuffledSaliency,
    TrivialAugment,
    View,
)
from keepaugment.draws import Source
from keepbench.order import mixed_seed
from keepbench.views import draw_view, show
from keepbench.weights import load_checkpoint

Mixing = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Augmented(NamedTuple):
    """What the network trains on.

    Attributes:
        inputs: (B, C, H, W), normalised.
        targets: labels (B,) or class weights (B, K).
        changed: share of the pixels that were cut or replaced by another image's, a number.
    """

    inputs: Tensor
    targets: Tensor
    changed: Tensor


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function compiled for each shape of its arguments.

    An epoch's last batch is smaller. Code for any size would serve the others from then on, too.
    """
    return torch.compile(function, dynamic=False)


def make_saliency(config: Config, gradient: Saliency, generator: Source) -> Saliency:
    """The map of a config: the model's gradient, fresh or stored, or a control in its place."""
    controls: dict[str, Callable[[], Saliency]] = {
        "gradient": lambda: gradient,
        "auto": lambda: gradient,
        "random": lambda: RandomSaliency(generator),
        "shuffled": lambda: ShuffledSaliency(gradient, generator),
        "inverted": lambda: InvertedSaliency(gradient),
        "centre": CentreSaliency,
    }
    return controls[config.saliency]()


def make_policy(
    config: Config, mean: tuple[float, ...], generator: Source
) -> Callable[[Tensor], Tensor] | None:
    """The image-level augmentation of bytes; what comes in from outside has the mean colour."""
    fill = [round(255 * value) for value in mean]
    magnitude = config.magnitude if config.magnitude >= 0 else None
    space: Any = config.policy_space
    if config.policy == "autoaugment":
        return AutoAugment(
            config.policy_set, magnitudes=space, magnitude=magnitude, fill=fill, generator=generator
        )
    if config.policy == "randaugment":
        strength = 9 if magnitude is None else magnitude
        return RandAugment(config.num_ops, strength, space=space, fill=fill, generator=generator)
    if config.policy == "trivialaugment":
        return TrivialAugment(fill=fill, generator=generator)
    if config.policy == "augmix":
        return AugMix(fill=fill, generator=generator)
    return None


def make_cut(
    config: Config, saliency: Saliency, generator: Source
) -> Cutout | RandomErasing | GridMask | None:
    """The region-level augmentation, plain or Keep."""
    keep: dict[str, Any] = {}
    if config.keep == "cut":
        keep = {"saliency": saliency, "tau": config.tau}
    common: dict[str, Any] = {"p": config.cut_p, "generator": generator}
    if config.cut == "cutout":
        if keep:
            return KeepCutout(size=config.size, match_area=config.match_area, **keep, **common)
        return Cutout(config.size, **common)
    if config.cut == "random_erasing":
        kind = KeepRandomErasing if keep else RandomErasing
        return kind(fill="random", **keep, **common)
    if config.cut == "gridmask":
        if config.image_size:
            return GridMask((96, 223), 0.6, rotate=360, ramp_epochs=240, generator=generator)
        return GridMask(generator=generator)
    return None


def _attention(config: Config, data: Data, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The network that Attentive CutMix asks where to look."""
    network: nn.Module | str = "resnet50"
    if config.attention != "pretrained":
        network = create_model("resnet50", 1000).to(device)
        if config.attention != "random":
            network.load_state_dict(load_checkpoint(Path(config.attention)))
    elif not config.download:
        raise ValueError(
            "Attentive CutMix needs a network trained on ImageNet: --download fetches timm's "
            "resnet50, or give --attention FILE with its state dict"
        )
    return attention_of(network, mean=data.mean, std=data.std, device=device)


def make_mix(
    config: Config,
    saliency: Saliency,
    data: Data,
    model: nn.Module,
    device: torch.device,
    generator: Source,
) -> list[Mixing]:
    """The label-mixing augmentations, of which one is drawn for each batch."""
    classes = len(data.classes)
    if config.mix == "attentive_cutmix":
        attention = _attention(config, data, device)
        return [AttentiveCutMix(attention, classes, generator=generator)]
    if config.mix == "manifold_mixup":
        layers = ("layer1", "layer2")
        return [ManifoldMixup(model, layers, classes, config.mix_alpha, generator=generator)]
    mixings: list[Mixing] = []
    if config.mix in ("mixup", "mixup_or_cutmix"):
        mixings.append(Mixup(classes, config.mix_alpha, generator=generator))
    if config.mix in ("cutmix", "mixup_or_cutmix"):
        alpha = config.mix_alpha if config.mix == "cutmix" else 1.0
        if config.keep == "mix":
            mixings.append(
                KeepCutMix(
                    None,
                    classes,
                    alpha,
                    config.tau,
                    saliency=saliency,
                    match_area=config.match_area,
                    p=config.mix_p,
                    generator=generator,
                )  # fmt: skip
            )
        else:
            mixings.append(CutMix(classes, alpha, p=config.mix_p, generator=generator))
    return mixings


class Augmentation:
    """Everything between the stored bytes and the network.

    Every choice follows from (seed, epoch, sample index), so it is the same in any batch and after
    a resume; what a batch shares follows from its first image.

    Args:
        config: the run's settings.
        data: what it trains on, for classes and colours.
        model: what maps are taken of.
        saliency: the map, possibly timed.
        cache: the stored maps that it reads, which must know each batch's views; or None.
        sources: random numbers of images, of colours and of the saliency's own.
        device: where batches are.
        watch: counts the time of a named part; "boxes" is choosing regions, maps included.
    """

    def __init__(
        self,
        config: Config,
        data: Data,
        model: nn.Module,
        saliency: Saliency,
        cache: CachedSaliency | None,
        sources: tuple[SampleDraws, SampleDraws, SampleDraws],
        device: torch.device,
        watch: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        self.config = config
        self.watch = watch
        self.data = data
        self.cache = cache
        self.sources = sources
        draws, colours, _ = sources
        self.policy = make_policy(config, data.mean, draws)
        self.colour = (ColorJitter(generator=colours), Lighting(generator=colours))
        self.cut = make_cut(config, saliency, draws)
        self.paste: Callable[..., Tensor] | None = None
        if config.keep == "paste":
            self.paste = KeepPaste(
                size=config.paste_size, tau=config.tau, saliency=saliency, generator=draws
            )
        self.mixings = make_mix(config, saliency, data, model, device, draws)
        self.views, self.cut_out, self.mixed = self._views, self._cut_out, self._mixed
        if config.compile:
            self.views, self.mixed = compiled(self._views), compiled(self._mixed)
            if not isinstance(self.cut, GridMask):  # whose ramp would compile anew in each epoch
                self.cut_out = compiled(self._cut_out)
            self.paste = compiled(self.paste) if self.paste else None
            # Compiled, an operation on bytes rounds a few of them to the next one.
            self.policy = torch.compiler.disable(self.policy) if self.policy else None

    def inputs(self, pixels: Tensor) -> Tensor:
        """What the network sees of images (B, C, H, W) uint8, without colour changes."""
        return self._normalised(pixels.float() / 255)

    def _normalised(self, images: Tensor) -> Tensor:
        layout = torch.channels_last if self.config.channels_last else torch.contiguous_format
        return self.data.normalise(images).contiguous(memory_format=layout)

    def _coloured(self, pixels: Tensor) -> Tensor:
        """The same for training; two views of one image get the same colours."""
        if not self.config.jitter:
            return self.inputs(pixels)
        self.sources[1].again()
        images = pixels.float() / 255
        for change in self.colour:
            images = change(images)
        return self._normalised(images)

    def __call__(
        self,
        epoch: int,
        step: int,
        index: Tensor,
        pixels: Tensor,
        labels: Tensor,
        frames: Tensor | None = None,
    ) -> Augmented:
        """Augment a step's samples.

        Args:
            epoch: from 0.
            step: of the epoch, from 0; the same in all processes.
            index: (B,), the samples' numbers in the training set.
            pixels: (B, C, H, W) uint8.
            labels: (B,).
            frames: (B, 5), of crops that were made before (see `classification.image_trees`).
        """
        for source in self.sources:
            source.at(epoch, index)
        clean, inputs, view = self.views(pixels, frames)
        if self.cache is not None:
            self.cache.at(epoch, index, view)
        with self.watch("boxes"):
            return self._regions(epoch, step, clean, inputs, labels)

    def _views(
        self, pixels: Tensor, frames: Tensor | None
    ) -> tuple[Tensor, Tensor, View | ScaledView | None]:
        """A clean view and what the network shall see of it before regions change, and its place.

        Without a paste both are the same.
        """
        view: View | ScaledView | None = None
        if frames is not None:
            view = scaled_view(frames, self.data.image_size)
        elif not self.config.image_size:
            pixels, view = self._cropped(pixels)
        inputs = self._coloured(self.policy(pixels) if self.policy else pixels)
        return self._coloured(pixels) if self.paste else inputs, inputs, view

    def _cropped(self, pixels: Tensor) -> tuple[Tensor, View]:
        config = self.config
        view = draw_view(
            len(pixels), pixels.device,
            padding=config.padding, flip=config.flip, generator=self.sources[0],
        )  # fmt: skip
        return show(pixels, view, config.padding), view

    def _regions(
        self, epoch: int, step: int, clean: Tensor, inputs: Tensor, labels: Tensor
    ) -> Augmented:
        """Cut, paste back from the clean view, and mix, each if the settings name it."""
        config = self.config
        changed = inputs.new_zeros((), dtype=torch.float32)
        if self.cut is not None:
            if isinstance(self.cut, GridMask):
                self.cut.set_epoch(300 * epoch / config.epochs)  # its ramp is for 300 epochs
            inputs, changed = self.cut_out(inputs, labels)
        if self.paste is not None:
            inputs = self.paste(clean, inputs, labels)
        if not self.mixings:
            return Augmented(inputs, labels, changed)
        coin = mixed_seed(config.seed, epoch, step)  # on the host: the GPU need not be asked
        mixing = self.mixings[coin % len(self.mixings)]
        if isinstance(mixing, CutMix):
            return self.mixed(mixing, inputs, labels)
        return Augmented(*mixing(inputs, labels), changed)

    def _cut_out(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Cut images, and the mean share that was cut."""
        assert self.cut is not None
        mask = self.cut.mask(inputs, labels)
        return self.cut(inputs, mask=mask), mask.float().mean()

    @staticmethod
    def _mixed(mixing: CutMix, inputs: Tensor, labels: Tensor) -> Augmented:
        """Mix images and labels by regions."""
        mask = mixing.mask(inputs, labels)
        inputs, targets = mixing(inputs, labels, mask=mask)
        return Augmented(inputs, targets, mask.float().mean())
