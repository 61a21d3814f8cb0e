"""Side effects of a pass on a model: noted before they happen, and undone.

A tensor is copied when a function of torch is about to write to it, wherever it is held. What
compiled code may write to is copied beforehand, until some passes have shown that it does not.
Attributes, what containers and objects in them hold, arrays and generators are noted beforehand.
For what nothing here can see, the version counters of tensors tell that they moved.
"""

from __future__ import annotations

import functools
import itertools
import operator
import re
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any
from weakref import ProxyTypes, ReferenceType, WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd import _unsafe_preserve_version_counter
from torch.nn.utils import parametrize
from torch.utils.weak import WeakIdKeyDictionary

from keepaugment.generators import Generators, is_generator

_OWN = vars(nn.Module()).keys()  # what every module has; the rest are attributes of the user's
_FIXED = {
    *(str, bytes, int, float, complex, bool, type(None), torch.dtype, torch.device, torch.Size),
    *(FunctionType, BuiltinFunctionType, MethodType, ModuleType, type, range, slice),
    *(ReferenceType, *ProxyTypes),
}
_PLAIN = (Tensor, nn.Parameter)  # others may be spread over processes
_OWN_PARAMETERS = {nn.Parameter, type(None)}
_CONTAINERS = (list, tuple, set, frozenset, deque)
_FOREIGN = ("torch.", "logging")  # whose objects are not looked into
_SHARED = ("_thread", "threading")  # what holds such an object belongs to other threads, too
_DEPTH = 4  # levels of containers and objects in a module's attributes
_FEW = 200  # parts of one of them that are looked at
_MOST = 500  # in a model; beyond it only what a module itself holds
_SMALL = 1 << 16  # numbers of a tensor that is copied though no module is known to hold it
_SMALL_ARRAY = 1 << 20  # bytes of an array that is copied for each map
_TRIALS = 2  # passes of compiled code that show which tensors it moves

_passes: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()  # of compiled code
_moving = WeakIdKeyDictionary()  # tensors that it moved


@functools.cache
def _slots(kind: type) -> list[str]:
    slots = [vars(each).get("__slots__", ()) for each in kind.__mro__]
    names = [name for each in slots for name in ((each,) if isinstance(each, str) else each)]
    return [name for name in names if not name.startswith("__")]


# What draws random numbers and is not switched off for a map.
_DRAWS = re.compile(
    "rand|bernoulli|normal_?$|uniform|exponential|geometric|cauchy|multinomial|poisson|binomial|"
    "gumbel|gamma$|dirichlet|fractional|normal_functional|dropout_$|native_dropout|fused_dropout"
)
# What writes to its first argument, or makes an array that does.
_WRITES = re.compile(r"[a-z\d]_(\.\w+)?$|^__setitem__$|^numpy$|^__array__$")


@functools.cache
def _effects(name: str) -> tuple[bool, str]:
    """Whether a function of torch draws random numbers, and what it writes to, by its name."""
    writes = ""
    if name == "__set__":
        writes = "an attribute"
    elif _WRITES.search(name):
        writes = "the first"
    elif name in ("embedding", "embedding_bag"):
        writes = "the second"
    elif "." in name:  # an operator, such as one of the user's
        writes = "by its schema"
    return _DRAWS.search(name) is not None, writes


def content_of(value: Any) -> dict[Any, Any] | list[Any] | None:
    """A shallow copy of what a container or an object holds; None of what holds nothing."""
    content: dict[Any, Any] | list[Any]
    if isinstance(value, dict):
        content = dict(value.items())
    elif isinstance(value, _CONTAINERS):
        content = list(value)
    elif isinstance(value, Tensor | nn.Module | type) or is_generator(value):
        return None
    elif type(value).__module__.startswith(_FOREIGN):
        return None
    else:
        kind: Any = type(value)
        attributes, slots = getattr(value, "__dict__", None), _slots(kind)
        if not slots and not isinstance(attributes, dict):
            return None
        filled = {name: getattr(value, name) for name in slots if hasattr(value, name)}
        content = filled | (attributes or {})
    parts = content.values() if isinstance(content, dict) else content
    return None if any(type(part).__module__ in _SHARED for part in parts) else content


