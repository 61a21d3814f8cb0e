"""Does a map leave a trace? Everything that could show one, before and after."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from keepaugment.changes import content_of, held_values, is_array
from keepaugment.generators import generator_state, is_generator

State = dict[str, dict[str, Any]]
"""State that a map must leave as it was: by aspect, and there by name."""

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def _random_state() -> dict[str, Any]:
    numpy = sys.modules.get("numpy")
    state: dict[str, Any] = {"torch": torch.get_rng_state(), "Python": random.getstate()}
    if numpy:
        state["NumPy"] = [*map(str, numpy.random.get_state())]
    return state


def _copy(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().clone()


_VALUES = (str, bytes, int, float, complex, type(None))


def _held(value: Any) -> Any:
    """The content of an attribute, to be compared; objects in it come by themselves."""
    if isinstance(value, _VALUES):
        return value
    if isinstance(value, Tensor):
        return _copy(value)
    if is_array(value):
        return value.dtype.str, value.shape, value.tobytes()
    if is_generator(value):
        state = generator_state(value)
        return state if isinstance(state, Tensor) else repr(state)
    content = content_of(value)
    if content is None:  # an iterator tells by its name how far it is
        return repr(value) if type(value).__module__ in ("builtins", "itertools") else id(value)
    parts = content.items() if isinstance(content, dict) else enumerate(content)
    return {key: part if isinstance(part, _VALUES) else id(part) for key, part in parts}


def _attributes(modules: dict[str, nn.Module]) -> dict[str, Any]:
    """Attributes of modules beside parts, parameters, buffers and hooks, by name."""
    found, seen = {}, set[int]()
    for name, module in modules.items():
        held = {n: v for n, v in vars(module).items() if isinstance(v, _VALUES) and v is not None}
        held.pop("training", None)
        held |= {path: value for path, value, _ in held_values(module, seen)}
        for path, value in held.items():
            found[f"{name}.{path}" if name else path] = _held(value)
    return found


def state_of(model: nn.Module) -> State:
    """Everything that a map must leave as it is, copied."""
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    devices = {parameter.device.type for parameter in parameters.values()} | {"cpu"}
    return {
        "buffers, of BatchNorm and others": {n: _copy(b) for n, b in model.named_buffers()},
        "parameters": {n: _copy(p) for n, p in parameters.items()},
        "gradients of parameters": {n: _copy(p.grad) for n, p in parameters.items()},
        "requires_grad of parameters": {n: p.requires_grad for n, p in parameters.items()},
        "training flags": {n or "the model": m.training for n, m in modules.items()},
        "hooks and attributes": {
            n or "the model": (sorted(vars(m)), [list(getattr(m, hooks)) for hooks in _HOOKS])
            for n, m in modules.items()
        },
        "what attributes hold": _attributes(modules),
        "random numbers of the CPU": _random_state(),
        "random numbers of CUDA": {f"device {n}": state for n, state in enumerate(cuda)},
        "autocast and gradient mode": {
            "gradient mode": torch.is_grad_enabled(),
            "cache": torch.is_autocast_cache_enabled(),
            **{
                kind: (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
                for kind in devices
            },
        },
    }


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal, tensors bit by bit."""
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return type(a) is type(b) and a == b
    if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device:
        return False
    return bool(((a == b) | (a != a) & (b != b)).all())  # NaN equals NaN


def changes(before: State, after: State) -> dict[str, list[str]]:
    """The names whose values differ, by aspect; aspects without any are left out."""
    found = {}
    for aspect, then in before.items():
        now = after[aspect]
        names = [n for n in {**then, **now} if n not in then or n not in now]
        names += [n for n in then if n in now and not same(then[n], now[n])]
        if names:
            found[aspect] = names
    return found


@contextmanager
def _some_gradients(model: nn.Module) -> Iterator[None]:
    """Every other parameter with a gradient, so that additions and new ones both show."""
    parameters = list(model.parameters())
    kept = [parameter.grad for parameter in parameters]
    for number, parameter in enumerate(parameters):
        parameter.grad = torch.ones_like(parameter) if number % 2 else None
    try:
        yield
    finally:
        for parameter, grad in zip(parameters, kept, strict=True):
            parameter.grad = grad


def trace_of(model: nn.Module, action: Callable[[], object]) -> dict[str, list[str]]:
    """Changes by an action in a model and in the process, by aspect."""
    with _some_gradients(model):
        before = state_of(model)
        action()
        return changes(before, state_of(model))
