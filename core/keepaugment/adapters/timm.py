"""For timm's training script (https://github.com/huggingface/pytorch-image-models)."""

from __future__ import annotations

from torch import Tensor

from keepaugment.adapters.step import Step, run_step


class KeepMixup:
    """A step in the place of `timm.data.Mixup`: `x, target = mixup_fn(x, target)`.

        mixup_fn = KeepMixup(KeepCutMix(model, num_classes=1000), num_classes=1000)
        loss_fn = timm.loss.SoftTargetCrossEntropy()
        for x, target in loader:
            x, target = mixup_fn(x, target)
            loss = loss_fn(model(x), target)

    In timm's `train.py` it replaces the `mixup_fn` and needs `--no-prefetcher`: its prefetcher
    mixes bytes in the workers. A step that leaves labels alone can also come before timm's own
    mixing: `mixup_fn = lambda x, target: mixup(erase(x, target), target)`.

    Args:
        step: such as `KeepCutMix(model, num_classes)` or `KeepCutout(model)`.
        num_classes: length of the targets.
        label_smoothing: of the targets; the default is that of timm's `Mixup`.

    Attributes:
        mixup_enabled: False leaves images and classes as they are, as in timm.
    """

    def __init__(self, step: Step, num_classes: int, *, label_smoothing: float = 0.1) -> None:
        self.step = step
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.mixup_enabled = True

    def __call__(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Map images (B, C, H, W) and labels (B,) to images and targets (B, num_classes)."""
        if self.mixup_enabled:
            x, target = run_step(self.step, x, target)
        if target.ndim == 1:
            weights = target.new_zeros((len(target), self.num_classes), dtype=x.dtype)
            target = weights.scatter_(1, target[:, None], 1.0)
        smoothing = self.label_smoothing
        return x, target * (1.0 - smoothing) + smoothing / self.num_classes