def held_values(module: nn.Module, seen: set[int]) -> Iterator[tuple[str, Any, Any]]:
    """The contents of a module's attributes, at any level: names, values and `content_of` these.

    Left out are values that cannot change, and those whose ids are `seen`, which is added to.
    """
    level = [(n, v) for n, v in vars(module).items() if n not in _OWN and type(v) not in _FIXED]
    for _ in range(_DEPTH):
        deeper: list[tuple[str, Any]] = []
        for name, value in level:
            if id(value) in seen:
                continue
            seen.add(id(value))
            content = content_of(value)
            yield name, value, content
            if len(seen) < _MOST and content is not None:
                pairs = content.items() if isinstance(content, dict) else enumerate(content)
                for key, part in itertools.islice(pairs, _FEW):
                    if type(part) not in _FIXED:
                        deeper.append((f"{name}.{key}", part))
        level = deeper


def _same_parts(content: Any, before: Any) -> bool:
    """Whether two contents are the same objects in the same order."""
    if len(content) != len(before) or not all(map(operator.is_, content, before)):
        return False
    if isinstance(before, list):
        return True
    return all(map(operator.is_, content.values(), before.values()))


def _refill(value: Any, before: Any) -> None:
    """Give a container or an object the content that it had, if that has changed."""
    if _same_parts(value if isinstance(value, dict) else content_of(value), before):
        return
    if isinstance(value, set):
        value.clear()
        value.update(before)
    elif isinstance(value, list | deque):
        value.clear()
        value.extend(before)
    else:
        kind: Any = type(value)
        places = value if isinstance(value, dict) else getattr(value, "__dict__", {})
        for name in places.keys() - before.keys():
            del places[name]
        for name, part in before.items():
            if name in places or name not in _slots(kind):
                places[name] = part
            else:
                setattr(value, name, part)


def is_array(value: Any) -> bool:
    """Whether a value is an array of NumPy, which need not be installed."""
    return (numpy := sys.modules.get("numpy")) is not None and isinstance(value, numpy.ndarray)


def _refill_array(array: Any, before: Any) -> None:
    if array.tobytes() != before.tobytes():
        array[...] = before


