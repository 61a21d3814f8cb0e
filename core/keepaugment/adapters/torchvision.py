"""For torchvision's transforms v2 (https://docs.pytorch.org/vision/stable/transforms.html)."""

from __future__ import annotations

from typing import Any

from keepaugment.adapters.step import Step, run_step


class KeepTransform:
    """A step among the batch transforms of torchvision v2, as `v2.CutMix` and `v2.MixUp` are.

        keep = KeepTransform(KeepCutMix(model, num_classes=10))
        mix = v2.RandomChoice([keep, v2.MixUp(num_classes=10)])
        for images, labels in loader:
            images, labels = mix(images.to(device), labels.to(device))

    Give it to the loader only without workers:
    `DataLoader(..., num_workers=0, collate_fn=lambda samples: keep(default_collate(samples)))`.

    Args:
        step: such as `KeepCutout(model)`.
    """

    def __init__(self, step: Step) -> None:
        self.step = step

    def __call__(self, *batch: Any) -> Any:
        """Map a batch (images, labels, ...), packed or not, to one of the same form.

        Args:
            *batch: images (B, C, H, W), labels (B,) and anything else, which is passed on; or one
                tuple or list of these.

        Raises:
            ValueError: Something else than images and labels.
        """
        parts = batch[0] if len(batch) == 1 else batch
        if not isinstance(parts, tuple | list) or len(parts) < 2:
            raise ValueError(
                f"expected a batch (images, labels, ...), found {type(parts).__name__}; for a "
                "batch of another form call the step itself on its images and labels"
            )
        images, labels, *others = parts
        changed = [*run_step(self.step, images, labels), *others]
        return type(parts)(*changed) if hasattr(parts, "_fields") else type(parts)(changed)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.step).__name__})"
