"""Where is the important region? Maps (images, targets) -> (B, H, W), large where it matters.

The map of KeepAugment (Gong et al., CVPR 2021, https://arxiv.org/abs/2011.11778, section 3) is the
vanilla gradient of Simonyan et al., 2013 (https://arxiv.org/abs/1312.6034), from a half-size copy
or an early classification head if it shall be cheap (section 3.1). Any callable of the same form
is accepted where a map is, an attribution of Captum for one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn

from keepaugment.checks import (
    check_images,
    check_labels,
    check_no_transform,
    check_saliency,
    check_scale,
)
from keepaugment.draws import Source, uniform
from keepaugment.early_head import EarlyHead
from keepaugment.no_trace import Forward, held_models, no_trace

Saliency = Callable[[Tensor, Any], Tensor]
"""images (B, C, H, W), targets -> saliency (B, H, W).

Targets are what the map is taken for: labels (B,), a box tensor per image, or None, as the map
takes them. A Keep method hands them on as it was given them.
"""

Objective = Callable[[Any, Any], Tensor]
"""A model's output, targets -> what a map explains: a number per image (B,), or their sum."""


def _leaf(images: Tensor, scale: float) -> Tensor:
    """The leaf of the gradient: the images, or a bicubic copy of `scale` times their size."""
    images = images.clone() if images.is_inference() else images.detach()
    if scale != 1.0:
        size = [max(1, round(side * scale)) for side in images.shape[2:]]
        images = F.interpolate(images, size, mode="bicubic", align_corners=False)
    return images.requires_grad_()


def _explained(logits: Any, targets: Tensor | None, batch: int) -> Tensor:
    """The sum of the logits that the images' maps explain."""
    if isinstance(logits, Tensor) and logits.shape in ((batch,), (batch, 1)):
        return logits.sum()  # the one logit of two classes, whose map is that of either
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != batch:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"the model must return logits ({batch}, K), found {found}; "
            "pass a function that picks them, such as lambda x: model(x)[0], or objective="
        )
    if isinstance(targets, Tensor) and targets.shape == logits.shape:
        return (logits * targets.to(logits.dtype, copy=True)).sum()
    if targets is None:
        targets = logits.argmax(1)
    else:
        check_labels(targets, batch, logits.shape[1])
    index = targets.long().clone()  # autograd saves no tensor that was made in inference mode
    return logits.gather(1, index[:, None]).sum()


def _checked(value: Any, batch: int) -> Tensor:
    """An objective's value as one number that depends on the images."""
    if not isinstance(value, Tensor) or value.shape not in ((), (batch,)):
        found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"an objective must give ({batch},) numbers or their sum, found {found}")
    if not value.requires_grad:
        raise ValueError("the model's outputs do not depend on its input; does it use no_grad?")
    return value.sum()


