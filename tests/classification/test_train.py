from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from classification.cli import main
from classification.config import Config
from classification.data import open_data
from classification.methods import (
    AttentiveCutMix,
    CutMix,
    Cutout,
    GridMask,
    KeepCut,
    KeepMix,
    KeepPaste,
    ManifoldMixup,
    Mixup,
    MixupOrCutMix,
    RandomErasing,
)
from classification.recipe import learning_rate
from classification.train import Trainer, train
from keepbench import command
from keepbench.images import Batch
from keepbench.leaving import PREEMPTED
from keepbench.loop import train_epoch
from keepbench.maps import Centre, Gradient, Inverted, Random, Shuffled
from keepbench.policies import AugMix, AutoAugment, RandAugment, TrivialAugment
from keepbench.right import read_right
from keepbench.run import read_rows
from keepbench.small_images import ImageSet, StoredData
from runs import CPU, ROOT, assert_resumes, epochs, rows_of, without_clocks

SMALL = Config(dataset="digits", arch="resnet8", subset=60, test_subset=30, epochs=2, batch_size=25)
LOW = Gradient(scale=0.5)
KEEP_LOW = {"cut": Cutout(), "keep": KeepCut(map=LOW)}
CUTOUT = replace(SMALL, cut=Cutout(), keep=KeepCut())


