from __future__ import annotations

import argparse
import importlib
import json
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from kinds import OWN, Config, Cutout, Erasing, Gradient, KeepCut, KeepPaste, Random, Shuffled

from keepbench.command import flags, words_of
from keepbench.command import parse as parse_words
from keepbench.experiments import Experiment
from keepbench.older import RENAMED
from keepbench.run import Run

PLAIN = Config(cut=Cutout())
EXPERIMENTS = {
    "plain": Experiment(PLAIN, "1", "95.6", 3),
    "plain-keep": Experiment(replace(PLAIN, keep=KeepPaste(map=Shuffled(scale=0.25)))),
}
BUDGETS = {"smoke": lambda config: replace(config, epochs=1), "paper": lambda config: config}


def parse(words: list[str]) -> tuple[str, Config, argparse.Namespace]:
    return parse_words(
        EXPERIMENTS, "", words, budgets=BUDGETS, cost=lambda config: f"{config.epochs} hours"
    )


def config_of(*words: str) -> Config:
    return parse(["plain", *words])[1]


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "own.py").write_text(OWN)
    return str(tmp_path / "own.py")


# Flags


def test_flags_are_made_from_the_fields() -> None:
    words = ["plain-keep", "--epochs", "5", "--lr", "0.5", "--seed", "2", "--arch", "large"]
    name, config, arguments = parse(words)
    assert name == "plain-keep"
    kept = EXPERIMENTS["plain-keep"].config
    assert config == replace(kept, arch="large", epochs=5, lr=0.5, seed=2)
    assert arguments.out == Path("runs/plain-keep/seed-2")
    assert parse(["plain-keep", "--keep", ""])[1] == PLAIN


def test_flags_of_kinds() -> None:
    words = "--keep cut --keep.map random --keep.match-area --cut.size 24 --cut.p=0.5".split()
    assert config_of(*words) == Config(
        cut=Cutout(size=24, p=0.5), keep=KeepCut(map=Random(), match_area=True)
    )
    assert config_of(*words, "--no-keep.match-area").keep == KeepCut(map=Random())
    _, config, _ = parse(["plain-keep", "--keep", "cut"])  # which keeps the map as it was set
    assert config.keep == KeepCut(map=Shuffled(scale=0.25))


def test_a_flag_that_several_kinds_share_is_that_of_the_one_chosen() -> None:
    assert config_of("--cut", "erasing", "--cut.p", "0.25").cut == Erasing(p=0.25)
    assert config_of("--cut", "cutout", "--cut.p", "0.25").cut == Cutout(p=0.25)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--order huge", "argument --order: invalid choice: 'huge'"),
        ("--epochs many", "argument --epochs: invalid int value: 'many'"),
        ("--unknown 1", "unrecognized arguments: --unknown 1"),
        ("--epoch 1", "unrecognized arguments: --epoch 1; did you mean --epochs"),
        ("--keep.mop random", "unrecognized arguments: --keep.mop random; did you mean --keep.map"),
        ("--lr 0", r"lr must be in \(0, 1\], found 0.0"),
        ("--keep cut --keep.map.scale 3", r"keep.map.scale must be in \(0, 1\], found 3.0"),
        ("--keep.tau 0.5", "keep.tau needs keep, which is none"),
        ("--cut erasing --cut.size 3", r"cut.size is no setting of erasing.*it has p, law"),
        ("--cut box", "cut must be one of 'cutout', 'erasing', found 'box'"),
        ("--cut gone.py:Box", "cut gone.py:Box cannot be called"),
        ("--out /dev/null/run", "--out: /dev/null is no folder"),
    ],
)
def test_wrong_words_end_in_a_line(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=f"^error: {message}"):
        config_of(*words.split())
    assert capsys.readouterr().err == ""


def test_a_wrong_experiment_names_the_nearest() -> None:
    with pytest.raises(SystemExit, match="no experiment 'plain-kep'; did you mean plain-keep"):
        parse(["plain-kep"])
    with pytest.raises(SystemExit, match="no experiment given"):
        parse([])


