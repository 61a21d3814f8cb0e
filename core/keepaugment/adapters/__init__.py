"""A step of this library inside the training loops of other packages.

A step takes a batch that is ready for the model: images (B, C, H, W) and labels (B,), or whatever
targets its map takes. It gives new images, or new images and class weights (B, K): `KeepCutout`,
`KeepRandomErasing` and `KeepCutMix` are such steps, and so is a function around `KeepPaste`:

    def step(images, labels):
        pixels = (255 * (images * std + mean)).round().to(torch.uint8)
        return paste(images, (policy(pixels) / 255 - mean) / std, labels)

There `mean` and `std`, (3, 1, 1), are what the loader has normalised the images by; the policies of
`keeppolicies` take uint8 pixels.

A gradient map needs the model, so such a step belongs behind the loader, on the model's device, and
not into a worker process. `Erasing` cuts with boxes, masks and keypoints, in a worker, too, if its
map needs no model. It alone imports the package that it serves, and that when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keepaugment.adapters.lightning import KeepCallback
from keepaugment.adapters.step import Step
from keepaugment.adapters.timm import KeepLoader, KeepMixup
from keepaugment.adapters.torchreid import KeepEngine
from keepaugment.adapters.torchvision import KeepTransform
from keepaugment.adapters.transformers import KeepTrainer, mixed_loss

if TYPE_CHECKING:
    from keepaugment.adapters.erasing import Erasing

__all__ = [
    "Erasing",
    "KeepCallback",
    "KeepEngine",
    "KeepLoader",
    "KeepMixup",
    "KeepTrainer",
    "KeepTransform",
    "Step",
    "mixed_loss",
]


def __getattr__(name: str) -> Any:
    if name != "Erasing":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from keepaugment.adapters.erasing import Erasing

    return Erasing
