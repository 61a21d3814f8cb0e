from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from classification.cli import cost
from classification.experiments import BUDGETS, EXPERIMENTS
from classification.methods import KeepPaste
from classification.models import (
    MODELS,
    cifar_resnet,
    create_model,
    pyramidnet,
    shake_shake,
    wide_resnet,
)
from classification.train import train
from keepbench.run import read_rows
from runs import CPU

# Every cell that needs a run, by table and model, as a reader finds them in the paper.
CELLS = {
    "1": [
        *(
            f"cifar10-{arch}-{arm}"
            for arch in ("resnet18", "resnet110", "wrn28_10")
            for arm in ("cutout", "keep_cutout", "keep_cutout_low", "keep_cutout_early")
        ),
        *(
            f"cifar10-{arch}-{arm}autoaugment{cheap}"
            for arch in ("wrn28_10", "shake_shake", "pyramidnet")
            for arm, cheap in (("", ""), ("keep_", ""), ("keep_", "_low"), ("keep_", "_early"))
        ),
    ],
    "2": [
        f"cifar10-resnet18-{keep}cutout{length}"
        for keep in ("", "keep_")
        for length in ("8", "12", "", "20", "24")  # 16 has no number
    ],
    "3": [
        f"cifar10-wrn28_10-{keep}randaugment_m{magnitude}"
        for keep in ("", "keep_")
        for magnitude in (6, 12, 18, 24)
    ],
    "4": [
        f"cifar10-{arch}-{method}"
        for arch in ("wrn28_10", "shake_shake")
        for method in ("gridmask", "augmix", "attentive_cutmix", "keep_autoaugment_low")
    ],
    "5": [
        *(
            f"imagenet-{arch}-{method}"
            for arch in ("resnet50", "resnet101")
            for method in (
                "vanilla", "dropout", "mixup", "dropblock", "randaugment", "random_erasing",
                "autoaugment", "keep_autoaugment", "keep_autoaugment_low", "keep_autoaugment_early",
                "cutmix", "keep_cutmix", "keep_cutmix_low", "keep_cutmix_early",
            )
        ),
        "imagenet-resnet50-droppath",
        "imagenet-resnet50-manifold_mixup",
    ],
    "8": ["imagenet-resnet50-cutmix-360", "imagenet-resnet50-autoaugment-360"],
    "2a": [f"cifar10-wrn28_10-cutout{length}" for length in (0, 4, 8, 12, "", 20, 24)],
    "2b": [f"cifar10-wrn28_10-randaugment_m{m}" for m in (3, 6, 9, 12, 15, 18, 21, 24)],
    "3a": [
        "cifar10-wrn28_10-cutout20",
        *(f"cifar10-wrn28_10-keep_cutout20_tau{tau}" for tau in (0.2, 0.4, 0.6, 0.8)),
    ],
    "3b": [
        "cifar10-wrn28_10-randaugment_m15",
        *(
            f"cifar10-wrn28_10-keep_randaugment_m15_paste8_tau{tau}"
            for tau in (0.0, 0.2, 0.4, 0.6, 0.8)
        ),
    ],
}  # fmt: skip


@pytest.mark.parametrize("table", CELLS)
def test_every_cell_of_the_paper_has_an_experiment(table: str) -> None:
    listed = {name for name, e in EXPERIMENTS.items() if table in e.table.split(", ")}
    assert set(CELLS[table]) <= listed
    if table in "123458":
        without = [n for n in CELLS[table] if not EXPERIMENTS[n].paper]
        assert without == []  # each cell of a table quotes the paper's figure


def test_the_controls_are_there() -> None:
    arms = {name.rsplit("-", 1)[1] for name, e in EXPERIMENTS.items() if e.table == "control"}
    wanted = {"match_area", "random", "shuffled", "inverted", "centre", "tau0", "equal_time"}
    assert wanted <= arms


def test_a_keep_arm_differs_from_its_plain_one_in_the_switch() -> None:
    pairs = 0
    for name, experiment in EXPERIMENTS.items():
        plain = EXPERIMENTS.get(name.replace("-keep_", "-"))
        if "-keep_" in name and plain and not re.search("_(low|early)$", name):
            assert experiment.config.plain == plain.config, name
            pairs += 1
    assert pairs > 30


