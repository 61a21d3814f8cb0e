"""Cuts as torchvision transforms v2, with boxes, masks and keypoints.

`torchvision.transforms.v2.RandomErasing` passes boxes, masks and keypoints on as they were and
takes one region for a whole batch. This one takes a region per image, where the method's map allows
one, and tells the targets.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils._pytree import tree_flatten, tree_unflatten
from torchvision import tv_tensors
from torchvision.transforms import v2

from keepaugment.adapters.samples import (
    TARGETS,
    Leaf,
    check_without,
    is_target,
    named_labels,
    of_images,
    read_leaves,
    read_numbers,
    stack_labels,
    usual_labels,
)
from keepaugment.adapters.visible import (
    boxes_around,
    checked_corners,
    count_visible,
    enough,
    seen_points,
    spans,
)
from keepaugment.attention import AttentionSaliency
from keepaugment.cached import CachedSaliency
from keepaugment.cutting import Cutout, RandomErasing
from keepaugment.objects import as_keypoints, as_masks
from keepaugment.recycled import RecycledSaliency
from keepaugment.regions import Spare
from keepaugment.saliency import (
    CentreSaliency,
    InvertedSaliency,
    RandomSaliency,
    ShuffledSaliency,
)
from keepaugment.sources import BoxSaliency, KeypointSaliency, MaskSaliency
from keepaugment.stored import GivenMaps

_OF_OBJECTS = BoxSaliency, MaskSaliency, KeypointSaliency
_OF_NOTHING = AttentionSaliency, CentreSaliency, GivenMaps, RandomSaliency, RecycledSaliency


def _source(saliency: Any) -> Any:
    """The innermost source of nested maps."""
    while isinstance(saliency, CachedSaliency | InvertedSaliency | ShuffledSaliency):
        saliency = saliency.saliency
    return saliency


def _joined_boxes(parts: list[Any], size: tuple[int, int]) -> Tensor:
    corners = [checked_corners(each, size) for each in parts]
    return torch.cat(corners) if corners else torch.zeros(0, 4, 2)


def _joined_masks(parts: list[Any], size: tuple[int, int]) -> Tensor:
    plain = [each.as_subclass(Tensor) for each in parts]
    plain = [each.flatten(0, -3) if each.ndim > 3 else each for each in plain]
    for each in plain:
        as_masks(each, size)
    plain = [each.reshape(-1, *size) for each in plain]
    return torch.cat(plain) if plain else torch.zeros(0, *size)


def _joined_keypoints(parts: list[Any], size: tuple[int, int]) -> Tensor:
    for each in parts:
        as_keypoints(each, size)
    if len(parts) == 1:
        return parts[0]
    plain = [each.as_subclass(Tensor).reshape(-1, 2) for each in parts]
    return torch.cat(plain) if plain else torch.zeros(0, 2)


_JOIN = {"boxes": _joined_boxes, "masks": _joined_masks, "keypoints": _joined_keypoints}
"""All targets of an image as one tensor: corners (N, 4, 2), masks (N, H, W), keypoints (..., 2)."""


class Erasing(v2.Transform):
    """Any cut of this library among torchvision's transforms v2, on a sample or on a batch.

        erase = Erasing(KeepRandomErasing(saliency=BoxSaliency(), p=0.5), min_visible=0.3)
        transform = v2.Compose([..., v2.ToDtype(torch.float32, scale=True), erase,
                                v2.SanitizeBoundingBoxes()])

    A sample has one image (C, H, W) or video (T, C, H, W), a batch one tensor of images
    (B, C, H, W) or videos (B, T, C, H, W), with a region each; in a loader's collate function, or
    behind it on a GPU. Every frame of a video has the region of its middle frame. Targets of a
    batch are in a list with a dict for each image, or one per image in the images' order, or
    tensors whose first axis is the batch's. All of an image's targets count; it may have none.

    What becomes of the targets: a box, or a group of keypoints, is *dropped* if less than
    `min_visible` of it, or nothing, can still be seen. Dropped boxes become 0 and dropped keypoints
    -1, which `v2.SanitizeBoundingBoxes` and `v2.SanitizeKeyPoints` remove with their labels. The
    visible share of a box, rotated or not, is that of the pixels whose middles lie in it; a box
    without any stays. That of keypoints (N, ..., 2) is of the N groups' points. Masks, and
    importance that is taken from boxes, are of the same pixels; a map takes rotated boxes as the
    upright ones around them.

    What is guaranteed: a Keep method with `BoxSaliency()` chooses among the share tau of all
    regions that hide least of the boxes, summed over the boxes. So where that share of the regions
    can do without a box, none is touched; in a full image one may still be hidden. With `protect`
    no box is ever hidden beyond 1 - `min_visible`, with any method and any tau: such regions are no
    candidates, tau counts among the others, and an image without another is left as it is.

    The map gets, of each image, a dict with the `boxes` (as xyxy), `masks` and `keypoints` that
    there are; in a sample without these the label, or else None. A method with a model belongs
    behind the loader; a `SavedSaliency` may take its place before.

    Args:
        method: `Cutout`, `RandomErasing`, `KeepCutout` or `KeepRandomErasing`; its p is per image.
        min_visible: share of a box or of a group of keypoints that is to be seen, in [0, 1].
        protect: allow only regions that leave so much of every box.
        mask_fill: what masks become in the region; None leaves them.
        labels: where a map of labels finds them: their name in a dict, or their place in a tuple.
            "default" takes "label", "labels" or (image, label), and refuses any other number, for
            it may be an image's; None hands the map no label.

    Raises:
        ValueError: Another method, or settings out of their range; when it is called, targets of
            another layout or size than the image, or of which it is not known whose they are.
    """

    def __init__(
        self,
        method: Cutout | RandomErasing,
        *,
        min_visible: float = 0.0,
        protect: bool = False,
        mask_fill: float | None = None,
        labels: str | int | None = "default",
    ) -> None:
        super().__init__()
        if not isinstance(method, Cutout | RandomErasing):
            raise ValueError(
                "Erasing takes Cutout, RandomErasing or their Keep arms, found "
                f"{type(method).__name__}; put any other step into adapters.KeepTransform"
            )
        if not 0.0 <= min_visible <= 1.0:
            raise ValueError(f"min_visible must be a share in [0, 1], found {min_visible}")
        if mask_fill is not None and not math.isfinite(mask_fill):
            raise ValueError(f"mask_fill must be a finite number or None, found {mask_fill}")
        self.method = method
        self.min_visible = min_visible
        self.protect = protect
        self.mask_fill = mask_fill
        self.labels = labels

    def _image(self, flat_inputs: list[Any]) -> Tensor:
        """The one image, video or batch of a sample's leaves."""
        wanted = self._needs_transform_list(flat_inputs)
        found = [each for each, is_wanted in zip(flat_inputs, wanted, strict=True) if is_wanted]
        images = [each for each in found if not is_target(each)]
        if len(images) != 1 or not isinstance(images[0], Tensor):
            kinds = ", ".join(type(each).__name__ for each in images) or "none"
            raise ValueError(
                f"expected one image, video or batch as a tensor, found {kinds}; call v2.ToImage "
                "first, and stack images or transform each in the data set"
            )
        low, high = (4, 5) if isinstance(images[0], tv_tensors.Video) else (3, 4)
        if images[0].ndim not in (low, high):
            raise ValueError(
                f"expected {low} or, of a batch, {high} axes, found {tuple(images[0].shape)}"
            )
        return images[0]

    def make_params(self, flat_inputs: Any) -> dict[str, Any]:
        """Draw the regions of a sample or a batch, of which `flat_inputs` may be all leaves.

        Leaves alone do not say which are of one image where a batch has as many of a kind as
        images; then give the sample as it is.

        Returns:
            `mask`, bool, true where an image is cut, (1, H, W) of a sample or (B, 1, H, W) of a
            batch; `fill`, what it becomes there; and `batch`, B or None.
        """
        image = self._image(tree_flatten(flat_inputs)[0])
        video = isinstance(image, tv_tensors.Video)
        batch = len(image) if image.ndim == 4 + video else None
        images = image.as_subclass(Tensor) if batch is not None else image.as_subclass(Tensor)[None]
        images = images[:, images.shape[1] // 2] if video else images
        leaves = read_leaves(flat_inputs, batch)[0]
        found = self._objects(leaves, batch, (images.shape[2], images.shape[3]))
        targets = self._targets(leaves, found, image, batch)
        spare = self._spare(leaves, found, image) if self.protect else None
        mask = self.method.mask(images, targets, spare=spare)
        fill = self.method.filling(images)
        if batch is None:
            whole = isinstance(fill, Tensor) and fill.ndim == 4
            mask, fill = mask[0], fill[0] if whole else fill  # type: ignore[index]
        return {"mask": mask, "fill": fill, "batch": batch}

    def _objects(
        self, leaves: list[Leaf], batch: int | None, size: tuple[int, int]
    ) -> dict[str, list[Tensor]]:
        """Targets of each image: corners (N, 4, 2) of boxes, masks and keypoints."""
        found = {}
        for key, kind in TARGETS.items():
            of_each = of_images(leaves, kind, batch)
            if of_each is not None:
                found[key] = [_JOIN[key](parts, size) for parts in of_each]
        return found

    def _targets(
        self,
        leaves: list[Leaf],
        found: dict[str, list[Tensor]],
        image: Tensor,
        batch: int | None,
    ) -> Any:
        """Targets of the method's map."""
        if self.method.keep is None:
            return None
        source, labels = _source(self.method.keep.saliency), self.labels
        if labels in (None, "default") and (found or isinstance(source, _OF_OBJECTS)):
            if not found:
                check_without(leaves, image, f"{type(source).__name__} needs tv_tensors")
            if not any(len(part) for parts in found.values() for part in parts):
                size, number = (image.shape[-2], image.shape[-1]), batch or 1
                empty = {key: [join([], size)] * number for key, join in _JOIN.items()}
                found = {**empty, **found}
            if "boxes" in found:
                found = {**found, "boxes": [boxes_around(each) for each in found["boxes"]]}
            return [
                dict(zip(found, parts, strict=True)) for parts in zip(*found.values(), strict=True)
            ]
        if labels is None:
            return None
        numbers = read_numbers(leaves, image)
        if labels == "default":
            chosen = usual_labels(numbers)
            strange = [] if isinstance(source, _OF_NOTHING) else named_labels(leaves)
            if not chosen and strange:
                raise ValueError(
                    f"a label must be a whole number or a tensor, found {strange[0].value!r} at "
                    f"{strange[0].place}; say labels=None if the map takes none"
                )
            if not chosen and (not numbers or isinstance(source, _OF_NOTHING)):
                return None
        elif isinstance(labels, str):
            chosen = [each for each in numbers if each.place[-1] == labels]
        else:
            chosen = [each for each in numbers if each.place == (labels,)]
        if not chosen:
            places = ", ".join(str(each.place) for each in numbers[:4]) or "none"
            raise ValueError(
                f"labels={labels!r} finds no label, and there are numbers at {places}; say the "
                "name or the place of the label, or labels=None if the map takes none"
            )
        return stack_labels(chosen, batch).to(image.device)

    def _spare(
        self, leaves: list[Leaf], found: dict[str, list[Tensor]], image: Tensor
    ) -> Spare | None:
        """How many pixels of each box may be hidden; None without boxes."""
        needed = "protect=True needs BoundingBoxes in the sample"
        if "boxes" not in found:
            if any(len(part) for parts in found.values() for part in parts):
                raise ValueError(f"{needed}, found {', '.join(found)} alone")
            check_without(leaves, image, needed)
            return None
        corners = [each.to(image.device) for each in found["boxes"]]
        size = (image.shape[-2], image.shape[-1])
        limits = []
        for each in corners:
            first, stop = spans(each, size)
            of = (stop - first).sum(1)
            shown = (self.min_visible * of).ceil().clamp(min=1).long()
            limits.append(torch.where(of > 0, of - shown, size[0] * size[1]))
        around = pad_sequence([boxes_around(each) for each in corners], batch_first=True)
        low, high = (around - 0.5).split(2, 2)
        edges = torch.cat((low.ceil(), high.floor() + 1), 2)
        most = edges.new_tensor([size[1], size[0]] * 2)
        boxes = torch.minimum(edges.clamp(min=0), most).long()
        return Spare(boxes, pad_sequence(limits, batch_first=True))

    def _mask_value(self, kind: torch.dtype) -> float:
        """Fill of masks of a kind in the region, checked: it would be cut off or wrap otherwise."""
        value = self.mask_fill
        assert value is not None
        if not kind.is_floating_point:
            low, high = (
                (0, 1) if kind is torch.bool else (torch.iinfo(kind).min, torch.iinfo(kind).max)
            )
            if value != int(value) or not low <= value <= high:
                raise ValueError(f"mask_fill={value} is no value of masks of {kind}")
        return value

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """A sample's or a batch's image or target under the regions of `params`."""
        mask, plain = params["mask"].to(inpt.device), inpt.as_subclass(Tensor)
        hidden = mask[:, 0] if mask.ndim == 4 else mask  # (1 or B, H, W)
        if is_target(inpt) and not inpt.numel():
            return inpt
        if isinstance(inpt, tv_tensors.BoundingBoxes):
            seen = enough(*count_visible(inpt, hidden), self.min_visible)
            result = plain.masked_fill(~seen[:, None], 0)
        elif isinstance(inpt, tv_tensors.KeyPoints):
            seen = seen_points(plain, hidden, self.min_visible)
            result = plain.masked_fill(~seen.view(-1, *[1] * (plain.ndim - 1)), -1)
        elif isinstance(inpt, tv_tensors.Mask):
            if self.mask_fill is None:
                return inpt
            hidden = {2: hidden[0], 3: hidden, 4: hidden[:, None]}[plain.ndim]
            result = plain.masked_fill(hidden, self._mask_value(plain.dtype))
        else:
            fill = params["fill"]
            fill = fill.to(plain) if isinstance(fill, Tensor) else fill
            if isinstance(inpt, tv_tensors.Video) and mask.ndim == 4:  # with an axis of frames
                mask = mask[:, None]
                fill = fill[:, None] if isinstance(fill, Tensor) and fill.ndim == 4 else fill
            result = torch.where(mask, fill, plain)
        return tv_tensors.wrap(result, like=inpt)

    def replay(self, params: dict[str, Any], *inputs: Any) -> Any:
        """Cut a sample or a batch of the same form as that of `make_params`, by its regions."""
        leaves, spec = read_leaves(inputs if len(inputs) > 1 else inputs[0], params["batch"])
        wanted = self._needs_transform_list([each.value for each in leaves])
        changed = []
        for (value, _, image), is_wanted in zip(leaves, wanted, strict=True):
            own = params if image is None else {**params, "mask": params["mask"][image]}
            changed.append(self.transform(value, own) if is_wanted else value)
        return tree_unflatten(changed, spec)

    def forward(self, *inputs: Any) -> Any:
        """Cut a sample or a batch, packed or not, of any form that torchvision takes."""
        return self.replay(self.make_params(inputs if len(inputs) > 1 else inputs[0]), *inputs)
