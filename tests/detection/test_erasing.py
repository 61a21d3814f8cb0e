"""Erasing in front of a detector: with boxes as importance none loses more than is said."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from detection.erasing import ErasingMapper, draw_region, hidden_shares, make_erasing
from detection.toy import toy_image


def drawn(number: int) -> list[tuple[Tensor, Tensor]]:
    """Images (3, 96, 128) with boxes (N, 4) xyxy."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(number):
        image, shapes = toy_image((96, 128), generator)
        boxes = [[left, top, left + side, top + side] for _, left, top, side in shapes]
        found.append((image.permute(2, 0, 1), torch.tensor(boxes).float()))
    return found


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3])
def test_no_box_loses_more_than_the_share(share: float) -> None:
    lost: dict[bool, list[Tensor]] = {False: [], True: []}
    for image, boxes in drawn(100):
        for keep in lost:
            region = draw_region(make_erasing(keep, share, p=1.0), image, boxes)
            lost[keep].append(hidden_shares(boxes, region))
    assert torch.cat(lost[True]).max() <= share
    assert (torch.cat(lost[False]) > share).float().mean() > 0.1


def test_the_share_of_a_box_is_that_of_its_pixels() -> None:
    region = torch.zeros(1, 8, 8, dtype=torch.bool)
    region[:, 2:6, 2:6] = True
    boxes = torch.tensor([[0, 0, 4, 4], [3, 3, 5, 5], [6, 0, 8, 8], [2.6, 2.0, 6.4, 4.0]])
    assert hidden_shares(boxes, region).tolist() == [0.25, 1.0, 0.0, 1.0]


def test_a_mapper_fills_the_region_and_leaves_the_rest() -> None:
    class Instances:
        class gt_boxes:  # noqa: N801
            tensor = torch.tensor([[0.0, 0, 8, 8]])

    record: dict[str, Any] = {
        "image": torch.zeros(3, 32, 32, dtype=torch.uint8), "instances": Instances
    }  # fmt: skip
    mapper = ErasingMapper(dict, make_erasing(True, 0.0, p=1.0), [103.53, 116.28, 123.675])
    image = mapper(record)["image"]
    erased = (image != 0).any(0)
    assert image.dtype == torch.uint8 and erased.any() and not erased[:8, :8].any()
    assert image[:, erased].unique(dim=1).flatten().tolist() == [104, 116, 124]
    assert not record["image"].any()


def test_images_without_boxes_are_erased_too() -> None:
    erasing = make_erasing(True, 0.1, p=1.0)
    assert draw_region(erasing, torch.zeros(3, 32, 32, dtype=torch.uint8), torch.zeros(0, 4)).any()
