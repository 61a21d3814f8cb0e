"""Boxes, masks, keypoints and labels: which layout they have, and whose they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small import network, seeded
from torch import Tensor
from torchvision import tv_tensors as tv

from keepaugment import (
    BoxSaliency,
    CentreSaliency,
    Cutout,
    InvertedSaliency,
    KeepCutout,
    KeypointSaliency,
    MaskSaliency,
)
from keepaugment.adapters import Erasing

SIZE = (24, 32)
NAN, INF = float("nan"), float("inf")
IMAGES = torch.ones(1, 3, *SIZE)


def image(*batch: int) -> tv.Image:
    return tv.Image(torch.ones(*batch, 3, *SIZE))


def boxes(data: Any, kind: str = "XYXY", size: tuple[int, int] = SIZE) -> tv.BoundingBoxes:
    return tv.BoundingBoxes(torch.as_tensor(data).float(), format=kind, canvas_size=size)


def masks(*shape: int) -> tv.Mask:
    return tv.Mask(torch.ones(*shape, *SIZE, dtype=torch.uint8))


def points(*shape: int) -> tv.KeyPoints:
    return tv.KeyPoints(5 * torch.ones(*shape, 2), canvas_size=SIZE)


LEFT, RIGHT = boxes([[2, 2, 12, 12]]), boxes([[18, 10, 30, 22]])


# Layouts


@pytest.mark.parametrize(
    ("saliency", "shapes", "message"),
    [
        (BoxSaliency(), [(4, 5), (3, 8), (2, 2, 4), (4,), (0, 5)], r"boxes must be \(N, 4\)"),
        (KeypointSaliency(), [(3, 34), (3, 51), (4, 4), ()], r"keypoints must be \(..., 2 or 3\)"),
        (MaskSaliency(), [(24, 32, 2), (2, 1, 24, 32), (24,), (32, 24)], r"masks must be \(N, 24,"),
    ],
)
def test_another_layout_is_refused(saliency: Any, shapes: Any, message: str) -> None:
    for shape in shapes:
        with pytest.raises(ValueError, match=message):
            saliency(IMAGES, [torch.ones(shape)])


@pytest.mark.parametrize(
    ("kind", "columns"), [("XYXY", 5), ("XYXY", 8), ("XYWHR", 4), ("XYXYXYXY", 4)]
)
def test_boxes_have_the_columns_of_their_format(kind: str, columns: int) -> None:
    with pytest.raises(ValueError, match=f"boxes of format {kind} must be"):
        Erasing(Cutout(4))(image(), boxes(torch.ones(2, columns), kind))


@pytest.mark.parametrize("saliency", [BoxSaliency(), MaskSaliency(), KeypointSaliency()])
def test_an_empty_tensor_is_no_object(saliency: Any) -> None:
    for shape in ((0,), (1, 0)):
        assert not saliency(IMAGES, [torch.ones(shape)]).any()


WRONG: list[tuple[Any, str]] = [
    (boxes([[5, 2, 2, 6]]), "left <= right .* are they x, y, width, height"),
    (boxes([[5, 6, 9, 2]]), "top <= bottom"),
    (boxes([[0, 0, INF, 3]]), "boxes hold NaN or infinite values"),
    (boxes([[0, 0, NAN, 3]]), "boxes hold NaN or infinite values"),
    (boxes([[5, 5, -3, 4]], "XYWH"), "left <= right"),
    (boxes([[5, 5, 3, -4]], "CXCYWH"), "top <= bottom"),
    (boxes([[5, 5, -3, 4, 10]], "CXCYWHR"), "negative width or height"),
    (boxes([[NAN] * 8], "XYXYXYXY"), "boxes hold NaN"),
    (boxes([[0, 0, 3, 3]], size=(32, 32)), r"BoundingBoxes of a canvas of \(32, 32\)"),
    (tv.KeyPoints([[1.0, 2]], canvas_size=(32, 24)), r"KeyPoints of a canvas of \(32, 24\)"),
    (tv.KeyPoints([[NAN, 2]], canvas_size=SIZE), "keypoints hold NaN"),
    (tv.Mask(torch.ones(1, 32, 24)), r"masks must be \(N, 24, 32\)"),
    (tv.Mask(torch.full((1, *SIZE), NAN)), "masks hold NaN"),
]


@pytest.mark.parametrize(("target", "message"), WRONG)
def test_wrong_values_are_refused(target: Any, message: str) -> None:
    for erase, wrapped in ((Erasing(Cutout(4)), target), (Erasing(Cutout(4)), {"a": [target]})):
        with pytest.raises(ValueError, match=message):
            erase(image(), wrapped)
    with pytest.raises(ValueError, match=message):
        Erasing(Cutout(4))(image(2), [{"a": target}, {}])
    if getattr(target, "format", None) in (None, tv.BoundingBoxFormat.XYXY):
        kinds = {tv.BoundingBoxes: BoxSaliency, tv.Mask: MaskSaliency}
        with pytest.raises(ValueError, match=message):
            kinds.get(type(target), KeypointSaliency)()(IMAGES, [target])


def test_a_point_that_is_not_labelled_has_any_coordinates() -> None:
    saliency, seen = KeypointSaliency(), torch.tensor([[3.0, 4, 2]])
    expected = saliency(IMAGES, [seen])
    for other in ([NAN, NAN, 0], [INF, 3, 0], [NAN, 1, -1]):
        found = saliency(IMAGES, [torch.cat((torch.tensor([other]), seen))])
        assert torch.equal(found, expected)
    for other in ([NAN, 3, 2], [3, 3, NAN]):
        with pytest.raises(ValueError, match="keypoints hold NaN"):
            saliency(IMAGES, [torch.tensor([other])])


# Whose they are


BOTH = [
    (image(), {"boxes": LEFT, "others": RIGHT}),
    (image(), LEFT, boxes([[18, 10, 12, 12]], "XYWH")),
    (image(1), [{"boxes": LEFT, "others": [RIGHT]}]),
]


@pytest.mark.parametrize("sample", BOTH)
def test_no_box_of_a_sample_is_hidden(sample: Any) -> None:
    """A region of 20 x 20 hides one of the two in many draws, unless both are protected."""
    hidden = {False: 0, True: 0}
    for protect in hidden:
        erase = Erasing(Cutout(20, generator=seeded()), protect=protect)
        for _ in range(60):
            cut = erase(sample)[0].view(3, *SIZE)[0] == 0
            hidden[protect] += bool(cut[2:12, 2:12].all() or cut[10:22, 18:30].all())
    assert hidden[False] > 5 and hidden[True] == 0


def asked(sample: Any, **options: Any) -> Any:
    """What a map of the user's own is asked for."""
    found = []

    def saliency(images: Tensor, targets: Any) -> Tensor:
        found.append(targets)
        return images[:, 0]

    Erasing(KeepCutout(saliency=saliency, size=4), **options)(sample)
    return found[0]


