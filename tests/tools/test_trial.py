from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats

from classification.cli import main as classify
from classification.experiments import TRIAL
from evidence.catalogue import load
from keepbench.right import NAME, read_right, write_right
from keepbench.run import Run
from keepbench.settings import flat
from queueing import local
from queueing.jobs import Job
from queueing.local import Outcome
from reporting.content import build
from reporting.page import html as page_of_report
from reporting.page import markdown
from trialling import timing
from trialling.analysis import SAME, findings, fit, going_on, half_width
from trialling.arms import METHODS, STAGES, USUAL, arm_config, check_arms, stage_of
from trialling.cli import main, shared_settings
from trialling.contrasts import Contrast, contrasts
from trialling.page import arm_rows, as_json, page
from trialling.plan import Plan, fix_plan, make_plan, read_plan
from trialling.results import Trial, read_trial
from trialling.runs import accuracies, run_job, stages

IMAGES = 20_000
BASE = dict(none=0.75, plain=0.80, keep=0.80, random=0.80, inverted=0.80, centre=0.80)
ARMS = ("none", "plain", "keep", "random")


@pytest.fixture(autouse=True)
def _one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials in this process take one thread: forks of other tests cannot have more."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def planned(*, seeds: int = 4, arms: Sequence[str] = ARMS, margin: float = 1.5) -> Plan:
    return make_plan(
        TRIAL, "cutout", tuple(arms), seeds=seeds, budget=f"{seeds} seeds", margin=margin
    )


def store(plan: Plan, folder: Path, arm: str, seed: int, right: torch.Tensor) -> None:
    """A finished run with these bits."""
    config, out = plan.config(arm, seed), run_job(plan, arm, seed, folder).out
    with Run(out, "trial", config, torch.device("cpu"), resume=False, data="images") as run:
        run.log(
            epoch=config.epochs, train_loss=0.5, train_accuracy=90.0, changed_area=0.2,
            train_seconds=60.0, test_accuracy=100 * float(right.double().mean()),
        )  # fmt: skip
    write_right(out, right, config.epochs)


def drawn(plan: Plan, folder: Path, **changed: float) -> Plan:
    """Runs whose images are right at random: of each arm with its chance, by seed a bit more."""
    fix_plan(plan, folder)
    generator = torch.Generator().manual_seed(0)
    for seed in range(plan.seeds):
        shift = 0.01 * math.sin(seed)
        for arm in plan.arms:
            chance = (BASE | changed)[arm] + shift
            right = torch.rand(IMAGES, generator=generator) < chance
            store(plan, folder, arm, seed, right)
    return plan


def verdicts(trial: Trial) -> dict[tuple[str, str], str]:
    return {(each.contrast.arm, each.contrast.base): each.verdict for each in trial.findings}


def test_a_planted_effect_is_found_and_an_a_a_is_not(tmp_path: Path) -> None:
    trial = read_trial(drawn(planned(), tmp_path, keep=0.83), tmp_path)
    assert verdicts(trial) == {
        ("random", "plain"): "within ±1.5",
        ("keep", "plain"): "helps",
        ("plain", "none"): "helps",
    }
    assert trial.sentence.startswith("KeepCutout helps against Cutout (+")
    assert trial.finished and trial.count == 16
    assert "KeepCutout helps against Cutout" in page(trial)
    assert json.loads(json.dumps(as_json(trial)))["contrasts"][1]["verdict"] == "helps"


def test_the_report_leads_with_trials_that_keep(tmp_path: Path) -> None:
    drawn(planned(), tmp_path / "keep", keep=0.83)
    drawn(planned(arms=("none", "plain")), tmp_path / "plain")
    report = build([tmp_path], load({}))
    assert report.headline.startswith("KeepCutout helps against Cutout (+")
    assert "Cutout helps against crop and flip" not in report.headline
    html = page_of_report(report, tmp_path)
    assert html.count('<svg class="row yes"') == 3 and html.count('<svg class="row open"') == 1
    (row,) = (line for line in markdown(report).splitlines() if line.startswith("| KeepCutout − C"))
    found = report.trials[0].findings[1].estimate
    assert f"| {found.mean:+.2f} | {found.low:+.2f} to {found.high:+.2f} | 4 |" in row


