"""Trials of arms that a user brings, in every task."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evidence.catalogue import load
from keepbench.files import FolderLock
from keepbench.own_policy import Own, Timm
from keepbench.right import write_items, write_right
from keepbench.run import Run
from keepbench.settings import changed, flat
from reporting import page as report_page
from reporting.content import build
from trialling import timing
from trialling.analysis import CANNOT, HELPS, can_tell, findings, half_width
from trialling.cli import main
from trialling.own import check_shared, own_contrasts, parse_arms
from trialling.page import page
from trialling.plan import Plan, fix_plan, make_own_plan, make_plan, read_plan, used_seeds
from trialling.results import UNFINISHED, Trial, read_trial
from trialling.runs import run_job, stages
from trialling.taking import take

CATALOGUE = load()
PACKAGES = CATALOGUE.packages
CLASSIFICATION = PACKAGES["classification"]
BASE = changed(CLASSIFICATION.experiments["trial"].config, {"dataset": "digits", "record": True})
TRIALS, SEEDS = 200, 6
CODE = """
from dataclasses import dataclass
from pathlib import Path
from torchvision.transforms import v2
from classification.methods import Cutout, KeepCut
from keepbench.maps import Gradient
from keepbench.settings import setting
Path({marker!r}).touch()
number = 3
transform = v2.RandomRotation(10)
class Flip(v2.RandomHorizontalFlip): pass
@dataclass(frozen=True, kw_only=True)
class Small(Cutout): pass
@dataclass(frozen=True, kw_only=True)
class Spare(KeepCut): pass
@dataclass(frozen=True, kw_only=True)
class Depth(Gradient):
    power: float = setting(1.0, "")
def invert(images): return 255 - images
def fails(image): raise KeyError("my own trouble")
"""


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file beside `my.py`, which is there once that has been run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.py").write_text(CODE.format(marker=str(tmp_path / "ran")))
    (tmp_path / "set.yaml").write_text("cut: cutout\ncut.size: 8\ndataset: cifar10\n")
    return tmp_path / "ran"


def bits(random: np.random.Generator, gains: np.ndarray) -> np.ndarray:
    """Shares of 1,000 test images that are right, seeds differing by a point."""
    chance = 0.8 + 0.01 * random.standard_normal((TRIALS, SEEDS, 1)) + gains
    return 100 * random.binomial(1000, chance) / 1000


def precisions(random: np.random.Generator, gains: np.ndarray) -> np.ndarray:
    """Means of 100 queries' average precisions, of which some are hard in every run."""
    hard = 2 - 0.1 * random.standard_normal((TRIALS, SEEDS, 1, 1)) - 15 * gains[:, None]
    return 100 * random.beta(3, hard, (TRIALS, SEEDS, len(gains), 100)).mean(-1)


def alone(random: np.random.Generator, gains: np.ndarray) -> np.ndarray:
    """Figures of whole runs."""
    shared = random.standard_normal((TRIALS, SEEDS, 1)) + 100 * gains
    return 40 + shared + random.standard_normal((TRIALS, SEEDS, len(gains)))


@pytest.mark.parametrize("draw", [bits, precisions, alone])
def test_planted_effects_are_found_and_an_a_a_differs_one_time_in_twenty(
    draw: Callable[[np.random.Generator, np.ndarray], np.ndarray],
) -> None:
    """Each is a family by itself: Holm's correction is another test's."""
    arms = ("plain", "same", "mine")
    asked = [replace(each, family=each.arm) for each in own_contrasts(arms)]
    found = [
        findings(asked, dict(zip(arms, map(dict, map(enumerate, each.T)), strict=True)), 1e-9)
        for each in draw(np.random.default_rng(0), np.array([0.0, 0.0, 0.05]))
    ]
    assert sum(mine.verdict == HELPS for _, mine in found) >= 0.95 * TRIALS
    differ = sum(same.verdict != CANNOT for same, _ in found)
    assert 2 <= differ <= 20  # of 200 at 5 %: outside with p = 0.002


