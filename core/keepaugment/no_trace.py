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
import random
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CellType, ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.data import get_worker_info

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


_RANDOM = (
    "the model drew random numbers for a map, which is therefore not that of evaluation; where it "
    "is random in training alone, let it ask: self.training and not keepaugment.computing_map()"
)
_STOCHASTIC_BLOCK = re.compile("drop|shake|stochastic", re.IGNORECASE)
_HOLD_NOTHING = (str, bytes, int, float, type(None), Tensor, torch.device, type, ModuleType)
_CLEAN = ("torch.nn.", "torch.distributed.")  # whose modules keep no state of an evaluation
_OWN = vars(nn.Module()).keys()  # what every module has; the rest are attributes of the user's
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
    """What a callable, a container or an object holds."""
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


def held_models(model: Any, depth: int = 5) -> Iterator[Any]:
    """The modules and the compiled functions that a callable runs, as far as can be seen.

    That is itself, what a bound method belongs to, what a partial, a container or an object holds,
    what a function closes over, names or has for defaults; and what these hold in turn, `depth`
    levels deep.
    """
    level, seen = [model], {id(model)}
    for _ in range(depth + 1):
        deeper: list[Any] = []
        for value in level:
            if isinstance(value, nn.Module):
                yield value
                if isinstance(owner := vars(value).get("owner"), tuple):  # an EarlyHead's model
                    deeper += [*owner, vars(value).get("compiled")]
                continue
            if inspect.isfunction(value) and hasattr(value, "_torchdynamo_orig_callable"):
                yield value
            deeper += _held(value)
        level = []
        for value in deeper:
            if not isinstance(value, _HOLD_NOTHING) and id(value) not in seen and len(seen) < _FEW:
                seen.add(id(value))
                level.append(value)


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


# What draws random numbers and is not switched off as above.
_DRAWS = re.compile(
    "rand|bernoulli|normal_?$|uniform|exponential|geometric|cauchy|multinomial|poisson|binomial|"
    "gumbel|gamma$|dirichlet|fractional|normal_functional|dropout_$|native_dropout|fused_dropout"
)


@functools.cache
def _draws(name: str) -> bool:
    """Whether a function of torch draws random numbers, by its name."""
    return _DRAWS.search(name) is not None


class _EvaluationCalls(TorchFunctionMode):
    """Every functional layer called as in training runs as in evaluation.

    Args:
        before_draw: called before a function draws random numbers.
    """

    def __init__(self, before_draw: Callable[[], None]) -> None:
        super().__init__()
        self.before_draw = before_draw

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not torch.compiler.is_compiling() and _draws(getattr(func, "__name__", "")):
            self.before_draw()
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


class _Trace:
    """What a pass may change in the modules that it runs, to be put back."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.met: set[nn.Module] = set()
        self.switched: list[nn.Module] = []
        self.frozen: list[Tensor] = []
        self.parallel: list[nn.Module] = []
        self.attributes: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self.containers: list[tuple[Any, Any]] = []
        self.buffers: list[tuple[Tensor, Tensor]] = []

    def meet(self, *roots: nn.Module) -> None:
        """Let networks compute as in evaluation."""
        trees = [_tree(root) for root in roots]
        inner = set[nn.Module]().union(
            *(tree - _outermost(root) for root, tree in zip(roots, trees, strict=True))
        )
        known: dict[nn.Module, bool] = {}
        for module in set[nn.Module]().union(*trees) - self.met:
            self._remember(module)
            if module.training and _behaves_otherwise(module, module not in inner, known):
                self.switched.append(module)
                _set_training(module, False)
            for parameter in module._parameters.values():
                if parameter is not None and parameter.requires_grad and parameter.is_leaf:
                    self.frozen.append(parameter)
                    parameter.requires_grad_(False)
            if isinstance(module, DistributedDataParallel):  # its reducer must not see this pass
                self.parallel.append(module)
                vars(module)["forward"] = module.module.__call__
        self.met.update(*trees)

    def _remember(self, module: nn.Module) -> None:
        """Note buffers and attributes, which torch's own layers do not change in evaluation."""
        if isinstance(module, _NormBase) or type(module).__module__.startswith(_CLEAN):
            return
        self.attributes.append((vars(module), dict(vars(module))))
        for name, value in vars(module).items():
            if type(value) in (dict, list, set) and (name not in _OWN or name == "_buffers"):
                self.containers.append((value, value.copy()))
        for buffer in module._buffers.values():
            if buffer is not None and not buffer.is_inference():
                self.buffers.append((buffer, buffer.detach().clone()))

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
        for attributes, before in self.attributes:
            for name in attributes.keys() - before.keys():
                del attributes[name]
            attributes.update(before)
        for container, content in self.containers:
            container.clear()
            container.extend(content) if isinstance(container, list) else container.update(content)
        for buffer, value in reversed(self.buffers):
            buffer.data.copy_(value)  # data: a graph that has saved the buffer is still valid
        for module in self.switched:
            _set_training(module, True)
        for parameter in self.frozen:
            parameter.requires_grad_(True)
        for module in self.parallel:
            del vars(module)["forward"]