def test_a_planted_loss_hurts_and_a_method_without_gain_is_said(tmp_path: Path) -> None:
    trial = read_trial(drawn(planned(), tmp_path, keep=0.77, none=0.8), tmp_path)
    assert verdicts(trial)["keep", "plain"] == "hurts"
    assert "Cutout itself does not show a gain here" in trial.remark
    hurting = read_trial(drawn(planned(), tmp_path / "hurting", none=0.9), tmp_path / "hurting")
    assert verdicts(hurting)["plain", "none"] == "hurts"
    assert "Cutout itself costs accuracy here" in hurting.remark


def test_what_cannot_be_told_needs_so_many_more_seeds(tmp_path: Path) -> None:
    trial = read_trial(drawn(planned(margin=0.1), tmp_path), tmp_path)
    check = trial.findings[0]
    assert check.verdict == "cannot tell" and trial.model and check.more
    n, sd = check.n + check.more, trial.model.sd
    told = half_width(sd, 4, n) < abs(check.difference)
    assert told or abs(check.difference) + half_width(sd, 4, n, 0.9) < 0.1


def test_the_intervals_are_those_of_the_bits(tmp_path: Path) -> None:
    """With two arms, an analysis of variance over arm and seed is the paired t-test."""
    plan = drawn(planned(arms=("plain", "random")), tmp_path)
    values = {
        arm: [
            100 * float(read_right(tmp_path / arm / f"seed-{n}").double().mean()) for n in range(4)
        ]
        for arm in plan.arms
    }
    (found,) = read_trial(plan, tmp_path).findings
    paired = stats.ttest_rel(values["random"], values["plain"])
    low, high = paired.confidence_interval(0.95)
    assert found.p == pytest.approx(paired.pvalue)
    assert found.difference - found.half == pytest.approx(low)
    assert found.difference + found.half == pytest.approx(high)


def test_bits_that_contradict_the_metrics_are_refused(tmp_path: Path) -> None:
    plan = drawn(planned(), tmp_path)
    out = tmp_path / "keep" / "seed-1"
    right = read_right(out)
    right[0] = ~right[0]
    write_right(out, right, 60)
    with pytest.raises(ValueError, match="its items say"):
        accuracies(plan, tmp_path)


@pytest.mark.parametrize(
    "change", [{"margin": 1.0}, {"seeds": 5}, {"arms": ("none", "plain", "keep")}]
)
def test_a_changed_plan_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    fix_plan(planned(), tmp_path)
    fix_plan(planned(), tmp_path)  # the same one goes on
    assert read_plan(tmp_path) == planned()
    with pytest.raises(ValueError, match="was fixed before the first run and is another"):
        fix_plan(planned(**change), tmp_path)


def test_a_plan_that_is_too_old_to_know_a_setting_goes_on(tmp_path: Path) -> None:
    fix_plan(planned(), tmp_path)
    stored = json.loads((tmp_path / "plan.json").read_text())
    del stored["base"]["weights"]
    (tmp_path / "plan.json").write_text(json.dumps(stored))
    fix_plan(planned(), tmp_path)


def test_a_network_edited_within_a_trial_is_refused(tmp_path: Path) -> None:
    code = tmp_path / "mine.py"
    code.write_text("def net(channels, classes): ...\n")
    base, folder = replace(TRIAL, arch=f"{code}:net"), tmp_path / "trial"

    def plan() -> Plan:
        return make_plan(base, "cutout", ("plain", "keep"), seeds=3, budget="", margin=0.5)

    fix_plan(before := plan(), folder)
    fix_plan(plan(), folder)
    code.write_text("def net(channels, classes): return None\n")
    with pytest.raises(ValueError, match="what arch names has changed"):
        fix_plan(plan(), folder)
    store(before, folder, "keep", 0, torch.arange(100) < 80)  # by the code as it is now
    with pytest.raises(ValueError, match="what arch names has changed"):
        accuracies(before, folder)


