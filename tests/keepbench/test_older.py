"""Records of version 0.2, whose settings stood beside one another."""

from __future__ import annotations

import importlib
import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from classification.experiments import EXPERIMENTS
from classification.methods import CutMix, Cutout, KeepCut, KeepMix
from classification.train import train
from keepbench.command import read
from keepbench.maps import Centre, Gradient
from keepbench.older import RENAMED, modern
from keepbench.policies import RandAugment
from keepbench.run import RunRecord
from keepbench.settings import changed, flat, from_flat
from runs import CPU, ROOT, rows_of

RECORDS = sorted((ROOT / "results").rglob("run.json"))
TRIAL = EXPERIMENTS["trial"].config


def settings_of(path: str) -> dict[str, Any]:
    """A record's settings as they were written."""
    return json.loads((ROOT / "results" / path / "run.json").read_text())["settings"]


def modern_words(task: str, command: str) -> list[str]:
    """The words of a record's command, with the names that flags have now."""
    names = {old.replace("_", "-"): new.replace("_", "-") for old, new in RENAMED[task].items()}
    words = shlex.split(command)[2:]
    return [
        re.sub(r"^--(no-)?([\w-]+)", lambda m: f"--{m[1] or ''}{names.get(m[2], m[2])}", word)
        for word in words
    ]


def test_every_record_here_is_what_its_command_asked_for() -> None:
    """With the present experiments: two hundred runs, of all tasks and several versions."""
    compared = set()
    for path in RECORDS:
        record = RunRecord.read(path.parent)
        task = importlib.import_module(f"{record.task}.experiments")
        config = record.config(task.Config)
        assert record.settings.items() <= flat(config).items(), path
        if record.task in RENAMED:
            words = modern_words(record.task, record.command)
            _, asked, _ = read(task.EXPERIMENTS, words, budgets=task.BUDGETS)
            assert record.settings.items() <= flat(asked).items(), path
            compared.add(record.task)
    assert compared == {*RENAMED}


def test_a_record_is_of_values() -> None:
    config = from_flat(
        type(TRIAL), modern("classification", settings_of("trial-s1-cutmix/centre/seed-4"))
    )
    keep = KeepMix(map=Centre(), match_area=True)
    assert (config.mix, config.keep, config.cut) == (CutMix(p=0.5), keep, None)
    small = modern("classification", settings_of("cifar10_small-keep_cutout_low_early/seed-0"))
    config = from_flat(type(TRIAL), small)
    assert config.cut == Cutout() and config.keep == KeepCut(map=Gradient(scale=0.5))


def test_settings_without_an_effect_are_left_out() -> None:
    old = {"cut": "", "size": 8, "keep": "", "tau": 0.1, "saliency": "random", "scale": 0.5,
           "policy": "trivialaugment", "magnitude": 3, "policy_fill": "black"}  # fmt: skip
    assert modern("classification", old) == {
        "cut": "", "keep": "", "policy": "trivialaugment", "policy.fill": "black",
    }  # fmt: skip
    random = {"keep": "cut", "saliency": "random", "scale": 0.5, "tau": 0.1}
    assert modern("reid", random) == {"keep": "cut", "keep.map": "random", "keep.tau": 0.1}


def test_a_map_was_the_gradients_where_a_record_does_not_say() -> None:
    assert modern("reid", {"keep": "cut", "scale": 0.5}) == {"keep": "cut", "keep.map.scale": 0.5}


def test_randaugments_own_magnitude_was_nine() -> None:
    old = {"policy": "randaugment", "magnitude": -1, "num_ops": 2}
    found = modern("classification", old)
    assert changed(TRIAL, found).policy == RandAugment(num_ops=2, magnitude=9)
    assert (
        modern("classification", {"policy": "autoaugment", "magnitude": -1})["policy.magnitude"]
        == -1
    )


@pytest.mark.parametrize("config", [TRIAL, replace(TRIAL, cut=Cutout(size=8), keep=KeepCut())])
def test_present_settings_stay_as_they_are(config: Any) -> None:
    assert modern("classification", flat(config)) == flat(config)


@pytest.mark.parametrize("owner", [None, 1, ["cut"], {"a": 1}, "a:b"])
def test_a_kind_that_is_none_is_left_for_the_config_to_refuse(owner: Any) -> None:
    found = modern("classification", {"keep": owner, "tau": 0.5})
    assert found == {"keep": owner}
    with pytest.raises(ValueError, match="^keep (must be a name|a:b is code)"):
        from_flat(type(TRIAL), found)


def former(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as version 0.2 wrote them, with those of other kinds."""
    names = {new: old for old, new in RENAMED["classification"].items()}
    names["cut.p"], idle = "cut_p", {"num_ops": 3, "magnitude": -1, "mix_p": 1.0, "paste_size": 16}
    return {names.get(name, name): value for name, value in settings.items()} | idle


def test_a_run_of_version_0_2_goes_on_to_the_same_end(tmp_path: Path) -> None:
    """Its record and its checkpoint have the names of then."""
    config = replace(
        EXPERIMENTS["digits-resnet8-none"].config, subset=16, test_subset=4, epochs=2, batch_size=8,
        cut=Cutout(size=8), keep=KeepCut(map=Gradient(scale=0.5), tau=0.3), occlusion=False,
    )  # fmt: skip
    train("a", config, tmp_path / "whole", CPU)
    train("a", config, tmp_path / "part", CPU)
    about = json.loads((tmp_path / "part" / "run.json").read_text())
    about["settings"] = former(about["settings"])
    assert about["settings"]["size"] == 8 and about["settings"]["saliency"] == "gradient"
    (tmp_path / "part" / "run.json").write_text(json.dumps(about))
    (tmp_path / "part" / "last.pt").unlink()
    state = torch.load(tmp_path / "part" / "previous.pt", weights_only=True)
    assert state["epoch"] == 1
    state["run"] = json.dumps(former(json.loads(state["run"])))
    torch.save(state, tmp_path / "part" / "previous.pt")
    with pytest.raises(ValueError, match="cut.size: 8 then, 4 now"):
        train("a", replace(config, cut=Cutout(size=4)), tmp_path / "part", CPU, resume=True)
    train("a", config, tmp_path / "part", CPU, resume=True)
    assert rows_of(tmp_path / "part") == rows_of(tmp_path / "whole")
