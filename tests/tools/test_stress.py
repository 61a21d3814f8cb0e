from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from keepbench import images, loop, settings
from stressing import cli, files, flags, kills, trials, zoo
from stressing.cases import Case, Outcome, run_case
from stressing.forks import called, preload
from trialling.plan import make_plan

WORDS = (
    "digits-resnet8-keep_cutout_low_early --subset 32 --test-subset 10 --batch-size 8 --epochs 8 "
    "--device cpu"
)
DIGITS = kills.Subject("classification", WORDS)


@pytest.fixture(autouse=True, scope="module")
def _preloaded() -> None:
    preload()


def killed(folder: Path, seed: int = 0) -> Outcome:
    reference = kills.undisturbed(DIGITS, folder / "whole", folder)
    return kills.kill_often(DIGITS, reference, folder, Random(seed), folder)


def test_a_run_that_is_killed_often_ends_as_one_that_is_left_alone(tmp_path: Path) -> None:
    found = killed(tmp_path)
    assert not found.faults
    assert found.counts["runs equal to undisturbed ones"] == 1
    assert found.counts["kills"] > 1


def test_a_resumed_run_that_forgets_its_momentum_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = loop.Training.load_state

    def forget(training: loop.Training, state: dict) -> None:
        load(training, state)
        training.optimizer.state.clear()

    monkeypatch.setattr(loop.Training, "load_state", forget)
    assert any("differ" in fault for fault in killed(tmp_path).faults)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("lr", "nan", False), ("lr", "0", True), ("lr", "-1e-9", False), ("keep.tau", "1", True),
        ("keep.map.scale", "0", False), ("keep.map", "centre", True), ("keep.map", "a:b", None),
        ("momentum", "1", False), ("epochs", "0", False), ("epochs", "1.5", False),
        ("keep", "cut", True), ("keep", "cuts", False), ("flip", "1", False),
        ("data", "\x1b", False), ("data", "x", None),
    ],
)  # fmt: skip
def test_what_a_setting_can_be(name: str, text: str, expected: bool | None) -> None:
    known = {flag: each for flag, each, _ in flags.settings_of("classification")}
    assert flags.is_value(known[f"--{name}"], text) is expected


def test_a_setting_of_a_kind_is_tried_where_the_kind_is_chosen() -> None:
    found = [(flag, chosen) for flag, _, chosen in flags.settings_of("classification")]
    assert ("--cut.law", ["--cut=random_erasing"]) in found
    assert ("--keep.map.agreement", ["--keep=cut", "--keep.map=auto"]) in found
    assert [flag for flag, _ in found].count("--policy.magnitude") == 2  # of two ranges
    assert [flag for flag, _ in found].count("--keep.map.scale") == 1


def test_a_trial_that_loses_a_users_setting_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tried(given: dict[str, object]) -> Outcome:
        return trials.try_settings("randaugment", given, Random(0), tmp_path)

    assert tried({"policy.num_ops": 4}).counts["settings of trials in every arm"] == 1
    assert tried({"keep.map": "random"}).counts["settings of trials refused"] == 1
    monkeypatch.setattr(
        trials, "make_plan", lambda *words, settings, **more: make_plan(*words, **more)
    )
    assert "policy.num_ops is 2 in plain" in tried({"policy.num_ops": 4}).faults[0]


def given(words: list[str], sense: bool | None, folder: Path) -> Outcome:
    base = flags.BASES["classification"][0]
    return flags.try_words("classification", base, words, sense, folder, Random(0), folder)


@pytest.mark.parametrize(
    ("words", "sense", "verdict"),
    [
        (["--lr=-1"], False, "refused at once"),
        (["--keep.tau=x"], False, "refused at once"),
        (["--keep.tau=0.1"], True, "accepted"),
        (["--keep=paste"], None, "possible values refused"),
        (["--cut=cutouts"], False, "refused at once"),
        (["--tau=0.1"], False, "refused at once"),  # of earlier versions
    ],
)
def test_flags_are_judged(words: list[str], sense: bool, verdict: str, tmp_path: Path) -> None:
    found = given(words, sense, tmp_path)
    assert not found.faults and found.counts[verdict] == 1


def test_a_range_that_nobody_checks_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "is_within", lambda value, interval: True)
    fault = given(["--smoothing=-1"], False, tmp_path).faults[0]
    assert fault.startswith(("accepted in silence", "nothing was refused in time"))


def some(reader: str, names: str, folder: Path) -> list[Outcome]:
    cases: Iterator[Case] = files.prepare(folder, 0, reader)()
    chosen = [case for case in cases if names in case.name]
    return [run_case(case, 0, folder / str(number)) for number, case in enumerate(chosen)]


@pytest.mark.parametrize(
    ("reader", "names"),
    [("small images", "a bit flipped, 1"), ("small images", "link"), ("weights", "code")],
)
def test_odd_files_do_no_harm(reader: str, names: str, tmp_path: Path) -> None:
    found = some(reader, names, tmp_path)
    assert len(found) > 1
    assert not [fault for each in found for fault in each.faults]


def test_pixels_that_nobody_checks_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "check_sums", lambda path: None)
    faults = [f for each in some("small images", "a bit flipped", tmp_path) for f in each.faults]
    assert faults and all("silently different" in fault for fault in faults)


def test_code_in_a_pickle_is_noticed(tmp_path: Path) -> None:
    import pickle

    path = tmp_path / "weights.pkl"
    zoo._pickled(path, b"")
    pickle.loads(path.read_bytes())
    assert zoo.canary_of(path).exists()


def test_a_hang_is_noticed(tmp_path: Path) -> None:
    import time

    assert called(lambda: time.sleep(60), tmp_path / "log", 0.2).code is None


def test_the_command_counts_and_fails_if_anything_was_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare(folder: Path, seed: int) -> object:
        lost = Case("lost", lambda random, folder: Outcome(faults=[f"{random.random():.3f}"]))
        return lambda: iter([lost])

    monkeypatch.setitem(cli.PARTS, "files", prepare)
    for name in ("a", "b"):  # the same seed, the same faults
        with pytest.raises(SystemExit) as leaving:
            cli.main(["--only", "files", "--seed", "3", "--json", str(tmp_path / name)])
        assert leaving.value.code == 1
    assert "files: 1 faults" in capsys.readouterr().out
    one, other = (json.loads((tmp_path / name).read_text()) for name in ("a", "b"))
    assert one == other and one["files"]["faults"][0].startswith("[lost] 0.")