def planned(task: str, experiment: str, words: list[str], *, seeds: int = 3, **given: Any) -> Plan:
    package = PACKAGES[task]
    base = package.experiments[experiment].config
    recorded = {"record": True} if hasattr(base, "record") else {}
    base = changed(base, {**recorded, **given})
    own = parse_arms(words, package, base)
    return make_own_plan(
        base, own, seeds=seeds, budget=f"{seeds} seeds", margin=1.0, experiment=experiment
    )


def store(plan: Plan, cell: str, seed: int, folder: Path, value: float) -> None:
    """A finished run that measured a value, in [0, 1], with its items where the task has some."""
    job, metric = run_job(plan, cell, seed, folder), plan.package.task.metric
    config = job.config
    values = torch.full((10,), value, dtype=torch.float64)
    if plan.task in ("classification", "semisup_uda"):
        values = torch.arange(1000) < 1000 * value
    mean = 100 * float(values.double().mean())
    with Run(job.out, plan.experiment, config, torch.device("cpu"), resume=False) as run:
        epoch = getattr(config, "epochs", 0) or config.iterations
        row = {"train_seconds": 60.0}
        if plan.task == "detection":  # each image by itself is told better than all together
            values = values / 2 + 0.5
            row = {"iteration": epoch, "test_image_AP": 100 * float(values.mean())}
        run.log(epoch=epoch, train_loss=0.5, **row, **{metric: mean})
    if plan.task in ("reid", "detection"):
        write_items(job.out, values, 2)
    elif values.dtype == torch.bool:
        write_right(job.out, values, 2)


def drawn(plan: Plan, folder: Path, gain: float = 0.05) -> Trial:
    """A trial whose later arms gain as much each."""
    fix_plan(plan, folder)
    for seed in range(plan.seeds):
        for place, cell in enumerate(plan.cells):
            wobble = 0.002 * ((seed + place) % 2)
            store(plan, cell, seed, folder, 0.6 + gain * place + 0.01 * seed + wobble)
    return read_trial(plan, folder)


@pytest.mark.parametrize(
    ("task", "experiment", "words", "label", "items"),
    [
        ("classification", "trial", ["a=", "b=cutout"], "test accuracy, %", "test image"),
        (
            "semisup_uda", "digits-uda-randaugment-20", ["a=", "b=--keep paste --keep.size 8"],
            "test accuracy, %", "test image",
        ),
        ("reid", "toy-resnet18-bag_of_tricks", ["a=", "b=--keep cut"], "mAP, %", "query"),
        (
            "detection", "toy-faster_rcnn_fpn-r18-random", ["a=", "b=--erasing plain"],
            "box AP, %", "a run's last test",
        ),
    ],
)  # fmt: skip
def test_every_task_has_its_trial(
    task: str, experiment: str, words: list[str], label: str, items: str, tmp_path: Path
) -> None:
    if task not in PACKAGES:
        pytest.skip(f"{task} is not installed")
    given = {"dataset": "digits"} if experiment == "trial" else {}
    trial = drawn(planned(task, experiment, words, **given), tmp_path / "a trial")
    assert trial.finished and trial.count == 6
    assert trial.sentence.startswith("b helps against a (+5.") and trial.sentence.endswith(
        "seeds)."
    )
    assert "% of the" in trial.told and "missing to 100" in trial.told
    html = page(trial)
    assert label in html and items in html and "Which arm is better?" in html
    report = build([tmp_path], CATALOGUE)
    whole = report_page.html(report, tmp_path)
    section = whole[whole.index("<h2>Which arm is better?") : whole.index("<h2>Does keeping help?")]
    measure = label.removesuffix(", %")
    assert f"{measure} on " in section and "<th>b − a" in section
    assert report.headline.endswith(trial.sentence) and not report.skipped
    (view,) = report.trials
    data = "digits" if experiment == "trial" else experiment
    assert view.command == f"python tools/run_trial.py {data} --out '{tmp_path}/a trial' --read"
    (asked,) = stages(trial.plan, tmp_path / "again")
    assert take(asked, [tmp_path / "a trial"]) == 6
    again = read_trial(trial.plan, tmp_path / "again")
    assert again.finished and again.accuracies == trial.accuracies
    assert [each.difference for each in trial.by_image] == (
        [pytest.approx(trial.findings[0].difference / 2)] if task == "detection" else []
    )
    assert ('id="by-image"' in html) == (task == "detection")


