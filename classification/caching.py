"""Stored maps in a training run, and how far they have aged."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from classification.config import Config
from classification.data import Data, StoredData
from keepaugment import CachedSaliency, Saliency, box_agreement
from keepaugment.cached import whole

PROBE = 64  # training images on which stored and fresh maps are compared


def make_cache(
    config: Config, data: Data, saliency: Saliency, device: torch.device
) -> CachedSaliency | None:
    """The store of a config's maps; None if each is computed afresh.

    Raises:
        ValueError: Images whose crops are drawn by worker processes, so that a stored map could
            not be brought into a view.
    """
    if not config.cache:
        return None
    if not isinstance(data, StoredData):
        raise ValueError(
            "stored maps (--cache) need small images, which are cropped on the device; the crops "
            "of a tree of large images are not known outside the workers"
        )
    _, _, height, width = data.train.images.shape
    return CachedSaliency(
        saliency, data.num_train, (height, width), every=config.cache, device=device
    )


def compared_boxes(config: Config, length: int) -> dict[str, Any]:
    """The boxes of a config's method, as `box_agreement` takes them, all wholly inside the image.

    Where their size is random, they have half the length of the image, `length`.
    """
    if config.keep == "paste":
        return {"size": config.paste_size, "side": "high", "tau": config.tau}
    size = config.size if config.cut == "cutout" and config.keep == "cut" else length // 2
    return {"size": size, "side": "low", "tau": config.tau}


def probe(data: StoredData) -> Tensor:
    """Numbers of a few training images, evenly from the set."""
    step = max(1, data.num_train // PROBE)
    return torch.arange(0, data.num_train, step, device=data.train.labels.device)[:PROBE]


def agreement(
    config: Config, cache: CachedSaliency, inputs: Tensor, labels: Tensor, index: Tensor
) -> float:
    """Mean agreement of the stored maps' boxes with those of fresh maps, in [0, 1].

    Args:
        config: the run's settings.
        cache: the stored maps.
        inputs: whole images (B, C, H, W), normalised.
        labels: (B,).
        index: (B,), their numbers.
    """
    height, width = inputs.shape[2:]
    stored = cache.read(index, whole(len(index), index.device), (height, width))
    boxes = compared_boxes(config, height)
    return box_agreement(stored, cache.saliency(inputs, labels), **boxes).mean().item()
