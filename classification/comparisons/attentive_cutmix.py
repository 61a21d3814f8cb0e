"""Attentive CutMix (Walawalkar et al., 2020, https://arxiv.org/abs/2003.13048).

The public port (xden2331/attentive_cutmix) takes one channel of the attention network for the mean
of all, and runs it in training mode on images that are not normalised; this module does as the
paper says instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import timm
import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from classification.comparisons.mixup import blend_labels
from keepaugment.checks import check_images, check_labels, check_saliency
from keepaugment.draws import Source, uniform
from keepaugment.early_head import find_layer
from keepaugment.no_trace import no_trace
from keepbench.images import check_colours

MapSource = Callable[[Tensor], Tensor]
"""Images (B, C, H, W) to the importance of their cells (B, cells, cells)."""


def _features(network: nn.Module, layer: nn.Module, images: Tensor) -> Tensor:
    """The layer's output (B, C, h, w); the network computes as in evaluation, and is left alone."""
    kept: list[Tensor] = []
    hook = layer.register_forward_hook(lambda module, args, output: kept.append(output))
    try:
        with no_trace(network, images.device), torch.no_grad():
            network(images)
    finally:
        hook.remove()
    if len(kept) != 1 or not isinstance(kept[0], Tensor) or kept[0].ndim != 4:
        raise ValueError("the attention layer must run once and give a tensor (B, C, h, w)")
    return kept[0]


def attention_of(
    network: nn.Module | str,
    layer: str = "layer4",
    *,
    mean: Sequence[float],
    std: Sequence[float],
    size: int = 224,
    device: torch.device | str | None = None,
) -> MapSource:
    """Where a network trained on ImageNet looks: the mean over channels of a late feature map.

    Args:
        network: trained, on the images' device; or a name of timm's, whose weights are then
            downloaded unless they are there already. The public port's is "resnet50.tv_in1k".
        layer: the last one with a feature map, as in `named_modules()`. At size 224 that of a
            ResNet is 7 x 7.
        mean: of each channel, which the images that come in are normalised by; as ImageNet's, in
            units of the full range of a pixel.
        std: likewise.
        size: the images' side in pixels that the network sees.
        device: of a network made by its name.
    """
    if isinstance(network, str):
        network = timm.create_model(network, pretrained=True).to(device)
    model, stage = network, find_layer(network, layer)
    triples = [torch.tensor(v) for v in (mean, std, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)]
    if any(values.shape != (3,) for values in triples):
        raise ValueError(f"mean and std must be of three channels, found {mean} and {std}")
    check_colours(mean, std)
    mean_in, std_in, mean_out, std_out = triples
    affine = torch.stack((std_in / std_out, (mean_in - mean_out) / std_out))[:, :, None, None]

    def attention(images: Tensor) -> Tensor:
        scale, shift = affine.to(images.device, non_blocking=True)
        images = images.detach().float() * scale + shift
        if images.shape[2:] != (size, size):
            images = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
        return _features(model, stage, images).float().mean(1)

    return attention


class AttentiveCutMix:
    """Paste the cells that another image is most attentive in, and mix the labels.

    Each image is divided into cells x cells; the `top` most important cells of its partner replace
    its own at the same place. Partners are a random permutation of the batch. The area, and with it
    lambda, is nearly the same for all: top / cells ** 2, exactly so where the image's sides are
    multiples of `cells`.

    Args:
        map_source: images (B, C, H, W) -> importance (B, cells, cells), for instance
            `attention_of("resnet50.tv_in1k", mean=mean, std=std)`.
        num_classes: length of the targets.
        cells: in a row and in a column.
        top: cells that are pasted, 6 in the paper.
        generator: where random numbers come from.
    """

    def __init__(
        self,
        map_source: MapSource,
        num_classes: int,
        cells: int = 7,
        top: int = 6,
        *,
        generator: Source = None,
    ) -> None:
        if not 1 <= top <= cells**2:
            raise ValueError(f"top must be in [1, cells ** 2], found {top} of {cells} x {cells}")
        self.map_source = map_source
        self.num_classes = num_classes
        self.cells = cells
        self.top = top
        self.generator = generator

    def mask(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """The pixels of the top cells of images (B, C, H, W) themselves: (B, 1, H, W) bool.

        A pixel belongs to the cell that nearest-neighbour resizing of the map gives it. Nothing
        here is random.
        """
        check_images(images)
        importance, cells = self.map_source(images), self.cells
        check_saliency(importance)
        if importance.shape != (len(images), cells, cells):
            raise ValueError(
                f"map_source must give ({len(images)}, {cells}, {cells}) for images of shape "
                f"{tuple(images.shape)}, found {tuple(importance.shape)}"
            )
        best = importance.flatten(1).topk(self.top, dim=1).indices
        chosen = torch.zeros_like(importance, dtype=torch.bool).flatten(1).scatter(1, best, True)
        y, x = (torch.arange(n, device=images.device) * cells // n for n in images.shape[2:])
        return chosen.unflatten(1, (cells, cells))[:, y[:, None], x][:, None]

    def __call__(
        self, images: Tensor, labels: Tensor, *, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mix images (B, C, H, W) and labels (B,): new images and targets (B, num_classes).

        A target's weights are the pixel shares of the two images in it. `mask` may have been drawn
        before.
        """
        check_images(images)
        check_labels(labels, len(images), self.num_classes)
        mask = self.mask(images, labels) if mask is None else mask
        partner = uniform(self.generator, (len(images), 1), images.device)[:, 0].argsort()
        pasted = mask[partner]
        targets = blend_labels(labels, partner, pasted.float().mean((2, 3)), self.num_classes)
        return torch.where(pasted, images[partner], images), targets
