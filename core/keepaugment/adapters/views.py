"""Anybody's policy under `KeepPaste`: a data set's transform that gives both views of an image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import get_worker_info
from torchvision.transforms.v2 import functional as F


def _packages(part: Any) -> set[str]:
    """Where a transform's class and those that it is made from come from."""
    return {kind.__module__.partition(".")[0] for kind in type(part).__mro__}


def _is_array(view: Any) -> bool:
    return hasattr(view, "ndim") and not isinstance(view, Tensor)  # NumPy's


def _apply(part: Callable[..., Any], view: Any) -> Any:
    """Give a transform its image in the form that its package takes."""
    packages = _packages(part)
    if "albumentations" in packages:
        if not _is_array(view):
            view = F.to_image(view).permute(1, 2, 0).contiguous().numpy()
        return part(image=view)["image"]
    if _is_array(view) or ("timm" in packages and isinstance(view, Tensor)):
        view = F.to_pil_image(view)
    return part(view)


def _describe(view: Any) -> str:
    """Channels, height, width and type of an image's pixels, whichever way it holds them."""
    if _is_array(view):
        height, width, *channels = view.shape
        return f"{(*(channels or [1]), height, width)} {view.dtype}"
    kind = getattr(view, "dtype", torch.uint8)  # PIL's have none
    return f"{tuple(F.get_dimensions(view))} {kind}".replace("torch.", "")


class TwoViews:
    """A data set's transform to the clean and the augmented view of an image, in one frame.

        transform, paste = TwoViews(geometric, policy, normalise), KeepPaste(model)
        for (images, augmented), labels in DataLoader(ImageFolder(folder, transform), ...):
            images = paste(images, augmented, labels)

    Crop and flip are drawn once: the clean view is what they give, the augmented one what the
    policy makes of it, and both are normalised. The frame is that of the crop. A policy that
    rotates or shears moves what the augmented view shows in it; the clean region is pasted where
    the crop has it, as in the paper.

    Each part is a transform of torchvision, timm or albumentations, or any function of an image,
    and each may be of another package. albumentations gets arrays (H, W, C), timm PIL images, and
    the others what there is, a PIL image for an array. timm has all three at once:
    `TwoViews(*create_transform(..., re_prob=0.0, separate=True))`.

    Random numbers are the parts' own: torch's in torchvision, Python's and NumPy's in timm, which
    a loader seeds anew in each worker. albumentations keeps generators in its transforms, which
    in version 2.0 all workers and epochs would begin alike; in a worker this class seeds them by
    the worker's seed, so that `torch.manual_seed` decides there, and not `Compose(seed=...)`.

    Args:
        geometric: crop, resize and flip.
        policy: such as `v2.RandAugment()` or `rand_augment_transform("rand-m9-mstd0.5", {})`; it
            leaves size, channels and type of the pixels as they are.
        normalise: from there to a tensor as the model takes it. It is called for each view, so it
            must not draw anything: erasing belongs behind the paste.

    Raises:
        ValueError: A part that cannot be called; when an image comes, a policy that changes its
            size, channels or type, or a `normalise` that gives no tensor, or not of one shape.
    """

    def __init__(
        self,
        geometric: Callable[..., Any],
        policy: Callable[..., Any],
        normalise: Callable[..., Any],
    ) -> None:
        parts = {"geometric": geometric, "policy": policy, "normalise": normalise}
        for name, part in parts.items():
            if not callable(part):
                raise ValueError(
                    f"{name} must be a transform, found {type(part).__name__}; compose several, "
                    "and make a policy of its name first"
                )
        self.geometric = geometric
        self.policy = policy
        self.normalise = normalise
        self._seeded: int | None = None

    def _seed(self) -> None:
        """Give albumentations' generators the seed of a worker, once in each."""
        worker = get_worker_info()
        if worker is None or worker.seed == self._seeded:
            return
        self._seeded = worker.seed
        parts: tuple[Any, ...] = (self.geometric, self.policy, self.normalise)
        for number, part in enumerate(parts):
            if "albumentations" in _packages(part) and hasattr(part, "set_random_seed"):
                part.set_random_seed(worker.seed + number)
                # It has seeded all inner transforms alike, which would decide alike.
                part.set_random_state(part.random_generator, part.py_random)

    def __call__(self, image: Any) -> tuple[Tensor, Tensor]:
        """Map a PIL image, tensor (C, H, W) or array (H, W, C) to its clean and augmented view."""
        self._seed()
        frame = _apply(self.geometric, image)
        own = frame.clone() if isinstance(frame, Tensor) else frame.copy()  # it may write to it
        changed = _apply(self.policy, own)
        if (before := _describe(frame)) != (after := _describe(changed)):
            raise ValueError(
                f"the policy must leave an image's size, channels and type, found {before} before "
                f"it and {after} behind; crop in geometric, convert and normalise in normalise"
            )
        if isinstance(frame, Tensor) != isinstance(changed, Tensor):  # normalise gets one form
            changed = F.to_image(changed) if isinstance(frame, Tensor) else F.to_pil_image(changed)
        views: list[Tensor] = []
        for each in (frame, changed):
            view = _apply(self.normalise, each)
            if not isinstance(view, Tensor) or (views and view.shape != views[0].shape):
                raise ValueError(
                    "normalise must end in a tensor (C, H, W) of the same shape for both views, "
                    f"found {type(view).__name__} of shape {tuple(getattr(view, 'shape', ()))}; "
                    "add v2.ToImage() or ToTensorV2(), and draw nothing in it"
                )
            views.append(view.clone())  # it may be a part's buffer
        return views[0], views[1]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.geometric}, {self.policy}, {self.normalise})"
