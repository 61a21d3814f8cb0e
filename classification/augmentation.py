"""The augmentation of a run: from bytes to the network's inputs and targets, a batch at a time.

`Augmentation._stages` lists them: crop, flip, an image-level policy, colours, a region-level cut,
the paste of what is important, and a mix of labels, each if the settings name it. A baseline and
its Keep arm differ in the setting `keep` alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from classification.caching import scaled_view
from classification.colour import ColorJitter, Lighting
from classification.comparisons import GridMask
from classification.config import Config
from classification.data import Data
from classification.methods import Blend, KeepCut, KeepMix, Mixing
from keepaugment import (
    CutMix,
    Keep,
    Saliency,
    SampleDraws,
    ScaledView,
    View,
)
from keepaugment.stored import StoredMaps
from keepbench.clock import Clock
from keepbench.images import Batch, Normalise
from keepbench.network import compiled
from keepbench.order import mixed_seed
from keepbench.pipeline import Listener, Pipeline, Stage, TimedMap, cutting, takes
from keepbench.views import draw_view, show

REGIONS = ("cut", "paste", "mix")
"""Stages that choose regions."""


@dataclass(frozen=True, kw_only=True)
class Augmented:
    """A batch on its way from bytes to the network, and at its end what the network trains on.

    Attributes:
        epoch: from 0.
        step: of the epoch, from 0; the same in all processes.
        numbers: of its images (B,).
        labels: (B,).
        frames: of crops that workers made (B, 5), or None.
        pixels: (B, C, H, W) uint8, as stored; cropped and mirrored from "view" on.
        view: where the crops lie, for stored maps; None if nothing was cropped.
        augmented: (B, C, H, W) uint8, after the policy.
        clean: (B, C, H, W), normalised, without the policy: what a paste takes from.
        inputs: (B, C, H, W), normalised from "colour" on.
        targets: labels (B,) or class weights (B, K).
        changed: share of the pixels that were cut or replaced by another image's, a number.
        mask: (B, 1, H, W) bool, which those are.
    """

    epoch: int
    step: int
    numbers: Tensor
    labels: Tensor
    frames: Tensor | None
    pixels: Tensor
    view: View | ScaledView | None = None
    augmented: Tensor | None = None
    clean: Tensor | None = None
    inputs: Tensor
    targets: Tensor
    changed: Tensor
    mask: Tensor | None = None


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
        cache: StoredMaps | None,
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
        self.mixings: list[Mixing] = []
        if config.mix:
            blend = Blend(
                len(data.classes), model, draws, device, data.mean, data.std, config.download,
                config.keep.labels if isinstance(config.keep, KeepMix) else "area",
            )  # fmt: skip
            self.mixings = config.mix.build(self._keep("mix"), blend)
            if not (
                self.mixings
                and isinstance(self.mixings, list)
                and all(takes(each, "images", "labels") for each in self.mixings)
            ):
                raise ValueError(
                    "a mix is built as a list of functions of images and labels, found "
                    f"{self.mixings!r}"
                )
            if blend.labels not in ("area", *(getattr(e, "labels", "") for e in self.mixings)):
                raise ValueError(
                    f"keep.labels={blend.labels} is obeyed by none of the mix's "
                    f"{_kinds(self.mixings)}: one must have `labels` as keepaugment.CutMix, which "
                    "takes blend.labels"
                )
        keep = config.keep
        self.ramp = keep if isinstance(keep, KeepCut) and keep.rising else None
        self.cutmix = compiled(_cutmix) if config.compile and not self.ramp else _cutmix
        self.pipeline: Pipeline[Augmented] = Pipeline(self._stages(), clock, compile=config.compile)

    def _keep(self, stage: str) -> Any:
        """The `keep` of a stage; None leaves it plain."""
        keep = self.config.keep
        return keep.build(self.map, self.sources[0]) if keep and keep.stage == stage else None

    def _stages(self) -> Iterator[Stage]:
        """The way of a batch; each method says what its values are."""
        config, draws = self.config, self.sources[0]
        yield Stage("view", self._view, ("pixels", "frames"), ("pixels", "view"))
        changed = "pixels"
        paste = self._keep("policy")
        if config.policy:
            interpolation = "nearest" if config.interpolation == "nearest" else "bilinear"
            policy = config.policy.build(self.data.mean, draws, interpolation)
            # compiled, an operation on bytes rounds a few of them to the next one
            changed = "augmented"
            yield Stage("policy", policy, ("pixels",), ("augmented",), compiles=False, like=True)
        yield Stage("colour", self._coloured, (changed,), ("inputs",))
        if paste:
            yield Stage("clean", self._coloured, ("pixels",), ("clean",))
        if self.cache:
            images = "clean" if paste else "inputs"
            takes = ("numbers", "view", "epoch", images)
            yield Stage("views", self._find_views, takes, compiles=False)
        if config.cut:
            cut = config.cut.build(self._keep("cut"), draws, bool(config.image_size))
            grows = isinstance(cut, GridMask)
            if grows:  # for 300 epochs
                share = 300 / config.epochs
                yield Stage("ramp", lambda epoch: cut.set_epoch(share * epoch), ("epoch",))
            yield from self._tau("cut", [cut])
            gives = ("inputs", "changed", "mask")
            yield Stage(
                "cut", cutting(cut), ("inputs", "labels"), gives,
                compiles=not (grows or self.ramp), like=True,
            )  # fmt: skip
        if paste:
            yield Stage("paste", paste, ("clean", "inputs", "labels"), ("inputs",))
        if self.mixings:
            yield from self._tau("mix", self.mixings)
            yield Stage(
                "mix", self._mix, ("epoch", "step", "inputs", "labels", "changed"),
                ("inputs", "targets", "changed", "mask"), compiles=False, like=True,
            )  # fmt: skip

    def _tau(self, stage: str, methods: Sequence[Any]) -> Iterator[Stage]:
        """A stage that sets the tau of a stage's Keep methods by the epoch, if it changes.

        Raises:
            ValueError: It cannot be set.
        """
        ramp, epochs = self.ramp, self.config.epochs
        if not ramp or ramp.stage != stage:
            return
        keeping = [each for each in methods if isinstance(getattr(each, "keep", None), Keep)]
        if not keeping:
            raise ValueError(
                f"keep.rising is obeyed by none of the {stage}'s {_kinds(methods)}: one must have "
                "`keep` as keepaugment.Cut, the keepaugment.Keep that it asks in each batch"
            )

        def run(epoch: int) -> None:
            for each in keeping:
                each.keep = replace(each.keep, tau=ramp.tau_in(epoch, epochs))

        yield Stage("tau", run, ("epoch",), compiles=False)

    def _find_views(
        self, numbers: Tensor, view: View | ScaledView | None, epoch: int, images: Tensor
    ) -> None:
        """Tell the stored maps which batch it is."""
        assert self.cache
        self.cache.at(numbers, view, epoch=epoch, images=images)

    def __call__(
        self, epoch: int, step: int, batch: Batch, listen: Listener[Augmented] | None = None
    ) -> Augmented:
        """Augment a step's samples.

        Args:
            epoch: from 0.
            step: of the epoch, from 0; the same in all processes.
            batch: of this process.
            listen: called after each stage with its name and the batch, to look at it on its way.
        """
        self.map.last = None
        for source in self.sources:
            source.at(epoch, batch.numbers)
        images, labels = batch.images, batch.labels
        begun = Augmented(
            epoch=epoch, step=step, numbers=batch.numbers, labels=labels, frames=batch.frames,
            pixels=images, inputs=images, targets=labels,
            changed=torch.zeros((), device=images.device),
        )  # fmt: skip
        return self.pipeline(begun, listen)

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
        mixed = mixing(inputs, labels)
        if not isinstance(mixed, tuple) or len(mixed) != 2:
            raise ValueError(f"a mix must give images and targets, found {type(mixed).__name__}")
        shapes = labels.shape, (len(labels), len(self.data.classes))
        if mixed[1].shape not in shapes:
            raise ValueError(
                f"a mix must give targets of shape {tuple(shapes[0])} or {shapes[1]}, found "
                f"{tuple(mixed[1].shape)}"
            )
        return *mixed, changed, None


def _kinds(methods: Sequence[Any]) -> str:
    return ", ".join(type(each).__name__ for each in methods)


def _cutmix(
    mixing: CutMix, inputs: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mixed images and labels, the mean share that was replaced, and the mask."""
    saliency = mixing.importance(inputs, labels)
    mask = mixing.mask(inputs, labels, saliency=saliency)
    targets = mixing(inputs, labels, mask=mask, saliency=saliency)
    return *targets, mask.float().mean(), mask