def test_flags_for_a_class_of_ones_own(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Its settings are its own, also where another kind has one of that name."""
    words = ["--cut", f"{own}:Stripe", "--cut.width", "4", "--cut.size", "0.25", "--cut.law", "x"]
    cut: Any = config_of(*words).cut
    assert (cut.width, cut.size, cut.law, cut.name) == (4, 0.25, "x", f"{own}:Stripe")
    keep = config_of("--keep", "cut", "--keep.map", f"{own}:Depth", "--keep.map.power", "2").keep
    assert keep is not None and keep.map.power == 2.0  # type: ignore[attr-defined]
    assert "--cut.width N" in help_of(["plain", "--cut", f"{own}:Stripe"], capsys)


def test_a_budget_comes_before_the_flags() -> None:
    _, config, arguments = parse(["plain-keep", "--budget", "smoke"])
    assert config == replace(EXPERIMENTS["plain-keep"].config, epochs=1)
    assert arguments.out == Path("runs/plain-keep/smoke/seed-0")
    assert parse(["plain", "--budget", "smoke", "--epochs", "2"])[1].epochs == 2


CONFIGS = [
    Config(),
    PLAIN,
    Config(flip=False, lr=0.25, note="a b"),
    Config(cut=Erasing(p=1.0)),  # as Cutout's, which was not set
    Config(cut=Cutout(p=0.5)),
    Config(keep=KeepPaste(map=Shuffled(scale=0.5), tau=0.0)),
    Config(keep=KeepCut(map=Gradient(), match_area=True)),
]


@pytest.mark.parametrize("base", CONFIGS)
@pytest.mark.parametrize("config", CONFIGS)
def test_the_flags_that_make_a_config_of_another(config: Config, base: Config) -> None:
    found = parse_words(
        {"base": Experiment(base)}, "", ["base", *flags(config, base)], budgets=BUDGETS, cost=str
    )
    assert found[1] == config


def test_what_words_set() -> None:
    words = ["--budget", "smoke", "--keep", "cut", "--keep.tau", "0.5", "--flip"]
    assert words_of(PLAIN, [*BUDGETS], words) == {
        "budget": "smoke", "keep": "cut", "keep.tau": 0.5, "flip": True,
    }  # fmt: skip


# Former flags


def possible(config: Any, prefix: str = "") -> set[str]:
    """The names of all settings that a config may have, of whatever kinds."""
    found = set()
    for each in fields(config):
        found.add(prefix + each.name)
        for kind in each.metadata["kinds"][1:]:
            found |= possible(kind, f"{prefix}{each.name}.")
    return found


@pytest.mark.parametrize("task", RENAMED)
def test_a_former_flag_is_answered(task: str) -> None:
    module = importlib.import_module(f"{task}.experiments")
    name = next(iter(module.EXPERIMENTS))
    known = possible(importlib.import_module(f"{task}.config").Config)
    for old, new in RENAMED[task].items():
        assert new in known and old not in known
        old, new = (each.replace("_", "-") for each in (old, new))
        for words, answer in (
            ([f"--{old}", "1"], f"--{old} is --{new} now"),
            ([f"--{old}=1"], f"--{old} is --{new} now"),
            ([f"--no-{old}"], f"--no-{old} is --no-{new} now"),
        ):
            with pytest.raises(SystemExit, match=f"^error: {answer}$"):
                parse_words(
                    module.EXPERIMENTS, "", [name, *words], budgets=module.BUDGETS, cost=str
                )


# Files


def configured(path: Path, content: str | bytes, *words: str) -> Config:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return config_of("--config", str(path), *words)


def test_yaml_of_settings_by_name(tmp_path: Path) -> None:
    """1e-4 is a number, as it is in JSON and for people; flags go before."""
    text = "lr: 1e-4\nflip: no\nkeep: cut\nkeep.map: random\ncut.size: 8  # small\nepochs: 7\n"
    assert configured(tmp_path / "a.yaml", text, "--epochs", "9") == Config(
        lr=1e-4, flip=False, keep=KeepCut(map=Random()), cut=Cutout(size=8), epochs=9
    )


def test_a_run_gives_its_settings(tmp_path: Path) -> None:
    config = Config(lr=1e-05, keep=KeepPaste(map=Shuffled(scale=0.25)), note="ü \\ '")
    Run(tmp_path / "run", "plain", config, torch.device("cpu"), resume=False).close()
    assert config_of("--config", str(tmp_path / "run" / "run.json")) == config


FILES = {
    "": "it has no settings by name",
    "- lr": "it has no settings by name",
    "7: 3": "it has no settings by name",
    '{"experiment": "plain"}': "it has no settings by name",
    "keep: {map: random}": "keep must be a plain value, found a dict; settings are flat",
    "keep:": "keep must be a plain value, found a NoneType; .* '' is none",
    "epochs: [3]": "epochs must be a plain value, found a list",
    "note: 2020-01-01": "note must be a plain value, found a date",
    "lr: .nan": r"lr must be in \(0, 1\], found nan",
    "epochs: 1e1": "epochs must be a whole number, found 10.0",
    "flip: 1": "flip must be true or false, found 1",
    "cut: yes": "cut must be a name, '' for none, found True",
    "lr: 0.1\nlr: 0.2": "a name comes twice: lr",
    "lr: !!bool maybe": "it is no YAML",
    "lr: !!python/object:os.system {}": "could not determine a constructor",
    "lr: [": "expected the node content",
    "epoch: 3": "epoch is no setting; did you mean epochs",
    "keep: cut\nkeep.map.scale: 3": r"keep.map.scale must be in \(0, 1\], found 3",
    "cut: own.py:Stripe": "own.py:Stripe is code, which is not run because a file says so",
    "keep: cut\nkeep.map: own.py:Depth": "own.py:Depth is code",
    "arch: own.py:Depth": "own.py:Depth is code",
    "\x00": "special characters are not allowed",
    "a: " + "[" * 1000: "recursion",
    "note: " + "a" * 1_000_000: "it has more than 1,000,000 bytes",
}


@pytest.mark.parametrize("content", FILES, ids=[text[:24] for text in FILES])
def test_a_file_that_gives_no_config_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    with pytest.raises(SystemExit, match=f"^error: --config {re.escape(str(path))}: .*") as error:
        configured(path, content)
    assert re.search(FILES[content], str(error.value)) and "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path, "Is a directory"), (tmp_path / "gone", "No such file"),
        (Path("/dev/zero"), "more than 1,000,000 bytes"),
    ):  # fmt: skip
        with pytest.raises(SystemExit, match=f"error: --config {path}: .*{message}"):
            config_of("--config", str(path))


def test_a_file_of_former_names(tmp_path: Path) -> None:
    """A run's are read; a person is told the present ones, of whatever kinds they are."""
    module = importlib.import_module("classification.experiments")
    words = ["cifar10-resnet18-cutout", "--config", str(tmp_path / "a")]

    def read(content: dict[str, Any]) -> Any:
        (tmp_path / "a").write_text(json.dumps(content))
        return parse_words(module.EXPERIMENTS, "", words, budgets=module.BUDGETS, cost=str)[1]

    run = {"experiment": "x", "settings": {"cut": "cutout", "size": 8, "tau": 0.5, "keep": ""}}
    assert read(run).cut.size == 8
    with pytest.raises(SystemExit, match="size is cut.size now"):
        read({"size": 8})


# Help and lists


def help_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        parse([*words, "--help"])
    assert stop.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_help_shows_ranges_and_the_experiments_own_values(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = help_of([], capsys)
    assert "--epochs N passes, 50% of them warm (in [1, 100], default 3)" in text
    assert "--note TEXT anything (default '')" in text
    assert "mirror images (default True)" in text
    assert "--keep KIND cut, paste, FILE.py:CLASS of your own, or '' for none (default '')" in text
    assert "gradient, shuffled, random, FILE.py:CLASS of your own (default 'gradient')" in text
    assert "--keep.size N paste: side pasted (in [1, 64], default 16)" in text
    text = help_of(["plain-keep", "--budget", "smoke"], capsys)
    assert "(in [1, 100], default 1)" in text and "or '' for none (default 'paste')" in text
    assert "(default 'shuffled')" in text and "(in (0, 1], default 0.25)" in text
    with pytest.raises(SystemExit, match="did you mean plain-keep"):
        parse(["plain-kep", "--help"])


def test_list_has_hours_of_this_machine(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """3.6e18 operations at 10^12 a second take 1,000 hours."""
    monkeypatch.setattr("keepbench.experiments.flop_per_second", lambda device: 1e12)
    words = ["--list", "--device", "cpu"]
    with pytest.raises(SystemExit):
        parse_words(EXPERIMENTS, "", words, budgets=BUDGETS, cost=lambda config: 3.6e18)
    lines = capsys.readouterr().out.splitlines()
    assert re.search(r" 3,600 PFLOP +1,000 ", lines[1])
    assert lines[-1].startswith("hours: of one run on ") and "1,000 GFLOP/s" in lines[-1]
    with pytest.raises(SystemExit, match="error: no device 'gone' here"):
        words = ["--list", "--device", "gone"]
        parse_words(EXPERIMENTS, "", words, budgets=BUDGETS, cost=lambda config: 1.0)


def test_list_prints_every_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(["--list"])
    assert stop.value.code == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["plain", "1", "95.6", "3", "3", "hours", "cut=cutout"]
    assert lines[1].split() == [
        "plain-keep", "-", "-", "1", "3", "hours",
        "cut=cutout", "keep=paste", "keep.map=shuffled", "keep.map.scale=0.25",
    ]  # fmt: skip


def test_smoke_says_once_that_its_result_means_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    parse(["plain", "--budget", "smoke"])
    assert capsys.readouterr().err.startswith("smoke: ")
    monkeypatch.setenv("RANK", "1")
    parse(["plain", "--budget", "smoke"])
    parse(["plain"])
    assert capsys.readouterr().err == ""
