"""Manifold mixup (Verma et al., 2018, https://arxiv.org/abs/1806.05236)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from classification.comparisons.mixup import blend, blend_labels, check_mixup
from keepaugment.checks import check_images, check_labels
from keepaugment.draws import Source, symmetric_beta, uniform
from keepaugment.early_head import find_layer
from keepaugment.no_trace import computing_map


class _Plan:
    """Orders for the hooks of a model in its next training pass.

    It holds tensors only, so that a model may be copied with its hooks, for instance for averaging.
    """

    partner: Tensor | None = None  # (B,)
    weights: tuple[Tensor, ...] = ()  # of the partner, one per layer; all but one are 0
    active = False  # within the pass

    def begin(self, model: nn.Module, args: Any) -> None:
        """Before the model: a map or an evaluation leaves the plan to the next training pass."""
        self.active = self.partner is not None and model.training and not computing_map()

    def end(self, model: nn.Module, args: Any, output: Any) -> None:
        """After the model, also if it raises: a plan is for one pass."""
        if self.active:
            self.partner, self.weights, self.active = None, (), False

    def mix(self, index: int, module: nn.Module, args: Any, output: Any) -> Tensor | None:
        """After a layer: the output to go on with."""
        if not self.active or self.partner is None:
            return None
        if not isinstance(output, Tensor) or len(output) != len(self.partner):
            found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"a mixed layer must give a tensor for the {len(self.partner)} images that "
                f"ManifoldMixup was called with, found {found}"
            )
        return blend(output, self.partner, self.weights[index])


class ManifoldMixup:
    """Mix a batch at the input of a model or at the output of one of its layers.

    Where is drawn anew for each batch, uniformly. Lambda and partners as in `Mixup`; mixing at the
    input alone would be mixup. The call prepares the model's next training pass, which must be one
    on the images it returns:

        mix = ManifoldMixup(model, ("layer1", "layer2"), num_classes=10)
        for images, labels in loader:
            images, targets = mix(images, labels)
            loss = cross_entropy(model(images), targets)

    Passes in eval mode and saliency maps are never mixed. So that the choice of the layer needs no
    synchronisation, all layers mix, all but one with weight 0.

    - Make it before DistributedDataParallel or torch.compile wrap the model, and from the model
      itself. Each rank mixes its own part of the batch; DataParallel, which splits it, is refused.
    - Not with activation checkpointing of the layers: their second pass would not be mixed.
    - Not with an `EarlyHead` before the last layer, whose features may be unmixed.
    - Call the model itself: `forward_features` alone does not mix.

    Args:
        model: maps images to logits.
        layers: names as in `model.named_modules()`; of the stages that a batch may be mixed after.
            The published code takes the first two.
        num_classes: length of the targets.
        alpha: of the Beta distribution; 2 is the paper's for CIFAR-10, 1 CutMix's for ImageNet.
        generator: where random numbers come from.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str],
        num_classes: int,
        alpha: float = 1.0,
        *,
        generator: Source = None,
    ) -> None:
        check_mixup(num_classes, alpha)
        if isinstance(layers, str) or not layers:
            raise ValueError(f"layers must be a sequence of names, found {layers!r}")
        self.num_classes = num_classes
        self.alpha = alpha
        self.generator = generator
        self.plan = _Plan()
        stages = [find_layer(model, layer) for layer in layers]
        self.hooks = [
            model.register_forward_pre_hook(self.plan.begin),
            model.register_forward_hook(self.plan.end, always_call=True),
            *(
                stage.register_forward_hook(partial(self.plan.mix, index))
                for index, stage in enumerate(stages)
            ),
        ]
        self.num_places = 1 + len(stages)

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Prepare the next training pass: images (B, C, H, W) for it, targets (B, num_classes).

        The images are mixed if the input was drawn, else as they were.
        """
        check_images(images)
        check_labels(labels, len(images), self.num_classes)
        u = uniform(self.generator, (len(images), 4), images.device)
        weight = 1.0 - symmetric_beta(self.alpha, u[:1, 0], u[:1, 1])  # (1,), the batch's draw
        partner = u[:, 3].argsort()
        place = (u[:1, 2] * self.num_places).long()
        places = torch.arange(self.num_places, device=images.device)
        first, *others = torch.where(places == place, weight, 0.0).split(1)
        self.plan.partner, self.plan.weights = partner, tuple(others)
        targets = blend_labels(labels, partner, weight, self.num_classes)
        return blend(images, partner, first), targets

    def remove(self) -> None:
        """Take the hooks off the model."""
        for hook in self.hooks:
            hook.remove()
