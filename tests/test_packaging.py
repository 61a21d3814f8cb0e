"""What pip installs: both packages built, checked, and used without the checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from runs import ROOT

for tool in ("build", "twine"):
    pytest.importorskip(tool)

SITE = sysconfig.get_path("purelib")
SOURCES = ("pyproject.toml", "README.md", "LICENSE")
PACKAGES = ("core", "classification", "semisup_uda", "reid", "detection", "tools")


def built(source: Path, place: Path) -> Path:
    """The wheel of a folder's source distribution, which `twine check` finds right."""
    words = ["build", "--no-isolation", "--outdir", str(place), str(source)]
    subprocess.run([sys.executable, "-m", *words], check=True, capture_output=True)
    words = ["twine", "check", "--strict", *map(str, place.iterdir())]
    subprocess.run([sys.executable, "-m", *words], check=True, capture_output=True)
    (wheel,) = place.glob("*.whl")
    return wheel


def unpacked(wheel: Path, place: Path) -> set[str]:
    """Unpack a wheel: the names at its top."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)
    return {path.name for path in place.iterdir() if not path.name.endswith(".dist-info")}


def alone(place: Path, code: str) -> str:
    """What code prints that finds a folder and the installed packages, but no editable ones."""
    code = f"import sys\nsys.path += [{str(place)!r}, {SITE!r}]\n{code}"
    words = [sys.executable, "-I", "-S", "-c", code]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def test_the_librarys_wheel_is_all_that_it_needs(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "core", tmp_path / "core", ignore=shutil.ignore_patterns("*.egg-info"))
    wheel = built(tmp_path / "core", tmp_path / "dist")
    assert unpacked(wheel, tmp_path / "site") == {"keepaugment", "keeppolicies"}
    files = {str(path.relative_to(ROOT / "core")) for path in (ROOT / "core").rglob("*.py")}
    with zipfile.ZipFile(wheel) as archive:
        found = {
            name for name in archive.namelist() if name.startswith("keep") and ".dist" not in name
        }
    ours = {name for name in files if not name.startswith("keepbench/")}
    assert found == ours | {"keepaugment/py.typed", "keeppolicies/py.typed"}
    code = """
import keepaugment, keeppolicies, torch
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
images = torch.randn(4, 3, 8, 8)
cut = keepaugment.KeepCutout(model, 4)(images, torch.zeros(4, dtype=torch.long))
print(keepaugment.__file__, (cut != images).any().item())
"""
    assert alone(tmp_path / "site", code).split() == [
        str(tmp_path / "site/keepaugment/__init__.py"),
        "True",
    ]


def test_the_benchmarks_wheel_has_the_tools_that_need_no_checkout(tmp_path: Path) -> None:
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns("*.egg-info", "__pycache__")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in SOURCES:
        shutil.copy(ROOT / name, source)
    site = tmp_path / "site"
    tops = unpacked(built(source, tmp_path / "dist"), site)
    assert tops == {*PACKAGES[1:-1], "keepbench", "diagnosing", "previewing"}
    (scripts,) = site.glob("*.dist-info/entry_points.txt")
    commands = dict(line.split(" = ") for line in scripts.read_text().splitlines() if " = " in line)
    assert set(commands) == {"keepaugment-doctor", "keepaugment-preview"}
    code = f"""
sys.path.append({str(ROOT / "core")!r})  # for keepaugment, after the wheel's own
import importlib
for place in {[*commands.values()]}:
    module, function = place.split(":")
    try:
        getattr(importlib.import_module(module), function)(["--help"])
    except SystemExit as left:
        assert left.code == 0
"""
    assert alone(site, code).count("usage:") == 2
    names = {path.name for path in (ROOT / "tools/previewing/templates").iterdir()}
    assert {path.name for path in (site / "previewing/templates").iterdir()} == names
