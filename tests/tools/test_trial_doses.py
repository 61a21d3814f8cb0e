"""Trials over doses: contrasts, the slope, the choice of a dose, and runs from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from classification.experiments import TRIAL
from classification.methods import Cutout
from evidence.catalogue import load
from keepbench.right import write_right
from keepbench.settings import flat
from reporting.cli import main as report_main
from reporting.content import build
from reporting.page import html as page_of_report
from trialling.analysis import FALLS, GROWS, findings, half_width
from trialling.arms import METHODS, stage_of
from trialling.cli import main
from trialling.contrasts import dose_contrasts
from trialling.doses import parse_doses
from trialling.page import as_json, page
from trialling.plan import Plan, fix_plan, make_plan, read_plan
from trialling.results import gains, read_trial
from trialling.runs import RunJob, run_job, stages
from trialling.taking import take

SIZES = (4, 8, 12, 16)
ARMS = ("none", "plain", "keep", "random")
TRIALS = 200


def planned() -> Plan:
    return make_plan(
        TRIAL, "cutout", ARMS, seeds=4, budget="4 seeds", margin=0.5, first_seed=30,
        doses=tuple({"size": size} for size in SIZES),
    )  # fmt: skip


def store(plan: Plan, folder: Path, cell: str, seed: int, percent: float) -> None:
    """A finished run with this accuracy, of 10,000 images."""
    config, out = plan.config(cell, seed), run_job(plan, cell, seed, folder).out
    right = torch.arange(10_000) < round(100 * percent)
    out.mkdir(parents=True)
    about = {
        "task": "classification", "experiment": "trial", "budget": "paper",
        "settings": flat(config), "data": f"seed {seed}",
    }  # fmt: skip
    row = {
        "epoch": config.epochs, "train_loss": 0.5, "train_accuracy": 90.0, "changed_area": 0.2,
        "train_seconds": 60.0, "test_accuracy": 100 * float(right.double().mean()),
    }  # fmt: skip
    (out / "run.json").write_text(json.dumps(about))
    (out / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    write_right(out, right, config.epochs)


def carry_out(plan: Plan, folder: Path, jobs: Sequence[RunJob]) -> None:
    for job in jobs:
        cell, seed = job.out.parent.name, int(job.out.name.partition("-")[2])
        store(plan, folder, cell, seed, percent(cell, seed))


def percent(cell: str, seed: int) -> float:
    """Plain falls by the dose, Keep stays; its mildest dose is lucky on the seeds that choose."""
    arm, _, dose = cell.partition("-")
    size = int(dose or 0)
    lost = {"plain": 0.5, "random": 0.5}.get(arm, 0.0)
    luck = 0.3 * (arm == "keep" and size == 4) * (1 if seed < 32 else -1)
    noise = 0.05 * ((hash_of(cell) + seed) % 5 - 2)
    return 80 + 0.3 * seed - lost * (size - 4) / 4 + luck + noise


def hash_of(text: str) -> int:
    return sum(map(ord, text))


def test_controls_are_run_at_the_strongest_doses_and_crop_and_flip_once() -> None:
    assert planned().cells == (
        "none", "plain-4", "plain-8", "plain-12", "plain-16", "keep-4", "keep-8", "keep-12",
        "keep-16", "random-8", "random-12", "random-16",
    )  # fmt: skip
    config = planned().config("keep-12", 31)
    assert (config.cut, config.keep.name, config.seed) == (Cutout(size=12), "cut", 31)
    assert planned().config("none").cut is None


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("randaugment", ["num_ops=1,2,3", "magnitude=5,15,25"]),
        ("random_erasing", ["p=.2,.4,.6"]),
        ("cutmix", ["p=.2,.4,.6"]),
    ],
)
def test_a_dose_stands_above_a_methods_default(method: str, words: list[str]) -> None:
    doses = parse_doses(METHODS[method], words)
    plan = make_plan(TRIAL, method, ("plain", "keep"), seeds=4, budget="", margin=0.5, doses=doses)
    found = [plan.config(cell) for cell in plan.cells if cell.startswith("keep")]
    stage = stage_of(METHODS[method])
    own = [getattr(each, stage) for each in found]
    assert [{name: getattr(each, name) for name in doses[0]} for each in own] == [*doses]


def test_doses_are_chosen_and_compared_on_different_seeds(tmp_path: Path) -> None:
    plan = planned()
    fix_plan(plan, tmp_path)
    assert read_plan(tmp_path) == plan
    (first,) = stages(plan, tmp_path)
    assert len(first) == 4 * len(plan.cells)
    carry_out(plan, tmp_path, first)
    _, second = stages(plan, tmp_path)
    chosen = plan.chosen(read_trial(plan, tmp_path).accuracies)
    assert chosen == ("keep-4", "plain-4")
    assert {(job.out.parent.name, job.out.name) for job in second} == {
        (cell, f"seed-{seed}") for cell in (*chosen, "none") for seed in (34, 35)
    }
    carry_out(plan, tmp_path, second)
    trial = read_trial(plan, tmp_path)
    assert trial.finished and trial.chosen == chosen
    last = [each for each in trial.findings if each.contrast.family == "choice"]
    assert [each.n for each in last] == [4, 4]  # seeds 32 to 35
    assert [(each.contrast.arm, each.contrast.base) for each in last] == [
        ("keep-4", "plain-4"), ("keep-4", "none"),
    ]  # fmt: skip
    assert [each.difference for each in last] == pytest.approx([-0.3, -0.3], abs=0.15)


def test_the_page_draws_the_doses_and_says_from_which_on(tmp_path: Path) -> None:
    plan = planned()
    fix_plan(plan, tmp_path)
    for asked in stages(plan, tmp_path):
        carry_out(plan, tmp_path, asked)
    trial = read_trial(plan, tmp_path)
    assert trial.sentence.startswith("KeepCutout helps against Cutout from size 8 on (+1.5")
    assert (
        "Of the best doses, KeepCutout, size 4 hurts against the best Cutout, size 4"
        in trial.sentence
    )
    html = page(trial)
    assert "Dose and response" in html and "crop and flip: 89.4" in html
    main(["x", "--read", "--out", str(tmp_path), "--picture", str(tmp_path / "doses.png")])
    assert (tmp_path / "doses.png").read_bytes()[:4] == b"\x89PNG"
    report = page_of_report(build([tmp_path], load({})), tmp_path)
    assert "accuracy over the dose" in report and "from size 8 on" in report
    found = json.loads(json.dumps(as_json(trial)))
    slope = next(each for each in found["contrasts"] if each["contrast"]["kind"] == "slope")
    assert slope["verdict"] == GROWS and slope["difference"] == pytest.approx(0.5, abs=0.05)
    check = found["contrasts"][0]
    assert check["contrast"]["kind"] == "check" and abs(check["difference"]) < 0.1


def test_the_report_sets_what_keeping_gives_over_what_the_plain_method_gives(
    tmp_path: Path,
) -> None:
    plan = planned()
    fix_plan(plan, tmp_path / "trial")
    for asked in stages(plan, tmp_path / "trial"):
        carry_out(plan, tmp_path / "trial", asked)
    found = gains(trial := read_trial(plan, tmp_path / "trial"))
    assert found and found.name.startswith("Cutout, ")
    doses, plain, keep = zip(*found.points, strict=True)
    assert doses == ("4", "8", "12", "16")
    assert [mean for mean, _ in plain] == pytest.approx([0, -0.5, -1, -1.5], abs=0.15)
    at = [each for each in trial.findings if each.contrast.family == "dose"]
    assert keep == tuple((pytest.approx(e.difference), pytest.approx(e.half)) for e in at)
    report, drawn = tmp_path / "report", tmp_path / "gains.png"
    report_main([str(tmp_path / "trial"), "--out", str(report), "--picture", str(drawn)])
    assert "Cutout, CIFAR-10" in (report / "report.html").read_text()
    assert drawn.read_bytes()[:4] == b"\x89PNG"


def test_a_slope_is_the_least_squares_slope_of_the_differences() -> None:
    (slope,) = (
        each
        for each in dose_contrasts(METHODS["cutout"], ("plain", "keep"), "abcd", "abcd")
        if each.kind == "slope"
    )
    gains = {"a": 0.1, "b": 0.7, "c": 0.4, "d": 1.3}
    found = sum(w * gains[cell[-1]] for cell, w in slope.weights.items() if cell[:4] == "keep")
    assert found == pytest.approx(np.polyfit(range(4), list(gains.values()), 1)[0])


def simulated(slope: float) -> list[str]:
    """Verdicts on the slope of trials as R1's: residual 0.3 points, four seeds, six doses."""
    doses = [*"abcdef"]
    asked = dose_contrasts(METHODS["cutout"], ("plain", "keep"), doses, doses)
    (only,) = (each for each in asked if each.kind == "slope")
    generator = np.random.default_rng(0)
    said = []
    for _ in range(TRIALS):
        noise = generator.normal(0, 0.3, (2, len(doses), 4))
        values = {
            f"{arm}-{dose}": {
                seed: 80 + seed + slope * place * (arm == "keep") + noise[number, place, seed]
                for seed in range(4)
            }
            for number, arm in enumerate(("plain", "keep"))
            for place, dose in enumerate(doses)
        }
        said += [each.verdict for each in findings([only], values, 0.5)]
    return said