def test_arms_that_cannot_be_told_are_said_together(tmp_path: Path) -> None:
    words = ["a=", "b=cutout", "c=gridmask", "d=mixup"]
    plan = planned("classification", "trial", words, lr=0.05)
    fix_plan(plan, tmp_path)
    measured = {"a": (70, 72, 70), "b": (71, 70, 72), "c": (70, 71, 70), "d": (90, 91, 92)}
    for cell, values in measured.items():
        for seed, value in enumerate(values):
            store(plan, cell, seed, tmp_path, value / 100)
    trial = read_trial(plan, tmp_path)
    assert trial.sentence.startswith("d helps against a (+20.33 ± ")
    assert "It cannot be told whether b or c differs from a: about " in trial.sentence
    html = page(trial)
    shared = html[html.index("settings of all arms") : html.index("settings of a<")]
    assert "lr=0.05" in shared and "cut" not in shared


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", {}),
        ("cutout", {"cut": "cutout", "cut.size": 16, "cut.p": 1.0}),
        ("augmix", {"policy": "augmix"}),
        ("mixup", {"mix": "mixup"}),
        ("rand-m9-mstd0.5", {"policy": "timm", "policy.config": "rand-m9-mstd0.5"}),
        ("--cut cutout --cut.size=8", {"cut": "cutout", "cut.size": 8}),
        ("set.yaml", {"cut": "cutout", "cut.size": 8, "cut.p": 1.0}),
        ("my.py:transform", {"policy": "own", "policy.transform": "my.py:transform"}),
        ("my.py:invert", {"policy": "own", "policy.transform": "my.py:invert"}),
        ("my.py:Flip", {"policy": "own", "policy.transform": "my.py:Flip"}),
        ("my.py:Small", {"cut": "my.py:Small", "cut.size": 16, "cut.p": 1.0}),
    ],
)
def test_an_arm_is_settings_a_file_a_method_code_or_timms_words(
    words: str, expected: dict[str, Any], marker: Path
) -> None:
    arms = parse_arms([f"mine={words}", "other=gridmask"], CLASSIFICATION, BASE)
    assert arms["mine"] == expected and arms["other"] == {"cut": "gridmask"}
    assert flat(changed(BASE, arms["mine"])).items() >= expected.items()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("../x=cutout", "give NAME=SETTINGS"),
        ("..=cutout", "give NAME=SETTINGS"),
        ("a/b=cutout", "give NAME=SETTINGS"),
        ("<b>x</b>=cutout", "give NAME=SETTINGS"),
        ("_hidden=cutout", "begins with a letter"),
        ("cutout", "give NAME=SETTINGS"),
        ("logs=cutout", "the name is taken"),
        ("Plain=cutout", "the name is taken"),
        ("x=nothing", "'nothing' is no arm"),
        ("x=my.py:nothing", "no attribute 'nothing'"),
        ("x=my.py:number", "neither a transform nor a class"),
        ("x=keepbench.maps:Random", "--keep cut --keep.map keepbench.maps:Random"),
        ("x=none.yaml", "--arm x: none.yaml: .*No such file"),
        ("x=--cut cutoot", "must be one of 'cutout'"),
        ("x=--cut 'cutout", "No closing quotation"),
        ("x=--keep paste", "nothing to keep from"),
        ("x=--seed 3", "are set for each run"),
        ("x=--data elsewhere", "data is no part of an arm"),
        ("x=--subset 30", "subset is no part of an arm"),
        ("x=--no-record", "record is no part of an arm"),
        ("x=rand-q9", "is no policy of timm"),
        ("x=", "--arm x and plain are the same settings"),
    ],
)
def test_arms_that_cannot_be_are_refused(words: str, message: str, marker: Path) -> None:
    with pytest.raises(ValueError, match=message):
        parse_arms(["plain=", words], CLASSIFICATION, BASE)