def shapes(targets: Any) -> list[dict[str, tuple[int, ...]]]:
    return [{key: tuple(each.shape) for key, each in target.items()} for target in targets]


def test_a_map_gets_all_targets_of_an_image() -> None:
    sample = {"a": LEFT, "b": RIGHT, "c": masks(2), "d": masks(), "e": points(2, 3), "f": points(4)}
    whole = [{"boxes": (2, 4), "masks": (3, *SIZE), "keypoints": (10, 2)}]
    assert shapes(asked((image(), sample))) == whole
    empty = [{"boxes": (0, 4), "masks": (0, *SIZE), "keypoints": (0, 2)}]
    assert shapes(asked((image(2), [sample, {"image_id": 3}]))) == whole + empty
    assert (
        shapes(asked((image(3), points(3, 2), points(3), boxes([[0, 0, 4, 4]] * 3))))
        == [{"boxes": (1, 4), "keypoints": (3, 2)}] * 3
    )


@pytest.mark.parametrize(
    "targets",
    [
        (masks(2), masks(2)),
        {"a": masks(2), "b": masks(2)},
        [points(2, 3), points(2, 5)],
        (boxes([[0, 0, 4, 4]] * 2), boxes([[0, 0, 4, 4]] * 2)),
    ],
)
def test_what_may_be_read_both_ways_is_refused(targets: Any) -> None:
    sample = (image(2), *targets) if isinstance(targets, tuple) else (image(2), targets)
    with pytest.raises(ValueError, match="one per image or have the images for their first axis"):
        Erasing(Cutout(4))(sample)


def test_masks_follow_their_own_image() -> None:
    """By their first axis, or in a dict for each image."""
    erase = Erasing(Cutout(8, border="inside", generator=seeded()), mask_fill=9)
    found, *others = erase(image(2), masks(2), masks(2), masks(2))
    for each in others:
        assert torch.equal(each == 9, found[:, 0] == 0)
    found, others = erase(image(2), [{"a": masks(2)}, {"a": masks(2), "b": masks()}])
    for own, cut in zip(others, found[:, 0] == 0, strict=True):
        assert all(torch.equal(each == 9, cut.expand(each.shape)) for each in own.values())
    with pytest.raises(ValueError, match="a Mask for each of 4 images, or one of 4 rows, found 1"):
        erase(image(4), masks(1))


# Images without objects


MAPS = [BoxSaliency(), InvertedSaliency(MaskSaliency()), KeypointSaliency()]


