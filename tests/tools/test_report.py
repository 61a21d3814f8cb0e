from __future__ import annotations

import csv
import html.parser
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from browser import framed, needs_browser, opened, said
from classification.experiments import EXPERIMENTS, TRIAL
from classification.train import train
from evidence.catalogue import TASKS, load
from evidence.folders import Group, read_all
from evidence.forest import EDGE, WIDTH, axis_of, row
from evidence.naming import compared, place
from evidence.statistics import SUPPORTED, TOO_LITTLE, estimate
from keepbench.paper import Cell
from keepbench.processes import Processes
from keepbench.settings import flat
from reporting import exports, page
from reporting.claims import CLAIMS
from reporting.cli import main
from reporting.content import build
from reporting.exports import _inert
from reporting.page import _without_tags
from reporting.results import Results
from reporting.samples import strips
from reporting.summary import contrasts, headline, summarise
from trialling.plan import fix_plan, make_plan

CLASSIFICATION = {"classification": TASKS["classification"]}
KEEP, PLAIN = "cifar10-resnet18-keep_cutout", "cifar10-resnet18-cutout"
CATALOGUE = load(CLASSIFICATION)


def write_run(
    root: Path, name: str, accuracy: float, *, seed: int = 0, budget: str = "paper", **change: Any
) -> Path:
    """A finished run's folder, as `keepbench.run.Run` leaves it."""
    package = CATALOGUE.packages["classification"]
    config = replace(package.budgets[budget](EXPERIMENTS[name].config), seed=seed, **change)
    folder = root / name / budget / f"seed-{seed}"
    folder.mkdir(parents=True)
    about = {
        "experiment": name, "budget": budget, "settings": flat(config), "commit": "abc123",
        "command": f"python tools/run_classification.py {name} --seed {seed}", "hardware": "a CPU",
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(about))
    rows = [
        {"epoch": epoch, "test_accuracy": value, "train_seconds": 6.0}
        for epoch, value in ((1, accuracy - 9), (config.epochs - 1, accuracy + 1),
                             (config.epochs, accuracy))
    ]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def results(root: Path) -> Results:
    return Results(CATALOGUE, read_all([root], CATALOGUE)[0])


def test_cells_are_means_over_seeds_of_the_last_epoch(tmp_path: Path) -> None:
    for seed, accuracy in enumerate((95.0, 96.0, 97.0)):
        write_run(tmp_path, PLAIN, accuracy, seed=seed)
    found = results(tmp_path).cell("classification", Cell("95.6±0.1", PLAIN)).full
    assert found is not None
    assert (found.value.n, found.value.mean, found.value.deviation) == (3, 96.0, 1.0)
    assert (found.best, found.seeds, found.hardware) == (97.0, (0, 1, 2), ("a CPU",))


@pytest.mark.parametrize(
    ("budget", "change", "label"),
    [
        ("short", {}, "short"),
        ("paper", {"epochs": 20}, "paper but epochs=20"),
        ("paper", {"bf16": True, "lr": 0.2}, "paper but bf16=True, lr=0.2"),
    ],
)
def test_a_short_or_changed_run_never_poses_as_the_papers(
    budget: str, change: dict, label: str, tmp_path: Path
) -> None:
    write_run(tmp_path, PLAIN, 90.0, budget=budget, **change)
    cell = results(tmp_path).cell("classification", Cell("95.6±0.1", PLAIN))
    assert cell.full is None
    assert [each.budget for each in cell.others] == [label]


@pytest.mark.parametrize("change", [{"data": "elsewhere"}, {"workers": 9}, {"bf16": True}])
def test_speed_and_place_leave_an_experiment_what_it_is(change: dict, tmp_path: Path) -> None:
    write_run(tmp_path, PLAIN, 95.0, **change)
    assert results(tmp_path).cell("classification", Cell("", PLAIN)).full is not None


def test_arms_are_paired_by_seed_within_a_group(tmp_path: Path) -> None:
    for seed in range(4):
        write_run(tmp_path, PLAIN, 95 + seed, seed=seed)
        if seed != 1:
            write_run(tmp_path, KEEP, 95.5 + 1.01 * seed, seed=seed)
    write_run(tmp_path, KEEP, 99.0, seed=1, budget="short")  # its twin is not run at this budget
    claim, found = CLAIMS[0], results(tmp_path)
    contrast = claim.contrasts[0]
    assert [name for name, _ in contrast.weights] == [KEEP, PLAIN]
    values = found.differences("classification", contrast)
    assert {group: [round(v, 6) for v in each] for group, each in values.items()} == {
        Group("paper"): [0.5, 0.52, 0.53]
    }
    assert found.finding("classification", contrast).verdict.word == SUPPORTED
    assert found.claim(claim).word == TOO_LITTLE  # the other two networks are not run