def check_whole(model: Forward) -> None:
    """Raise ValueError if FullyShardedDataParallel (not `fully_shard`) has split the model.

    It loses gradients, without a word, where parameters are frozen for a while.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp.fully_sharded_data_parallel")
    if fsdp is None or not torch.distributed.is_initialized():
        return
    for held in held_models(model):
        parts = held.modules() if isinstance(held, nn.Module) else ()
        if any(isinstance(part, fsdp.FullyShardedDataParallel) for part in parts):
            raise ValueError(
                "FullyShardedDataParallel loses gradients when a map is taken; split the model "
                "by torch.distributed.fsdp.fully_shard"
            )


def _gradient(explained: Tensor, inputs: Tensor) -> Tensor:
    try:
        return torch.autograd.grad(explained, inputs)[0]
    except RuntimeError as error:
        if "use_reentrant" not in str(error):
            raise
        raise ValueError(
            "the model's checkpointing gives no gradient of its input alone; checkpoint with "
            "use_reentrant=False"
        ) from error


def saliency_map(
    model: Forward,
    images: Tensor,
    targets: Any = None,
    *,
    scale: float = 1.0,
    objective: Objective | None = None,
) -> Tensor:
    """The absolute gradient of each image's label logit, its maximum over channels (section 3).

    The model computes as in evaluation and is left as it was (see `keepaugment.no_trace`). Works
    inside `no_grad` and under autocast; one backward pass serves the batch. In code of
    your own that you compile, wrap the map in `torch.compiler.disable`: the model within still runs
    compiled if it is.

    Args:
        model: any callable from images to logits (B, K) before softmax; a module may be compiled
            or wrapped in DistributedDataParallel.
        images: (B, C, H, W), floating point, as the model takes them (normalised).
        targets: labels (B,); or class weights (B, K), as of mixed or several labels, whose weighted
            sum of logits is explained; None explains each image's largest logit (section 4.3). A
            single logit, (B,) or (B, 1), needs none.
        scale: below 1, the map is that of a bicubic copy `scale` times as high and wide, brought
            back by nearest neighbours (section 3.1, "low resolution").
        objective: what is explained instead, of the model's output, whatever it is, and the
            targets, whatever they are: for segmentation
            `lambda outputs, masks: -cross_entropy(outputs, masks)`. A detector that takes its
            targets with the images is called in here, with `lambda images: images` for a model:
            `lambda images, targets: sum(detector(list(images), targets).values())`. What is
            explained of an image must depend on that image alone.

    Returns:
        (B, H, W) float32, not negative.

    Raises:
        ValueError: Integer images, labels out of range, a scale outside (0, 1], a model whose
            output is not (B, K) or does not depend on the images, an objective that gives something
            else than (B,) numbers or one, reentrant checkpointing, FullyShardedDataParallel, a call
            within `torch.func.vmap` or `grad`.
    """
    check_images(images)
    check_scale(scale)
    check_no_transform()
    if not len(images):
        return images.new_zeros(0, *images.shape[2:], dtype=torch.float32)
    check_whole(model)
    with (
        no_trace(model, images.device) as compiled,
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        # The model gets a copy, which it may write to: no leaf, but dynamo warns of any other.
        inputs = _leaf(images.clone() if compiled else images, scale)
        try:
            output = model(inputs if compiled else inputs.clone())
        except (AssertionError, RuntimeError, ValueError) as error:  # models refuse in many ways
            if scale == 1.0 or isinstance(error, torch.OutOfMemoryError):
                raise
            raise ValueError(
                f"the model refuses images of {tuple(inputs.shape[2:])}, {scale} of their size "
                f"({error}); take scale=1, or a model for images of any size"
            ) from error
        if objective is None:
            explained = _explained(output, targets, len(images))
        else:
            explained = objective(output, targets)
        gradient = _gradient(_checked(explained, len(images)), inputs)
    saliency = gradient.abs().amax(1, keepdim=True).float()
    if scale != 1.0:
        saliency = F.interpolate(saliency, images.shape[2:], mode="nearest")
    return saliency[:, 0]


class GradientSaliency:
    """The gradient map of a model, full or cheap.

    Args:
        model: as in `saliency_map`.
        scale: 0.5 for the paper's "low resolution".
        head: an `EarlyHead` of the same model for the paper's "early loss": the network runs only
            up to the head's stage. Combines with `scale`.
        objective: as in `saliency_map`, with a head of the head's logits.
    """

    def __init__(
        self,
        model: Forward,
        scale: float = 1.0,
        head: EarlyHead | None = None,
        *,
        objective: Objective | None = None,
    ) -> None:
        check_scale(scale)
        self.model = model
        self.scale = scale
        self.head = head
        self.objective = objective

    def __call__(self, images: Tensor, targets: Any = None) -> Tensor:
        """Map images (B, C, H, W) and targets, as `saliency_map` takes them, to (B, H, W)."""
        model = self.model if self.head is None else self.head.early_logits
        return saliency_map(model, images, targets, scale=self.scale, objective=self.objective)


class RandomSaliency:
    """Control: independent noise in every pixel. It knows nothing and costs nothing."""

    def __init__(self, generator: Source = None) -> None:
        self.generator = generator

    def __call__(self, images: Tensor, targets: Any = None) -> Tensor:
        """Map images (B, C, H, W) to saliency (B, H, W) in [0, 1)."""
        return uniform(self.generator, (len(images), *images.shape[2:]), images.device)


class ShuffledSaliency:
    """Control: every image gets another image's map, so only what all images share is left."""

    def __init__(self, saliency: Saliency, generator: Source = None) -> None:
        self.saliency = saliency
        self.generator = generator

    def __call__(self, images: Tensor, targets: Any = None) -> Tensor:
        """Map images (B, C, H, W) and targets to saliency (B, H, W)."""
        order = uniform(self.generator, (len(images), 1), images.device)[:, 0].argsort()
        check_saliency(saliency := self.saliency(images, targets), images)
        result = torch.empty_like(saliency)
        result[order] = saliency[order.roll(1)]  # one cycle: with B > 1 nobody keeps its own
        return result


class InvertedSaliency:
    """Control: important and unimportant change places, so a Keep method destroys the former."""

    def __init__(self, saliency: Saliency) -> None:
        self.saliency = saliency

    def __call__(self, images: Tensor, targets: Any = None) -> Tensor:
        """Map images (B, C, H, W) and targets to saliency (B, H, W), not negative."""
        check_saliency(saliency := self.saliency(images, targets), images)
        return saliency.amax((1, 2), keepdim=True) - saliency


class CentreSaliency:
    """Control: importance falls from the centre to the corners, the same for every image."""

    def __call__(self, images: Tensor, targets: Any = None) -> Tensor:
        """Map images (B, C, H, W) to saliency (B, H, W) in (0, 1], a bell around the centre."""
        y, x = (
            (2 * torch.arange(side, device=images.device) + 1) / side - 1
            for side in images.shape[2:]
        )
        return torch.exp(-(y[:, None] ** 2 + x**2)).expand(len(images), -1, -1)
