from __future__ import annotations

import argparse
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from keepbench.settings import (
    Experiment,
    check,
    check_lengths,
    check_scale,
    differences,
    setting,
    with_role,
)
from keepbench.settings import parse as parse_words


@dataclass(frozen=True, kw_only=True)
class Config:
    arch: str = setting("small", "the network", choices=["small", "large"])
    epochs: int = setting(3, "passes, 50% of them warm", range="[1, 100]")
    lr: float = setting(0.1, "learning rate", range="(0, 1]")
    keep: bool = setting(False, "keep regions", role="keep")
    workers: int = setting(4, "processes", range="[0, 8]", may_change=True)
    seed: int = setting(0, "seed", range="[0, 9]", role="neutral")
    note: str = setting("", "anything")

    def __post_init__(self) -> None:
        check(self)


EXPERIMENTS = {
    "plain": Experiment(Config(), "1", "95.6", 3),
    "plain-keep": Experiment(Config(keep=True)),
}
BUDGETS = {"smoke": lambda config: replace(config, epochs=1), "paper": lambda config: config}


def parse(words: list[str]) -> tuple[str, Config, argparse.Namespace]:
    return parse_words(
        EXPERIMENTS, "", words, budgets=BUDGETS, cost=lambda config: f"{config.epochs} hours"
    )


def test_flags_are_made_from_the_fields() -> None:
    words = ["plain-keep", "--epochs", "5", "--lr", "0.5", "--seed", "2", "--arch", "large"]
    name, config, arguments = parse(words)
    assert name == "plain-keep"
    assert config == Config(arch="large", epochs=5, lr=0.5, keep=True, seed=2)
    assert arguments.out == Path("runs/plain-keep/seed-2")
    assert parse(["plain-keep", "--no-keep"])[1] == Config()


def test_a_wrong_experiment_names_the_nearest() -> None:
    with pytest.raises(SystemExit, match="no experiment 'plain-kep'; did you mean plain-keep"):
        parse(["plain-kep"])
    with pytest.raises(SystemExit, match="no experiment given"):
        parse([])


@pytest.mark.parametrize("words", [["--arch", "huge"], ["--epochs", "many"], ["--unknown", "1"]])
def test_a_wrong_setting_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["plain", *words])
    assert words[0] in capsys.readouterr().err


def test_list_has_hours_of_this_machine(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """3.6e18 operations at 10^12 a second take 1,000 hours."""
    monkeypatch.setattr("keepbench.settings.flop_per_second", lambda device: 1e12)
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
    assert lines[0].split() == ["plain", "1", "95.6", "3", "3", "hours"]
    assert lines[1].split() == ["plain-keep", "-", "-", "1", "3", "hours", "keep=True"]
    assert differences(Config(lr=0.2)) == "lr=0.2"


def test_a_budget_comes_before_the_flags() -> None:
    _, config, arguments = parse(["plain-keep", "--budget", "smoke"])
    assert config == Config(keep=True, epochs=1)
    assert arguments.out == Path("runs/plain-keep/smoke/seed-0")
    assert parse(["plain", "--budget", "smoke", "--epochs", "2"])[1].epochs == 2


def test_out_of_range_on_the_command_line() -> None:
    with pytest.raises(SystemExit, match=r"error: lr must be in \(0, 1\], found 0.0"):
        parse(["plain", "--lr", "0"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.0}, r"lr must be in \(0, 1\], found 0.0"),
        ({"lr": 1.01}, r"lr must be in \(0, 1\], found 1.01"),
        ({"lr": float("nan")}, r"lr must be in \(0, 1\], found nan"),
        ({"lr": "0.1"}, "lr must be a number, found '0.1'"),
        ({"lr": True}, "lr must be a number, found True"),
        ({"epochs": 0}, r"epochs must be in \[1, 100\], found 0"),
        ({"epochs": 2.0}, "epochs must be a whole number, found 2.0"),
        ({"epochs": "2"}, "epochs must be a whole number, found '2'"),
        ({"epochs": False}, "epochs must be a whole number, found False"),
        ({"keep": 1}, "keep must be true or false, found 1"),
        ({"arch": "huge"}, "arch must be one of 'small', 'large', found 'huge'"),
        ({"note": None}, "note must be printable text, found None"),
        ({"note": "a\x1b[31m"}, "note must be printable text, found 'a"),
        ({"note": "\ud800"}, "note must be printable text, found '"),
    ],
)
def test_a_setting_that_cannot_be_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        Config(**change)


def test_settings_at_the_ends_of_their_ranges() -> None:
    Config(lr=1, epochs=1, workers=8, note="größe 16, 画像")
    Config(lr=1e-9, epochs=100, workers=0)


def test_lengths_fit_in_the_shorter_side() -> None:
    check_lengths((40, 32), size=32, padding=31, paste_size=31)
    with pytest.raises(ValueError, match="size must be at most 32 for 40x32 images, found 33"):
        check_lengths((40, 32), padding=4, size=33)
    with pytest.raises(ValueError, match="padding must be at most 31 for 40x32 images, found 32"):
        check_lengths((40, 32), padding=32)  # a crop could miss the image
    with pytest.raises(ValueError, match="paste_size must be at most 31"):
        check_lengths((32, 32), paste_size=32)  # nothing of the policy would be left
    check_scale(0.25, (8, 8))
    with pytest.raises(ValueError, match="scale must leave 2 pixels of a side of 8x8 images"):
        check_scale(0.125, (8, 8))  # a map of one number: every region scores the same


def test_roles() -> None:
    assert with_role(Config(), "keep", "map") == {"keep"}
    assert with_role(Config(), "neutral") == {"workers", "seed"}


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
    assert "keep regions (default False)" in text
    text = help_of(["plain-keep", "--budget", "smoke"], capsys)
    assert "(in [1, 100], default 1)" in text and "keep regions (default True)" in text
    with pytest.raises(SystemExit, match="did you mean plain-keep"):
        parse(["plain-kep", "--help"])


def test_smoke_says_once_that_its_result_means_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    parse(["plain", "--budget", "smoke"])
    assert capsys.readouterr().err.startswith("smoke: ")
    monkeypatch.setenv("RANK", "1")
    parse(["plain", "--budget", "smoke"])
    parse(["plain"])
    assert capsys.readouterr().err == ""
