"""Who may import whom: tools the tasks, tasks the engine, the engine the library; never back."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest

import keepaugment
from runs import ROOT

TASKS = ("classification", "semisup_uda", "reid", "detection")
TOOLS = sorted(path.name for path in (ROOT / "tools").iterdir() if (path / "__init__.py").exists())
LIBRARY = ("keepaugment", "keeppolicies")
HARNESSES = ("stressing", "sweeping")  # beside the tests
PACKAGES = {
    "keepaugment": ROOT / "core" / "keepaugment",
    "keeppolicies": ROOT / "core" / "keeppolicies",
    "keepbench": ROOT / "core" / "keepbench",
    **{task: ROOT / task for task in TASKS},
    "tools": ROOT / "tools",  # the doors and their packages
    **{name: ROOT / "tests" / name for name in HARNESSES},
}
BELOW = {
    "keepaugment": {"keepaugment"},
    "keeppolicies": {"keepaugment", "keeppolicies"},
    "keepbench": {*LIBRARY, "keepbench"},
    **{task: {*LIBRARY, "keepbench", "classification.models", task} for task in TASKS},
    "tools": {*LIBRARY, "keepbench", *TASKS, *TOOLS},
}
OURS = {*LIBRARY, "keepbench", *TASKS, "tools", *TOOLS, *HARNESSES}
ADAPTED = "torchvision"  # which one adapter imports, when it is asked for
LONGEST = 400  # lines of a file


def imported(source: str) -> set[str]:
    """What all imports name, wherever they stand; those from the own package are left out."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def wrong_imports(package: str, source: str) -> set[str]:
    """The imports that a file of a package must not have."""
    allowed = {f"{name}." for name in BELOW[package]}
    names = {name for name in imported(source) if name.partition(".")[0] in OURS}
    wrong = {name for name in names if not f"{name}.".startswith(tuple(allowed))}
    if package in LIBRARY:
        tops = {name.partition(".")[0] for name in imported(source)}
        wrong |= tops - OURS - {"torch", ADAPTED} - set(sys.stdlib_module_names)
    return wrong


def third_party(command: str) -> set[str]:
    """The packages outside the standard library that a fresh Python has after a command."""
    code = f"import sys\n{command}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout
    return set(output.decode().split()) - set(sys.stdlib_module_names)


@pytest.mark.parametrize("package", BELOW)
def test_a_package_imports_what_is_below_it(package: str) -> None:
    files = sorted(PACKAGES[package].rglob("*.py"))
    assert files
    wrong = {path.name: wrong_imports(package, path.read_text()) for path in files}
    assert {name: names for name, names in wrong.items() if names} == {}


def test_tools_stand_on_one_another_in_no_circle() -> None:
    arrows = {
        tool: {
            name.partition(".")[0]
            for path in (ROOT / "tools" / tool).rglob("*.py")
            for name in imported(path.read_text())
        }
        & {*TOOLS} - {tool}
        for tool in TOOLS
    }
    assert arrows["trialling"] and {*TopologicalSorter(arrows).static_order()} == {*TOOLS}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_is_long(package: str) -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in PACKAGES[package].rglob("*.py")}
    assert {str(path): length for path, length in lengths.items() if length > LONGEST} == {}


@pytest.mark.parametrize(
    ("package", "source", "wrong"),
    [
        ("keepaugment", "def f():\n    from numpy.linalg import norm", {"numpy"}),
        ("keepaugment", "import keepbench.run", {"keepbench.run"}),
        ("keepaugment", "from torch import nn\nfrom . import draws", set()),
        ("keepbench", "if True:\n    import reid.data", {"reid.data"}),
        ("keepbench", "from classification import models", {"classification.models"}),
        ("keepbench", "import previewing, timm, keepaugment", {"previewing"}),
        ("reid", "from classification import models, train", {"classification.train"}),
        ("reid", "from classification.models import resnet\nimport reid.data", set()),
        ("reid", "import detection", {"detection"}),
        ("detection", "from reporting.cli import main", {"reporting.cli.main"}),
        ("tools", "import reid.data\nfrom stressing import forks", {"stressing.forks"}),
    ],
)
def test_another_import_is_seen(package: str, source: str, wrong: set[str]) -> None:
    assert wrong_imports(package, source) == wrong


def test_importing_the_library_imports_nothing_that_torch_does_not() -> None:
    with_torch = third_party("import torch, torch.nn.parallel, torch.overrides")
    assert third_party("import keepaugment") - with_torch == {"keepaugment"}
    assert "scipy" in third_party("import scipy") - with_torch  # another would be seen


def test_the_public_names_are_those_that_exist() -> None:
    assert len(set(keepaugment.__all__)) == len(keepaugment.__all__)
    assert all(getattr(keepaugment, name).__doc__ for name in {*keepaugment.__all__} - {"Saliency"})
    fixed = "saliency_map region_scores selective_cut selective_paste Cutout RandomErasing CutMix"
    fixed += " KeepCutout KeepRandomErasing KeepCutMix KeepPaste GradientSaliency EarlyHead"
    assert set(fixed.split()) <= set(keepaugment.__all__)
