"""Every example runs in the real package's loop, takes a map, and changes few lines of it."""

from __future__ import annotations

import importlib
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

from examples_table import CHANGED, changed_lines
from keepaugment import cutting
from runs import ROOT

FOLDER = ROOT / "docs" / "examples"
PACKAGES = {
    "accelerate_loop": "accelerate",
    "hugging_face": "transformers",
    "lightning_module": "lightning",
    "reid_torchreid": "torchreid",
    "timm_training": "timm",
    "ultralytics_yolo": "ultralytics",
}
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "example_data")
MORE = {"recycled_maps": 6}
"""What needs more than three changed lines."""


@pytest.fixture
def regions(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each region that is drawn, whether a map says where."""
    found: list[bool] = []
    choose = cutting.choose_region

    def chosen(saliency: Any, *args: Any, **options: Any) -> Any:
        found.append(saliency is not None)
        return choose(saliency, *args, **options)

    monkeypatch.setattr(cutting, "choose_region", chosen)
    return found


def run(name: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py"])
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(folder))
    monkeypatch.setenv("YOLO_OFFLINE", "true")
    monkeypatch.chdir(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the packages' own
        if name in PACKAGES:
            pytest.importorskip(PACKAGES[name], reason=f"{PACKAGES[name]} is not installed")
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")


@pytest.mark.parametrize("name", NAMES)
def test_an_example_trains_on_what_is_kept(
    name: str, regions: list[bool], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    run(name, monkeypatch, tmp_path)
    assert regions and all(regions)
    printed = capfd.readouterr().out
    loss = re.search(r"loss (\d+\.\d+)", printed)
    assert loss and float(loss[1]) < 200, printed


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_short_and_changes_few_lines(name: str) -> None:
    source = (FOLDER / f"{name}.py").read_text()
    assert len(source.splitlines()) <= 60
    assert 2 <= changed_lines(source) <= MORE.get(name, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain_loop", "timm_training"])
def test_an_example_runs_on_two_processes(name: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    done = subprocess.run(
        [*words, str(FOLDER / f"{name}.py")], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"loss \d", done.stdout)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_without_its_changed_lines_an_example_is_the_plain_loop(name: str) -> None:
    raise NotImplementedError
