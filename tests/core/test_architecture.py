"""The library stands on torch and the standard library alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import keepaugment

SOURCES = sorted(Path(keepaugment.__file__).parent.rglob("*.py"))
ALLOWED = {"torch", "keepaugment", *sys.stdlib_module_names}


def imported(source: str) -> set[str]:
    """The top-level packages of all imports, wherever they stand."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module if node.level == 0 else "keepaugment")
    return {name.partition(".")[0] for name in names}


def third_party(command: str) -> set[str]:
    """The packages outside the standard library that a fresh Python has after a command."""
    code = f"import sys\n{command}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout
    return set(output.decode().split()) - set(sys.stdlib_module_names)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_a_module_imports_only_torch(path: Path) -> None:
    assert imported(path.read_text()) <= ALLOWED


def test_importing_the_library_imports_nothing_that_torch_does_not() -> None:
    with_torch = third_party("import torch, torch.nn.parallel, torch.overrides")
    assert third_party("import keepaugment") - with_torch == {"keepaugment"}


def test_these_tests_would_see_another_import() -> None:
    assert imported("def f():\n    from numpy.linalg import norm") == {"numpy"}
    assert "scipy" in third_party("import scipy") - third_party("import torch")


def test_the_public_names_are_those_that_exist() -> None:
    assert len(set(keepaugment.__all__)) == len(keepaugment.__all__)
    assert all(getattr(keepaugment, name).__doc__ for name in {*keepaugment.__all__} - {"Saliency"})
    fixed = "saliency_map region_scores selective_cut selective_paste Cutout RandomErasing CutMix"
    fixed += " KeepCutout KeepRandomErasing KeepCutMix KeepPaste GradientSaliency EarlyHead"
    assert set(fixed.split()) <= set(keepaugment.__all__)
