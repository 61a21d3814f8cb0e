"""Every example runs in the real package's loop, takes a map, and changes few lines of it."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loops import EXAMPLES, PAGE, cells, examples, is_changed, with_table

from keepaugment import cutting, selective

FOLDER = EXAMPLES[0].parent
PACKAGES = {
    "accelerate_loop": "accelerate",
    "albumentations_policy": "albumentations",
    "hugging_face": "transformers",
    "lightning_module": "lightning",
    "reid_torchreid": "torchreid",
    "timm_policy": "timm",
    "timm_training": "timm",
    "ultralytics_yolo": "ultralytics",
}
NAMES = [path.stem for path in EXAMPLES]
MORE = {"recycled_maps": 6}
"""What needs more than three changed lines."""
ENDED = re.compile(r"^loss \d+\.\d+$|^Rank-1 ", re.MULTILINE)


@pytest.fixture
def regions(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each region that is drawn, whether a map says where."""
    found: list[bool] = []
    choose = selective.choose_region

    def chosen(saliency: Any, *args: Any, **options: Any) -> Any:
        found.append(saliency is not None)
        return choose(saliency, *args, **options)

    for module in (cutting, selective):
        monkeypatch.setattr(module, "choose_region", chosen)
    return found


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Any:
    """Runs a file as an example is run, and returns what it prints."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("YOLO_OFFLINE", "true")
    monkeypatch.setenv("NO_ALBUMENTATIONS_UPDATE", "1")
    monkeypatch.chdir(tmp_path)

    def run(path: Path) -> str:
        monkeypatch.setattr(sys, "argv", [str(path)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the packages' own
            if package := PACKAGES.get(path.stem):
                pytest.importorskip(package, reason=f"{package} is not installed")
            runpy.run_path(str(path), run_name="__main__")
        return capfd.readouterr().out

    return run


@pytest.mark.parametrize("name", NAMES)
def test_an_example_trains_on_what_is_kept(
    name: str, run: Callable[[Path], str], regions: list[bool]
) -> None:
    assert ENDED.search(printed := run(FOLDER / f"{name}.py")), printed
    assert regions and all(regions)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_without_its_changed_lines_an_example_is_the_plain_loop(
    name: str, run: Callable[[Path], str], regions: list[bool], tmp_path: Path
) -> None:
    lines = (FOLDER / f"{name}.py").read_text().splitlines()
    plain = tmp_path / f"{name}.py"
    plain.write_text("\n".join(line for line in lines if not is_changed(line)))
    assert ENDED.search(printed := run(plain)), printed
    assert not regions and not re.search("^(from|import) keepaugment", plain.read_text(), re.M)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_short_and_changes_few_lines(name: str) -> None:
    lines = (FOLDER / f"{name}.py").read_text().splitlines()
    assert len(lines) <= 60
    assert 2 <= sum(map(is_changed, lines)) <= MORE.get(name, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain_loop", "timm_training"])
def test_an_example_runs_on_two_processes(name: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    done = subprocess.run(
        [*words, str(FOLDER / f"{name}.py")], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(ENDED.findall(done.stdout)) == 2


def test_the_table_of_examples_is_that_of_the_files() -> None:
    assert with_table(PAGE.read_text(), "examples", examples()) == PAGE.read_text()


def test_the_table_of_cells_is_what_comes_of_trying(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for package in ("lightning", "torchreid", "transformers"):
        pytest.importorskip(package, reason=f"{package} is not installed", exc_type=ImportError)
    assert with_table(PAGE.read_text(), "cells", cells()) == PAGE.read_text()