@pytest.mark.parametrize(
    ("task", "words", "stage"),
    [
        ("semisup_uda", "cutout", "cut"), ("semisup_uda", "my.py:Small", "cut"),
        ("reid", "my.py:transform", "policy"), ("reid", "rand-m9", "policy"),
    ],
)  # fmt: skip
def test_a_method_that_a_task_has_not_is_refused(
    task: str, words: str, stage: str, marker: Path
) -> None:
    if task not in PACKAGES:
        pytest.skip(f"{task} is not installed")
    base = next(iter(PACKAGES[task].experiments.values())).config
    with pytest.raises(ValueError, match=f"{words} is a {stage}, which {task} does not have"):
        parse_arms(["a=", f"b={words}"], PACKAGES[task], base)


def test_arms_of_the_same_class_are_the_same(marker: Path) -> None:
    words = ["a=my.py:Small", "b=--cut my.py:Small --cut.size 16"]
    with pytest.raises(ValueError, match="--arm b and a are the same settings"):
        parse_arms(words, CLASSIFICATION, BASE)
    assert "b" in parse_arms([*words[:1], f"{words[1]} --cut.p 0.5"], CLASSIFICATION, BASE)


def test_one_arm_is_no_trial_and_what_arms_own_is_not_for_all() -> None:
    with pytest.raises(ValueError, match="give --arm twice"):
        parse_arms(["plain="], CLASSIFICATION, BASE)
    with pytest.raises(ValueError, match="epochs is set for all arms and for b"):
        check_shared({"epochs": 2}, {"a": {}, "b": {"epochs": 3}})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["digits", "--dose", "size=4,5,6"], "give each dose as an --arm"),
        (["digits", "--minutes=0"], r"--minutes must be in \(0, 1e7\], found 0.0"),
        (["digits", "--minutes=nan"], "--minutes must be in .*found nan"),
        (["digits", "--seeds=1001"], r"--seeds must be in \[3, 1000\], found 1001"),
        (["digits", "--margin=inf"], r"--margin must be in \(0, 100\], found inf"),
        (["digits", "--first-seed=2000000000"], "--first-seed must be in .*found 2000000000"),
        (["digits", "--devices=dpu"], "no device is called 'dpu'"),
        (["digits", "--take=gone"], "--take: there is no folder gone"),
        (["digits", "--method=mixup"], "^2$"),
        (["digits", "--picture=a.png"], "^2$"),
        (["digits", "--out=/dev/null"], "--out: /dev/null is no folder"),
        (["digits", "--teacher", "x.pt"], "--keep.map teacher --keep.map.weights FILE"),
        (["digits", "--", "--no-record"], "record is set for each run"),
        (["digits", "--", "--dataset=cifar10"], "dataset=digits is what the trial is of"),
        (["digits-uda-randaugmen-20"], "did you mean digits-uda-randaugment-20"),
        (["digits-uda-randaugment-20", "--network=resnet8"], "for a tree of images"),
    ],
)
def test_wrong_words_beside_arms_are_refused(
    words: list[str], message: str, tmp_path: Path
) -> None:
    words[1:1] = ["--arm=a=", "--arm=b=augmix", "--devices=cpu", f"--out={tmp_path / 'trial'}"]
    with pytest.raises(SystemExit, match=message):
        main(words)
    assert not (tmp_path / "trial").exists()


