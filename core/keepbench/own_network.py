"""One's own network: MODULE:FUNCTION or FILE.py:FUNCTION, where the function returns it."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import zlib
from contextlib import suppress
from pathlib import Path
from types import ModuleType

from torch import nn

_FETCHED = ("hf-hub:", "hf_hub:", "local-dir:")  # timm's names with a colon


def is_function(name: str) -> bool:
    """Whether a network's name is MODULE:FUNCTION or FILE.py:FUNCTION."""
    return ":" in name and not name.startswith(_FETCHED)


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


def make_network(name: str) -> nn.Module:
    """Call MODULE:FUNCTION or FILE.py:FUNCTION; modules are looked for in this folder, too.

    Raises:
        ValueError: It is not there, takes arguments, or returns no module.
    """
    place, _, function = name.rpartition(":")
    try:
        make = getattr(_module(place), function)
        with suppress(ValueError):  # some builtins have no signature
            inspect.signature(make).bind()
    except (ImportError, AttributeError, TypeError, OSError, SyntaxError) as error:
        raise ValueError(f"{name} cannot be called: {error}") from error
    network = make()
    if not isinstance(network, nn.Module):
        raise ValueError(f"{name} must return a torch.nn.Module, found {type(network).__name__}")
    return network