def test_settings_of_the_paper() -> None:
    """Section 4: tau 0.6, lengths 16 and 40, 300 epochs but for PyramidNet and Table 8."""
    for name, experiment in EXPERIMENTS.items():
        config = experiment.config
        if re.fullmatch("[1-58]", experiment.table):
            if config.keep:
                assert config.keep.tau == 0.6
            if isinstance(config.keep, KeepPaste):
                assert config.keep.size == (40 if config.dataset == "images" else 16)
            longer = {"cifar10-pyramidnet": 1800}.get(name.rsplit("-", 1)[0], 300)
            assert config.epochs == (360 if experiment.table == "8" else longer), name
    assert EXPERIMENTS["cifar10-shake_shake-autoaugment"].config.lr == 0.01
    assert EXPERIMENTS["cifar10-wrn28_10-autoaugment"].config.dropout == 0.0
    assert EXPERIMENTS["cifar10-wrn28_10-cutout"].config.dropout == 0.3


def test_a_full_map_costs_two_thirds_more() -> None:
    """One forward and one backward pass for the input, beside a step of three passes."""
    plain, keep = (EXPERIMENTS[f"cifar10-wrn28_10-{arm}cutout"].config for arm in ("", "keep_"))
    passes = 50_000 * 300 * 10.5e9
    assert cost(plain) == pytest.approx(3 * passes, rel=1e-3)
    assert cost(keep) == pytest.approx(5 * passes, rel=1e-3)
    assert cost(EXPERIMENTS["cifar10-wrn28_10-keep_cutout_recycled"].config) == cost(plain)


SAMPLE = [
    "cifar10-resnet110-keep_cutout_low",
    "cifar10-resnet18-keep_cutout-match_area",
    "cifar10-resnet18-keep_cutout-shuffled",
    "cifar10-resnet18-keep_cutout_cached",
    "cifar10-resnet18-keep_cutout_recycled",
    "cifar10-resnet18-keep_random_erasing_low_early",
    "cifar10-resnet20-keep_autoaugment_low_early",
    "cifar10-resnet20-keep_trivialaugment",
    "cifar10-wrn28_10-keep_randaugment_m24",
    "cifar10-wrn28_10-gridmask",
    "cifar10-wrn28_10-augmix",
    "cifar10-wrn28_10-attentive_cutmix",
    "cifar10-shake_shake-keep_autoaugment_low",
    "cifar10-pyramidnet-keep_autoaugment_low",
    "imagenet-resnet50-dropblock",
    "imagenet-resnet50-droppath",
    "imagenet-resnet50-manifold_mixup",
    "imagenet-resnet50-keep_cutmix_low_early",
    "imagenet-resnet50-keep_autoaugment_low",
    "imagenet-resnet50-keep_v2_low",
    "imagenet-resnet50-keep_a3_low_early",
    "digits-resnet8-keep_cutmix_low",
    "finetune-keep_cutout_teacher",
]


def smoke(name: str, tree: Path, out: Path) -> None:
    config = BUDGETS["smoke"](EXPERIMENTS[name].config)
    train(name, replace(config, data=str(tree)), out, CPU, budget="smoke")
    rows = read_rows(out / "metrics.jsonl")
    assert [row["epoch"] for row in rows] == [1, 2]
    assert all(0 <= row["test_accuracy"] <= 100 for row in rows)


TINY = {  # of the same families and layers
    "resnet50": lambda classes, **options: create_model("resnet26", classes, **options),
    "resnet110": partial(cifar_resnet, 8),
    "wrn28_10": partial(wide_resnet, 10, 1),
    "shake_shake_26_2x96d": partial(shake_shake, 8, 4),
    "pyramidnet272_a200_shakedrop": partial(pyramidnet, 11, 12),
}


@pytest.mark.parametrize("name", SAMPLE)
def test_smoke(name: str, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On networks that are tiny where the paper's are large."""
    for arch, make in TINY.items():
        monkeypatch.setitem(MODELS, arch, make)
    smoke(name, tree, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_smoke_of_every_experiment(name: str, tree: Path, tmp_path: Path) -> None:
    smoke(name, tree, tmp_path / "run")