def _same_state(a: Any, b: Any) -> bool:
    """Whether two states of one generator, torch's, Python's or NumPy's, are equal."""
    if isinstance(a, Tensor):
        with _disable_current_modes():  # such as that of fake tensors, which these are not
            return torch.equal(a, b)
    return a == b if isinstance(a[1], tuple) else a[2:] == b[2:] and bool((a[1] == b[1]).all())


@contextmanager
def _same_random_numbers(device: torch.device, hidden: bool) -> Iterator[Callable[[], None]]:
    """Put back torch's generators (CPU and `device`), Python's, and NumPy's global one if used.

    Warns if they moved. A GPU's is asked for its state, which a CUDA graph forbids while it is
    captured, not before what is yielded is called, or at once if a model hides its calls.
    """
    generators: list[tuple[Callable, Callable]] = [
        (random.getstate, random.setstate),
        (torch.get_rng_state, torch.set_rng_state),
    ]
    if numpy_random := getattr(sys.modules.get("numpy"), "random", None):
        generators.append((numpy_random.get_state, numpy_random.set_state))
    before = [get() for get, _ in generators]

    def before_draw() -> None:
        if device.type == "cuda" and cuda not in generators:
            before.append(cuda[0]())
            generators.append(cuda)

    get_cuda = functools.partial(torch.cuda.get_rng_state, device)
    cuda = get_cuda, functools.partial(torch.cuda.set_rng_state, device=device)
    if hidden:
        before_draw()
    try:
        yield before_draw
        now = [get() for get, _ in generators]
        if not all(map(_same_state, before, now)):
            warnings.warn(_RANDOM, stacklevel=6)
    finally:
        for state, (_, put) in zip(before, generators, strict=True):
            put(state)


@contextmanager
def no_trace(model: Forward, device: torch.device) -> Iterator[bool]:
    """Within it a model computes as in evaluation, and only its input can ask for a gradient.

    It yields whether a part of the model is compiled.

    On leaving, also by an exception, everything is what it was: the train flag and the attributes
    of every module, buffers, `requires_grad` of every parameter and the global random number
    generators (torch's on the CPU and `device`, Python's, NumPy's). `.grad` is never written.

    What cannot be switched: the outermost module, and a block that holds a linear layer, keep their
    train flag, since some models give logits only then. If such a module draws random numbers, a
    warning says so. Maps in several threads wait for one another; training in another thread
    meanwhile is not supported.
    """
    global _computing_map
    if get_worker_info() is not None:
        raise ValueError(
            "a map was asked for in a DataLoader worker, whose copy of the model does not train; "
            "apply the method to whole batches, after the loader"
        )
    trace, hook = _Trace(), None
    with _one_map:
        outer, _computing_map = _computing_map, True
        try:
            held = list(held_models(model))
            trace.meet(*(module for module in held if isinstance(module, nn.Module)))
            compiled = any(map(_is_compiled, itertools.chain(held, trace.met)))
            if not compiled:
                # Not around compiled code, which would be compiled anew for it.
                hook = register_module_forward_pre_hook(trace.on_call)
            hidden = compiled or any(isinstance(each, torch.jit.ScriptModule) for each in trace.met)
            with _same_random_numbers(device, hidden) as before_draw, _EvaluationCalls(before_draw):
                yield compiled
        finally:
            _computing_map = outer
            if hook is not None:
                hook.remove()
            trace.put_back()
