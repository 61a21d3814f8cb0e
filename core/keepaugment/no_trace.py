"""Run a model for a saliency map and leave no trace in it.

Putting the whole model in eval mode would be wrong: some models return features there instead of
logits. So only what behaves differently while training is switched: layers without children
(BatchNorm, dropout, DropPath, ShakeDrop, ...), every normalisation and dropout layer, blocks that
hold no linear layer and so no classifier to leave out, and blocks that say by their class name that
they are stochastic. `F.dropout(x, training=self.training)` is caught wherever it is called.
"""

from __future__ import annotations

import functools
import inspect
import random
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode

Forward = Callable[[Tensor], Tensor]
"""A model: images (B, C, H, W) -> logits (B, K)."""

_computing_map = False  # read by hooks that look at training passes only


def computing_map() -> bool:
    """Whether a model runs for a map at the moment, not for training."""
    return _computing_map


_STOCHASTIC_BLOCK = re.compile("drop|shake|stochastic", re.IGNORECASE)


def innermost(model: nn.Module) -> nn.Module:
    """The user's own module inside torch.compile and DistributedDataParallel, in any order."""
    while True:
        if isinstance(model, DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner  # torch.compile's wrapper
        else:
            return model


def held_modules(model: Any, depth: int = 3) -> list[nn.Module]:
    """The modules that a callable runs, as far as can be seen from outside.

    That is itself, what a bound method belongs to, what a partial holds, what a function closes
    over or names, or an object's attributes; and what these hold in turn, `depth` levels deep.
    """
    if isinstance(model, nn.Module):
        owner = vars(model).get("owner")  # an EarlyHead's model, which is no submodule of it
        early = owner if isinstance(owner, tuple) else ()
        return [model, *(module for module in early if isinstance(module, nn.Module))]
    if depth == 0 or inspect.ismodule(model) or inspect.isclass(model):
        return []
    if inspect.ismethod(model):
        held: list[Any] = [model.__self__]
    elif isinstance(model, functools.partial):
        held = [model.func, *model.args, *model.keywords.values()]
    elif inspect.isfunction(model):
        names = inspect.getclosurevars(model)
        held = [*names.nonlocals.values(), *names.globals.values()]
    else:
        held = list(getattr(model, "__dict__", {}).values())
    return [module for value in held for module in held_modules(value, depth - 1)]


def _changes_with_training(module: nn.Module, outermost: bool) -> bool:
    """Whether a module is switched for a map; a classifier, whose eval may differ, is not."""
    if isinstance(module, _NormBase | _DropoutNd) or next(module.children(), None) is None:
        return True
    if outermost:
        return False
    if _STOCHASTIC_BLOCK.search(type(module).__name__):
        return True
    return not any(isinstance(part, nn.Linear) for part in module.modules())


# Where functional layers take `training` or a dropout probability when it comes by position, as it
# does under torch.compile; eager calls reach the mode with everything by keyword.
_POSITION: dict[Callable[..., Any], int] = {
    F.batch_norm: 5,
    F.rrelu: 3,
    F.scaled_dot_product_attention: 4,
    **dict.fromkeys((F.dropout, F.dropout1d, F.dropout2d, F.dropout3d), 2),
    **dict.fromkeys((F.alpha_dropout, F.feature_alpha_dropout), 2),
    **dict.fromkeys((torch.dropout, torch.alpha_dropout, torch.feature_dropout), 2),
}


class _EvaluationCalls(TorchFunctionMode):
    """Every functional layer called as in training runs as in evaluation."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm and args[1] is None:  # no statistics to use instead of the batch's
            return func(*args, **kwargs)
        if kwargs.get("training"):
            kwargs = {**kwargs, "training": False}
        if kwargs.get("dropout_p"):
            kwargs = {**kwargs, "dropout_p": 0.0}
        if func in _POSITION and len(args) > _POSITION[func]:
            position = _POSITION[func]
            off = 0.0 if func is F.scaled_dot_product_attention else False
            args = (*args[:position], off, *args[position + 1 :])
        return func(*args, **kwargs)


@contextmanager
def _same_random_numbers(device: torch.device) -> Iterator[None]:
    """Put back torch's generators (CPU and `device`), Python's, and NumPy's global one if used."""
    numpy_random = getattr(sys.modules.get("numpy"), "random", None)
    python_state = random.getstate()
    numpy_state = numpy_random.get_state() if numpy_random else None
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python_state)
        if numpy_random:
            numpy_random.set_state(numpy_state)


@contextmanager
def no_trace(model: Forward, device: torch.device) -> Iterator[None]:
    """Within it a model computes as in evaluation, and only its input can ask for a gradient.

    On leaving, also by an exception, the train flag of every module, `requires_grad` of every
    parameter and the global random number generators (torch's on the CPU and `device`, Python's,
    NumPy's) are what they were. BatchNorm buffers and `.grad` are never written. Dropout that a
    function hides from `held_modules` is still caught when it is called; hidden layers of other
    kinds are not.
    """
    roots = held_modules(model)
    modules = {module for root in roots for module in root.modules()}
    inner = {module for root in map(innermost, roots) for module in [*root.modules()][1:]}
    switched = [m for m in modules if m.training and _changes_with_training(m, m not in inner)]
    parallel = [m for m in modules if isinstance(m, DistributedDataParallel)]
    parameters = [p for m in roots for p in m.parameters() if p.requires_grad and p.is_leaf]
    global _computing_map
    outer, _computing_map = _computing_map, True
    try:
        for module in switched:
            module.training = False
        for parameter in parameters:
            parameter.requires_grad_(False)
        for module in parallel:  # wherever it hides, its reducer must not see this pass
            vars(module)["forward"] = module.module.__call__
        with _same_random_numbers(device), _EvaluationCalls():
            yield
    finally:
        _computing_map = outer
        for module in switched:
            module.training = True
        for parameter in parameters:
            parameter.requires_grad_(True)
        for module in parallel:
            del vars(module)["forward"]
