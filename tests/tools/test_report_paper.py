from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from evidence.catalogue import TASKS, Task, control_twins, load, plain_twins
from keepbench.experiments import Experiment
from keepbench.maps import Gradient, Inverted, Keep, KeepCut, Random
from keepbench.paper import FIGURES, TABLES
from keepbench.settings import one_of, setting
from reporting import costs, errata
from reporting.claims import CLAIMS


def test_a_task_that_cannot_be_imported_is_named() -> None:
    found = load({"nowhere": Task("nowhere", "", "run_nowhere.py", "AP", "")})
    assert "No module named 'nowhere'" in found.absent["nowhere"]


@pytest.mark.parametrize("name", TASKS)
def test_cells_and_claims_name_experiments_that_exist(name: str) -> None:
    pytest.importorskip(f"{name}.experiments", reason=f"{name} is not installed")
    package = load({name: TASKS[name]}).packages[name]
    cells = [cell for t in TABLES.values() if t.task == name for _, _, cell in t.cells()]
    if name == "classification":
        cells += [cell for figure in FIGURES.values() for _, cell in figure.points]
    used = {cell.experiment for cell in cells}
    used |= {n for c in CLAIMS if c.task == name for k in c.contrasts for n, _ in k.weights}
    assert used
    assert used <= set(package.experiments)


@dataclass(frozen=True)
class Small:
    keep: Keep | None = one_of((Keep, KeepCut), "")
    early_head: str = setting("", "", role="map")
    size: int = setting(16, "")


def test_twins_differ_in_their_switch_alone() -> None:
    configs = {
        "plain": Small(),
        "early_loss": Small(early_head="layer1"),
        "keep": Small(keep=KeepCut()),
        "keep_low": Small(keep=KeepCut(map=Gradient(scale=0.5))),
        "keep20": Small(keep=KeepCut(), size=20),
        "random": Small(keep=KeepCut(map=Random())),
        "inverted": Small(keep=KeepCut(map=Inverted())),
    }
    experiments = {name: Experiment(config) for name, config in configs.items()}
    kept = ("keep", "keep_low", "random", "inverted")
    assert plain_twins(experiments) == dict.fromkeys(kept, "plain")
    assert control_twins(experiments) == {
        "keep": ["inverted", "random"],
        "keep_low": ["random"],  # without a gradient, the resolution does nothing
    }


def test_errata_stand_where_they_belong(tmp_path: Path) -> None:
    path = tmp_path / "errata.md"
    path.write_text(
        "# E\n| where | what | ours |\n|---|---|---|\n| Table 1, 2: x | a | b |\n"
        "| Figure 2b: y | c | |\n| Table 11: z | d | |\n| section 3 | e | |\n"
    )
    found = errata.read(path)
    assert [e.what for e in errata.about(found, "Table 1")] == ["a"]
    assert [e.what for e in errata.about(found, "Table 2")] == ["a"]
    assert [e.what for e in errata.about(found, "Figure 2")] == ["c"]
    assert [e.what for e in errata.general(found)] == ["e"]
    assert len(errata.read()) >= 20  # the repository's own


COST = {
    "model": "resnet18", "map_ms": 1.0, "boxes_ms": 0.1, "step_ms": 5.0, "total_ms": 6.1,
    "ratio_low": 1.2, "ratio_high": 1.24, "peak_mib": None, "device": "a CPU", "batch_size": 128,
    "image_size": 32, "method": "low", "ratio": 1.22,
}  # fmt: skip


def test_overheads_stand_beside_the_papers(tmp_path: Path) -> None:
    path = tmp_path / "cost6.json"
    path.write_text(json.dumps([COST]))
    (tmp_path / "cost7.json").write_text("[{}]")
    rows, skipped = costs.read_all([tmp_path])
    view = costs.view("6", rows)
    cell = dict(view.rows)["+ low resolution"][0]
    assert cell.paper == "24 s (+26.3 %)"
    assert [round(row.overhead, 6) for row in cell.ours] == [22.0]
    assert view.cheap == "1 of 1 measured overheads are at most the paper's 26.3 %"
    assert [each.folder.name for each in skipped] == ["cost7.json"]


def test_times_of_other_settings_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "cost.json"
    path.write_text(json.dumps([COST, COST | {"batch_size": 64, "bf16": True, "compile": False}]))
    found = costs.view("6", costs.read(path))
    assert found.devices == ("a CPU", "a CPU, batch 64, bfloat16")