def test_short_runs_indicate_and_decide_nothing(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path, PLAIN, 80 + seed, seed=seed, budget="short")
        write_run(tmp_path, KEEP, 82 + 1.1 * seed, seed=seed, budget="short")
    found = results(tmp_path).finding("classification", CLAIMS[0].contrasts[0])
    assert found.verdict.word == TOO_LITTLE
    assert found.indications["short"].word == SUPPORTED


def _no_record(folder: Path) -> None:
    (folder / "run.json").unlink()


def _cut_record(folder: Path) -> None:
    (folder / "run.json").write_text((folder / "run.json").read_text()[:99])


def _no_seed(folder: Path) -> None:
    about = json.loads((folder / "run.json").read_text())
    del about["settings"]["seed"]
    (folder / "run.json").write_text(json.dumps(about))


def _unknown(folder: Path) -> None:
    text = (folder / "run.json").read_text().replace(f'"{PLAIN}"', '"gone"')
    (folder / "run.json").write_text(text)


def _half(folder: Path) -> None:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text(lines[0] + "\n" + lines[1][:20])


def _no_epoch(folder: Path) -> None:
    (folder / "metrics.jsonl").unlink()


def _nan(folder: Path) -> None:
    text = (folder / "metrics.jsonl").read_text().replace("95.0", "NaN")
    (folder / "metrics.jsonl").write_text(text)


def _too_high(folder: Path) -> None:
    text = (folder / "metrics.jsonl").read_text().replace("95.0", "5000.0")
    (folder / "metrics.jsonl").write_text(text)


def _binary(folder: Path) -> None:
    (folder / "metrics.jsonl").write_bytes(b"\xff\xfe\x00")


def _text_for_a_number(folder: Path) -> None:
    about = json.loads((folder / "run.json").read_text())
    about["settings"]["epochs"] = "300"
    (folder / "run.json").write_text(json.dumps(about))


def _numbers(folder: Path) -> None:
    (folder / "metrics.jsonl").write_text("1\n2\n")


def _beyond(folder: Path) -> None:
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 301, "test_accuracy": 95.0}\n')


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (_no_record, "run.json is missing"),
        (_cut_record, "run.json is damaged"),
        (_no_seed, "its settings have no seed"),
        (_unknown, "no installed task has an experiment 'gone'"),
        (_text_for_a_number, "its setting epochs is not a whole number: '300'"),
        (_half, "unfinished: 1 of 300"),
        (_no_epoch, "no epoch is finished"),
        (_nan, "no test_accuracy in [0, 100]"),
        (_too_high, "no test_accuracy in [0, 100]"),
        (_binary, "no epoch is finished (1 damaged lines)"),
        (_numbers, "no epoch is finished (2 damaged lines)"),
        (_beyond, "metrics.jsonl ends with epoch 301 of 300"),
        (_empty, "run.json is missing"),
    ],
)
def test_a_folder_that_cannot_be_used_is_listed(harm: Any, reason: str, tmp_path: Path) -> None:
    write_run(tmp_path, PLAIN, 96.0, seed=1)
    folder = write_run(tmp_path, PLAIN, 95.0)
    harm(folder)
    records, skipped = read_all([tmp_path], CATALOGUE)
    assert [each.record.seed for each in records] == [1]
    assert [each.folder for each in skipped] == [folder]
    assert reason in skipped[0].reason


def test_a_copied_run_counts_once(tmp_path: Path) -> None:
    write_run(tmp_path / "a", PLAIN, 95.0)
    write_run(tmp_path / "b", PLAIN, 95.0)
    records, skipped = read_all([tmp_path], CATALOGUE)
    assert len(records) == 1
    assert "the same experiment and seed" in skipped[0].reason


def _with_data(folder: Path, data: str) -> None:
    about = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**about, "data": data}))


