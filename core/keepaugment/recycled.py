"""Maps for nothing: the gradient that a training step leaves at its own input.

KeepAugment (Gong et al., CVPR 2021, https://arxiv.org/abs/2011.11778) runs the network once more
for each map. But a step's backward pass can go on to the images, at the price of the first layer's
input gradient; put back into the image's frame (see `keepaugment.stored`), that is the map of the
image's next visit. In adversarial training such gradients serve from epoch to epoch in ATTA
(https://arxiv.org/abs/1912.11969).
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from keepaugment.checks import check_images, readable
from keepaugment.stored import ScaledView, StoredMaps, View


class RecycledSaliency(StoredMaps):
    """The gradient of earlier steps' losses at the images, averaged over visits.

    It asks no network for anything, so a loop must hand over what its backward pass found:

        recycled = RecycledSaliency(50_000, (32, 32))
        keep = KeepCutout(saliency=recycled)
        for index, images, labels, view in loader:       # index (B,): the images' numbers
            recycled.at(index, view)
            inputs = keep(images, labels).requires_grad_()
            loss = cross_entropy(model(inputs), labels)
            loss.backward()
            recycled.take(inputs)

    A pixel tells of its image only where `inputs` still shows it as it was in `images`: what lies
    under a cut or under another image's patch, and what a policy moved or recoloured, leaves the
    map as it was. So CutMix, KeepPaste after a policy and any other cut are right as they are;
    Mixup, which changes every pixel, teaches a map nothing. A loss may be scaled, by an image as
    well as by a step; an image's gradient that is not finite, or zero, is left out. When gradients
    are accumulated, `at` and `take` belong to each part. With DistributedDataParallel each process
    stores the maps of its share, and all call `merge` at the end of an epoch.

    An image that was never seen has no map: all its boxes are allowed, as by the plain method. Of
    others, cells that were never seen count as much as the seen ones do on average.

    Args:
        num_images: of the training set.
        image_size: (H, W) of an image, in pixels, as in `StoredMaps`.
        memory: share of a cell's earlier value in the average when a view shows it again.
        size: of a stored map, as in `StoredMaps`.
        device: of the stored maps; the images', or each step copies.

    Raises:
        ValueError: Numbers below 1, a map larger than its image, a memory outside [0, 1).
    """

    least = 1  # so that 0 is a cell that was never seen

    def __init__(
        self,
        num_images: int,
        image_size: tuple[int, int],
        *,
        memory: float = 0.5,
        size: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(num_images, image_size, size=size, device=device)
        if not 0.0 <= memory < 1.0:
            raise ValueError(f"memory must be in [0, 1), found {memory}")
        self.memory = memory
        self.images: Tensor | None = None

    def at(
        self,
        index: Tensor,
        view: View | ScaledView | None = None,
        *,
        epoch: int | None = None,
        images: Tensor | None = None,
    ) -> None:
        """As `StoredMaps.at`; without `images` the views are what the map is asked for.

        That is right unless something else cuts or mixes before.
        """
        super().at(index, view, epoch=epoch, images=images)
        self.images = images

    def __call__(self, images: Tensor, targets: Any = None) -> Tensor:
        """The stored maps of images (B, C, H, W) in the present views: (B, H, W) float32."""
        check_images(images)
        index, view = self._present(len(images), "at(index, view)")
        if self.images is None:
            self.images = images
        return self.read(index, view, (images.shape[2], images.shape[3]))

    def _known(self, index: Tensor) -> Tensor:
        stored = super()._known(index)
        seen = stored > 0
        mean = stored.sum((1, 2), keepdim=True) / seen.sum((1, 2), keepdim=True).clamp(min=1)
        return torch.where(seen, stored, mean)

    def take(self, inputs: Tensor, shown: Tensor | None = None) -> None:
        """Store the gradient that a backward pass left in `inputs`, as maps of the present images.

        Args:
            inputs: (B, C, H, W), what the network was given, with a gradient.
            shown: (B, H, W) bool, the pixels that show their image where it lies; None: those that
                equal the images. To be given if what the network sees is computed from these, such
                as by normalisation.

        Raises:
            ValueError: There is no gradient, or `inputs` are not the images that `at` was told of.
        """
        index, view = self._present(len(inputs), "at(index, view)")
        gradient = inputs.grad if inputs.is_leaf or inputs.retains_grad else None
        if gradient is None:
            raise ValueError(
                "no gradient came to the inputs: call inputs.requires_grad_() before the network "
                "sees them, and take(inputs) after backward()"
            )
        shown = self._unchanged(inputs) if shown is None else shown
        strength = gradient.abs().amax(1).float()
        largest = strength.amax((1, 2), keepdim=True)
        shown = shown & ((largest > 0) & (largest < torch.inf))
        if readable(shown) and not bool(shown.any()):
            warnings.warn(
                "no map was stored: no pixel of the inputs shows its image as it was, or no "
                "gradient was finite and above 0; if pixels are computed from the images', pass "
                "take(inputs, shown)",
                stacklevel=2,
            )
        self.write(index, view, strength / largest, shown)
        self.index = self.view = self.images = None

    def _unchanged(self, inputs: Tensor) -> Tensor:
        """Where inputs show the images: (B, H, W)."""
        images = self.images
        if images is None:
            raise ValueError(
                "the images before the cut are not known: ask for the map in each step, or pass "
                "them, at(index, view, images=), or take(inputs, shown)"
            )
        if (images.shape, images.dtype) != (inputs.shape, inputs.dtype):
            raise ValueError(
                f"inputs {inputs.dtype} {tuple(inputs.shape)} are not the images "
                f"{images.dtype} {tuple(images.shape)} of the map; pass take(inputs, shown)"
            )
        return (inputs.detach() == images).all(1)
