"""Importance from boxes, masks, keypoints and files, by hand and against loops over pixels."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from small import rand, randn, seeded
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors

from keepaugment import (
    BoxSaliency,
    CachedSaliency,
    Cutout,
    KeepCutMix,
    KeepCutout,
    KeepPaste,
    KeepRandomErasing,
    KeypointSaliency,
    MaskSaliency,
    RandomErasing,
    SavedSaliency,
    Spare,
    View,
    region_scores,
    selective_cut,
)

IMAGES = randn(3, 3, 12, 10)
BOXES = [
    torch.tensor([[1.0, 2, 5, 7], [3.5, 0, 9.2, 4.4]]),
    torch.zeros(0, 4),
    torch.tensor([[-3.0, -2, 4, 5], [6, 6, 30, 30], [2, 2, 2.2, 2.2]]),  # two clipped, one tiny
]


def box_map(boxes: Tensor, height: int, width: int, margin: float = 0.0) -> Tensor:
    result = torch.zeros(height, width)
    for left, top, right, bottom in boxes.tolist():
        across, down = margin * (right - left), margin * (bottom - top)
        inside = torch.zeros(height, width)
        for y in range(height):
            for x in range(width):
                tall = top - down <= y + 0.5 <= bottom + down
                inside[y, x] = tall and left - across <= x + 0.5 <= right + across
        result += inside / inside.sum().clamp(min=1)
    return result


@pytest.mark.parametrize("margin", [0.0, 0.25])
def test_boxes_against_a_loop(margin: float) -> None:
    expected = torch.stack([box_map(boxes, 12, 10, margin) for boxes in BOXES])
    saliency = BoxSaliency(margin=margin)
    torch.testing.assert_close(saliency(IMAGES, BOXES), expected)
    as_dicts = [{"boxes": boxes, "labels": torch.ones(len(boxes))} for boxes in BOXES]
    torch.testing.assert_close(saliency(IMAGES, as_dicts), expected)


def test_a_regions_score_is_the_share_of_the_boxes_that_it_hides() -> None:
    boxes = [torch.tensor([[0, 0, 4, 4], [6, 8, 8, 10]])]
    scores = region_scores(BoxSaliency()(IMAGES[:1], boxes), 4)[0]
    assert scores[0, 0].item() == pytest.approx(1.0)  # all of the first
    assert scores[2, 0].item() == pytest.approx(0.5)
    assert scores[7, 5].item() == pytest.approx(1.0)  # all of the second, of a quarter of its size
    assert scores[4, 0].item() == 0.0


def test_masks_against_a_loop() -> None:
    masks = [rand(2, 12, 10) > 0.6, rand(12, 10, seed=1) > 0.5, torch.zeros(1, 12, 10).byte()]
    expected = torch.zeros(3, 12, 10)
    expected[0] = sum(mask.float() / mask.sum() for mask in masks[0])
    expected[1] = masks[1].float() / masks[1].sum()
    torch.testing.assert_close(MaskSaliency()(IMAGES, masks), expected)
    classes = [mask.long() * 7 for mask in masks]  # a class map counts where it is not 0
    torch.testing.assert_close(MaskSaliency()(IMAGES, classes), expected)


def test_keypoints_against_a_loop() -> None:
    points = [
        torch.tensor([[[2.0, 3.0, 2.0], [8.5, 9.5, 1.0]], [[5.0, 5.0, 0.0], [0.0, 0.0, 0.0]]]),
        torch.zeros(0, 2, 3),
        torch.tensor([[7.0, 1.0, 1.0]]),
    ]
    expected = torch.zeros(3, 12, 10)
    for image, each in zip(expected, points, strict=True):
        for x, y, visible in each.reshape(-1, 3).tolist():
            for row in range(12):
                for column in range(10):
                    far = (column + 0.5 - x) ** 2 + (row + 0.5 - y) ** 2
                    image[row, column] += (visible > 0) * math.exp(-far / 2 / (0.2 * 10) ** 2)
    torch.testing.assert_close(KeypointSaliency(0.2)(IMAGES, points), expected)
    plain = [torch.tensor([[2.0, 3.0], [8.5, 9.5]]), points[1], torch.tensor([[7.0, 1.0]])]
    torch.testing.assert_close(KeypointSaliency(0.2)(IMAGES, plain), expected)


TARGETS: dict[Any, list[Tensor]] = {
    BoxSaliency(): BOXES,
    MaskSaliency(): [rand(n, 12, 10) > 0.5 for n in (2, 0, 1)],
    KeypointSaliency(): [10 * rand(n, 4, 2) for n in (2, 0, 1)],
}


@pytest.mark.parametrize("saliency", TARGETS, ids=lambda each: type(each).__name__)
def test_a_map_of_a_batch_is_that_of_its_images(saliency: Any) -> None:
    targets = TARGETS[saliency]
    whole = saliency(IMAGES, targets)
    for i in range(3):
        torch.testing.assert_close(saliency(IMAGES[i : i + 1], targets[i : i + 1])[0], whole[i])
    assert whole.dtype == torch.float32 and (whole[1] == whole[1, 0, 0]).all()  # without objects
    assert saliency(IMAGES[:0], []).shape == (0, 12, 10)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(saliency(IMAGES, targets), whole)
    keep = KeepCutout(saliency=saliency, size=3, generator=seeded())
    assert keep(IMAGES, targets).shape == IMAGES.shape


@pytest.mark.parametrize(
    ("saliency", "targets", "message"),
    [
        (BoxSaliency(), None, r"list of 3 tensors \(N, 4\), or of dicts with 'boxes', found None"),
        (BoxSaliency(), BOXES[:2], "list of 3 tensors .* found 2"),
        (BoxSaliency(), [{"masks": BOXES[0]}] * 3, r"a tensor \(N, 4\) or hold one as 'boxes'"),
        (BoxSaliency(), [torch.ones(2, 5)] * 3, r"boxes must be \(N, 4\), found shape \(2, 5\)"),
        (MaskSaliency(), [torch.ones(10, 12)] * 3, r"masks must be \(N, 12, 10\), found"),
        (KeypointSaliency(), [torch.ones(5, 7)] * 3, r"keypoints must be \(..., 2 or 3\), found"),
    ],
)
def test_wrong_targets_are_refused(saliency: Any, targets: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        saliency(IMAGES, targets)


def test_boxes_of_torchvision_must_be_xyxy() -> None:
    size = (12, 10)
    given = [tv_tensors.BoundingBoxes(each, format="XYXY", canvas_size=size) for each in BOXES]
    assert torch.equal(BoxSaliency()(IMAGES, given), BoxSaliency()(IMAGES, BOXES))
    given[1] = tv_tensors.BoundingBoxes(torch.ones(1, 4), format="CXCYWH", canvas_size=size)
    with pytest.raises(ValueError, match="boxes must be XYXY, found CXCYWH"):
        BoxSaliency()(IMAGES, given)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="margin must not be negative, found -1"):
        BoxSaliency(margin=-1)
    with pytest.raises(ValueError, match="sigma must be positive, found 0"):
        KeypointSaliency(0)


# What may be cut


def test_allowed_are_the_regions_below_the_quantile() -> None:
    keep = KeepCutout(saliency=BoxSaliency(), size=4, tau=0.3, border="inside")
    scores = region_scores(BoxSaliency()(IMAGES, BOXES), 4).flatten(1)
    limit = scores.quantile(0.3, dim=1, interpolation="lower", keepdim=True)
    allowed = keep.allowed(IMAGES, BOXES)
    assert allowed.shape == (3, 9, 7)
    assert torch.equal(allowed.flatten(1), scores <= limit) and allowed[1].all()
    chosen = torch.zeros_like(allowed)  # every region that is cut is one of them
    for _ in range(200):
        hidden = keep.mask(IMAGES, BOXES)[:, 0]
        row, column = hidden.any(2).int().argmax(1), hidden.any(1).int().argmax(1)
        chosen[torch.arange(3), row, column] = True
    assert not (chosen & ~allowed).any() and (chosen[0] == allowed[0]).all()


@pytest.mark.parametrize(
    "method", [Cutout(4), RandomErasing(1.0), KeepCutMix(None, 5, saliency=BoxSaliency())]
)
def test_every_cut_says_what_it_allows(method: Any) -> None:
    allowed = method.allowed(IMAGES, BOXES)
    assert allowed.shape == IMAGES[:, 0].shape and allowed.flatten(1).any(1).all()


def test_a_paste_allows_the_others() -> None:
    settings: dict[str, Any] = {"saliency": BoxSaliency(), "size": 4, "tau": 0.3}
    paste = KeepPaste(**settings).allowed(IMAGES, BOXES)
    cut = KeepCutout(**settings, border="inside").allowed(IMAGES, BOXES)
    assert (paste | cut).all()


@pytest.mark.parametrize("method", [Cutout(4, border="clip"), RandomErasing(1.0, (0.1, 0.3))])
def test_spared_objects_lose_no_more_than_is_allowed(method: Any) -> None:
    around = torch.tensor([[[1, 2, 5, 7], [4, 0, 9, 4]]]).expand(3, -1, -1)
    spare = Spare(around, torch.tensor([[6, 0]]).expand(3, -1))
    for _ in range(50):
        hidden = method.mask(IMAGES, spare=spare)[:, 0]
        assert hidden[:, 2:7, 1:5].sum((1, 2)).max() <= 6 and not hidden[:, 0:4, 4:9].any()


def test_an_image_without_a_region_to_spare_is_left() -> None:
    spare = Spare(torch.tensor([[[0, 0, 10, 12]]] * 3), torch.tensor([[15], [16], [0]]))
    for saliency in (None, BoxSaliency()):
        method = Cutout(4) if saliency is None else KeepCutout(saliency=saliency, size=4)
        method.border = "inside"
        hidden = method.mask(IMAGES, BOXES, spare=spare)
        assert hidden.sum((1, 2, 3)).tolist() == [0, 16, 0]


# Sizes


@pytest.mark.parametrize(("side", "box"), [(8, 4), (32, 16), (64, 20), (224, 40), (384, 60)])
def test_the_usual_size_goes_through_the_papers(side: int, box: int) -> None:
    images = torch.ones(1, 1, side, side + 5)
    assert (Cutout(border="inside")(images) == 0).sum() == box**2
    keep = KeepPaste(saliency=lambda images, targets: images[:, 0])
    assert keep(images, 0 * images).sum() == box**2
    assert (Cutout(3, border="inside")(images) == 0).sum() == 9  # one that is given stays


# Maps on disk


class Saved(Dataset):
    """Images whose maps a worker reads; two at a time, mirrored for odd numbers."""

    def __init__(self, path: Path) -> None:
        self.saved = SavedSaliency(path)
        self.keep = KeepRandomErasing(saliency=self.saved, p=1.0, tau=0.0, scale=(0.1, 0.1))

    def __len__(self) -> int:
        return 6

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        view = View(torch.tensor([0]), torch.tensor([0]), torch.tensor([i % 2 == 1]))
        self.saved.at(torch.tensor([i]), view)
        image = torch.ones(1, 1, 16, 16)
        return self.saved(image)[0], self.keep(image)[0]


def written(path: Path) -> CachedSaliency:
    cached = CachedSaliency(lambda images, labels: images[:, 0], 6, (16, 16))
    cached.at(torch.arange(6), epoch=0)
    cached(rand(6, 1, 16, 16))
    cached.save(path)
    return cached


def test_workers_read_maps_and_cut_by_them(tmp_path: Path) -> None:
    cached = written(tmp_path / "maps.pt")
    loader = DataLoader(Saved(tmp_path / "maps.pt"), batch_size=3, num_workers=1)
    maps, images = (torch.cat(parts) for parts in zip(*loader, strict=True))
    expected = cached.maps.float()
    expected[1::2] = expected[1::2].flip(2)
    assert torch.equal(maps, expected)
    for saliency, image in zip(expected, images, strict=True):  # tau 0: the least important place
        hidden = image[0] == 0
        size = (int(hidden.any(1).sum()), int(hidden.any(0).sum()))
        assert saliency[hidden].sum().item() == region_scores(saliency[None], size).min().item()


def test_a_spawned_worker_gets_the_same_maps(tmp_path: Path) -> None:
    """It unpickles the data set that a forked one shares."""
    written(tmp_path / "maps.pt")
    mine = Saved(tmp_path / "maps.pt")
    other = pickle.loads(pickle.dumps(mine))
    for i in range(6):
        (saliency, cut), (expected, _) = other[i], mine[i]
        assert torch.equal(saliency, expected) and (cut == 0).any()


def test_a_saved_map_is_a_byte_a_cell_and_is_not_copied(tmp_path: Path) -> None:
    cached = written(tmp_path / "maps.pt")
    saved = SavedSaliency(tmp_path / "maps.pt")
    assert saved.maps.dtype == torch.uint8 and torch.equal(saved.maps, cached.maps)
    assert len(sent := pickle.dumps(saved)) < 500
    assert torch.equal(pickle.loads(sent).maps, cached.maps)
    torch.save([1], tmp_path / "other.pt")
    with pytest.raises(ValueError, match="holds no maps; StoredMaps.save writes them"):
        SavedSaliency(tmp_path / "other.pt")


def test_maps_may_be_used_as_plain_tensors() -> None:
    images = torch.ones(3, 1, 12, 10)
    cut = selective_cut(images, BoxSaliency()(images, BOXES), size=3, tau=0.0)
    assert (cut == 0).sum() == 27