@pytest.mark.parametrize(
    ("data", "arm", "message"),
    [
        ("digits", "--weights gone.pt", "b: there is no file gone.pt"),
        ("digits", "--weights my.py", "b: checkpoint my.py cannot be read"),
        ("digits", "--weights other.pt", "b: the weights are not this network's"),
        (
            "digits",
            "my.py:fails",
            "b: my.py:fails failed: .*my.py, line .*: KeyError: 'my own trouble'",
        ),
        ("digits-supervised-20", "--labels 30", "b is of other data than a: what sets the data"),
    ],
)
def test_arms_that_cannot_be_trained_are_named_before_the_first_run(
    data: str, arm: str, message: str, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "seconds_of_start", lambda *words: 0.0)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.save(torch.nn.Linear(2, 2).state_dict(), "other.pt")
    words = [data, "--arm=a=", f"--arm=b={arm}", "--devices=cpu", "--out=trial", "--"]
    with pytest.raises(SystemExit, match=message):
        main([*words, "--arch=resnet8", "--test-subset=10", "--batch-size=8"])
    assert not Path("trial").exists()


def test_a_plan_comes_back_and_runs_no_code_of_its_own(marker: Path, tmp_path: Path) -> None:
    words = ["plain=", "mine=my.py:transform", "theirs=rand-m9-mstd0.5", "set=set.yaml"]
    plan = planned("classification", "trial", words, dataset="digits")
    fix_plan(plan, tmp_path / "trial")
    marker.unlink()
    again = read_plan(tmp_path / "trial")
    assert again == plan and not marker.exists()
    assert again.config("mine").policy == Own(transform="my.py:transform")
    assert again.config("theirs", 7) == replace(BASE, policy=Timm(config="rand-m9-mstd0.5"), seed=7)


def test_a_trial_of_own_classes_is_read_without_their_code(marker: Path, tmp_path: Path) -> None:
    words = ["a=--cut my.py:Small --cut.size 8", "b=--cut gridmask", "c=--keep my.py:Spare"]
    words[2] += " --keep.map my.py:Depth --keep.map.power 2 --keep.tau 0.4 --keep.cache 3"
    plan = planned("classification", "trial", words, cut="my.py:Small")
    trial = drawn(plan, tmp_path / "trial")
    assert flat(plan.config("c", 2)) == flat(plan.config("c", 2, code="leave"))
    assert plan.config("c").keep.map.power == 2
    marker.unlink()
    (tmp_path / "my.py").unlink()
    again = read_trial(read_plan(tmp_path / "trial"), tmp_path / "trial")
    assert again.finished and again.findings == trial.findings and not marker.exists()
    assert "keep.map=my.py:Depth" in page(again)
    report = build([tmp_path], CATALOGUE)
    assert report.trials[0].findings == tuple(trial.findings) and not marker.exists()
    path = run_job(plan, "c", 0, tmp_path / "trial").out / "run.json"
    path.write_text(path.read_text().replace('"keep.map.power": 2', '"keep.map.power": 3'))
    assert not read_trial(read_plan(tmp_path / "trial"), tmp_path / "trial").finished


def test_a_trial_that_is_not_finished_says_so_and_has_one_process_at_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "trial"
    given = {"dataset": "digits", "flip": False, "flip_test": False}
    plan = planned("classification", "trial", ["a=", "b=cutout"], **given)
    drawn(plan, out)
    words = ["digits", "--arm=a=", "--arm=b=cutout", "--seeds=3", "--margin=1", f"--out={out}"]
    main([*words, "--devices=cpu"])
    assert UNFINISHED not in capsys.readouterr().out
    (run_job(plan, "b", 2, out).out / "right.json").unlink()
    main(["any", "--read", f"--out={out}"])
    assert UNFINISHED in capsys.readouterr().out
    with closing(FolderLock(out)), pytest.raises(SystemExit, match="another process is at work"):
        main([*words, "--devices=cpu"])


def test_a_stored_plan_has_no_arm_in_another_folder(tmp_path: Path) -> None:
    fix_plan(planned("classification", "trial", ["a=", "b=cutout"]), tmp_path)
    path = tmp_path / "plan.json"
    path.write_text(path.read_text().replace('"b"', '"../b"'))
    with pytest.raises(ValueError, match="'../b' is no name of an arm"):
        read_plan(tmp_path)