def test_a_planted_slope_is_found_and_none_is_invented() -> None:
    """200 trials each: half a point a step is always found; of none, 5 % are said to be there."""
    planted, none = simulated(0.3), simulated(0.0)
    assert planted.count(GROWS) > 0.95 * TRIALS and FALLS not in planted
    assert none.count(GROWS) + none.count(FALLS) < 0.1 * TRIALS  # 99.9 % of such runs


def test_an_interval_at_a_dose_is_that_of_the_rule() -> None:
    noise = np.random.default_rng(0)
    values = {
        f"{arm}-{dose}": {seed: 80 + seed + noise.normal() for seed in range(4)}
        for arm in ("plain", "keep")
        for dose in "abc"
    }
    asked = dose_contrasts(METHODS["cutout"], ("plain", "keep"), "abc", "abc")
    for each in findings(asked, values, 0.5):
        squares = sum(weight**2 for weight in each.contrast.weights.values())
        sd = each.se / (squares / 4) ** 0.5
        assert each.half == pytest.approx(half_width(sd, 6, 4, squares=squares))


def test_runs_of_one_dose_at_a_time_are_read_as_one_trial(tmp_path: Path) -> None:
    plan, elsewhere = planned(), tmp_path / "elsewhere"
    for size in SIZES:
        single = make_plan(
            TRIAL, "cutout", ("plain", "keep"), seeds=4, budget="", margin=0.5, first_seed=30,
            settings={"size": size},
        )  # fmt: skip
        for seed in single.numbers(0, 4):
            for arm in single.arms:
                folder = elsewhere / str(size)
                store(single, folder, arm, seed, percent(f"{arm}-{size}", seed))
    fix_plan(plan, tmp_path / "joined")
    (asked,) = stages(plan, tmp_path / "joined")
    for record in elsewhere.rglob("run.json"):
        about = json.loads(record.read_text())
        record.write_text(json.dumps({**about, "files": {"arch": "old"}}))
    assert take([replace(job, files={"arch": "new"}) for job in asked], [elsewhere]) == 0
    assert take(asked, [elsewhere]) == 4 * 2 * len(SIZES)
    assert take(asked, [elsewhere]) == 0
    trial = read_trial(plan, tmp_path / "joined")
    assert trial.count == 32 and not trial.finished
    assert [each.n for each in trial.findings if each.contrast.family == "dose"] == [4] * 4
    with pytest.raises(ValueError, match="there is no folder"):
        take(asked, [tmp_path / "absent"])
