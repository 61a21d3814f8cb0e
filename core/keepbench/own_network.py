"""One's own network: MODULE:FUNCTION or FILE.py:FUNCTION, where the function returns it."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import os
import sys
import sysconfig
import traceback
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from keepbench.files import file_at, files_at

_files: set[str] = set()
"""Those of the user's own code that were run."""
_FETCHED = ("hf-hub:", "hf_hub:", "local-dir:")  # timm's names with a colon


def is_fetched(name: str) -> bool:
    """Whether a network's name is timm's for one that a hub or a folder describes."""
    return name.startswith(_FETCHED)


def is_function(name: str) -> bool:
    """Whether a network's name is MODULE:FUNCTION or FILE.py:FUNCTION."""
    return ":" in name and not is_fetched(name)


def refuse_code(name: object) -> None:
    """Raise ValueError if what a file or a run's folder names is code: it may be a stranger's."""
    if isinstance(name, str) and is_function(name):
        raise ValueError(
            f"{name} is code, which is not run because a file says so; give it on the command line"
        )


def _files_of(module: str, folder: Path) -> Iterator[Path]:
    """The files in a folder of a module by its dotted name, and of the packages that it lies in."""
    for part in module.split("."):
        package, file = folder / part / "__init__.py", folder / f"{part}.py"
        yield from (each for each in (package, file) if os.path.isfile(each))
        folder = folder / part


def _imports(file: Path, folders: list[Path]) -> Iterator[Path]:
    """The files in some folders, or beside it, that a file of Python code imports anywhere."""
    with suppress(SyntaxError, ValueError, IndexError):  # which are said when it is run
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Import):
                names, places = [alias.name for alias in node.names], folders
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module or ''}.{alias.name}".strip(".") for alias in node.names]
                places = [file.parents[node.level - 1]] if node.level else folders
            else:
                continue
            for name in names:
                for place in places:
                    yield from _files_of(name, place)


def _roots() -> list[Path]:
    """Where modules are looked for that neither are installed nor belong to this repository."""
    ours, stdlib = Path(__file__).resolve().parents[2], Path(sysconfig.get_path("stdlib"))
    return [
        path
        for path in (Path(place).resolve() for place in sys.path)
        if path.name not in ("site-packages", "dist-packages")
        and path not in (ours, stdlib)
        and ours not in path.parents
    ]


def source_files(name: str) -> list[Path]:
    """The file of a network's code, and those that it imports, in a fixed order.

    Imports are known as they are written; what code loads otherwise is not. Installed packages and
    this repository are left out: a run notes their versions and its commit.

    Args:
        name: of a network; one that is no code has no files, unless it is timm's "local-dir:".
    """
    if name.startswith("local-dir:"):
        return files_at(name.removeprefix("local-dir:"))
    if not is_function(name):
        return []
    place, roots = name.rpartition(":")[0], _roots()
    if place.endswith(".py"):
        path = Path(place).resolve()
        roots, queue = [path.parent, *roots], file_at(str(path))
    else:
        roots.append(Path.cwd())
        queue = next((files for root in roots if (files := [*_files_of(place, root)])), [])
    for file in queue:  # which grows
        queue += sorted({*_imports(file, roots)} - {*queue})
    return queue


def _module(place: str) -> ModuleType:
    """A Python file, under a name that no other module has, or a module by its dotted name.

    Either may import what lies beside it. A file is run once, unless it has changed.
    """
    path = Path(place).resolve()
    beside = str(path.parent if place.endswith(".py") else Path.cwd())
    if beside not in sys.path:
        sys.path.append(beside)
    if not place.endswith(".py"):
        module = importlib.import_module(place)
        _files.add(str(module.__file__))
        return module
    name = f"{path.stem}_{zlib.crc32(str(path).encode() + path.read_bytes()):08x}"
    if name in sys.modules:
        return sys.modules[name]
    _files.add(str(path))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where its dataclasses and torch.compile look for it
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def is_own(error: BaseException) -> bool:
    """Whether an error came out of the user's own code."""
    return any(frame.filename in _files for frame in traceback.extract_tb(error.__traceback__))


def in_words(error: BaseException) -> str:
    """An error, and the line of the user's own code that it came out of, if it did."""
    found = traceback.extract_tb(error.__traceback__)
    lines = [f"{each.filename}, line {each.lineno}: " for each in found if each.filename in _files]
    return f"{''.join(lines[-1:])}{type(error).__name__}: {error}"


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
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise ValueError(f"{name} cannot be called: {in_words(error)}") from error


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