@pytest.mark.parametrize(
    "change",
    [
        {"cut": Cutout()},
        {**KEEP_LOW, "early_head": "layer1"},
        {"cut": RandomErasing(), "keep": KeepCut(map=LOW, cache=4)},
        {"policy": RandAugment(), "keep": KeepPaste(size=4)},
        {"mix": CutMix(), "keep": KeepMix()},
        {"mix": CutMix(), "keep": KeepMix(labels="importance", p=0.5)},
    ],
)
def test_a_compiled_run_equals_one_that_is_not(
    change: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a backend that changes no arithmetic, and code for two sizes of batch: 25 and 10."""
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        graphs.append(graph)
        return graph

    config = replace(SMALL, epochs=4, eval_every=4, **change)
    train("a", config, tmp_path / "eager", CPU)
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    compiled = Trainer(replace(config, compile=True), open_data(config, CPU.device), CPU)
    rows, made = [], []
    for _ in range(4):
        rows.append(train_epoch(compiled))
        made.append(len(graphs))
    assert [without_clocks(row) for row in rows] == rows_of(tmp_path / "eager")
    assert made[0] >= 4 and made[1:] == 3 * [made[1]]


@pytest.mark.parametrize(
    ("change", "steps"),
    [
        ({"ema": 0.9}, 3),  # the last step of an epoch
        ({**KEEP_LOW, "early_head": "layer1", "bf16": True}, 4),
        ({"mix": CutMix(), "keep": KeepMix(map=Shuffled())}, 5),
        ({"cut": RandomErasing(), "keep": KeepCut(map=Random()), "optimizer": "lamb"}, 2),
        ({"policy": RandAugment(), "keep": KeepPaste(), "clip": 1.0}, 1),
        ({"arch": "wrn28_2", "dropout": 0.3, "subset": 40, "batch_size": 14}, 2),
    ],
)
def test_a_run_stopped_after_any_step_goes_on_there(
    change: dict, steps: int, tmp_path: Path
) -> None:
    config = replace(SMALL, **change)
    data = open_data(config, CPU.device)
    assert_resumes(lambda: Trainer(config, data, CPU), steps, tmp_path)


def test_a_seed_gives_the_same_run(tmp_path: Path) -> None:
    for name in ("a", "b"):
        train("a", CUTOUT, tmp_path / name, CPU)
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b")
    train("a", replace(CUTOUT, seed=1), tmp_path / "c", CPU)
    assert rows_of(tmp_path / "a") != rows_of(tmp_path / "c")


def test_arms_of_one_seed_see_the_same_images() -> None:
    """Equal weights, order and crops; outside both boxes also equal pixels."""
    data = open_data(SMALL, CPU.device)
    plain, keep = (Trainer(config, data, CPU) for config in (CUTOUT.plain, CUTOUT))
    for a, b in zip(plain.model.parameters(), keep.model.parameters(), strict=True):
        assert torch.equal(a, b)
    steps = [next(iter(t.data.train_batches(t._order(), CPU.device, 0))) for t in (plain, keep)]
    assert torch.equal(steps[0].numbers, steps[1].numbers)
    a, b = (t.augment(0, 0, step) for t, step in zip((plain, keep), steps, strict=True))
    assert torch.equal(a.targets, b.targets)
    untouched = (a.inputs != 0) & (b.inputs != 0)
    assert untouched.float().mean() > 0.5
    assert torch.equal(a.inputs[untouched], b.inputs[untouched])
    assert not torch.equal(a.inputs, b.inputs)


def test_an_augmented_image_does_not_depend_on_its_batch() -> None:
    config = replace(SMALL, policy=AutoAugment(), cut=RandomErasing(), keep=KeepPaste())
    trainer = Trainer(config, open_data(config, CPU.device), CPU)
    stored = trainer.data
    assert isinstance(stored, StoredData)
    index = torch.arange(20)
    batch = Batch(index, stored.train.images[index], stored.train.labels[index])
    whole = trainer.augment(3, 0, batch).inputs
    alone = trainer.augment(3, 5, Batch(*(part[7:8] for part in batch[:3]))).inputs
    assert torch.equal(alone[0], whole[7])
    assert not torch.equal(trainer.augment(4, 0, batch).inputs, whole)


@pytest.mark.parametrize("stage", [{"cut": Cutout()}, {"mix": CutMix()}])
def test_tau_rises_on_a_line_from_the_first_epoch_to_1_in_the_last(stage: dict) -> None:
    kind = KeepMix if "mix" in stage else KeepCut
    base = replace(SMALL, **stage, epochs=3)
    data = open_data(base, CPU.device)
    batch = next(iter(data.train_batches(Trainer(base, data, CPU)._order(), CPU.device, 0)))

    def inputs(epoch: int, **keep: Any) -> torch.Tensor:
        config = replace(base, keep=kind(map=Centre(), **keep))
        return Trainer(config, data, CPU).augment(epoch, 0, batch).inputs

    for epoch, tau in enumerate((0.2, 0.6, 1.0)):
        assert inputs(epoch, tau=0.2, rising=True).equal(inputs(epoch, tau=tau))
    assert not inputs(2, tau=0.2).equal(inputs(2, tau=1.0))


def test_every_setting_changes_the_run(tmp_path: Path) -> None:
    base = replace(CUTOUT, epochs=1)
    changes: list[dict] = [
        {}, {"keep": None}, {"cut": Cutout(size=8)}, {"cut": Cutout(p=0.5)},
        {"keep": KeepCut(tau=0.1)}, {"keep": KeepCut(match_area=True)},
        *({"keep": KeepCut(map=each)} for each in (
            LOW, Inverted(), Centre(), Random(), Shuffled(),
        )),
        {"early_head": "layer1"},
        {"early_head": "layer1", "early_weight": 0.0}, {"padding": 0}, {"flip": False},
        {"lr": 0.05}, {"momentum": 0.5}, {"weight_decay": 0.1}, {"norm_decay": False},
        {"norm_decay": False, "bias_decay": True},
        {"batch_size": 20}, {"bf16": True}, {"subset": 40}, {"arch": "resnet20"},
        {"cut": RandomErasing()}, {"cut": RandomErasing(law="torchvision")},
        {"cut": GridMask(), "keep": None}, {"clip": 0.1},
        {"smoothing": 0.1}, {"loss": "bce"}, {"ema": 0.5}, {"ema": 0.5, "ema_every": 2},
        {"warmup": 1}, {"warmup": 1, "schedule": "torchvision"}, {"warmup": 1, "schedule": "timm"},
        {"schedule": "step"}, {"optimizer": "adamw"}, {"optimizer": "momentum"},
        *({"policy": policy} for policy in (
            AutoAugment(), AutoAugment(policy_set="svhn"), AutoAugment(magnitude=9),
            AutoAugment(space="original"), TrivialAugment(), TrivialAugment(fill="black"),
            AugMix(), AugMix(space="original"), RandAugment(), RandAugment(space="timm"),
            RandAugment(num_ops=1), RandAugment(magnitude=20),
        )),
        {"policy": TrivialAugment(), "interpolation": "bilinear"},
        *({"policy": RandAugment(), "keep": keep} for keep in (KeepPaste(), KeepPaste(size=4))),
        *({"mix": mix} for mix in (
            CutMix(), CutMix(alpha=0.2), CutMix(p=0.1), Mixup(), MixupOrCutMix(), ManifoldMixup(),
        )),
        {"seed": 3}, {"test_subset": 20},
    ]  # fmt: skip
    seen: dict[str, dict] = {}
    data = {}
    for change in changes:
        config = replace(base, **change)
        key = (config.subset, config.test_subset, config.seed)
        data[key] = data.get(key) or open_data(config, CPU.device)
        numbers = json.dumps(epochs(Trainer(config, data[key], CPU)))
        assert numbers not in seen, (change, seen[numbers])
        seen[numbers] = change


def test_learning_rates() -> None:
    cosine = Config(epochs=4, lr=2.0)
    assert [learning_rate(cosine, step, 1) for step in (0, 2, 4)] == pytest.approx([2, 1, 0])
    warm = Config(epochs=6, lr=1.0, warmup=2)
    assert [learning_rate(warm, step, 1) for step in (0, 1, 2, 4, 6)] == pytest.approx(
        [0.01, 0.505, 1, 0.5, 0]
    )
    for length, quarters in ((300, (75, 150, 225)), (360, (90, 180, 270))):
        stairs = Config(epochs=length, lr=1.0, schedule="step")
        for number, quarter in enumerate(quarters):
            assert learning_rate(stairs, quarter * 7 - 1, 7) == pytest.approx(0.1**number)
            assert learning_rate(stairs, quarter * 7, 7) == pytest.approx(0.1 ** (number + 1))


def test_the_test_by_hand() -> None:
    """A model that gives class 0 three quarters, on three images of class 0 and one of class 1."""

    class Quarters(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            assert not self.training
            return torch.tensor([3.0, 1.0]).log().expand(len(images), -1)

    pixels, labels = torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 0, 0, 1])
    images = ImageSet(pixels, labels, ["a", "b"])
    trainer = Trainer(SMALL, StoredData(images, images, (0.5,), (0.5,)), CPU)
    trainer.tested = Quarters().train()
    result = trainer.test(occlusion=True)
    assert result["test_accuracy"] == 75.0
    assert result["test_accuracy_occluded_0.25"] == 75.0
    assert result["test_loss"] == pytest.approx((3 * math.log(4 / 3) + math.log(4)) / 4)
    assert result["test_ece"] == pytest.approx(0.0, abs=1e-6)  # three quarters are right
    assert trainer.tested.training


def test_occlusion_lowers_accuracy(tmp_path: Path) -> None:
    train("a", replace(SMALL, subset=600, epochs=6, test_subset=0), tmp_path, CPU)
    *early, last = read_rows(tmp_path / "metrics.jsonl")
    assert last["test_accuracy"] > 80
    assert last["test_accuracy"] >= last["test_accuracy_occluded_0.1"] - 5
    assert last["test_accuracy_occluded_0.5"] < last["test_accuracy"]
    assert not any("test_accuracy_occluded_0.1" in row for row in early)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keep": KeepCut()}, r"keep=cut has nothing to keep from \(cut=''\)"),
        ({"keep": KeepCut(), "cut": GridMask()}, r"nothing to keep from \(cut='gridmask'\)"),
        ({"keep": KeepPaste(), "cut": Cutout()}, "keep=paste has nothing to keep from"),
        ({"keep": KeepMix(), "mix": Mixup()}, "keep=mix has nothing to keep from"),
        ({"keep": KeepCut(), "cut": RandomErasing(p=0.0)}, r"keep from \(cut.p=0.0\)"),
        ({"keep": KeepCut(), "cut": Cutout(size=0)}, r"keep from \(cut.size=0\)"),
        ({"keep": KeepMix(), "mix": CutMix(p=0.0)}, r"keep from \(mix.p=0.0\)"),
        ({"warmup": 3}, "warmup must be at most epochs=2, found 3"),
        ({"dataset": "images"}, "needs --image-size"),
        ({"image_size": 64}, "image_size, test_size and test_resize are for dataset='images'"),
        ({"dataset": "images", "image_size": 8, "cut": Cutout()}, "cut.size must be at most 8"),
    ],
)
def test_settings_that_contradict_each_other(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"early_head": "layer9"}, "no layer 'layer9' in .*layer1"),
        ({"arch": "resnet8", "dropout": 0.3}, "resnet8 does not take"),
        ({"mix": AttentiveCutMix()}, "--download fetches"),
        ({"arch": "vit_tiny_patch16_224"}, "does not take images of 32x32 pixels"),
        ({"arch": "vgg11", **KEEP_LOW}, "does not take images of 16x16 pixels"),
    ],
)
def test_a_model_that_does_not_suit_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Trainer(replace(SMALL, **change), open_data(SMALL, CPU.device), CPU)


def test_the_command_line_trains_and_explains(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = [
        "cifar10-resnet18-keep_cutout_low_early", "--dataset", "folder", "--data", str(tree),
        "--arch", "resnet8", "--epochs", "1", "--batch-size", "8", "--out", str(out),
    ]  # fmt: skip
    tool = [sys.executable, str(ROOT / "tools/run_classification.py"), "--device", "cpu"]
    done = subprocess.run([*tool, *words], capture_output=True, text=True)
    assert "% of the test images right" in done.stdout, done.stderr
    about = json.loads((out / "run.json").read_text())
    assert about["experiment"] == "cifar10-resnet18-keep_cutout_low_early"
    assert about["command"].startswith("python tools/run_classification.py --device cpu cifar10-")
    (row,) = read_rows(out / "metrics.jsonl")
    assert all(row[f"{part}_seconds"] > 0 for part in ("map", "boxes", "augment", "step"))
    assert 0.05 < row["changed_area"] < 0.25
    with pytest.raises(SystemExit, match="error: .*give --resume"):
        main(words)


def test_a_run_that_was_stopped_has_its_own_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "train", lambda *arguments, **options: None)
    with pytest.raises(SystemExit) as left:
        main(["digits-resnet8-none", "--device", "cpu", "--out", str(tmp_path)])
    assert left.value.code == PREEMPTED


def test_bad_words_end_without_a_traceback(tmp_path: Path) -> None:
    for words, message in [
        (["digits-resnet8-none", "--device", "abacus"], "no device 'abacus'"),
        (["digits-resnet8-none", "--arch", "resnet17x"], "unknown model 'resnet17x'"),
        (["cifar10-resnet18-none", "--data", str(tmp_path)], "--download to fetch"),
        (["cifar10-resnet18-none", "--keep", "paste"], "has nothing to keep from"),
    ]:
        with pytest.raises(SystemExit, match=message):
            main([*words, "--out", str(tmp_path / "run")])
        assert not (tmp_path / "run").exists()


def test_flips_at_test_make_an_image_and_its_mirror_image_one(tmp_path: Path) -> None:
    config = replace(SMALL, flip_test=True, occlusion=False, record=True)
    trainer = train("a", config, tmp_path / "run", CPU)
    assert trainer is not None
    row = rows_of(tmp_path / "run")[-1]
    assert not any("occluded" in name for name in row)
    assert 100 * read_right(tmp_path / "run").double().mean() == pytest.approx(row["test_accuracy"])
    mirrored = replace(trainer.data.test, images=trainer.data.test.images.flip(3))  # type: ignore
    trainer.data = replace(trainer.data, test=mirrored)  # type: ignore
    again = trainer.test(occlusion=False)
    assert again["test_accuracy"] == row["test_accuracy"]
    assert again["test_loss"] == pytest.approx(row["test_loss"])
