"""The augmentation of a run: from bytes to the network's inputs and targets, a batch at a time.

`make_pipeline` lists the stages: crop and flip, an image-level policy, colours, a region-level cut,
the paste of what is important, and a mix of labels, each if the settings name it. A baseline and
its Keep arm differ in the setting `keep` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from classification.caching import OracleSaliency, scaled_view
from classification.colour import ColorJitter, Lighting
from classification.comparisons import AttentiveCutMix, GridMask, ManifoldMixup, Mixup, attention_of
from classification.config import Config
from classification.data import Data
from classification.models import create_model
from keepaugment import (
    CachedSaliency,
    CutMix,
    Cutout,
    Keep,
    KeepPaste,
    RandomErasing,
    RecycledSaliency,
    Saliency,
    SampleDraws,
    ScaledView,
    View,
)
from keepaugment.draws import Source
from keepbench.clock import Clock
from keepbench.images import Batch, Normalise
from keepbench.methods import make_policy
from keepbench.network import compiled
from keepbench.order import mixed_seed
from keepbench.pipeline import Listener, Pipeline, Stage, TimedMap, Values, cutting
from keepbench.views import draw_view, show
from keepbench.weights import load_weights, read_weights

Mixing = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
REGIONS = ("cut", "paste", "mix")
"""Stages that choose regions."""
ERASING: dict[str, dict[str, Any]] = {
    "original": {"fill": "random"},
    "torchvision": {"scale": (0.02, 0.33), "ratio": (0.3, 3.3), "log_ratio": True},
}
"""Random Erasing's paper's parameters, the library's own, and those of torchvision's transform."""


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


def _keep(config: Config, stage: str, saliency: Saliency) -> Keep | None:
    """What makes a stage its Keep arm; None leaves it plain."""
    if config.keep != stage:
        return None
    clipped = config.cut != "random_erasing"  # whose boxes lie inside: their area is its own
    return Keep(saliency, config.tau, config.match_area and clipped)


def make_cut(
    config: Config, saliency: Saliency, generator: Source
) -> Cutout | RandomErasing | GridMask | None:
    """The region-level augmentation, plain or Keep."""
    keep = _keep(config, "cut", saliency)
    common: dict[str, Any] = {"p": config.cut_p, "generator": generator, "keep": keep}
    if config.cut == "cutout":
        return Cutout(config.size, **common)
    if config.cut == "random_erasing":
        return RandomErasing(**ERASING[config.erasing], **common)
    if config.cut == "gridmask":
        if config.image_size:
            return GridMask((96, 223), 0.6, rotate=360, ramp_epochs=240, generator=generator)
        return GridMask(generator=generator)
    return None


def attention_network(config: Config) -> nn.Module | str:
    """The network that Attentive CutMix asks where to look, or its name in timm.

    Raises:
        ValueError: Its weights cannot be had.
    """
    if config.attention == "pretrained":
        if config.download:
            return "resnet50"
        raise ValueError(
            "Attentive CutMix needs a network trained on ImageNet: --download fetches timm's "
            "resnet50, or give --attention FILE with its state dict"
        )
    network = create_model("resnet50", 1000)
    if config.attention != "random":
        load_weights(network, read_weights(Path(config.attention)))
    return network


def _attention(config: Config, data: Data, device: torch.device) -> Callable[[Tensor], Tensor]:
    network = attention_network(config)
    if isinstance(network, nn.Module):
        network = network.to(device)
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
        keep = _keep(config, "mix", saliency)
        mixings.append(CutMix(classes, alpha, p=config.mix_p, generator=generator, keep=keep))
    return mixings


class Augmentation:
    """Everything between the stored bytes and the network.

    Every choice follows from (seed, epoch, sample index), so it is the same in any batch and after
    a resume; what a batch shares follows from its first image.

    Args:
        config: the run's settings.
        data: what it trains on, for classes and colours.
        model: what maps are taken of.
        saliency: the map.
        cache: stored maps, which must know each batch's views; or None.
        sources: random numbers of images, of colours and of the map's own.
        device: where batches are.
        clock: counts the time of each stage by its name, of maps as "map".

    Attributes:
        pipeline: the stages, by name.
        map: the map; `map.last` is that of the last batch, None if none was taken.
        inputs: what the network sees of images (B, C, H, W) uint8 when nothing is changed.
    """

    def __init__(
        self,
        config: Config,
        data: Data,
        model: nn.Module,
        saliency: Saliency,
        cache: CachedSaliency | RecycledSaliency | OracleSaliency | None,
        sources: tuple[SampleDraws, SampleDraws, SampleDraws],
        device: torch.device,
        clock: Clock,
    ) -> None:
        self.config = config
        self.data = data
        self.cache = cache
        self.sources = sources
        self.inputs = Normalise(data.mean, data.std, channels_last=config.channels_last)
        self.map = TimedMap(saliency, clock)
        draws, colours, _ = sources
        self.colour = (ColorJitter(generator=colours), Lighting(generator=colours))
        self.mixings = make_mix(config, self.map, data, model, device, draws)
        self.cutmix = compiled(_cutmix) if config.compile else _cutmix
        self.pipeline = Pipeline(self._stages(), clock, compile=config.compile)

    def _stages(self) -> Iterator[Stage]:
        """The way of a batch; each method says what its values are."""
        config, draws = self.config, self.sources[0]
        yield Stage("view", self._view, ("pixels", "frames"), ("pixels", "view"))
        changed = "pixels"
        policy = make_policy(
            config.policy, self.data.mean, draws, num_ops=config.num_ops,
            magnitude=config.magnitude, policy_set=config.policy_set, space=config.policy_space,
            fill=config.policy_fill,
            interpolation="nearest" if config.interpolation == "nearest" else "bilinear",
        )  # fmt: skip
        if policy:  # compiled, an operation on bytes rounds a few of them to the next one
            changed = "augmented"
            yield Stage("policy", policy, ("pixels",), ("augmented",), compiles=False)
        yield Stage("colour", self._coloured, (changed,), ("inputs",))
        if config.keep == "paste":
            yield Stage("clean", self._coloured, ("pixels",), ("clean",))
        if isinstance(self.cache, RecycledSaliency):
            images = "clean" if config.keep == "paste" else "inputs"
            yield Stage("views", self.cache.at, ("numbers", "view", images), compiles=False)
        elif isinstance(self.cache, OracleSaliency):
            yield Stage("views", self.cache.at, ("numbers", "view"), compiles=False)
        elif self.cache is not None:
            yield Stage("views", self.cache.at, ("epoch", "numbers", "view"), compiles=False)
        cut = make_cut(config, self.map, draws)
        if isinstance(cut, GridMask):  # its ramp is for 300 epochs
            share = 300 / config.epochs
            yield Stage("ramp", lambda epoch: cut.set_epoch(share * epoch), ("epoch",))
        if cut is not None:
            compiles = not isinstance(cut, GridMask)  # the ramp would compile anew in each epoch
            gives = ("inputs", "changed", "mask")
            yield Stage("cut", cutting(cut), ("inputs", "labels"), gives, compiles)
        if config.keep == "paste":
            paste = KeepPaste(
                size=config.paste_size, tau=config.tau, saliency=self.map, generator=draws
            )
            yield Stage("paste", paste, ("clean", "inputs", "labels"), ("inputs",))
        if self.mixings:
            yield Stage(
                "mix", self._mix, ("epoch", "step", "inputs", "labels", "changed"),
                ("inputs", "targets", "changed", "mask"), compiles=False,
            )  # fmt: skip

    def __call__(
        self, epoch: int, step: int, batch: Batch, listen: Listener | None = None
    ) -> Augmented:
        """Augment a step's samples.

        Args:
            epoch: from 0.
            step: of the epoch, from 0; the same in all processes.
            batch: of this process.
            listen: called after each stage with its name and the values so far, to look at a batch
                on its way.
        """
        self.map.last = None
        for source in self.sources:
            source.at(epoch, batch.numbers)
        values: Values = {
            "epoch": epoch,
            "step": step,
            "numbers": batch.numbers,
            "pixels": batch.images,
            "labels": batch.labels,
            "targets": batch.labels,
            "frames": batch.frames,
            "changed": torch.zeros((), device=batch.images.device),
        }
        values = self.pipeline(values, listen)
        return Augmented(values["inputs"], values["targets"], values["changed"])

    def _view(
        self, pixels: Tensor, frames: Tensor | None
    ) -> tuple[Tensor, View | ScaledView | None]:
        """Crop and flip small images; of larger ones, which workers crop, only where they lie."""
        config = self.config
        if frames is not None:
            return pixels, scaled_view(frames, self.data.image_size)
        if config.image_size:
            return pixels, None
        view = draw_view(
            len(pixels), pixels.device,
            padding=config.padding, flip=config.flip, generator=self.sources[0],
        )  # fmt: skip
        return show(pixels, view, config.padding), view

    def _coloured(self, pixels: Tensor) -> Tensor:
        """Normalise bytes; with `jitter` two views of one image get the same change of colours."""
        if not self.config.jitter:
            return self.inputs(pixels)
        self.sources[1].again()
        images = pixels.float() / 255
        for change in self.colour:
            images = change(images)
        return self.inputs.images(images)

    def _mix(
        self, epoch: int, step: int, inputs: Tensor, labels: Tensor, changed: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Mix images and labels by one of the methods, the same in all processes."""
        coin = mixed_seed(self.config.seed, epoch, step)  # on the host: the GPU need not be asked
        mixing = self.mixings[coin % len(self.mixings)]
        if isinstance(mixing, CutMix):
            return self.cutmix(mixing, inputs, labels)
        return *mixing(inputs, labels), changed, None


def _cutmix(
    mixing: CutMix, inputs: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mixed images and labels, the mean share that was replaced, and the mask."""
    mask = mixing.mask(inputs, labels)
    return *mixing(inputs, labels, mask=mask), mask.float().mean(), mask