def test_runs_without_a_plan_are_refused(tmp_path: Path) -> None:
    drawn(planned(), tmp_path)
    (tmp_path / "plan.json").unlink()
    with pytest.raises(ValueError, match="holds runs but no plan"):
        fix_plan(planned(), tmp_path)


def test_a_setting_that_a_run_is_too_old_to_know_is_at_its_default(tmp_path: Path) -> None:
    plan = drawn(planned(), tmp_path)
    job = run_job(plan, "plain", 0, tmp_path)
    about = json.loads((job.out / "run.json").read_text())
    del about["settings"]["objects"]
    (job.out / "run.json").write_text(json.dumps(about))
    assert job.finished()
    del about["settings"]["cut"]
    (job.out / "run.json").write_text(json.dumps(about))
    assert not job.finished()


def test_arms_of_a_seed_are_run_together_in_a_random_order(tmp_path: Path) -> None:
    (queue,) = stages(planned(arms=USUAL), tmp_path)
    orders = [[job.out.parent.name for job in queue[6 * n : 6 * n + 6]] for n in range(4)]
    assert all(sorted(order) == sorted(USUAL) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert [job.out.name for job in queue[::6]] == [f"seed-{n}" for n in range(4)]


def test_a_look_stops_arms_that_are_decided(tmp_path: Path) -> None:
    plan = planned(seeds=8, arms=("plain", "keep", "none"), margin=0.3)
    assert plan.looks == (4, 8) and plan.most == 12
    asked = stages(plan, tmp_path)
    assert len(next(asked)) == 12
    generator = torch.Generator().manual_seed(1)
    for seed in range(4):  # none is far below; plain and keep differ by too little to tell
        for arm, chance in {"plain": 0.8, "keep": 0.803, "none": 0.6}.items():
            store(plan, tmp_path, arm, seed, torch.rand(IMAGES, generator=generator) < chance)
    going = next(asked)
    assert {job.out.parent.name for job in going} == {"plain", "keep"}
    assert {job.out.name for job in going} == {f"seed-{n}" for n in range(4, 8)}

    later = {"plain": False, "keep": True}  # they would unsettle the look, but come after it
    for arm, right in later.items():
        store(plan, tmp_path, arm, 4, torch.full((IMAGES,), right))
    _, again = islice(stages(plan, tmp_path), 2)
    assert [job.command for job in again] == [job.command for job in going]


def test_p_is_corrected_by_holm_over_all_but_the_check(tmp_path: Path) -> None:
    check, *family = read_trial(drawn(planned(arms=USUAL), tmp_path), tmp_path).findings
    assert check.contrast.kind == "check" and check.p_holm == check.p
    largest = 0.0
    for left, each in enumerate(sorted(family, key=lambda each: each.p)):
        largest = max(largest, min(1.0, (len(family) - left) * each.p))
        assert each.p_holm == pytest.approx(largest)


def test_arms_that_were_stopped_are_fitted_with_the_seeds_that_they_have() -> None:
    """Seeds 2 and 3 are 10 points easier, so b's mean alone would be far off."""
    noise = [0.1, -0.1, 0.1, -0.1]
    a = {n: 80 + 10 * (n > 1) + noise[n] for n in range(4)}
    c = {n: 82 + 10 * (n > 1) - noise[n] for n in range(4)}
    model = fit({"a": a, "b": {2: 90.0, 3: 90.0}, "c": c})
    assert model.test({"b": 1, "a": -1}).effect.item() == pytest.approx(0.0, abs=0.2)
    assert model.test({"c": 1, "a": -1}).effect.item() == pytest.approx(2.0)
    assert model.df == 10 - 6 and model.p < 0.001


def test_equal_arms_are_said(tmp_path: Path) -> None:
    plan = planned(arms=("plain", "keep"))
    fix_plan(plan, tmp_path)
    assert read_trial(plan, tmp_path).sentence.startswith("Too few runs")
    for seed in range(4):
        for arm in plan.arms:
            store(plan, tmp_path, arm, seed, torch.arange(100) < 80 + seed)
    assert read_trial(plan, tmp_path).sentence.startswith("The arms differ by the same in every")


def test_two_of_three_arms_that_got_the_same_for_every_item_are_said(tmp_path: Path) -> None:
    plan = drawn(planned(arms=("none", "plain")), tmp_path / "two")
    plan = planned(arms=ARMS[:3])
    fix_plan(plan, tmp_path / "three")
    for seed in range(4):
        for arm, like in {"none": "none", "plain": "plain", "keep": "plain"}.items():
            right = read_right(tmp_path / "two" / like / f"seed-{seed}")
            store(plan, tmp_path / "three", arm, seed, right)
    trial = read_trial(plan, tmp_path / "three")
    assert verdicts(trial) == {("keep", "plain"): SAME, ("plain", "none"): "helps"}
    assert trial.sentence.startswith("KeepCutout and Cutout got the same for every item in every")
    assert trial.findings[0].more is None

    other = tmp_path / "three" / "keep" / "seed-2"  # as many right, but others
    write_right(other, read_right(other).flip(0), 60)
    assert verdicts(read_trial(plan, tmp_path / "three"))["keep", "plain"] != SAME


def test_runs_of_several_machines_are_flagged(tmp_path: Path) -> None:
    plan = drawn(planned(), tmp_path)
    assert read_trial(plan, tmp_path).remark == ""
    path = run_job(plan, "keep", 2, tmp_path).out / "run.json"
    about = json.loads(path.read_text())
    about["versions"]["torch"] = "1.0"
    path.write_text(json.dumps({**about, "commit": "f00", "hardware": "a 486"}))
    remark = read_trial(plan, tmp_path).remark
    assert re.search("2 commits: .*f00", remark) and re.search("2 processors: .*486", remark)
    assert re.search("2 versions: .*torch 1.0", remark)


def test_the_area_is_the_mean_over_training(tmp_path: Path) -> None:
    plan = planned(arms=("plain", "keep"))
    fix_plan(plan, tmp_path)
    out = run_job(plan, "plain", 0, tmp_path).out
    config = plan.config("plain", 0)
    right = torch.arange(100) < 80
    with Run(out, "trial", config, torch.device("cpu"), resume=False) as run:
        for epoch, area in ((59, 0.1), (60, 0.3)):
            run.log(epoch=epoch, changed_area=area, train_seconds=1.0, test_accuracy=80.0,
                    train_loss=0.5, train_accuracy=90.0)  # fmt: skip
    write_right(out, right, config.epochs)
    assert arm_rows(read_trial(plan, tmp_path))[0]["changed"] == pytest.approx(0.2)


def test_equal_values_say_nothing() -> None:
    contrast = Contrast("a", "b", "difference", "a - b")
    same = {arm: dict.fromkeys(range(4), 80.0) for arm in "ab"}
    assert findings([contrast], same, 0.5) == []
    assert going_on(["a", "b"], [], 0.5) == ["a", "b"]


@pytest.mark.parametrize("method", METHODS)
def test_arms_differ_from_the_plain_one_in_keeping_only(method: str) -> None:
    check_arms(method, USUAL)
    tried = METHODS[method]
    pastes, keep = stage_of(tried) == "policy", STAGES[stage_of(tried)][1]
    plain = arm_config(TRIAL, tried, keep, "plain")
    for arm in USUAL[2:]:
        config = arm_config(TRIAL, tried, keep, arm)
        assert replace(config, keep=None) == plain
        assert pastes or config.keep.match_area
    asked = contrasts(tried, USUAL)
    assert (asked[0].kind == "check") == (not pastes)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["digits", "--method", "cutot"], "no method 'cutot'; did you mean cutout"),
        (["digits", "--arms", "keep", "plan"], "no arm 'plan'; did you mean plain"),
        (["digits", "--arms", "keep", "none"], "arms without a contrast: keep, none"),
        (["digits", "--seeds", "2"], r"--seeds must be in \[3, 1000\], found 2"),
        (["digits", "--first-seed", "-1"], r"--first-seed must be in \[0"),
        (["digits", "--arms", "plain", "oracle"], "keep.map=oracle needs --objects"),
        (["digits-resnet8-none"], "no folder digits-resnet8-none; experiments are tried by --arm"),
        (["digits", "--teacher-network=resnet8"], "^2$"),
        (["digits", "--", "--cut", "cutout"], "the method is given by --method"),
        (["digits", "--", "--seed", "3"], "seed, resume, budget and device are set"),
        (["digits", "--", "--seed=3"], "seed, resume, budget and device are set"),
        (["digits", "--", "--device=cpu"], "device: out, seed"),
        (["digits", "--", "--dataset=cifar10"], "dataset=digits is what the trial is of"),
        (["digits", "--", "--keep.map", "random"], "keep.map: arms own this"),
        (["digits", "--", "--early-head=layer1", "--keep.tau=0.5"], "early_head: arms own this"),
        (["digits", "--", "--keep.map.scale=1.0"], "keep.map.scale: arms own this"),
        (["photos", "--network=resnet18", "--", "--image-size=96"], "resnet18.a1_in1k"),
        (["digits", "--", "--keep.match-area"], "keep.match_area: arms own this"),
        (["digits", "--arms", "plain", "none", "--", "--keep.tau=0.5"], "keep.tau: arms own"),
        (["digits", "--", "--keep.size=8"], "keep.size: arms own this, or none"),
        (["digits", "--", "--size=8"], "--size is --cut.size now"),
        (["digits", "--", "--policy.num-ops=4"], "policy.num_ops: no setting of Cutout"),
        (["digits", "--", "--objects=boxes.csv"], "objects: no arm uses them"),
        (["digits", "--", "--cut.law=torchvision"], "cut.law: no setting of Cutout"),
        (
            ["digits", "--method=trivialaugment", "--", "--policy.magnitude=9"],
            "policy.magnitude: no setting of TrivialAugment",
        ),
        (
            ["digits", "--method=random_erasing", "--dose", "size=8,16,24"],
            "'size' is no number that RandomErasing has",
        ),
        (
            ["digits", "--method=trivialaugment", "--dose", "size=8,16,24"],
            "TrivialAugment has no number that could be its dose",
        ),
        (["digits", "--dose", "size=8,16"], "give 3 different doses or more"),
        (["digits", "--dose", "size=8,16,16"], "give 3 different doses or more"),
        (["digits", "--dose", "size=28,8,16"], "order the doses from mild to strong"),
        (["digits", "--dose", "size=4,5,6", "p=1,1"], "as many values of each"),
        (["digits", "--dose", "sise=4,5,6"], "'sise' is no number that Cutout has; did you mean"),
        (["digits", "--dose", "size=4,5,6x"], "'4,5,6x' are not all numbers of size"),
        (["digits", "--dose", "size=4,5,6", "--", "--cut.size=7"], "by --dose and for all arms"),
        (
            ["digits", "--dose", "size=4,5,6", "--seeds=3"],
            r"--seeds must be in \[4, 1000\], found 3",
        ),
        (["digits", "--dose", "size=4,5,6", "--arms", "plain"], "arms plain and keep"),
        (["digits", "--dose", "size=4,5,6000"], "size must be in"),
        (["digits", "--", "--epochs", "3x"], "does not take"),
        (["digits", "--read"], "plan.json cannot be used"),
    ],
)
def test_wrong_words_are_refused(words: list[str], message: str, tmp_path: Path) -> None:
    words[1:1] = ["--out", str(tmp_path / "trial"), "--devices", "cpu"]
    with pytest.raises(SystemExit, match=message):
        main(words)
    assert not (tmp_path / "trial").exists()


