"""For timm's training script (https://github.com/huggingface/pytorch-image-models).

Two lines after `loader_train` and `train_loss_fn` are made, with or without timm's prefetcher:

    keep = KeepMixup(KeepCutMix(model, num_classes=1000), num_classes=1000,
                     label_smoothing=args.smoothing, autocast=amp_autocast)
    loader_train, train_loss_fn = KeepLoader(loader_train, keep), SoftTargetCrossEntropy()

The loss is the one that the script makes for its own `--mixup`: with `--bce-loss` leave
`train_loss_fn` as it is, which takes these targets, too. `--jsd-loss` knows no mixed labels.
timm's own `--mixup` and `--cutmix` stay off: its prefetcher mixes bytes in the workers, before a
map could be taken. `--mixup-off-epoch` works as for timm's mixing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor

from keepaugment.adapters.step import Step, run_step
from keepaugment.checks import check_labels


class KeepMixup:
    """A step in the place of `timm.data.Mixup`: `x, target = keep(x, target)`.

    Args:
        step: such as `KeepCutMix(model, num_classes)` or `KeepCutout(model)`.
        num_classes: length of the targets.
        label_smoothing: of the targets; None takes that of `mixup`, or 0.1, the default of timm.
        mixup: timm's `Mixup`, to mix and smooth after a step that leaves labels as they are.
        autocast: makes the context that the map is taken in, as `amp_autocast` of timm's script.

    Attributes:
        mixup_enabled: False leaves images and classes as they are, as in timm, and of two views
            the augmented one.

    Raises:
        ValueError: A `mixup` of another smoothing or another number of classes.
    """

    def __init__(
        self,
        step: Step,
        num_classes: int,
        *,
        label_smoothing: float | None = None,
        mixup: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        if label_smoothing is None:
            label_smoothing = getattr(mixup, "label_smoothing", 0.1)
        ours = {"num_classes": num_classes, "label_smoothing": label_smoothing}
        for name, value in ours.items():
            if (other := getattr(mixup, name, value)) != value:
                raise ValueError(f"{name} is {value} here and {other} in mixup; give both the same")
        self.step = step
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.mixup = mixup
        self.autocast = autocast
        self.mixup_enabled = True

    def __call__(self, x: Any, target: Tensor) -> tuple[Tensor, Tensor]:
        """Map images (B, C, H, W) and labels (B,) to images and targets (B, num_classes).

        Images may be the two views of `TwoViews`, each (B, C, H, W).

        Raises:
            ValueError: A label that is not below `num_classes`.
        """
        augmented = x if isinstance(x, Tensor) else x[-1]
        check_labels(target, len(augmented), self.num_classes)
        if self.mixup_enabled:
            with self.autocast():
                x, target = run_step(self.step, x, target)
        else:
            x = augmented
        if target.ndim == 1 and self.mixup is not None:
            self.mixup.mixup_enabled = self.mixup_enabled  # type: ignore[attr-defined]
            return self.mixup(x, target)
        if target.ndim == 1:
            weights = x.new_zeros((len(target), self.num_classes))
            target = weights.scatter_(1, target.long()[:, None], 1.0)
        smoothing = self.label_smoothing
        return x, target * (1.0 - smoothing) + smoothing / self.num_classes


class KeepLoader:
    """A loader of timm whose batches a `KeepMixup` changes where they arrive, on the device.

    All else of the loader is reached through it.

    Args:
        loader: yields images and labels.
        keep: changes them.
    """

    def __init__(self, loader: Any, keep: KeepMixup) -> None:
        self.loader = loader
        self.keep = keep

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for x, target in self.loader:
            yield self.keep(x, target)

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        if name == "loader" or name.startswith("__"):  # of a copy that is not filled yet
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.loader, name)

    @property
    def mixup_enabled(self) -> bool:
        """Whether batches are changed; timm's script switches it off at `--mixup-off-epoch`."""
        return self.keep.mixup_enabled

    @mixup_enabled.setter
    def mixup_enabled(self, enabled: bool) -> None:
        self.keep.mixup_enabled = enabled
