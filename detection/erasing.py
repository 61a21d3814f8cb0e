"""Random Erasing of training images, plain or with their boxes as importance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision.tv_tensors import BoundingBoxes

from detection.config import Config
from keepaugment import BoxSaliency, Keep, RandomErasing
from keepaugment.adapters import Erasing
from keepaugment.sources import covered_pixels

Record = dict[str, Any]

P = 0.5  # images that are erased, unless no region spares their boxes


def make_erasing(keep: bool, share: float, p: float = P) -> Erasing:
    """Random Erasing that may hide anything, or no box beyond a share of its pixels.

    Args:
        keep: the switch: boxes are importance, and are protected.
        share: in [0, 1].
        p: probability that an image is erased.
    """
    method = RandomErasing(p, keep=Keep(BoxSaliency()) if keep else None)
    return Erasing(method, min_visible=1.0 - share, protect=keep)


def draw_region(erasing: Erasing, image: Tensor, boxes: Tensor) -> Tensor:
    """The region of an image (C, H, W) with boxes (N, 4) xyxy: (1, H, W) bool, empty if none."""
    size = (image.shape[1], image.shape[2])
    wrapped = BoundingBoxes(boxes, format="XYXY", canvas_size=size)
    return erasing.make_params([image.float(), wrapped])["mask"]


def hidden_shares(boxes: Tensor, region: Tensor) -> Tensor:
    """The share of the pixels of each box (N, 4) xyxy that a rectangle (1, H, W) hides: (N,)."""
    rows, columns = covered_pixels(boxes, (region.shape[1], region.shape[2]))
    hidden = (rows & region.any(2)).sum(1) * (columns & region.any(1)).sum(1)
    return hidden / (rows.sum(1) * columns.sum(1)).clamp(min=1)


class ErasingMapper:
    """A mapper of Detectron2 whose images lose a region; their boxes stay as they were.

    Args:
        mapper: gives an image (C, H, W) uint8 and `instances` with their boxes, both transformed.
        erasing: draws the region.
        colour: of the region, per channel; Detectron2's `PIXEL_MEAN`, which it subtracts.
    """

    def __init__(
        self, mapper: Callable[[Record], Record], erasing: Erasing, colour: list[float]
    ) -> None:
        self.mapper = mapper
        self.erasing = erasing
        self.colour = torch.tensor(colour).round().to(torch.uint8)[:, None, None]

    def __call__(self, record: Record) -> Record:
        """Map a record of Detectron2's data set to what its detectors train on."""
        record = self.mapper(record)
        region = draw_region(self.erasing, record["image"], record["instances"].gt_boxes.tensor)
        record["image"] = torch.where(region, self.colour, record["image"])
        return record


def make_mapper(config: Config, cfg: Any) -> Callable[[Record], Record]:
    """The mapper of a run's training images."""
    from detectron2.data import DatasetMapper

    mapper = DatasetMapper(cfg, is_train=True)
    if config.erasing == "none":
        return mapper
    erasing = make_erasing(config.erasing == "keep", config.hidden_share)
    return ErasingMapper(mapper, erasing, cfg.MODEL.PIXEL_MEAN)
