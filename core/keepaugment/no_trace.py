"""Run a model for a saliency map and leave no trace in it.

Putting the whole model in eval mode would be wrong: some models return features there instead of
logits. So only what behaves differently while training is switched: layers without children
(BatchNorm, dropout, DropPath, ShakeDrop, ...), every normalisation and dropout layer, blocks that
hold no linear layer and so no classifier, and blocks whose class name says that they are
stochastic. `F.dropout(x, training=self.training)` is caught wherever it is called, and a module
that cannot be seen from outside is switched when it is called.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CellType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import get_worker_info

from keepaugment.changes import Changes
from keepaugment.evaluation_calls import EvaluationCalls
from keepaugment.generators import Generators, is_generator

Forward = Callable[[Tensor], Tensor]
"""A model: images (B, C, H, W) -> logits (B, K)."""

_computing_map = False
_one_map = threading.RLock()  # two maps of one model at a time would restore each other's flags


def computing_map() -> bool:
    """Whether a model runs for a map, not for training.

    For hooks, and for models that are random in training in a way that a map cannot switch off:
    `if self.training and not keepaugment.computing_map(): ...`.
    """
    return _computing_map


class MapWarning(UserWarning):
    """A model did for a map what could not be switched off, or not be put back."""


_RANDOM = (
    "the model drew random numbers for a map, which is therefore not that of evaluation; where it "
    "is random in training alone, let it ask: self.training and not keepaugment.computing_map()"
)
_MOVED = (
    "the model changed {} for a map where it could not be put back, so it trains otherwise than "
    "without maps; let it do so in training alone: "
    "self.training and not keepaugment.computing_map()"
)
_STOCHASTIC_BLOCK = re.compile("drop|shake|stochastic", re.IGNORECASE)
_HOLD_NOTHING = (str, bytes, int, float, type(None), Tensor, torch.device, type, ModuleType)
_CLEAN = ("torch.nn.", "torch.distributed.")  # whose modules keep no state of an evaluation
_FEW = 200  # values that are looked at; what is deeper is met when it is called


def innermost(model: nn.Module) -> nn.Module:
    """The user's own module inside torch.compile and DistributedDataParallel, in any order."""
    while True:
        if isinstance(model, DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner  # torch.compile's wrapper
        else:
            return model


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a variable that is not set yet
        return None


def _held(value: Any) -> list[Any]:
    """The contents of a callable, a container or an object."""
    if inspect.ismethod(value):
        return [value.__self__]
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if inspect.isfunction(value):
        filled = map(_content, value.__closure__ or ())
        named = [value.__globals__.get(name) for name in value.__code__.co_names]
        defaults = (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values())
        return [*filled, *named, *defaults]
    if isinstance(value, dict | list | tuple | set):
        values = value.values() if isinstance(value, dict) else value
        return list(itertools.islice(values, _FEW))
    slots = [getattr(value, name, None) for name in getattr(type(value), "__slots__", ())]
    return [*slots, *getattr(value, "__dict__", {}).values()]


def _reached(model: Any, depth: int = 5) -> Iterator[Any]:
    """The objects that a callable uses, as far as can be seen, itself first; not those in modules.

    That is what a bound method belongs to, what a partial, a container or an object holds, what a
    function closes over, names or has for defaults; and what these hold in turn, `depth` levels
    deep.
    """
    level, seen = [model], {id(model)}
    for _ in range(depth + 1):
        deeper: list[Any] = []
        for value in level:
            yield value
            if not isinstance(value, nn.Module):
                deeper += _held(value)
                continue
            if inspect.isfunction(forward := vars(type(value)).get("forward")):
                deeper += filter(is_generator, _held(forward))  # that it names
            if isinstance(owner := vars(value).get("owner"), tuple):  # an EarlyHead's model
                deeper += [*owner, vars(value).get("compiled")]
        level = []
        for value in deeper:
            if not isinstance(value, _HOLD_NOTHING) and id(value) not in seen and len(seen) < _FEW:
                seen.add(id(value))
                level.append(value)


def _runs(value: Any) -> bool:
    """Whether a value is a module or a compiled function."""
    return isinstance(value, nn.Module) or (
        inspect.isfunction(value) and hasattr(value, "_torchdynamo_orig_callable")
    )


def held_models(model: Any) -> Iterator[Any]:
    """The modules and the compiled functions that a callable runs, as far as can be seen."""
    return filter(_runs, _reached(model))


def _is_compiled(value: Any) -> bool:
    return (
        not isinstance(value, nn.Module)
        or "_orig_mod" in value._modules
        or value._compiled_call_impl is not None
    )


def _tree(root: nn.Module) -> set[nn.Module]:
    """All modules of a network; `modules()` in a fifth of the time."""
    found, waiting = {root}, [root]
    while waiting:
        for part in waiting.pop()._modules.values():
            if part is not None and part not in found:
                found.add(part)
                waiting.append(part)
    return found


def _outermost(root: nn.Module) -> set[nn.Module]:
    """A network and the wrappers around it: modules whose parameters are all one child's."""
    found = {root}
    while not any(parameter is not None for parameter in root._parameters.values()):
        parts = [part for part in root.children() if next(part.parameters(), None) is not None]
        if len(parts) != 1:
            break
        (root,) = parts
        found.add(root)
    return found


def _holds_linear(module: nn.Module, known: dict[nn.Module, bool]) -> bool:
    if module not in known:
        known[module] = isinstance(module, nn.Linear) or any(
            _holds_linear(part, known) for part in module._modules.values() if part is not None
        )
    return known[module]


def _set_training(module: nn.Module, mode: bool) -> None:
    if "training" in vars(module):  # half of what __setattr__ would take a map of a small network
        vars(module)["training"] = mode
    else:
        module.training = mode  # TorchScript


def _behaves_otherwise(module: nn.Module, outermost: bool, known: dict[nn.Module, bool]) -> bool:
    """Whether a module is switched for a map; a classifier, whose eval may differ, is not."""
    if isinstance(module, _NormBase | _DropoutNd) or not module._modules:
        return True
    if outermost:
        return False
    if _STOCHASTIC_BLOCK.search(type(module).__name__):
        return True
    return not _holds_linear(module, known)


def _keeps_state(module: nn.Module) -> bool:
    """Whether a module may change what it holds, which torch's own do not in evaluation."""
    if module._forward_pre_hooks or module._forward_hooks:
        return True
    return not (isinstance(module, _NormBase) or type(module).__module__.startswith(_CLEAN))


class _Trace:
    """State that a pass may change in the modules that it runs, to be put back."""

    def __init__(self, changes: Changes) -> None:
        self.thread = threading.get_ident()
        self.changes = changes
        self.met: set[nn.Module] = set()
        self.switched: list[nn.Module] = []
        self.frozen: list[Tensor] = []
        self.parallel: list[nn.Module] = []

    def meet(self, *roots: nn.Module) -> None:
        """Let networks compute as in evaluation."""
        trees = [_tree(root) for root in roots]
        inner = set[nn.Module]().union(
            *(tree - _outermost(root) for root, tree in zip(roots, trees, strict=True))
        )
        known: dict[nn.Module, bool] = {}
        held: list[nn.Module] = []  # by others' attributes, without being parts of them
        for module in set[nn.Module]().union(*trees) - self.met:
            if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():
                raise ValueError("the model has lazy layers: run it once before its first map")
            if _keeps_state(module):
                held += self.changes.watch_attributes(module)
            if module.training and _behaves_otherwise(module, module not in inner, known):
                self.switched.append(module)
                _set_training(module, False)
            for parameter in module._parameters.values():
                if parameter is None:
                    continue
                self.changes.watch_tensor(parameter)
                if parameter.requires_grad and parameter.is_leaf:
                    self.frozen.append(parameter)
                    parameter.requires_grad_(False)
            if isinstance(module, DistributedDataParallel):  # its reducer must not see this pass
                self.parallel.append(module)
                vars(module)["forward"] = module.module.__call__
        self.met.update(*trees)
        if unmet := [module for module in held if module not in self.met]:
            self.meet(*unmet)

    def on_call(self, module: nn.Module, args: Any) -> None:
        """Before a module runs: meet it, if nobody could see it from outside."""
        if module in self.met or torch.compiler.is_compiling():
            return
        if threading.get_ident() == self.thread:
            if isinstance(module, DistributedDataParallel):
                raise ValueError(
                    "DistributedDataParallel runs in a map but is not visible in its model; pass "
                    "the model itself, or a function that names it"
                )
            self.meet(module)

    def put_back(self) -> None:
        """Restore everything."""
        self.changes.put_back()
        for module in self.switched:
            _set_training(module, True)
        for parameter in self.frozen:
            parameter.requires_grad_(True)
        for module in self.parallel:
            vars(module).pop("forward", None)

    def moved(self) -> str:
        """Names of tensors that could not be put back; empty if there are none."""
        names = []
        for tensor in self.changes.moved():
            holders = (
                f"{type(module).__name__}.{name}"
                for module in self.met
                for name, value in (*module._parameters.items(), *vars(module).items())
                if value is tensor
            )
            names.append(next(holders, f"a tensor {tuple(tensor.shape)}"))
        return ", ".join(sorted(names)[:3]) + ", ..." * (len(names) > 3)


@contextmanager
def no_trace(model: Forward, device: torch.device) -> Iterator[bool]:
    """Within it a model computes as in evaluation, and only its input can ask for a gradient.

    It yields whether a part of the model is compiled.

    On leaving, also by an exception, everything is what it was: the train flag and the attributes
    of every module and what these hold, parameters, buffers and every other tensor that a function
    of torch has written to, and random number generators, the global ones (torch's on the CPU and
    `device`, Python's, NumPy's) and the model's own. `.grad` is never written.

    What cannot be switched: the outermost module, and a block that holds a linear layer, keep their
    train flag, since some models give logits only then. If such a module draws random numbers, or
    moves a tensor where it cannot be put back, a `MapWarning` says so. Maps in several threads wait
    for one another; training in another thread meanwhile is not supported.

    Raises:
        ValueError: A map in a worker of a DataLoader, a model with lazy layers that never ran.
    """
    global _computing_map
    if get_worker_info() is not None:
        raise ValueError(
            "a map was asked for in a DataLoader worker, whose copy of the model does not train; "
            "apply the method to whole batches, after the loader"
        )
    generators = Generators(device)
    trace, hook = _Trace(Changes(generators)), None
    with _one_map:
        outer, _computing_map = _computing_map, True
        try:
            reached = list(_reached(model))
            for generator in filter(is_generator, reached):
                generators.keep(generator)
            held = [value for value in reached if isinstance(value, nn.Module)]
            trace.meet(*held)
            running = itertools.chain(filter(_runs, reached), trace.met)
            compiled = any(map(_is_compiled, running))
            if not compiled:
                # Not around compiled code, which would be compiled anew for it.
                hook = register_module_forward_pre_hook(trace.on_call)
            if compiled or any(isinstance(each, torch.jit.ScriptModule) for each in trace.met):
                generators.before_draw()
                trace.changes.copy_hidden(next(iter(held), None))
            with EvaluationCalls(trace.changes.before_call):
                yield compiled
            drew = generators.moved()
        finally:
            _computing_map = outer
            if hook is not None:
                hook.remove()
            trace.put_back()
            generators.put_back()
    if drew:
        warnings.warn(_RANDOM, MapWarning, stacklevel=4)
    if moved := trace.moved():
        warnings.warn(_MOVED.format(moved), MapWarning, stacklevel=4)