@pytest.mark.parametrize("part", ["keep", "base", "own"])
def test_no_part_of_a_stored_plan_brings_code(part: str, marker: Path, tmp_path: Path) -> None:
    plan = make_plan(BASE, "cutout", ("plain", "keep"), seeds=3, budget="", margin=1.0)
    fix_plan(plan, tmp_path / "trial")
    path = tmp_path / "trial" / "plan.json"
    found = json.loads(path.read_text())
    strange = {"keep": {"map": "my.py:Small"}, "base": {"cut": "my.py:Small"},
               "own": {"plain": {"keep.map": "my.py:Small"}}}[part]  # fmt: skip
    path.write_text(json.dumps({**found, part: {**found[part], **strange}}))
    with suppress(ValueError):
        read_trial(read_plan(tmp_path / "trial"), tmp_path / "trial")
    assert not marker.exists()


def test_runs_of_changed_code_are_not_taken(marker: Path, tmp_path: Path) -> None:
    words = ["plain=", "mine=my.py:transform"]
    drawn(planned("classification", "trial", words), tmp_path / "old")
    (tmp_path / "my.py").write_text((tmp_path / "my.py").read_text() + "\n")
    plan = planned("classification", "trial", words)
    with pytest.raises(ValueError, match=r"mine: policy.transform names has changed.*--take"):
        fix_plan(plan, tmp_path / "old")
    (asked,) = stages(plan, tmp_path / "new")
    assert take(asked, [tmp_path / "old"]) == 3
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"plain"}


def test_seeds_of_a_trial_beside_it_are_said(tmp_path: Path) -> None:
    plan = planned("classification", "trial", ["a=", "b=cutout"], dataset="digits", data="")
    fix_plan(plan, tmp_path / "first")
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "plan.json").write_text("[]")
    assert not [*used_seeds(plan, tmp_path / "first")]
    (remark,) = used_seeds(plan, tmp_path / "second")
    assert f"also served {tmp_path / 'first'}" in remark and "--first-seed 3" in remark
    assert not [*used_seeds(replace(plan, first_seed=3), tmp_path / "second")]
    for data in (".", f"{Path.cwd()}/"):  # the same place by other words
        assert [*used_seeds(replace(plan, base={**plan.base, "data": data}), tmp_path / "second")]
    other = replace(plan, base={**plan.base, "dataset": "cifar10"})
    assert not [*used_seeds(other, tmp_path / "second")]


def test_what_can_be_told_is_said_in_points_and_as_a_share_of_the_error() -> None:
    half = half_width(0.5, 2, 8)
    assert can_tell(2, 8, 0.5, 10.0) == (
        f"the difference of two arms is known to ±{half:.2f} points, {10 * half:.2g} % of the "
        "10.00 that are missing to 100"
    )
    assert can_tell(2, 8).endswith("if the residual deviation is 0.3, 0.5, 0.8")


def test_what_is_missing_to_100_is_the_references_alone(tmp_path: Path) -> None:
    plan = planned("classification", "trial", ["plain=", "plain-none=cutout"])
    told = drawn(plan, tmp_path, gain=0.3).told  # 60, 61.2 and 62 % of plain
    assert "of the 38.93 that are missing to 100" in told


def test_the_arm_teacher_keeps_by_a_trained_networks_maps(tmp_path: Path) -> None:
    weights = tmp_path / "teacher.pt"
    torch.save({}, weights)
    arms = ("plain", "keep", "teacher")
    plan = make_plan(
        BASE, "cutout", arms, seeds=3, budget="", margin=1.0, teacher={"weights": str(weights)}
    )
    assert [(each.arm, each.base) for each in plan.contrasts] == [
        ("keep", "plain"), ("teacher", "plain"), ("teacher", "keep"),
    ]  # fmt: skip
    kept, taught = plan.config("keep"), plan.config("teacher")
    assert taught.keep == replace(kept.keep, map=taught.keep.map)
    assert taught.keep.map.weights == str(weights) and "keep.map.weights" in plan.files
    fix_plan(plan, tmp_path / "trial")
    assert read_plan(tmp_path / "trial") == plan
    with pytest.raises(ValueError, match="needs a trained network"):
        make_plan(BASE, "cutout", arms, seeds=3, budget="", margin=1.0)
