"""For the Trainer of Hugging Face's transformers (https://huggingface.co/docs/transformers)."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from keepaugment.adapters.step import Step, run_step


class KeepTrainer:
    """A step in a Trainer for images, to be put before it.

        class Trainer(KeepTrainer, transformers.Trainer):
            pass

        keep = KeepCutout(lambda images: model(pixel_values=images).logits, size=112)
        trainer = Trainer(model, arguments, train_dataset=dataset, step=keep)
        trainer.train()

    It changes `pixel_values` before each training loss, on the device and in the Trainer's
    precision; evaluation sees the images as they are. A step that mixes needs a loss for class
    weights, too: `Trainer(..., step=KeepCutMix(logits, 1000), compute_loss_func=mixed_loss)`.

    Args:
        *args: the Trainer's.
        step: such as `KeepCutout(logits)`, where `logits` maps images to logits.
        **options: the Trainer's.
    """

    def __init__(self, *args: Any, step: Step, **options: Any) -> None:
        super().__init__(*args, **options)
        self.step = step

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **options: Any) -> Any:
        """The Trainer's loss, in training of images that the step has changed.

        Raises:
            ValueError: Mixed labels without a loss for them.
        """
        trainer: Any = super()
        if model.training:
            images, targets = run_step(self.step, inputs["pixel_values"], inputs["labels"])
            mixed = targets is not inputs["labels"]
            if mixed and self.compute_loss_func is None:  # type: ignore[attr-defined]
                raise ValueError(
                    "the step gives class weights, which the model takes for labels of another "
                    "task; give the Trainer compute_loss_func=mixed_loss"
                )
            inputs = {**inputs, "pixel_values": images, "labels": targets}
        return trainer.compute_loss(model, inputs, *args, **options)


def mixed_loss(
    outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None
) -> Tensor:
    """Cross-entropy for `Trainer(compute_loss_func=...)`, with class weights or plain labels.

    Args:
        outputs: a model's, with `logits` (B, K).
        labels: weights (B, K), or classes (B,).
        num_items_in_batch: images of all the batches whose gradients are added up; None takes the
            mean over this one.
    """
    if num_items_in_batch is None:
        return F.cross_entropy(outputs["logits"], labels)
    total = F.cross_entropy(outputs["logits"], labels, reduction="sum")
    return total / num_items_in_batch
