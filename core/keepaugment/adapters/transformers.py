"""For the Trainer of Hugging Face's transformers (https://huggingface.co/docs/transformers)."""

from __future__ import annotations

import functools
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
    weights, too: `Trainer(..., step=KeepCutMix(logits, 1000), compute_loss_func=mixed_loss)`. That
    one smooths by the Trainer's `label_smoothing_factor`, which no other loss function is given.

    Args:
        *args: the Trainer's.
        step: such as `KeepCutout(logits)`, where `logits` maps images to logits.
        **options: the Trainer's.

    Raises:
        ValueError: A `label_smoothing_factor` beside a loss function of one's own, or `mixed_loss`
            for a model whose `problem_type` is another.
    """

    def __init__(self, *args: Any, step: Step, **options: Any) -> None:
        super().__init__(*args, **options)
        self.step = step
        self._settle_loss()

    def _settle_loss(self) -> None:
        """Give `mixed_loss` what else the Trainer's and the model's own losses would have used."""
        trainer: Any = self
        smoothing = trainer.args.label_smoothing_factor
        config = getattr(trainer.model, "config", None)
        problem = getattr(config, "problem_type", None)
        if trainer.compute_loss_func is mixed_loss:
            if problem in ("regression", "multi_label_classification"):
                raise ValueError(
                    f"mixed_loss is for images of one class each, the model's problem_type is "
                    f"{problem!r}; give compute_loss_func a loss for it"
                )
            trainer.compute_loss_func = functools.partial(mixed_loss, label_smoothing=smoothing)
        elif smoothing and trainer.compute_loss_func is not None:
            raise ValueError(
                f"label_smoothing_factor={smoothing} reaches no compute_loss_func but mixed_loss; "
                "smooth in your own function and leave it 0"
            )

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
    outputs: Any,
    labels: Tensor,
    num_items_in_batch: Tensor | int | None = None,
    *,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy for `Trainer(compute_loss_func=...)`, with class weights or plain labels.

    Args:
        outputs: a model's, with `logits` (B, K).
        labels: weights (B, K), or classes (B,).
        num_items_in_batch: images of all the batches whose gradients are added up; None takes the
            mean over this one.
        label_smoothing: share of every label that is spread over all classes, in [0, 1].
    """
    reduction = "mean" if num_items_in_batch is None else "sum"
    loss = F.cross_entropy(
        outputs["logits"], labels, reduction=reduction, label_smoothing=label_smoothing
    )
    return loss if num_items_in_batch is None else loss / num_items_in_batch
