from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from keepbench.maps import Gradient
from keepbench.run import read_rows
from runs import CPU
from semisup_uda.cli import cost, main
from semisup_uda.config import KeepPaste
from semisup_uda.experiments import BUDGETS, EXPERIMENTS
from semisup_uda.train import train

NUMBERS = (4000, 2500, 250, 40)


def test_table_9() -> None:
    """The paper's four cells, and 250 labels, which its "2500" almost surely means."""
    paper = {
        "randaugment-4000": "95.1",
        "keep_randaugment-4000": "95.4",
        "randaugment-2500": "91.2",
        "keep_randaugment-2500": "92.4",
        "randaugment-250": "91.2",
        "keep_randaugment-250": "92.4",
    }
    listed = {name: e.paper for name, e in EXPERIMENTS.items() if e.table == "9"}
    assert listed == {f"cifar10-uda-{name}": figure for name, figure in paper.items()}


def test_every_method_has_every_number_of_labels() -> None:
    for number in NUMBERS:
        for method in ("uda", "fixmatch"):
            for arm in ("", "keep_"):
                config = EXPERIMENTS[f"cifar10-{method}-{arm}randaugment-{number}"].config
                assert (config.method, config.labels) == (method, number)
        config = EXPERIMENTS[f"cifar10-supervised-{number}"].config
        assert (config.method, config.labels) == ("supervised", number)


def test_a_keep_arm_differs_from_its_plain_one_in_the_switch() -> None:
    pairs = 0
    for name, experiment in EXPERIMENTS.items():
        plain = EXPERIMENTS.get(name.replace("-keep_", "-"))
        if "-keep_" in name and plain:
            assert replace(experiment.config, keep=None) == plain.config, name
            assert experiment.config.keep is not None
            pairs += 1
    assert pairs >= 12


def test_settings_of_uda() -> None:
    """SETTINGS of UDA's script: 64 and 448 images, 500,000 steps, 0.03, 5e-4, 0.8, 0.4, 0.9999."""
    for experiment in EXPERIMENTS.values():
        if experiment.table != "9":
            continue
        config = experiment.config
        assert (config.arch, config.batch_size, config.ratio) == ("wrn28_2", 64, 7)
        assert config.total_steps == 500_000
        assert (config.lr, config.weight_decay, config.ema) == (0.03, 5e-4, 0.9999)
        assert (config.confidence, config.temperature, config.weight) == (0.8, 0.4, 1.0)
        assert (config.tsa, config.cutout, config.split) == ("", 16, "first")
        assert config.keep in (None, KeepPaste(tau=0.6, size=16, map=Gradient(scale=0.5)))


def test_fixmatch_is_surer_and_shares_the_rest() -> None:
    uda, fixmatch = (
        EXPERIMENTS[f"cifar10-{m}-randaugment-250"].config for m in ("uda", "fixmatch")
    )
    assert replace(fixmatch, method="uda", confidence=0.8) == uda
    assert fixmatch.confidence == 0.95


def test_the_controls_are_there() -> None:
    arms = {name.rsplit("-", 1)[1] for name, e in EXPERIMENTS.items() if e.table == "control"}
    assert {"full", "tau0", "random", "shuffled", "inverted", "centre", "labelled_only"} <= arms


def test_the_list_tells_the_erratum(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--list"])
    assert stop.value.code in (0, None)
    printed = capsys.readouterr().out
    assert "almost surely" in printed
    lines = {line.split()[0]: line for line in printed.splitlines() if line.startswith("cifar10-")}
    assert " 92.4 " in lines["cifar10-uda-keep_randaugment-2500"]


def test_a_half_size_map_costs_a_twelfth_more() -> None:
    """3 x 960 views, and 2 x 448 / 4 for the map, of 0.43 GFLOP, 500,000 times."""
    plain, keep = (
        EXPERIMENTS[f"cifar10-uda-{arm}randaugment-4000"].config for arm in ("", "keep_")
    )
    passes = 500_000 * 0.43e9
    assert cost(plain) == pytest.approx(3 * 960 * passes, rel=5e-3)
    assert cost(keep) == pytest.approx((3 * 960 + 2 * 448 / 4) * passes, rel=5e-3)
    assert cost(EXPERIMENTS["cifar10-supervised-4000"].config) == pytest.approx(
        3 * 64 * passes, rel=5e-3
    )


SAMPLE = [
    "cifar10-uda-keep_randaugment-40",
    "cifar10-fixmatch-keep_randaugment-250",
    "cifar10-uda-keep_randaugment-250-full",
    "cifar10-uda-randaugment-250-labelled_only",
    "cifar10-uda-randaugment-250-tsa_log",
    "digits-uda-keep_randaugment-20",
]


def smoke(name: str, tree: Path, out: Path) -> None:
    config = BUDGETS["smoke"](EXPERIMENTS[name].config)
    train(name, replace(config, data=str(tree)), out, CPU, budget="smoke")
    rows = read_rows(out / "metrics.jsonl")
    assert [row["epoch"] for row in rows] == [1, 2]
    assert all(0 <= row["test_accuracy"] <= 100 for row in rows)


@pytest.mark.parametrize("name", SAMPLE)
def test_smoke(name: str, tree: Path, tmp_path: Path) -> None:
    smoke(name, tree, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_smoke_of_every_experiment(name: str, tree: Path, tmp_path: Path) -> None:
    smoke(name, tree, tmp_path / "run")