def test_runs_of_different_trees_are_not_seeds_of_one_experiment(tmp_path: Path) -> None:
    places = ["a/birds", "b/birds", "b/birds", "b/cats", "b/cats"]
    digests = ["1" * 32, "1" * 32, "2" * 32, "3" * 32, ""]
    for seed, (where, data) in enumerate(zip(places, digests, strict=True)):
        _with_data(write_run(tmp_path, PLAIN, 95.0, seed=seed, dataset="folder", data=where), data)
    for seed in (5, 6):  # of data that each seed draws, the folder's name tells
        change = {"dataset": "folder", "data": "birds", "subset": 90}
        _with_data(write_run(tmp_path, PLAIN, 95.0, seed=seed, **change), str(seed) * 32)
    found: dict[str, list[int]] = {}
    for run in read_all([tmp_path], CATALOGUE)[0]:
        found.setdefault(dict(run.group.changed)["data"], []).append(run.record.seed)
    assert found == {
        "birds 11111111": [0, 1], "birds 22222222": [2], "cats 33333333": [3], "cats": [4],
        "birds": [5, 6],
    }  # fmt: skip


def test_published_images_are_the_same_under_any_name(tmp_path: Path) -> None:
    name = "imagenet-resnet50-vanilla"
    for seed, (where, data) in enumerate([("ILSVRC", "1" * 32), ("imagenet", "2" * 32)]):
        _with_data(write_run(tmp_path, name, 75.0, seed=seed, data=where), data)
        _with_data(write_run(tmp_path, PLAIN, 95.0, seed=seed, data=where), data)
    assert {run.group for run in read_all([tmp_path], CATALOGUE)[0]} == {Group("paper")}


def test_a_folder_whose_name_cannot_be_written_is_named_as_it_can(tmp_path: Path) -> None:
    write_run(tmp_path / "good", PLAIN, 95.0)
    strange = os.fsdecode(b"caf\xe9")
    try:
        write_run(tmp_path / strange, PLAIN, 95.0, seed=1)
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    (tmp_path / strange / "plan.json").write_text("{}")  # nor is a trial written of
    main([str(tmp_path), "--out", str(tmp_path / "report")])
    found = build([tmp_path], CATALOGUE)
    assert [run.record.seed for run in found.results.all()] == [0] and not found.trials
    (skipped,) = found.skipped
    assert "its name is not UTF-8" in skipped.reason and "caf\ufffd" in str(skipped.folder)


def test_a_run_on_other_data_says_so(tmp_path: Path) -> None:
    folder = write_run(tmp_path, PLAIN, 95.0)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 300, "test_accuracy": 95.0, "comparable": false}\n')
    assert [r.group.label for r in read_all([tmp_path], CATALOGUE)[0]] == [
        "paper but data=not comparable"
    ]


def test_comparisons_are_named_by_their_settings_and_told_in_a_sentence(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path, PLAIN, 95 + seed, seed=seed)
        write_run(tmp_path, KEEP, 95.5 + 1.1 * seed, seed=seed)
        write_run(tmp_path, f"{KEEP}-random", 90 + 3 * seed, seed=seed)
        write_run(tmp_path, PLAIN, 80 + 3 * seed, seed=seed, budget="short")
        write_run(tmp_path, KEEP, 82 + seed, seed=seed, budget="short")
    found = summarise(results(tmp_path))
    assert [(each.name.arms, each.full, each.decided) for each in found] == [
        ("KeepCutout − Cutout", True, True),
        ("KeepCutout − KeepCutout, random map", True, False),
        ("KeepCutout − Cutout", False, False),
    ]
    places = [each.name.place for each in found]
    assert places == ["CIFAR-10, ResNet-18"] * 2 + ["CIFAR-10, 10,000 images, ResNet-18"]
    assert headline(found) == (
        "1 comparison on small, short or changed runs: it does not leave out 0. "
        "2 comparisons at the paper's budget: 1 leaves out 0 (1 for keeping, 0 against)."
    )
    assert headline([]).count("none run yet") == 2


def test_a_place_has_the_folders_name_and_says_that_weights_were_pretrained() -> None:
    settings = {"dataset": "images", "data": "data/birds", "arch": "resnet50", "weights": "w.pt"}
    assert [*place(settings)] == ["birds", "pretrained ResNet-50"]
    assert [*place({**settings, "data": "."})][0] == "a tree of images"


def test_each_known_comparison_has_a_name_of_its_own() -> None:
    names = []
    for package in load().packages.values():
        experiments = package.experiments
        for _, each in contrasts(package):
            settings = (flat(experiments[name].config) for name, _ in each.weights)
            names.append((package.task.name, *compared(*settings)))
    assert len(names) > 150
    assert len(set(names)) == len(names)


