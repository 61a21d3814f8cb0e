"""For Lightning's Trainer (https://lightning.ai/docs/pytorch)."""

from __future__ import annotations

from typing import Any

from keepaugment.adapters.step import Step, run_step


class KeepCallback:
    """A step as a callback, to be put before Lightning's class.

        class Keep(KeepCallback, lightning.Callback):
            pass

        trainer = lightning.Trainer(callbacks=[Keep(KeepCutout(module))])

    There `module`, the LightningModule, maps images to logits; a function may do so instead, such
    as `lambda images: module.model(images)`. The callback changes each training batch right before
    `training_step`, on the device and in the Trainer's precision. Steps that mix hand class weights
    (B, K) to `training_step`. Models whose parameters are split over devices (FSDP, DeepSpeed) are
    not supported.

    Args:
        step: such as `KeepCutout(module)`.
        images: place of the images in a batch, a number, or a name if batches are dicts.
        labels: place of the labels.
    """

    def __init__(self, step: Step, images: Any = 0, labels: Any = 1) -> None:
        super().__init__()
        self.step = step
        self.images = images
        self.labels = labels

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Change a batch in place.

        Raises:
            ValueError: A batch that is neither a list nor a dict, or has no images and labels in
                their places.
        """
        if not isinstance(batch, list | dict):
            raise ValueError(
                f"a batch must be a list or a dict to be changed in place, found "
                f"{type(batch).__name__}; let collate_fn return [images, labels]"
            )
        try:
            given = batch[self.images], batch[self.labels]
        except (LookupError, TypeError) as error:
            places = list(batch) if isinstance(batch, dict) else range(len(batch))
            raise ValueError(
                f"a batch has no images at {self.images!r} and labels at {self.labels!r}, its "
                f"places are {', '.join(map(repr, places))}; say images= and labels=, or, of "
                "several loaders, call the step in training_step on the batch of one"
            ) from error
        with trainer.precision_plugin.forward_context():
            changed = run_step(self.step, *given)
        batch[self.images], batch[self.labels] = changed
