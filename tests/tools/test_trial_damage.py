"""Trials that are damaged, or whose images change: refused by name, and skipped by the report."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from classification.experiments import TRIAL
from evidence.catalogue import load
from keepbench.right import ITEMS, NAME, write_right
from keepbench.run import Run
from queueing import local
from queueing.jobs import Job
from queueing.local import Outcome
from reporting.content import build
from trialling import timing
from trialling.cli import main
from trialling.data import digest_of_run, digests_of_tree
from trialling.plan import Plan, fix_plan, make_plan, read_plan
from trialling.results import read_trial
from trialling.runs import run_job, stages
from trialling.taking import take

ARMS = ("plain", "keep", "none")
SMALL = {"arch": "resnet8", "epochs": 2, "test_rest": False}


@pytest.fixture
def trial(tmp_path: Path) -> Path:
    """A finished trial of 3 seeds."""
    plan = make_plan(replace(TRIAL, **SMALL), "cutout", ARMS, seeds=3, budget="3 seeds", margin=1.0)
    fix_plan(plan, tmp_path / "trial")
    for seed in range(3):
        for place, arm in enumerate(ARMS):
            store(plan, tmp_path / "trial", arm, seed, 70 + 3 * place + seed + place * seed % 2)
    return tmp_path / "trial"


def store(plan: Plan, folder: Path, arm: str, seed: int, percent: int, data: str = "") -> None:
    """A finished run of two epochs that is right on some of 100 images."""
    config, out = plan.config(arm, seed), run_job(plan, arm, seed, folder).out
    with Run(out, "trial", config, torch.device("cpu"), resume=False, data=data) as run:
        for epoch in (1, 2):
            run.log(epoch=epoch, train_seconds=1.0, test_accuracy=float(percent))
    write_right(out, torch.arange(100) < percent, 2)


def refused(folder: Path) -> str:
    """Why a trial is not read; the report says the same and goes on."""
    with pytest.raises(SystemExit) as error:
        main(["any", "--read", f"--out={folder}"])
    (skipped,) = build([folder.parent], load({})).skipped
    assert skipped.folder == folder and skipped.reason in str(error.value)
    return skipped.reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"looks": []}, "looks must be numbers of seeds that rise from 1 to 3"),
        ({"looks": [2.5]}, "a part of looks is not a whole number: 2.5"),
        ({"looks": [-3]}, "looks must be .* found \\[-3\\]"),
        ({"looks": [4]}, "looks must be .* 3 at most, found \\[4\\]"),
        ({"looks": [3, 2]}, "looks must be .* found \\[3, 2\\]"),
        ({"looks": 3}, "looks is not a list: 3"),
        ({"first_seed": "0"}, "first_seed is not a whole number: '0'"),
        ({"first_seed": -1}, "first_seed must be in .* found -1"),
        ({"most": 100_000}, "most must be in .* found 100000"),
        ({"margin": "0.5"}, "margin is not a number: '0.5'"),
        ({"margin": math.nan}, "margin must be in .* found nan"),
        ({"margin": -0.5}, "margin must be in .* found -0.5"),
        ({"files": []}, "files is not a table: \\[\\]"),
        ({"files": {"arch": 1}}, "a part of files is not text: 1"),
        ({"arms": ["plain", "keep", "plain"]}, "arms has 'plain' twice"),
        ({"arms": ["plain", "none"]}, "names an arm that is none: 'keep'"),
        ({"base": {"data": "data"}}, "base has no dataset"),
        ({"contrasts": []}, "contrasts is empty"),
        ({"method": "cutuot"}, "method 'cutuot' is none of cutout, "),
        ({"doses": [{"size": "8"}]}, "the dose size is not a number: '8'"),
    ],
)
def test_a_damaged_plan_is_refused_for_what_is_wrong(
    change: dict[str, Any], reason: str, trial: Path
) -> None:
    path = trial / "plan.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=f"plan.json cannot be used: .*{reason}"):
        read_plan(trial)
    assert "plan.json cannot be used" in refused(trial)


def test_a_plan_without_a_part_is_refused_by_the_parts_name(trial: Path) -> None:
    path = trial / "plan.json"
    plan = json.loads(path.read_text())
    del plan["looks"]
    path.write_text(json.dumps(plan))
    with pytest.raises(ValueError, match="cannot be used: it has no 'looks'"):
        read_plan(trial)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"epoch": 2}, "has no test_accuracy in [0, 100]"),
        ({"epoch": 2, "test_accuracy": None}, "has no test_accuracy in [0, 100]"),
        ({"epoch": 2, "test_accuracy": "x"}, "has no test_accuracy in [0, 100]"),
        ({"epoch": 2, "test_accuracy": math.nan}, "has no test_accuracy in [0, 100]"),
        ({"epoch": 3, "test_accuracy": 74.0}, "metrics.jsonl ends with epoch 3 of 2"),
    ],
)
def test_a_run_without_its_figure_is_refused_by_name(
    row: dict[str, Any], reason: str, trial: Path
) -> None:
    with open(trial / "keep" / "seed-1" / "metrics.jsonl", "a") as file:
        file.write(json.dumps(row) + "\n")
    said = refused(trial)
    assert reason in said and str(trial / "keep" / "seed-1") in said


def test_figures_that_are_no_numbers_are_left_out_of_the_page(trial: Path) -> None:
    path = trial / "keep" / "seed-1" / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0] |= {"train_loss": "x", "train_accuracy": None, "changed_area": []}
    lines[1] |= {"train_seconds": "long"}
    path.write_text("".join(json.dumps(line) + "\n" for line in (lines[0], *lines)))
    main(["any", "--read", f"--out={trial}"])
    assert (trial / "trial.html").is_file()


@pytest.mark.parametrize("name", [NAME, ITEMS])
def test_items_whose_mean_is_no_number_are_refused_by_their_file(name: str, trial: Path) -> None:
    out = trial / "keep" / "seed-1"
    (out / NAME).unlink()
    nan = base64.b64encode(torch.tensor([math.nan], dtype=torch.float64).numpy().tobytes()).decode()
    about = {
        NAME: {"epoch": 2, "images": 0, "right": 0, "bits": ""},
        ITEMS: {"epoch": 2, "items": 1, "mean": math.nan, "values": nan},
    }
    (out / name).write_text(json.dumps(about[name]))
    assert str(out / name) in refused(trial)


def tree(root: Path, size: int = 8) -> Path:
    """Images of two classes, some with other contents by `size`."""
    for number in range(24):
        folder = root / ("test" if number % 3 else "train") / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = torch.full((8, 8, 3), number, dtype=torch.uint8)
        pixels[:, size:] = torch.arange(8 - size, dtype=torch.uint8)[:, None]
        Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")
    return root


def test_a_trial_whose_images_change_does_not_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(queue: Sequence[Job], devices: Sequence[str], root: Path) -> list[Outcome]:
        return [Outcome(job, "stopped") for job in queue]

    monkeypatch.setattr(local, "run_all", stop)
    monkeypatch.setattr(timing, "seconds_of_start", lambda *words: 0.0)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    out, images = tmp_path / "trial", tree(tmp_path / "images")
    words = [str(images), "--arm=a=", "--arm=b=--smoothing 0.1", "--seeds=3", f"--out={out}"]
    words += ["--devices=cpu", "--", "--arch=resnet8", "--epochs=1", "--batch-size=4"]
    for _ in range(2):  # the same images go on
        with pytest.raises(SystemExit, match="^75$"):
            main(words)
    tree(images, size=4)
    with pytest.raises(SystemExit, match="what data names has changed") as error:
        main(words)
    assert "give another --out" in str(error.value) and "--take" not in str(error.value)
    plan = json.loads((out / "plan.json").read_text())
    del plan["files"]["data"]  # as before it was kept
    (out / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(SystemExit, match="^75$"):
        main(words)


@pytest.mark.parametrize("subset", [0, 4])
def test_runs_of_changed_images_are_not_taken(subset: int, tmp_path: Path) -> None:
    images = tree(tmp_path / "images")
    base = replace(TRIAL, dataset="folder", data=str(images), subset=subset, **SMALL)
    plan = make_plan(base, "cutout", ARMS[:2], seeds=3, budget="", margin=1.0)
    whole = digests_of_tree(base)
    assert whole and whole == digests_of_tree(replace(base, seed=7, subset=2))
    for seed in range(3):
        for arm in ARMS[:2]:
            data = digest_of_run(plan.config(arm, seed))
            store(plan, tmp_path / "old", arm, seed, 70 + seed, data)
    (asked,) = stages(plan, tmp_path / "new")
    assert take(asked, [tmp_path / "old"]) == 6
    (asked,) = stages(plan, tmp_path / "newer")
    tree(images, size=4)
    assert take(asked, [tmp_path / "old"]) == 0
    assert digests_of_tree(base) != whole


def test_a_finished_trial_of_two_sets_of_images_says_so(tmp_path: Path) -> None:
    plan = make_plan(replace(TRIAL, **SMALL), "cutout", ARMS, seeds=3, budget="", margin=1.0)
    fix_plan(plan, tmp_path)
    for seed in range(3):
        for place, arm in enumerate(ARMS):
            data = "0123456789" if seed else "abcdefghij"
            store(plan, tmp_path, arm, seed, 70 + 3 * place + seed + place * seed % 2, data)
    assert "Its runs are of 2 data sets: 01234567; abcdefgh." in read_trial(plan, tmp_path).remark