def test_an_axis_holds_all_intervals_and_a_row_says_on_which_side_of_0_it_lies() -> None:
    values = [estimate([1.0, 2.0, 3.0]), estimate([-1.0, 0.0, 1.5]), estimate([0.0, 40.0])]
    axis = axis_of(values)
    assert axis.limit >= max(v.high or 0.0 for v in values[:2])
    assert axis.x(0.0) == WIDTH / 2 and axis.x(-99.0) == EDGE
    assert 0.0 in axis.ticks and len(axis.ticks) <= 9
    wide = [row(v, axis, claimed=None, said="") for v in values]
    apart = row(estimate([-3.0, -2.9, -3.1]), axis, claimed=0.5, said="<")
    assert [re.findall('class="row (\\w+)"', each)[0] for each in (*wide, apart)] == [
        "open", "open", "open", "no",
    ]  # fmt: skip
    assert "claimed" in apart and 'aria-label="&lt;"' in apart


def test_a_trial_is_told_by_its_verdict_and_its_runs_are_its_own(tmp_path: Path) -> None:
    plan = make_plan(TRIAL, "cutout", ("plain", "keep"), seeds=3, budget="3 seeds", margin=0.5)
    fix_plan(plan, tmp_path / "trial")
    write_run(tmp_path / "trial", PLAIN, 95.0)
    (tmp_path / "trial" / "trial.html").write_text("")
    found = build([tmp_path], CATALOGUE)
    assert (found.run_count, found.skipped) == (0, ())
    assert [trial.sentence for trial in found.trials] == [
        "Too few runs are finished to say anything."
    ]
    assert 'href="../trial/trial.html"' in page.html(found, tmp_path / "report")


def test_strips_show_what_was_cut_where_the_images_come_with_a_package(tmp_path: Path) -> None:
    change = {"subset": 20, "test_subset": 10, "epochs": 2, "batch_size": 10}
    for name in ("digits-resnet8-none", "digits-resnet8-cutout"):
        config = replace(EXPERIMENTS[name].config, **change)
        train(name, config, tmp_path / name, Processes(torch.device("cpu")))
    write_run(tmp_path, PLAIN, 95.0)  # of CIFAR-10, which is not here
    stored, cut, plain = strips(results(tmp_path).all())  # folders are read in order
    assert (stored.name, plain.name, cut.name) == ("", "crop and flip", "Cutout")
    assert len({stored.picture, plain.picture, cut.picture}) == 3
    assert cut.where == "epoch 2, seed 0, handwritten digits, 20 images, ResNet-8"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of a few runs at two budgets, hostile names and an empty folder."""
    root = tmp_path_factory.mktemp("runs")
    for seed in range(3):
        write_run(root, PLAIN, 95 + seed, seed=seed)
        write_run(root, KEEP, 95.5 + 1.1 * seed, seed=seed)
    write_run(root, PLAIN, 80.0, budget="short")
    write_run(root, KEEP, 80.0, budget="short", optimizer=r"$\frac{$")
    (root / "<script>alert(1)<script>").mkdir()
    main([str(root), "--out", str(root / "report")])
    return root / "report"


class _Checker(html.parser.HTMLParser):
    """Collects identifiers, links within the page and pictures without a text."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: set[str] = set()
        self.pictures: list[str | None] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids += [values["id"] or ""] if "id" in values else []
        target = values.get("href") or values.get("xlink:href") or ""
        self.links |= {target[1:]} if target.startswith("#") else set()
        if tag in ("link", "iframe") or not (values.get("src") or "data:").startswith("data:"):
            self.outside.append(tag)
        if tag == "svg" and values.get("aria-hidden") != "true":
            self.pictures.append(values.get("aria-label"))


def test_settings_of_strangers_do_not_stop_the_report(tmp_path: Path) -> None:
    folder = write_run(tmp_path, KEEP, 95.0)
    about = json.loads((folder / "run.json").read_text())
    about["settings"] |= {"cut.size": None, "subset": "x", "keep.tau": [1], "arch": "<b>"}
    about["settings"] |= {"keep.map.scale": "half"}
    del about["settings"]["keep.match_area"]
    (folder / "run.json").write_text(json.dumps(about))
    found = build([tmp_path], CATALOGUE)
    assert not found.runs and "setting subset is not a whole number" in found.skipped[0].reason
    assert page.html(found, tmp_path)


