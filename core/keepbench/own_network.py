"""One's own network: MODULE:FUNCTION or FILE.py:FUNCTION, where the function returns it."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

_FETCHED = ("hf-hub:", "hf_hub:", "local-dir:")  # timm's names with a colon


def is_function(name: str) -> bool:
    """Whether a network's name is MODULE:FUNCTION or FILE.py:FUNCTION."""
    return ":" in name and not name.startswith(_FETCHED)


def refuse_code(name: object) -> None:
    """Raise ValueError if a network that a run's folder names is code: it may be a stranger's."""
    if isinstance(name, str) and is_function(name):
        raise ValueError(
            f"its network is code, {name}, which is not run because a folder says so; load the "
            "weights by --model and --weights instead"
        )


def _module(place: str) -> ModuleType:
    """A Python file, under a name that no other module has, or a module by its dotted name."""
    if not place.endswith(".py"):
        if (here := str(Path.cwd())) not in sys.path:
            sys.path.append(here)
        return importlib.import_module(place)
    path = Path(place).resolve()
    name = f"{path.stem}_{zlib.crc32(str(path).encode()):08x}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where its dataclasses and torch.compile look for it
    spec.loader.exec_module(module)
    return module


def find_function(name: str) -> Callable[..., Any]:
    """MODULE:FUNCTION or FILE.py:FUNCTION; modules are looked for in this folder, too.

    Raises:
        ValueError: It is not there.
    """
    place, _, function = name.rpartition(":")
    try:
        return getattr(_module(place), function)
    except (ImportError, AttributeError, TypeError, OSError, SyntaxError) as error:
        raise ValueError(f"{name} cannot be called: {error}") from error


def make_network(name: str, **offered: Any) -> nn.Module:
    """Call a function that `find_function` finds.

    Args:
        name: of the function.
        **offered: arguments that it gets if it has parameters of these names.

    Raises:
        ValueError: It is not there, takes other arguments, or returns no module.
    """
    make = find_function(name)
    taken: dict[str, Any] = {}
    try:
        with suppress(ValueError):  # some builtins have no signature
            signature = inspect.signature(make)
            taken = {key: offered[key] for key in offered.keys() & signature.parameters.keys()}
            signature.bind(**taken)
    except TypeError as error:
        raise ValueError(f"{name} cannot be called: {error}") from error
    network = make(**taken)
    if not isinstance(network, nn.Module):
        raise ValueError(f"{name} must return a torch.nn.Module, found {type(network).__name__}")
    return network
