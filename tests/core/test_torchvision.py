"""Cuts among torchvision's transforms v2, with every kind of target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small import network, rand, seeded
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision import tv_tensors as tv
from torchvision.transforms import v2

from keepaugment import (
    BoxSaliency,
    CutMix,
    Cutout,
    KeepCutout,
    KeepRandomErasing,
    KeypointSaliency,
    MaskSaliency,
    RandomErasing,
    SavedSaliency,
)
from keepaugment.adapters import Erasing
from keepaugment.stored import StoredMaps

SIZE = (24, 32)
XYXY = torch.tensor([[2.0, 3, 12, 11], [14, 6, 30, 22], [1, 15, 5, 20]])


def boxes(data: Any = XYXY, kind: str = "XYXY") -> tv.BoundingBoxes:
    return tv.BoundingBoxes(data, format=kind, canvas_size=SIZE)


def sample() -> dict[str, Any]:
    masks = torch.zeros(3, *SIZE, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, XYXY.int().tolist(), strict=True):
        mask[top:bottom, left:right] = 1
    return {
        "image": tv.Image(torch.ones(3, *SIZE)),
        "boxes": boxes(),
        "labels": torch.tensor([7, 8, 9]),
        "masks": tv.Mask(masks),
        "keypoints": tv.KeyPoints([[[3.0, 4], [11, 10]], [[20, 9], [29, 21]]], canvas_size=SIZE),
    }


class At:
    """A method's draws by which a box of 8 x 8 pixels has its top-left corner at (row, column)."""

    def __init__(self, *corners: tuple[int, int]) -> None:
        self.corners = corners

    def __call__(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        places = (SIZE[0] - 7) * (SIZE[1] - 7)
        index = torch.tensor([row * (SIZE[1] - 7) + column for row, column in self.corners])
        return ((index + 0.5) / places)[:, None].expand(shape)


def cut_at(*corners: tuple[int, int], **options: Any) -> Erasing:
    return Erasing(Cutout(8, border="inside", generator=At(*corners)), **options)


# A sample


def test_a_region_of_a_sample_by_hand() -> None:
    """Rows 4-11, columns 3-10 hide 56 of the first box's 80 pixels and one of two points."""
    result = cut_at((4, 3), min_visible=0.25, mask_fill=0)(given := sample())
    hidden = torch.zeros(SIZE, dtype=torch.bool)
    hidden[4:12, 3:11] = True
    assert torch.equal(result["image"] == 0, hidden.expand(3, -1, -1))
    assert torch.equal(result["masks"], given["masks"] * ~hidden)
    for name in ("boxes", "labels", "keypoints"):
        assert torch.equal(result[name], given[name])
    assert [type(each) for each in result.values()] == [type(each) for each in given.values()]
    assert (given["image"] == 1).all()


def test_what_is_hidden_is_dropped_and_sanitized_with_its_label() -> None:
    transform = v2.Compose(
        [
            cut_at((4, 3), min_visible=0.35),
            v2.SanitizeBoundingBoxes(),
            v2.SanitizeKeyPoints(),
        ]
    )
    result = transform(sample())
    assert torch.equal(result["boxes"], XYXY[1:]) and result["labels"].tolist() == [8, 9]
    assert len(result["masks"]) == 2 and result["masks"].sum() == 16 * 16 + 4 * 5
    assert result["keypoints"].tolist() == [[[3, 4], [11, 10]], [[20, 9], [29, 21]]]
    points = tv.KeyPoints([[3.0, 4], [11, 10], [40, 4]], canvas_size=SIZE)
    seen = cut_at((4, 3))({"image": sample()["image"], "points": points})["points"]
    assert seen.tolist() == [[-1, -1], [11, 10], [40, 4]]


def test_nothing_at_all_is_dropped_unless_all_of_it_is_hidden() -> None:
    for corner, seen in (((14, 0), 0.0), ((15, 2), 5.0)):
        assert cut_at(corner)(sample())["boxes"][2, 2].item() == seen


FORMATS = {
    "XYXY": XYXY,
    "XYWH": torch.cat((XYXY[:, :2], XYXY[:, 2:] - XYXY[:, :2]), 1),
    "CXCYWH": torch.cat(((XYXY[:, :2] + XYXY[:, 2:]) / 2, XYXY[:, 2:] - XYXY[:, :2]), 1),
    "XYXYXYXY": XYXY[:, [0, 1, 2, 1, 2, 3, 0, 3]],
}
FORMATS["XYWHR"] = torch.cat((FORMATS["XYWH"], torch.zeros(3, 1)), 1)
FORMATS["CXCYWHR"] = torch.cat((FORMATS["CXCYWH"], torch.zeros(3, 1)), 1)


@pytest.mark.parametrize("kind", FORMATS)
def test_boxes_of_every_format_agree(kind: str) -> None:
    method = KeepRandomErasing(saliency=BoxSaliency(), p=1.0, scale=(0.2, 0.5), generator=seeded())
    image = sample()["image"]
    for _ in range(20):
        erase = Erasing(method, min_visible=0.5)
        params = erase.make_params([image, boxes()])
        expected = erase.transform(boxes(), params)
        found = erase.transform(boxes(FORMATS[kind], kind), params)
        assert found.format.name == kind
        assert torch.equal((found == 0).all(1), (expected == 0).all(1))
    seeds = [seeded(1), seeded(1)]
    methods = [KeepCutout(saliency=BoxSaliency(), size=8, generator=each) for each in seeds]
    masks = [
        Erasing(method, protect=True, min_visible=0.7).make_params([image, given])["mask"]
        for method, given in zip(methods, (boxes(), boxes(FORMATS[kind], kind)), strict=True)
    ]
    assert torch.equal(*masks)


def test_the_share_of_a_turned_box_by_a_loop() -> None:
    """A square on its corner, 8 from its middle (16, 12) to each corner: |x| + |y| <= 8."""
    turned = boxes([[16.0, 4, 24, 12, 16, 20, 8, 12]], "XYXYXYXY")
    for row in range(0, 17, 2):
        for column in range(0, 25, 3):
            seen = of = 0
            for y in range(SIZE[0]):
                for x in range(SIZE[1]):
                    if abs(x + 0.5 - 16) + abs(y + 0.5 - 12) <= 8:
                        of += 1
                        seen += not (row <= y < row + 8 and column <= x < column + 8)
            for share, kept in ((seen / of - 0.01, True), (seen / of + 0.01, False)):
                erase = cut_at((row, column), min_visible=min(1.0, max(0.0, share)))
                result = erase({"image": sample()["image"], "boxes": turned})["boxes"]
                assert bool(result.any()) == (kept or seen == of)


# A batch


def batch(number: int = 4) -> tuple[Tensor, list[dict[str, Any]]]:
    targets = []
    for i in range(number):
        target = sample()
        del target["image"]
        targets.append({**target, "boxes": boxes(XYXY[: i % 4])})
    return torch.ones(number, 3, *SIZE), targets


CORNERS = [(0, 0), (4, 3), (15, 0), (9, 17)]


def test_a_batch_is_its_samples() -> None:
    images, targets = batch()
    found, others = cut_at(*CORNERS, min_visible=0.5, mask_fill=0)(images, targets)
    for i, corner in enumerate(CORNERS):
        one = {"image": tv.Image(images[i]), **targets[i]}
        expected = cut_at(corner, min_visible=0.5, mask_fill=0)(one)
        assert torch.equal(found[i], expected["image"])
        for name, value in others[i].items():
            assert torch.equal(value, expected[name]) and type(value) is type(expected[name])


def test_one_target_tensor_of_a_batch_is_one_per_image() -> None:
    images = tv.Image(torch.ones(4, 3, *SIZE))
    together = (
        tv.Mask(torch.ones(4, *SIZE, dtype=torch.uint8)),
        boxes(XYXY[[0, 0, 2, 1]]),
        tv.KeyPoints([[3.0, 4], [3, 4], [3, 4], [20, 10]], canvas_size=SIZE),
    )
    found = cut_at(*CORNERS, mask_fill=9)(images, *together)
    assert isinstance(found[0], tv.Image) and torch.equal(found[1] == 9, found[0][:, 0] == 0)
    assert (found[2] == 0).all(1).tolist() == [False, False, True, False]
    assert (found[3] == -1).all(1).tolist() == [True, True, False, True]
    with pytest.raises(ValueError, match="a BoundingBoxes for each of 4 images, or one of 4 rows"):
        Erasing(Cutout())(images, boxes())


def test_labels_of_a_batch_pass_and_explain() -> None:
    asked = []

    def saliency(images: Tensor, targets: Any) -> Tensor:
        asked.append(targets)
        return images[:, 0]

    erase = Erasing(KeepCutout(saliency=saliency, size=4))
    labels = torch.tensor([3, 1, 2, 0])
    images, same = erase(torch.ones(4, 3, *SIZE), labels)
    assert same is labels and torch.equal(asked[0], labels)
    _, label, name = erase(tv.Image(torch.ones(3, *SIZE)), 5, "a name")
    assert (label, name) == (5, "a name") and asked[1].tolist() == [5]
    erase(tv.Image(torch.ones(3, *SIZE)))
    assert asked[2] is None


def test_a_video_has_one_region() -> None:
    video = tv.Video(torch.ones(2, 5, 3, *SIZE))
    erase = Erasing(RandomErasing(p=1.0, fill="random", generator=seeded()))
    found, labels = erase(video, torch.tensor([1, 2]))
    assert isinstance(found, tv.Video) and labels.tolist() == [1, 2]
    assert (found == found[:, :1]).all() and not torch.equal(found[0] == 1, found[1] == 1)
    assert (one := erase(tv.Video(video[0]))).shape == (5, 3, *SIZE) and (one == one[0]).all()


# Parameters


@pytest.mark.parametrize("fill", [0.0, (0.1, 0.2, 0.3), "random"])
def test_parameters_can_be_replayed(fill: Any) -> None:
    images, targets = batch()
    method = KeepRandomErasing(saliency=BoxSaliency(), p=0.7, fill=fill)
    erase = Erasing(method, min_visible=0.5, mask_fill=3)
    flat = [images, *(value for target in targets for value in target.values())]
    params = erase.make_params(flat)
    first, second = (erase.replay(params, images, targets) for _ in range(2))
    assert torch.equal(first[0], second[0]) and not torch.equal(first[0], images)
    assert torch.equal(erase.transform(images, params), first[0])
    for one, other in zip(first[1], second[1], strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    clean = erase.replay(params, 0 * images + 2, targets)[0]
    assert torch.equal(clean != 2, params["mask"].expand_as(images) & (clean != 2))


def test_a_sample_is_replayed_by_transform_alone() -> None:
    erase = Erasing(Cutout(8), min_visible=0.5)
    given = sample()
    params = erase.make_params(list(given.values()))
    expected = erase.replay(params, given)
    for name in ("image", "boxes", "masks", "keypoints"):
        assert torch.equal(erase.transform(given[name], params), expected[name])


# Among others


class Samples(Dataset):
    def __init__(self, transform: Any, path: Path | None = None) -> None:
        self.transform = transform
        self.saved = None if path is None else SavedSaliency(path)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> Any:
        if self.saved is not None:
            self.saved.at(torch.tensor([i]))
            return Erasing(KeepCutout(saliency=self.saved, size=6))(sample()["image"], i)
        result = self.transform(sample())
        return result["image"], int(len(result["boxes"]))


def test_in_workers_as_collate_function_and_in_a_choice(tmp_path: Path) -> None:
    by_boxes = Erasing(KeepCutout(saliency=BoxSaliency(), size=8), min_visible=0.5)
    chain = v2.Compose([v2.RandomHorizontalFlip(), by_boxes, v2.SanitizeBoundingBoxes()])
    images, _ = next(iter(DataLoader(Samples(chain), batch_size=4, num_workers=1)))
    assert (images == 0).flatten(1).any(1).all()

    maps = StoredMaps(4, SIZE)
    maps.save(tmp_path / "maps.pt")
    loader = DataLoader(Samples(None, tmp_path / "maps.pt"), batch_size=4, num_workers=1)
    assert (next(iter(loader))[0] == 0).flatten(1).any(1).all()

    choice = v2.RandomChoice([Erasing(Cutout(8)), v2.Identity()], p=[1.0, 0.0])

    def collate(samples: list[Any]) -> Any:
        return choice(*default_collate(samples))

    images, numbers = next(iter(DataLoader(Samples(chain), batch_size=4, collate_fn=collate)))
    assert images.shape == (4, 3, *SIZE) and numbers.shape == (4,)

    keep = Erasing(KeepCutout(network(), size=8))
    images, labels = keep(rand(4, 3, 32, 32), torch.arange(4))
    assert (images == 0).all(1).flatten(1).any(1).all()
    assert "min_visible=0.5" in repr(by_boxes)


@pytest.mark.parametrize("saliency", [BoxSaliency(), MaskSaliency(), KeypointSaliency()])
def test_importance_is_the_samples_own(saliency: Any) -> None:
    """Masks are those of the boxes, so both maps are the same; at tau 0 nothing is touched."""
    given, seen = sample(), []
    method = KeepCutout(saliency=saliency, size=4, tau=0.0, border="inside", generator=seeded())
    for _ in range(20):
        hidden = Erasing(method)(given)["image"][0] == 0
        seen.append(bool((hidden & given["masks"].any(0)).any()))
    assert not any(seen) or isinstance(saliency, KeypointSaliency)


def test_where_a_region_can_do_without_the_boxes_none_is_touched() -> None:
    """Of 17 x 25 places of an 8 x 8 region, those free of all boxes are more than tau."""
    free = 0
    covered = sample()["masks"].any(0)
    for row in range(17):
        for column in range(25):
            free += not covered[row : row + 8, column : column + 8].any()
    tau = (free - 1) / (17 * 25 - 1)
    method = KeepCutout(
        saliency=BoxSaliency(), size=8, tau=tau, border="inside", generator=seeded()
    )
    for _ in range(50):
        assert not (covered & (Erasing(method)(sample())["image"][0] == 0)).any()


@pytest.mark.parametrize("min_visible", [0.0, 0.6, 1.0])
@pytest.mark.parametrize(
    "method",
    [
        RandomErasing(1.0, (0.1, 0.6)),
        KeepCutout(saliency=BoxSaliency(), size=12, tau=1.0),
        KeepCutout(saliency=BoxSaliency(), size=12, tau=0.5, match_area=True),
    ],
)
def test_protected_boxes_lose_no_more_than_their_share(method: Any, min_visible: float) -> None:
    method.generator = seeded()
    turned = boxes([[16.0, 4, 24, 12, 16, 20, 8, 12]], "XYXYXYXY")
    erase = Erasing(method, min_visible=min_visible, protect=True)
    cuts = 0
    for _ in range(40):
        result = erase(sample())
        cuts += int((result["image"] == 0).any())
        hidden = result["image"][0] == 0
        for mask in result["masks"].bool():
            seen = (mask & ~hidden).sum() / mask.sum()
            assert seen >= min_visible and seen > 0
        assert torch.equal(result["boxes"], XYXY)
        assert erase(tv.Image(torch.ones(3, *SIZE)), turned)[1].any()
    assert cuts or min_visible == 1.0


# Errors


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((sample()["image"], sample()["image"]), "found Image, Image; call v2.ToImage first"),
        ((v2.functional.to_pil_image(torch.ones(3, 8, 8)),), "found Image; call v2.ToImage first"),
        ((torch.arange(3),), r"expected 3 or, of a batch, 4 axes, found \(3,\)"),
        ((tv.Image(torch.ones(3, 8, 8).byte()),), "images must be floating point"),
        ((torch.ones(3, 32, 32), torch.ones(1)), "protect=True needs BoundingBoxes"),
        ((boxes(),), "found none"),
    ],
)
def test_what_is_no_sample_is_refused(inputs: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Erasing(Cutout(4), protect="protect" in message)(*inputs)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="or their Keep arms, found CutMix; put any other"):
        Erasing(CutMix(5))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="min_visible must be a share in .* found 2"):
        Erasing(Cutout(4), min_visible=2)