class Changes:
    """Notes of a pass, to be put back once it is over.

    Args:
        generators: noted and put back by whoever made it; is told of those that are met.
    """

    def __init__(self, generators: Generators) -> None:
        self.generators = generators
        self.undo: list[Callable[[], object]] = []
        # Containers and objects, and what they held; the first has weights that a pass computed.
        cache = parametrize._cache
        self.noted: list[tuple[Any, Any]] = [(cache, cache.copy())]
        self.empty: list[dict] = []
        self.classes: dict[type, dict[str, Any]] = {}
        self.seen: set[int] = set()
        self.copied: set[tuple] = set()
        self.tensors: list[Tensor] = []  # that modules hold, with their versions
        self.versions: list[int] = []
        self.trials: list[tuple[Tensor, Tensor]] = []  # tensors that may move, and copies
        self.known: set[int] = set()  # storages of the first so many of them
        self.num_known = 0
        self.spread = False  # over processes, so that tensors of its machinery are in use

    def watch_tensor(self, tensor: Tensor) -> None:
        """Tell later if a tensor moved, and copy it, however large, before it is written to."""
        if not tensor.is_inference():
            self.tensors.append(tensor)
            self.versions.append(tensor._version)
        self.spread |= type(tensor) not in _PLAIN

    def watch_attributes(self, module: nn.Module) -> list[nn.Module]:
        """Note attributes of a module and its class, buffers, and what they hold: modules in it."""
        held: list[nn.Module] = []
        attributes = vars(module)
        self.noted.append((attributes, attributes.copy()))
        if (kind := type(module)) not in self.classes:
            self.classes[kind] = dict(vars(kind))
        for name in _OWN & attributes.keys():
            places = attributes[name]
            if type(places) not in (dict, OrderedDict):
                continue
            if not places:
                self.empty.append(places)
            # Parameters of another class are exchanged by who made it, fully_shard for one.
            elif name != "_parameters" or {*map(type, places.values())} <= _OWN_PARAMETERS:
                self.noted.append((places, dict(places)))
        for buffer in module._buffers.values():
            if buffer is not None and not buffer.is_inference():
                self.undo.append(_putting_back(buffer.data, buffer.detach().clone()))
        for _, value, content in held_values(module, self.seen):
            if isinstance(value, nn.Module):
                held.append(value)
            elif isinstance(value, Tensor):
                self.watch_tensor(value)
            elif is_generator(value):
                self.generators.keep(value)
            elif is_array(value):
                if value.flags.writeable and value.nbytes <= _SMALL_ARRAY:
                    self.undo.append(functools.partial(_refill_array, value, value.copy()))
            elif content is not None and not isinstance(value, tuple | frozenset):
                self.noted.append((value, content))
        return held

    def copy_hidden(self, root: nn.Module | None) -> None:
        """Copy what compiled code of `root` may write to: at first all, then what it wrote to."""
        passes = 0
        if root is not None:
            passes = _passes.get(root, 0)
            _passes[root] = passes + 1
        for tensor in self.tensors:
            if passes < _TRIALS and _is_plain(tensor):
                self.trials.append((tensor, self._keep(tensor)))
            elif tensor in _moving:
                self._keep(tensor)

    def _keep(self, tensor: Tensor) -> Tensor:
        copy = tensor.detach().clone()
        self.undo.append(_putting_back(tensor, copy))
        return copy

    def before_call(self, func: Any, args: Any, kwargs: dict[str, Any]) -> None:
        """Before a function of torch runs: note what it draws from and copy what it writes to."""
        name = getattr(func, "__name__", "")
        draws, writes = _effects(name)
        if not (draws or writes or "generator" in kwargs or "out" in kwargs):
            return
        if draws or "generator" in kwargs:
            self.generators.before_draw(kwargs.get("generator"))
        written: Any = kwargs.get("out")
        if writes == "an attribute":
            self._before_set(func.__self__, args[0])
        elif writes == "the first":
            written = args[0] if args else next(iter(kwargs.values()), None)
        elif writes == "the second" and kwargs.get("max_norm") is not None:
            written = args[1]
        elif writes == "by its schema":
            pairs = zip(args, func._schema.arguments, strict=False)
            written = [each for each, spec in pairs if spec.is_write]
        for tensor in written if isinstance(written, list | tuple) else (written,):
            if isinstance(tensor, Tensor) and not tensor.requires_grad:
                self._before_write(tensor)

    def _before_set(self, attribute: Any, tensor: Tensor) -> None:
        if attribute.__name__ in ("data", "grad"):
            before = attribute.__get__(tensor)
            self.undo.append(lambda: attribute.__set__(tensor, before))

    def _before_write(self, tensor: Tensor) -> None:
        strange = tensor.is_inference() or tensor.layout is not torch.strided
        if strange or torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            return
        try:
            storage = tensor.untyped_storage()._cdata
        except (NotImplementedError, RuntimeError):  # a tensor of another class may have none
            return
        key = (storage, tensor.storage_offset(), tensor.shape, tensor.stride())
        if key in self.copied:
            return
        if (tensor.numel() <= _SMALL and not self.spread) or storage in self._known():
            self.copied.add(key)
            self._keep(tensor)

    def _known(self) -> set[int]:
        """The storages of what modules hold, which is more than their small tensors."""
        held = [each for each in self.tensors[self.num_known :] if _is_plain(each)]
        held += [each.grad for each in held if each.is_leaf and each.grad is not None]
        self.known.update(each.untyped_storage()._cdata for each in held)
        self.num_known = len(self.tensors)
        return self.known

    def put_back(self) -> None:
        """Restore everything, the latest change first."""
        for tensor, before in self.trials:
            if not torch.equal(tensor, before):
                _moving[tensor] = True
        for put in reversed(self.undo):
            put()
        for value, before in self.noted:
            _refill(value, before)
        for places in self.empty:
            places.clear()
        for kind, attributes in self.classes.items():
            for name, before in attributes.items():
                if vars(kind).get(name) is not before:
                    setattr(kind, name, before)

    def moved(self) -> list[Tensor]:
        """Tensors that modules hold and that are not what they were, after all was put back."""
        pairs = zip(self.tensors, self.versions, strict=True)
        return [tensor for tensor, version in pairs if tensor._version != version]


def _is_plain(tensor: Tensor) -> bool:
    return type(tensor) in _PLAIN and tensor.layout is torch.strided


def _length(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes() if tensor.layout is torch.strided else 0


def _putting_back(tensor: Tensor, before: Tensor) -> Callable[[], None]:
    """A setter of a tensor's values that leaves no trace in its graph."""
    version, length = _unsafe_preserve_version_counter(tensor), _length(tensor)

    def put() -> None:
        # Else it was resized, which its version tells, or freed by who made it.
        if tensor.shape == before.shape and _length(tensor) == length:
            with torch.no_grad(), version:
                tensor.copy_(before)

    return put
