"""Contents of a sample or a batch of torchvision's transforms v2, by image.

B is the number of images of a batch. A target of a batch is one image's, or has the batch's axis
first: (B, 4) boxes, (B, H, W) or (B, N, H, W) masks, (B, ..., 2) keypoints.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from numbers import Integral, Real
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import SequenceKey, TreeSpec, tree_flatten_with_path
from torchvision import tv_tensors

TARGETS = {
    "boxes": tv_tensors.BoundingBoxes,
    "masks": tv_tensors.Mask,
    "keypoints": tv_tensors.KeyPoints,
}


class Leaf(NamedTuple):
    """A value of a sample or a batch.

    Attributes:
        value: of any kind.
        place: the names and numbers that lead to it.
        image: number of the image of a batch that alone it belongs to; None: it has the batch's
            axis first, or there is no batch.
    """

    value: Any
    place: tuple[Any, ...]
    image: int | None


def is_target(value: Any) -> bool:
    """Whether a value is a box, mask or keypoint of torchvision's."""
    return isinstance(value, tuple(TARGETS.values()))


def _name(key: Any) -> Any:
    """The value at torch's key of a dict, a sequence or an object."""
    return getattr(key, fields(key)[0].name)


def read_leaves(sample: Any, batch: int | None) -> tuple[list[Leaf], TreeSpec]:
    """The leaves of a sample, or of a `batch` of so many images, and what puts them together.

    Raises:
        ValueError: Targets whose images are not known.
    """
    found, spec = tree_flatten_with_path(sample)
    leaves = []
    for path, value in found:
        place = tuple(map(_name, path))
        leaves.append(Leaf(value, place, _dict_of_image(sample, path, batch)))
    if batch is not None:
        for kind in TARGETS.values():
            _give_turns(leaves, kind, batch)
    return leaves, spec


def _dict_of_image(sample: Any, path: tuple[Any, ...], batch: int | None) -> int | None:
    """Which dict of a list with one for each image a leaf is in."""
    inside = sample
    for key in path:
        lists = isinstance(key, SequenceKey) and inside is not sample and len(inside) == batch
        if lists and isinstance(inside[0], Mapping):
            return key.idx
        inside = key.get(inside)
    return None


def _has_batch(target: Tensor, batch: int) -> bool:
    alone = isinstance(target, tv_tensors.Mask) and target.ndim == 2
    return not alone and len(target) == batch


def _give_turns(leaves: list[Leaf], kind: type[Tensor], batch: int) -> None:
    """Give each image one of as many targets that are in no dict of its own."""
    places = [
        i for i, each in enumerate(leaves) if isinstance(each.value, kind) and each.image is None
    ]
    targets = [leaves[i].value for i in places]
    together = all(_has_batch(each, batch) for each in targets)
    shapes = ", ".join(str(tuple(each.shape)) for each in targets[:4])
    if together and len(targets) == batch > 1 and not any(each.ndim == 4 for each in targets):
        raise ValueError(
            f"{batch} {kind.__name__} {shapes} in a batch of {batch} may be one per image or have "
            "the images for their first axis; give a list with a dict per image, or one tensor"
        )
    if together:
        return
    if len(targets) != batch:
        raise ValueError(
            f"expected a {kind.__name__} for each of {batch} images, or one of {batch} rows, "
            f"found {len(targets)}: {shapes}"
        )
    for image, i in enumerate(places):
        leaves[i] = leaves[i]._replace(image=image)


def of_images(
    leaves: Iterable[Leaf], kind: type[Tensor], batch: int | None
) -> list[list[Tensor]] | None:
    """All targets of a kind of each image, of a sample's one image; None if there are none."""
    found: list[list[Tensor]] = [[] for _ in range(batch or 1)]
    for value, _, image in leaves:
        if not isinstance(value, kind):
            continue
        if batch is None or image is not None:
            found[image or 0].append(value)
        else:
            for own, part in zip(found, value.split(1), strict=True):
                own.append(tv_tensors.wrap(part, like=value))
    return found if any(found) else None


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() > 0 and value.dtype != torch.bool and not is_target(value)
    if hasattr(value, "ndim"):  # NumPy's
        return value.size > 0 and value.dtype.kind in "iuf"
    return isinstance(value, Integral) and not isinstance(value, bool)


def read_numbers(leaves: Iterable[Leaf], image: Tensor) -> list[Leaf]:
    """Candidates for labels: whole numbers and tensors that are neither targets nor the image."""
    return [each for each in leaves if each.value is not image and _is_number(each.value)]


def named_labels(leaves: Iterable[Leaf]) -> list[Leaf]:
    """Those that are named so."""
    named = [each for each in leaves if each.place and each.value is not None]
    return [each for each in named if str(each.place[-1]).lower() in ("label", "labels")]


def usual_labels(numbers: list[Leaf]) -> list[Leaf]:
    """Those among `read_numbers` that are named so, or alone behind the image, (image, label)."""
    named = named_labels(numbers)
    return named or [each for each in numbers if len(numbers) == 1 and each.place == (1,)]


def stack_labels(labels: list[Leaf], batch: int | None) -> Tensor:
    """Labels (B,) or class weights (B, K) of the images of a batch, of one image of a sample."""
    values = [torch.as_tensor(each.value) for each in labels]
    images = [each.image for each in labels]
    alone = images == ([None] if batch is None else list(range(batch)))
    if not alone and images != [None]:
        places = ", ".join(str(each.place) for each in labels[:4])
        raise ValueError(f"expected one label per image, found {len(labels)} at {places}")
    if alone:
        return torch.stack([each if each.numel() > 1 else each.reshape(()) for each in values])
    return values[0] if values[0].is_floating_point() else values[0].flatten()


def check_without(leaves: list[Leaf], image: Tensor, needed: str) -> None:
    """Raise ValueError if a sample or a batch without targets seems to have some all the same.

    In a set of objects an image may have none. What is left of it then is a number under its name,
    such as image_id, and no tensor of several numbers, list of numbers or label.
    """

    def tells(each: Leaf) -> bool:
        value = each.value
        if isinstance(value, Real):
            return isinstance(each.place[-1], int)
        many = getattr(value, "ndim", 0) > 0 and len(value.reshape(-1)) > 1  # NumPy's and torch's
        return many and value is not image

    if usual_labels(read_numbers(leaves, image)) or any(map(tells, leaves)):
        raise ValueError(
            f"{needed}, found none; wrap targets by torchvision.tv_tensors, where an image has no "
            "objects, too: BoundingBoxes of shape (0, 4)"
        )
