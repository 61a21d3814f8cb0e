"""A step of this library inside the training loops of other packages.

A step takes a batch that is ready for the model: images (B, C, H, W) and labels (B,), or whatever
targets its map takes. It gives new images, or new images and class weights (B, K): `KeepCutout`,
`KeepRandomErasing` and `KeepCutMix` are such steps, and so is a function around `KeepPaste`:

    def step(images, labels):
        pixels = (255 * (images * std + mean)).round().to(torch.uint8)
        return paste(images, (policy(pixels) / 255 - mean) / std, labels)

There `mean` and `std`, (3, 1, 1), are what the loader has normalised the images by; the policies of
`keeppolicies` take uint8 pixels. Where `TwoViews` among a data set's transforms has applied
anybody's policy, images are two batches, and `lambda images, labels: paste(*images, labels)` is a
step.

A gradient map needs the model, so such a step belongs behind the loader, on the model's device, and
not into a worker process. `Erasing` cuts with boxes, masks and keypoints, in a worker, too, if its
map needs no model. It and `TwoViews` alone import torchvision, and that when they are asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from keepaugment.adapters.lightning import KeepCallback
from keepaugment.adapters.step import Step
from keepaugment.adapters.timm import KeepLoader, KeepMixup
from keepaugment.adapters.torchreid import KeepEngine
from keepaugment.adapters.torchvision import KeepTransform
from keepaugment.adapters.transformers import KeepTrainer, mixed_loss

if TYPE_CHECKING:
    from keepaugment.adapters.erasing import Erasing
    from keepaugment.adapters.views import TwoViews

__all__ = [
    "Erasing",
    "KeepCallback",
    "KeepEngine",
    "KeepLoader",
    "KeepMixup",
    "KeepTrainer",
    "KeepTransform",
    "Step",
    "TwoViews",
    "mixed_loss",
]


_OF_TORCHVISION = {"Erasing": "erasing", "TwoViews": "views"}


def __getattr__(name: str) -> Any:
    if name not in _OF_TORCHVISION:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_OF_TORCHVISION[name]}"), name)