@pytest.mark.parametrize(
    ("method", "words", "expected"),
    [
        ("randaugment", [], {"policy.num_ops": 2}),
        ("randaugment", ["--policy.num-ops", "4"], {"policy.num_ops": 4}),
        ("randaugment", ["--policy.num-ops=3"], {"policy.num_ops": 3}),  # its class's default
        ("cutmix", ["--mix.p=1"], {"mix.p": 1.0}),
        ("random_erasing", ["--cut.p", "0.25"], {"cut.p": 0.25}),
        ("cutout", ["--cut.size", "24"], {"cut.size": 24}),
    ],
)
def test_a_users_setting_stands_above_a_methods_default(
    method: str, words: list[str], expected: dict[str, Any]
) -> None:
    arms = ("plain", "keep")
    base, own, _ = shared_settings("cifar10", "", METHODS[method], arms, (), words)
    plan = make_plan(base, method, arms, seeds=3, budget="", margin=0.5, settings=flat(own))
    for arm in plan.arms:
        assert flat(plan.config(arm)).items() >= expected.items()


def test_users_threads_stand_and_busy_cores_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(8), raising=False)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert local.find_devices(["cpu"]) == ["cpu"] and os.environ["OMP_NUM_THREADS"] == "3"
    for busy, threads in ((0.1, "4"), (3.9, "2"), (7.8, "1")):
        monkeypatch.delenv("OMP_NUM_THREADS")
        monkeypatch.setattr(os, "getloadavg", lambda busy=busy: (busy, 0.0, 0.0))
        local.find_devices(["cpu", "cpu"])
        assert os.environ["OMP_NUM_THREADS"] == threads