def test_the_page_is_whole(report: Path) -> None:
    text = (report / "report.html").read_text()
    checker = _Checker()
    checker.feed(text)
    assert len(set(checker.ids)) == len(checker.ids)
    assert checker.links <= set(checker.ids)
    assert checker.outside == []
    assert len(checker.pictures) > 5
    assert all(checker.pictures)
    assert "&lt;script&gt;alert(1)&lt;script&gt;" in text
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text
    assert re.search("#0[01][0-9a-f]{2}0[0-9a-f]", text) is None  # no stand-in colour is left
    for number in range(1, 12):
        assert f"<b>Table {number}</b>" in text
    for figure in ("2", "3"):
        assert f"<b>Figure {figure}</b>" in text


def test_text_and_data_say_the_same(report: Path) -> None:
    rows = list(csv.DictReader((report / "report.csv").read_text().splitlines()))
    mine = [row for row in rows if row["experiment"] == PLAIN and row["where"] == "Table 1"]
    assert [(row["budget"], row["full"], row["n"], row["mean"]) for row in mine] == [
        ("paper", "True", "3", "96.0"),
        ("short", "False", "1", "80.0"),
    ]
    missing = next(row for row in rows if row["experiment"] == "cifar10-resnet110-cutout")
    assert missing["status"] == "not run yet"
    assert missing["command"] == "python tools/run_classification.py cifar10-resnet110-cutout"
    content = json.loads((report / "report.json").read_text())
    assert content["runs"] == 8
    finding = content["claims"][0]["findings"][0]
    assert (finding["word"], finding["paper"]) == (SUPPORTED, 0.5)
    assert finding["difference"]["mean"] == pytest.approx(0.6)
    text = (report / "report.md").read_text()
    assert "95.6±0.1 / **96.00 ± 1.00** (n = 3); *short: 80.00 (n = 1)*" in text
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_an_empty_folder_gives_a_report_of_what_to_run(tmp_path: Path) -> None:
    found = build([tmp_path], CATALOGUE)
    assert found.run_count == 0
    rows = exports.rows(found)
    assert {"not run yet"} <= {row["status"] for row in rows}
    assert "python tools/run_classification.py " + KEEP in {row.get("command") for row in rows}


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="there is no folder"):
        main([str(tmp_path / "none"), "--out", str(tmp_path / "report")])


SHOW = """<script>addEventListener("load", () => {
  const arms = () => [...document.querySelectorAll(".sortable tbody tr")]
    .filter((row) => row.offsetHeight).map((row) => row.cells[0].textContent);
  const sort = document.querySelectorAll(".sortable thead button")[3];
  const seen = { arms: arms() };
  sort.click();
  seen.sorted = arms();
  document.querySelector(".filters input").value = "keepcutout short";
  document.querySelector(".filters input").dispatchEvent(new Event("input"));
  seen.filtered = arms();
  document.querySelectorAll("details").forEach((each) => { each.open = true; });
  const edge = document.documentElement.clientWidth;
  seen.outside = [...document.querySelectorAll("body *")].filter((each) =>
    each.getBoundingClientRect().right > edge + 1).map((each) => each.outerHTML.slice(0, 60));
  seen.plot = document.querySelector("#table-1 figure svg").getBoundingClientRect().height;
  const shown = document.createElement("pre");
  shown.id = "said";
  shown.textContent = JSON.stringify(seen);
  document.body.append(shown);
});</script>"""


@needs_browser
def test_a_phone_shows_all_of_it_and_runs_are_sorted_and_filtered(
    report: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    page.write_text((report / "report.html").read_text().replace("</body>", SHOW + "</body>"))
    seen = said(opened(framed(page, width=390)))
    keep = "KeepCutout"
    assert sorted(seen["arms"]) == sorted(["Cutout", "Cutout", keep, keep])
    assert seen["sorted"] == ["Cutout", keep, "Cutout", keep]  # 80, 80, 96, 96.6
    assert seen["filtered"] == [keep]
    assert seen["outside"] == []
    assert seen["plot"] > 100


def test_texts_of_strangers_are_inert_in_every_form_of_the_report() -> None:
    assert _without_tags("<script>x</script>") == "&lt;script>x&lt;/script>"
    assert [_inert(text) for text in ("=1+1", "+1", "-1", "@x", "plain", -1.5)] == [
        "'=1+1", "'+1", "'-1", "'@x", "plain", -1.5,
    ]  # fmt: skip
    for template in Path("tools").glob("*/templates/*.html"):
        text = template.read_text()
        assert "<head>" not in text or "default-src 'none'" in text, template
