"""Methods to compare, their configs, random data, and the operations that they take."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from classification.config import Config
from classification.importance import Recycled, Teacher
from classification.methods import CutMix, Cutout, KeepCut, KeepMix
from classification.models import MODELS, create_model
from classification.teacher import RANDOM
from classification.train import Trainer
from keepaugment import CachedSaliency, CentreSaliency
from keepaugment.early_stage import Flops
from keepbench.images import IMAGENET_MEAN, IMAGENET_STD, Batch
from keepbench.maps import Gradient
from keepbench.processes import Processes
from keepbench.small_images import ImageSet, StoredData

_HALF = Gradient(scale=0.5)
METHODS: dict[str, dict[str, Any]] = {
    "plain": {},
    "full": {"keep": KeepCut()},
    "low": {"keep": KeepCut(map=_HALF)},
    "early": {"keep": KeepCut(), "early_head": True},
    "low_early": {"keep": KeepCut(map=_HALF), "early_head": True},
    "cached": {"keep": KeepCut(map=_HALF, cache=20)},
    "recycled": {"keep": KeepCut(map=Recycled())},
    "teacher": {"keep": KeepCut(map=Teacher(weights=RANDOM))},
    "plain_bf16": {"bf16": True, "channels_last": True},
}
"""Cutout (CutMix on large images) and its Keep arms: what each adds, by name.

A teacher's maps are read alone: they are computed once, by a pass over the images before training.
The last is the plain method in the precision and layout that are fastest on many processors.
"""

SMALL = 64  # length of images up to which the methods are CIFAR's
_STAGES = ("layer1", "stages.0", "layers.0", "blocks.0")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Settings that all methods of a comparison share.

    Attributes:
        batch_size: images in a step.
        size: length of an image in pixels; 0 is 32 for our own models and 224 for timm's.
        bf16: compute in bfloat16 (autocast).
        channels_last: memory layout of images and weights.
        compile: torch.compile the model.
    """

    batch_size: int = 128
    size: int = 0
    bf16: bool = False
    channels_last: bool = False
    compile: bool = False

    def length(self, arch: str) -> int:
        """Length of an image for the model `arch`, in pixels."""
        return self.size or (32 if arch in MODELS else 224)


def first_stage(model: nn.Module) -> str:
    """The name of a model's first stage, a quarter of the blocks where they are in one row.

    Raises:
        ValueError: No stage has a usual name.
    """
    layers = dict(model.named_modules())
    blocks = [name for name, _ in getattr(model, "blocks", nn.Module()).named_children()]
    if len(blocks) >= 8:  # a plain transformer's
        return f"blocks.{blocks[len(blocks) // 4 - 1]}"
    for name in _STAGES:
        if name in layers:
            return name
    known = ", ".join(name for name, _ in model.named_children())
    raise ValueError(
        f"{type(model).__name__} has no stage named as usual ({', '.join(_STAGES)}) but {known}; "
        "leave the early methods out"
    )


def method_config(arch: str, method: str, setting: Setting) -> Config:
    """A method's training settings: Cutout's recipe, on large images CutMix's instead of Cutout.

    Raises:
        ValueError: An unknown method or model, or a model without a known first stage.
    """
    if method not in METHODS:
        raise ValueError(f"no method {method!r}; there are {', '.join(METHODS)}")
    change = dict(METHODS[method])
    if setting.length(arch) <= SMALL:
        change["cut"] = Cutout()
    else:
        change["mix"] = CutMix()
        if keep := change.get("keep"):
            change["keep"] = KeepMix(map=keep.map, cache=keep.cache)
    if change.get("early_head"):
        change["early_head"] = first_stage(create_model(arch, 10))
    shared = {
        "bf16": setting.bf16, "channels_last": setting.channels_last, "compile": setting.compile
    }  # fmt: skip
    return Config(
        arch=arch,
        batch_size=setting.batch_size,
        lr=1e-3,  # on random images a higher one may end in NaN
        dropout=0.3 if arch == "wrn28_10" else 0.0,
        **{**shared, **change},
    )


def random_data(number: int, length: int, classes: int, device: torch.device) -> StoredData:
    """`number` images of random bytes (3, length, length), on the device."""
    generator = torch.Generator().manual_seed(0)
    shape = (number, 3, length, length)
    images = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    labels = torch.randint(classes, (number,), generator=generator)
    images_set = ImageSet(images, labels, [str(name) for name in range(classes)])
    return StoredData(images_set, images_set, IMAGENET_MEAN, IMAGENET_STD).to(device)


def epoch_shares(config: Config) -> dict[int, float]:
    """Epochs whose steps stand for the whole run, and the share of its epochs that are like each.

    With stored maps there are two kinds: those that compute maps, and those that read them.
    """
    if not config.keep or not config.keep.cache:
        return {0: 1.0}
    cache = CachedSaliency(CentreSaliency(), 1, (1, 1), every=config.keep.cache)
    reading = [epoch for epoch in range(config.epochs) if not cache.refresh_due(epoch)]
    share = len(reading) / config.epochs
    return {0: 1.0 - share, reading[0]: share} if reading else {0: 1.0}


def count_flops(config: Config, length: int) -> float:
    """Floating-point operations (a multiplication and an addition are two) of a step, per image.

    Counted with torch's counter on two images, uncompiled: convolutions and matrix products.
    """
    eager = replace(config, compile=False, bf16=False, channels_last=False, batch_size=2)
    device = torch.device("cpu")
    trainer = Trainer(eager, random_data(2, length, 10, device), Processes(device))
    trainer.network.train()
    images = trainer.data.train  # type: ignore[attr-defined]
    samples = Batch(torch.arange(2), images.images, images.labels)
    total = 0.0
    for epoch, share in epoch_shares(config).items():
        trainer.epoch = epoch
        with Flops() as counter:
            trainer.train_step(samples)
        total += share * counter.total / 2
    return total
