"""Which stage of a network is early? A name for `EarlyHead`, for any network.

KeepAugment section 3.1 takes "the first block". What that is, names do not tell; operations do.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, NamedTuple

from torch import Tensor, nn, no_grad
from torch.utils._python_dispatch import TorchDispatchMode

from keepaugment.early_head import grey_images
from keepaugment.no_trace import innermost, no_trace

EARLY_SHARES = (0.15, 0.29, 0.45)  # least, best and most operations up to an early stage

_STEM = re.compile("stem|patch_embed")  # that is made of blocks all the same, as LeViT's

AFTER_STEM = 0.6  # most of them where only a stem ends before, whose filters know no classes


class Flops(TorchDispatchMode):
    """Counts floating-point operations by torch's formulas: convolutions and matrix products.

    torch's own `FlopCounterMode` follows modules, too, and fails in `autograd.grad` for an input.
    """

    def __init__(self) -> None:
        super().__init__()
        from torch.utils.flop_counter import flop_registry  # here, because it imports triton

        self.formulas = flop_registry
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if (formula := self.formulas.get(func.overloadpacket)) is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


class Stage(NamedTuple):
    """A layer whose output an early head may take.

    Attributes:
        name: as in `model.named_modules()`.
        share: of the forward pass's operations, those done when its output is there.
        shape: of its output.
    """

    name: str
    share: float
    shape: tuple[int, ...]

    @property
    def num_features(self) -> int | None:
        """Its channels where they are known, the last axis of a transformer's (B, N, C)."""
        return self.shape[2] if len(self.shape) == 3 else None


def stages(model: nn.Module, images: Tensor) -> list[Stage]:
    """The layers of a model that run once and give a tensor, in the order in which they end."""
    model, ended = innermost(model), []
    counter = Flops()

    def hook(name: str) -> Any:
        return lambda module, args, output: ended.append((name, counter.total, output))

    hooks = [each.register_forward_hook(hook(name)) for name, each in model.named_modules() if name]
    try:
        with no_trace(model, images.device), no_grad(), counter:
            model(images)
    finally:
        for each in hooks:
            each.remove()
    runs = Counter(name for name, _, _ in ended)
    return [
        Stage(name, done / max(1, counter.total), tuple(output.shape))
        for name, done, output in ended
        if runs[name] == 1 and isinstance(output, Tensor) and 2 <= output.ndim <= 4
    ]


def _made_of_blocks(name: str, module: nn.Module) -> bool:
    """Whether its parts have parts, as a stage's have and a stem's single layers have not."""
    return not _STEM.search(name) and any(
        next(part.children(), None) is not None for part in module.children()
    )


def _seen_stages(model: nn.Module, images: Tensor | None) -> list[Stage]:
    """The stages of a model on images, or on a grey one that it takes."""
    if images is not None:
        return stages(model, images)
    first_error: Exception | None = None
    for grey in grey_images(innermost(model)):
        try:
            return stages(model, grey)
        except Exception as error:  # models refuse sizes and planes in many ways
            first_error = first_error or error
    raise ValueError(f"the model takes no grey image ({first_error}); give images")


def early_stage(model: nn.Module, images: Tensor | None = None) -> Stage:
    """The stage for an early head: a quarter to a third of the operations, named as shortly as can.

        head = EarlyHead(model, early_stage(model).name, num_classes=10)

    A network that is made of blocks gets its head behind one of them, not behind its stem.

    Args:
        model: any network; it is left as it was.
        images: (B, C, H, W), as it takes them; None: a grey one.

    Raises:
        ValueError: No layer ends there, or the model takes no grey image.
    """
    least, best, most = EARLY_SHARES
    found, modules = _seen_stages(model, images), dict(innermost(model).named_modules())
    found = [
        stage
        for stage in found
        if stage.shape[2:] != (1, 1) and next(modules[stage.name].parameters(), None) is not None
    ]  # with places left, and no mere activation or pooling
    blocks = [stage for stage in found if _made_of_blocks(stage.name, modules[stage.name])]
    for group, limit in ((blocks, most), (blocks, AFTER_STEM), (found, most)):
        suitable = [stage for stage in group if least <= stage.share <= limit]
        if suitable:
            return min(suitable, key=lambda s: (s.name.count("."), abs(s.share - best)))
    raise ValueError(
        f"no layer of {type(innermost(model)).__name__} ends after {least:.0%} to {most:.0%} "
        "of its operations; name a stage yourself, or leave the early head out"
    )
