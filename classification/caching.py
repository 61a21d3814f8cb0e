"""Stored maps in a training run, and how far they have aged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from keepaugment import Saliency, ScaledView, View, box_agreement
from keepaugment.stored import GivenMaps, StoredMaps, whole
from keepbench.images import Batch

PROBE = 64  # training images on which stored and fresh maps are compared


def scaled_view(frames: Tensor, image_size: tuple[int, int]) -> ScaledView:
    """The views of crops (B, 5) that workers made (see `classification.image_trees.Frame`)."""
    height, width = image_size
    top, left, rows, columns, mirrored = frames.unbind(1)
    return ScaledView(top * height, left * width, rows * height, columns * width, mirrored > 0)


class OracleSaliency(GivenMaps):
    """Ground truth in place of a map: how much of each cell of an image objects cover.

    Args:
        objects: (N, S, S) uint8, of all training images.
        image_size: (H, W), as in `StoredMaps`.
        device: of the images.
    """

    def __init__(self, objects: Tensor, image_size: tuple[int, int], device: torch.device) -> None:
        super().__init__(len(objects), image_size, size=objects.shape[1], device=device)
        self.maps.copy_(objects)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: objects are data."""
        return {}


def stored_maps(cache: StoredMaps, samples: Batch) -> Tensor:
    """The stored maps of whole images, or of crops with their frames: (B, H, W)."""
    index, size = samples.numbers, (samples.images.shape[2], samples.images.shape[3])
    view: View | ScaledView = whole(len(index), index.device)
    if samples.frames is not None:
        view = scaled_view(samples.frames, cache.image_size)
    return cache.read(index, view, size)


def agreement(
    boxes: Mapping[str, Any], cache: StoredMaps, fresh: Saliency, inputs: Tensor, samples: Batch
) -> float:
    """Mean agreement of the stored maps' boxes with those of fresh maps, in [0, 1].

    Args:
        boxes: that are compared, as `box_agreement` takes them.
        cache: the stored maps.
        fresh: the map.
        inputs: the samples' images (B, C, H, W), normalised.
        samples: whole images, or crops with their frames.
    """
    maps = stored_maps(cache, samples), fresh(inputs, samples.labels)
    return box_agreement(*maps, **boxes).mean().item()
