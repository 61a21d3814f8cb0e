"""A network as a run needs it: checked, compiled, averaged, with its optimiser."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from math import isfinite
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from keepaugment.no_trace import no_trace

_LIKE_PARAMETERS = {"momentum_buffer", "exp_avg", "exp_avg_sq"}  # in an optimiser's state
_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function compiled for each shape of its arguments.

    An epoch's last batch is smaller. Code for any size would serve the others from then on, too.
    """
    return torch.compile(function, dynamic=False)


class Joined(nn.Module):
    """A model, with a module that trains beside it for DistributedDataParallel to see."""

    def __init__(self, model: nn.Module, beside: nn.Module | None) -> None:
        super().__init__()
        self.model = model
        self.beside = beside

    def forward(self, images: Tensor) -> Any:  # noqa: D102
        return self.model(images)


@torch.no_grad()
def check_single_image(
    model: nn.Module, name: str, channels: int, image_size: tuple[int, int]
) -> None:
    """Raise ValueError unless a model can train on a batch of one image.

    BatchNorm cannot where a stage's output is a single pixel.
    """
    device = next(model.parameters()).device
    twin = copy.deepcopy(model).train()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            twin(torch.zeros(1, channels, *image_size, device=device))
    except ValueError as error:
        raise ValueError(
            f"the last step of an epoch would have one image a process, on which {name} cannot "
            f"train ({error}); change --batch-size or --subset"
        ) from None


@torch.no_grad()
def check_logits(
    model: nn.Module,
    name: str,
    *,
    channels: int,
    image_size: tuple[int, int],
    num_classes: int,
    scales: Iterable[float] = (1.0,),
) -> None:
    """Raise ValueError unless a model gives logits for images, and for scaled copies of them."""
    device = next(model.parameters()).device
    for scale in sorted({1.0, *scales}, reverse=True):
        size = [max(1, round(side * scale)) for side in image_size]
        image = torch.zeros(1, channels, *size, device=device)
        try:
            with no_trace(model, device):
                logits = model(image)
        except Exception as error:  # models refuse sizes in many ways
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"{name} does not take images of {size[0]}x{size[1]} pixels: {reason}"
            ) from error
        if logits.shape != (1, num_classes):
            raise ValueError(f"{name} gives {tuple(logits.shape)}, not logits (1, {num_classes})")


def make_optimizer(
    modules: Iterable[nn.Module],
    *,
    kind: str = "sgd",
    lr: float,
    momentum: float = 0.9,
    weight_decay: float,
    norm_decay: bool = True,
    bias_decay: bool = False,
    apart: Iterable[nn.Module] = (),
    scale: float = 1.0,
) -> torch.optim.Optimizer:
    """An optimiser of the parameters of `modules`.

    Args:
        modules: what is trained.
        kind: "sgd" (Nesterov), or any of timm's, of which "momentum" is SGD without Nesterov's.
        lr: the learning rate.
        momentum: of SGD.
        weight_decay: of weights.
        norm_decay: decay biases and normalisation layers, too.
        bias_decay: without `norm_decay`, spare normalisation layers only.
        apart: parts of the modules whose groups have a rate of their own ...
        scale: ... in units of the others', as "scale" in each of its groups.
    """
    modules = list(modules)
    parameters = [p for module in modules for p in module.parameters()]
    spared = {p for p in parameters if p.ndim <= 1}
    if bias_decay and not norm_decay:
        layers = [each for module in modules for each in module.modules()]
        spared = {p for each in layers if isinstance(each, _NORMS) for p in each.parameters()}
    rest = weight_decay if norm_decay else 0.0
    other = {p for each in apart for p in each.parameters()} if scale != 1.0 else set()
    groups: list[dict[str, Any]] = []
    for own, about in (({*parameters} - other, {}), (other, {"scale": scale})):
        listed = [p for p in parameters if p in own]
        both = ([p for p in listed if p not in spared], [p for p in listed if p in spared])
        for some, decay in zip(both, (weight_decay, rest), strict=True) if listed else ():
            groups.append({"params": some, "weight_decay": decay, **about})
    if kind == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0)
    return create_optimizer_v2(groups, kind, lr=lr, weight_decay=weight_decay, momentum=momentum)


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give an optimiser of `make_optimizer` a learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("scale", 1.0)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)


def _misfits(optimizer: torch.optim.Optimizer) -> Iterator[Any]:
    """The names in the state of SGD or Adam that a step could not go on with."""
    states = [*optimizer.state.values()]
    for parameter, held in optimizer.state.items():
        yield from held.keys() ^ states[0].keys()
        for name in _LIKE_PARAMETERS & held.keys():
            value = held[name]
            if not (isinstance(value, Tensor) and value.shape == parameter.shape):
                yield name
        if "step" in held and not (isinstance(held["step"], Tensor) and held["step"] >= 1):
            yield "step"


def load_whole(model: nn.Module, state: dict[str, Any]) -> None:
    """Load a state dict that lacks nothing; torch takes one without BatchNorm's counts."""
    if lacking := sorted(model.state_dict().keys() - state.keys()):
        raise ValueError(f"its weights have no {', '.join(lacking[:5])}")
    model.load_state_dict(state)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Go on with an optimiser's state, whose kinds torch itself looks at in the next step only.

    Raises:
        ValueError: It is not that of such an optimiser; or KeyError, TypeError, AttributeError.
    """
    before = [dict(group) for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    plain = isinstance(optimizer, (torch.optim.SGD, torch.optim.Adam))  # of which all is known
    wrong = [*_misfits(optimizer)] if plain else []
    for group, known in zip(optimizer.param_groups, before, strict=True):
        whole = known | group  # in its own order; an older torch may not have known all of it
        group.clear()
        group.update(whole)
        for name, value in known.items():
            now = group[name]
            if plain and name not in ("params", "lr"):
                fits = type(now) is type(value) and now == value
            else:
                fits = type(now) is type(value) or (_is_number(now) and _is_number(value))
            wrong += [] if fits else [name]
    if wrong:
        raise ValueError(f"its optimiser has no usable {', '.join(sorted(map(str, {*wrong})))}")


def make_average(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of a model's weights and buffers."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