def test_a_trial_runs_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []

    def run_all(queue: Sequence[Job], devices: Sequence[str], root: Path) -> list[Outcome]:
        for job in queue:
            ran.append(job.name)
            classify([*job.command[2:], "--device", "cpu"])
        return [Outcome(job, "done") for job in queue]

    monkeypatch.setattr(local, "run_all", run_all)
    monkeypatch.setattr(timing, "seconds_of_start", lambda *words: 0.0)
    out = tmp_path / "trial"
    words = ["digits", "--arms", "plain", "random", "--seeds", "3", "--first-seed", "5"]
    few = ["--subset=40", "--test-subset=30", "--no-test-rest", "--epochs=1", "--flip-test"]
    words += ["--out", str(out), "--devices", "cpu", "--json", str(tmp_path / "found.json"), "--"]
    main([*words, *few, "--arch=resnet8"])
    assert sorted(ran) == [f"{arm} seed {n}" for arm in ("plain", "random") for n in (5, 6, 7)]
    assert "the difference of two arms is known to ±" in capsys.readouterr().out
    first = json.loads((tmp_path / "found.json").read_text())
    assert first["finished"] and (out / "trial.html").is_file()

    ran.clear()
    bits = out / "plain" / "seed-6" / NAME
    before = bits.read_text()
    bits.unlink()  # as if it was killed before it could write them
    main([*words, *few, "--arch=resnet8"])
    assert ran == ["plain seed 6"] and bits.read_text() == before
    assert json.loads((tmp_path / "found.json").read_text()) == first
    with pytest.raises(SystemExit, match="base.batch_size: 64 then, 20 now"):
        main([*words, *few, "--arch=resnet8", "--batch-size=20"])