@pytest.mark.parametrize("protect", [False, True])
@pytest.mark.parametrize("saliency", MAPS)
def test_an_image_without_objects_goes_through(saliency: Any, protect: bool) -> None:
    erase = Erasing(KeepCutout(saliency=saliency, size=4), protect=protect)
    of_coco: dict[str, Any] = {"image_id": 139}  # as torchvision's wrapper of the data set has it
    none = {"boxes": boxes(torch.zeros(0, 4)), "labels": torch.zeros(0, dtype=torch.int64)}
    numbered = {"image_id": torch.tensor([139]), "masks": masks(1)[:0]}
    samples = [(image(), each) for each in (of_coco, [], none, numbered)]
    for sample in (*samples, (image(2), [of_coco, none])):
        assert (erase(sample)[0] == 0).any()
    found, targets = erase(image(2), [of_coco, {"image_id": 1, "boxes": LEFT, "masks": masks(1),
                                                "keypoints": points(1)}])  # fmt: skip
    assert (found == 0).flatten(1).any(1).all() and targets[0] == of_coco


@pytest.mark.parametrize(
    "targets",
    [
        {"boxes": torch.ones(2, 4)},
        {"boxes": np.ones((2, 4))},
        [{"bbox": [1, 2, 3, 4], "category_id": 5}],
        5,
        torch.arange(3),
    ],
)
def test_targets_that_are_not_known_for_such_are_refused(targets: Any) -> None:
    for method, protect in ((KeepCutout(saliency=BoxSaliency(), size=4), False), (Cutout(4), True)):
        with pytest.raises(ValueError, match="found none; wrap targets by torchvision.tv_tensors"):
            Erasing(method, protect=protect)(image(), targets)
    with pytest.raises(ValueError, match="needs BoundingBoxes in the sample, found masks alone"):
        Erasing(Cutout(4), protect=True)(image(), masks(1))


# Labels


@pytest.mark.parametrize(
    ("sample", "labels", "expected"),
    [
        ((image(), 2), "default", [2]),
        ((image(), np.int64(2)), "default", [2]),
        ((image(), torch.eye(3)[2]), "default", [[0, 0, 1]]),
        ({"image": image(), "label": 2, "image_id": 139}, "default", [2]),
        ((image(), {"labels": torch.tensor([2]), "image_id": 139}), "default", [2]),
        ((image(2), torch.tensor([[2], [1]])), "default", [2, 1]),
        ((image(2), [{"label": 2, "image_id": 7}, {"label": torch.tensor(1)}]), "default", [2, 1]),
        ((image(2), torch.eye(2)), "default", [[1, 0], [0, 1]]),
        ({"image": image(), "kind": 2, "label": 3}, "kind", [2]),
        ({"image": image(), "kind": 2, "mask": masks()}, "kind", [2]),
        ((image(), 139, 2), 2, [2]),
    ],
)
def test_a_label_is_found_by_its_name_or_place(sample: Any, labels: Any, expected: list) -> None:
    assert asked(sample, labels=labels).tolist() == expected


@pytest.mark.parametrize(
    ("sample", "labels"),
    [
        ({"image": image(), "image_id": 139}, "default"),
        ((image(), {"image_id": np.array(139)}), "default"),
        ((image(), 2, 139), "default"),
        ({"image": image(), "fine_label": 2, "coarse_label": 1}, "default"),
        ({"image": image(2), "index": torch.tensor([5, 7])}, "default"),
        ({"image": image(), "label": 2}, "kind"),
        ((image(), 2), 2),
    ],
)
def test_another_number_is_no_label(sample: Any, labels: Any) -> None:
    with pytest.raises(ValueError, match="finds no label, and there are numbers at"):
        asked(sample, labels=labels)


@pytest.mark.parametrize("label", ["cat", 7.0, True])
def test_a_label_that_is_no_whole_number_is_refused(label: Any) -> None:
    with pytest.raises(ValueError, match="a label must be a whole number or a tensor, found"):
        asked({"image": image(), "label": label})
    assert asked({"image": image(), "label": label}, labels=None) is None
    assert asked({"image": image(), "label": None}) is None


@pytest.mark.parametrize("value", [0.5, 300, -1])
def test_what_masks_become_is_a_value_of_theirs(value: float) -> None:
    with pytest.raises(ValueError, match="mask_fill=.* is no value of masks of torch.uint8"):
        Erasing(Cutout(4), mask_fill=value)(image(), masks(1))


def test_two_labels_of_an_image_are_refused() -> None:
    with pytest.raises(ValueError, match="expected one label per image, found 2"):
        asked({"image": image(), "label": 2, "labels": 3})


def test_a_map_may_take_no_label() -> None:
    sample = {"image": image(), "image_id": 139}
    assert asked(sample, labels=None) is None
    assert (Erasing(KeepCutout(network(), size=4), labels=None)(sample)["image"] == 0).any()
    Erasing(KeepCutout(saliency=CentreSaliency(), size=4))(sample)  # which takes none
    Erasing(Cutout(4))(sample)


def test_masks_become_a_finite_number() -> None:
    with pytest.raises(ValueError, match="mask_fill must be a finite number or None, found nan"):
        Erasing(Cutout(4), mask_fill=NAN)
