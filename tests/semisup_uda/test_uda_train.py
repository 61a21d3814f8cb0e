from __future__ import annotations

import json
import math
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from classification.models import create_model
from keepbench.leaving import PREEMPTED
from keepbench.loop import train_epoch, train_steps
from keepbench.maps import Centre, Shuffled
from keepbench.own_policy import Timm
from keepbench.policies import AutoAugment
from keepbench.processes import Processes, join_processes
from keepbench.right import NAME, mean_of_items, read_right
from keepbench.settings import changed
from keepbench.weights import load_checkpoint
from runs import CPU, assert_resumes, rows_of, stop_after, torchrun, without_clocks
from semisup_uda.cli import main
from semisup_uda.config import Config, KeepPaste
from semisup_uda.data import open_images
from semisup_uda.evaluate import evaluate_run
from semisup_uda.evaluate import main as evaluate_main
from semisup_uda.train import Trainer, learning_rate, train

SMALL = Config(
    dataset="digits", data="", arch="resnet8", subset=60, test_subset=30, labels=10,
    split="balanced", epochs=2, steps=3, batch_size=4, ratio=2, ema=0.5, confidence=0.12,
)  # fmt: skip
KEEP = replace(SMALL, keep=KeepPaste())


def make_trainer(config: Config) -> Trainer:
    return Trainer(config, open_images(config, CPU.device), CPU)


@pytest.mark.parametrize(
    ("change", "steps"),
    [
        ({"keep": KeepPaste()}, 2),
        ({"keep": KeepPaste(map=Shuffled(scale=0.5)), "tsa": "linear", "ema": 0.0}, 4),
        ({"method": "fixmatch", "policy": AutoAugment(), "channels_last": True, "bf16": True}, 3),
        ({"method": "supervised"}, 5),
        ({"unlabelled": "labelled", "arch": "resnet20"}, 1),
        ({"policy": Timm(config="rand-m9-mstd0.5")}, 2),
    ],
)
def test_a_run_stopped_after_any_step_goes_on_there(
    change: dict, steps: int, tmp_path: Path
) -> None:
    config = replace(SMALL, **change)
    images = open_images(config, CPU.device)
    assert_resumes(lambda: Trainer(config, images, CPU), steps, tmp_path)


def test_a_run_begins_with_weights_and_goes_on_without_their_file(tmp_path: Path) -> None:
    trained = create_model("resnet8", 5, in_chans=1).state_dict()
    torch.save({"model": trained}, tmp_path / "w.pt")
    config = replace(SMALL, weights=str(tmp_path / "w.pt"), record=True)
    trainer = make_trainer(config)
    trainer.prepare()
    fresh = make_trainer(SMALL).model.state_dict()
    for module in (trainer.model, trainer.tested.module):
        for name, value in module.state_dict().items():
            assert value.equal((fresh if name.startswith("fc.") else trained)[name])
    train("a", config, tmp_path / "run", CPU)
    rows = rows_of(tmp_path / "run")
    right = read_right(tmp_path / "run")
    assert 100 * right.double().mean() == pytest.approx(rows[-1]["test_accuracy"])
    (tmp_path / "run" / "last.pt").unlink()
    (tmp_path / "w.pt").unlink()
    train("a", config, tmp_path / "run", CPU, resume=True)
    assert rows_of(tmp_path / "run") == rows and read_right(tmp_path / "run").equal(right)
    with pytest.raises(ValueError, match="no file"):
        train("a", config, tmp_path / "other", CPU)


def test_a_signal_saves_and_leaves_with_its_own_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["digits-uda-keep_randaugment-20", "--subset", "60", "--test-subset", "30", "--epochs",
             "2", "--steps", "3", "--batch-size", "4", "--device", "cpu"]  # fmt: skip
    words += ["--out", str(tmp_path)]
    train_step = Trainer.train_step

    def asking(self: Trainer, batch: Any) -> torch.Tensor:
        if (self.epoch, self.step) == (1, 0):
            signal.raise_signal(signal.SIGTERM)
        return train_step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", asking)
        with pytest.raises(SystemExit) as left:
            main(words)
    assert left.value.code == PREEMPTED
    state = load_checkpoint(tmp_path / "last.pt")
    assert (state["epoch"], state["step"]) == (1, 1)
    main([*words, "--resume"])
    assert len(rows_of(tmp_path)) == 2


def test_a_seed_gives_the_same_run(tmp_path: Path) -> None:
    for name in ("a", "b"):
        train("a", KEEP, tmp_path / name, CPU)
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b")


def test_one_forward_pass_trains_a_step_and_no_label_reaches_the_map() -> None:
    """4 labelled images, 8 clean views and 8 strong ones; then the map's own pass, of 8."""
    trainer = make_trainer(KEEP)
    sizes: list[tuple[bool, tuple[int, ...]]] = []

    def note(model: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        sizes.append((inputs[0].requires_grad, tuple(inputs[0].shape)))

    trainer.model.register_forward_pre_hook(note)
    labelled, unlabelled = (next(stream.steps(0, 1, CPU.device)) for stream in trainer.streams)
    trainer.train_step((labelled, unlabelled))
    assert sizes == [(True, (8, 1, 16, 16)), (False, (20, 1, 32, 32))]


def test_labels_of_the_others_are_never_trained_on(tmp_path: Path) -> None:
    """Wrong labels on all images but the labelled ones leave every weight as it is."""
    weights = []
    for wrong in (False, True):
        images = open_images(KEEP, CPU.device)
        if wrong:
            labels = images.data.train.labels
            kept = labels[images.labelled].clone()
            labels.copy_((labels + 1) % 10)
            labels[images.labelled] = kept
        trainer = Trainer(KEEP, images, CPU)
        train_epoch(trainer)
        weights.append(torch.cat([p.flatten() for p in trainer.model.parameters()]))
    assert torch.equal(*weights)


def test_arms_of_one_seed_see_the_same_images() -> None:
    arms = [make_trainer(config) for config in (SMALL, KEEP)]
    seen = []
    for trainer in arms:
        samples = [next(stream.steps(0, 1, CPU.device)) for stream in trainer.streams]
        seen.append(trainer._inputs(*samples)[0])
    plain, keep = seen
    assert torch.equal(plain[:12], keep[:12])
    changed = (plain[12:] != keep[12:]).any(1)
    assert changed.any() and int(changed.sum((1, 2)).max()) <= 16 * 16
    assert torch.equal(torch.where(changed[:, None], keep[4:12], plain[12:]), keep[12:])


def test_every_setting_changes_the_run() -> None:
    changes: list[dict] = [
        {}, {"keep": ""}, {"keep.tau": 0.1}, {"keep.size": 8}, {"keep.map.scale": 1.0},
        {"keep.map": "random"}, {"keep.map": "shuffled"}, {"keep.map": "inverted"},
        {"keep.map": "centre"}, {"method": "fixmatch"}, {"keep": "", "method": "supervised"},
        {"labels": 12}, {"split": "first", "labels": 40}, {"labels": 40}, {"subset": 40},
        {"test_subset": 20}, {"unlabelled": "labelled"}, {"arch": "resnet20"}, {"padding": 1},
        {"flip": False}, {"ratio": 3}, {"weight": 0.5}, {"temperature": 0.9},
        {"confidence": 0.25}, {"tsa": "linear"}, {"tsa": "log"}, {"tsa": "exp"},
        {"policy": "randaugment"}, {"policy": "randaugment", "policy.num_ops": 1},
        {"policy": "randaugment", "policy.magnitude": 20}, {"policy": "trivialaugment"},
        {"policy": "autoaugment"}, {"cutout": 8}, {"cutout": 0}, {"epochs": 3}, {"steps": 4},
        {"batch_size": 5}, {"lr": 0.1}, {"momentum": 0.5}, {"weight_decay": 0.1},
        {"norm_decay": False}, {"ema": 0.0}, {"ema": 0.9}, {"bf16": True}, {"seed": 3},
    ]  # fmt: skip
    seen: dict[str, dict] = {}
    for change in changes:
        numbers = json.dumps(without_clocks(train_epoch(make_trainer(changed(KEEP, change)))))
        assert numbers not in seen, (change, seen[numbers])
        seen[numbers] = change


def test_learning_rates() -> None:
    config = Config(lr=2.0, epochs=4, steps=4)
    assert learning_rate(config, 0) == 2.0
    assert learning_rate(config, 8) == pytest.approx(2 * math.cos(7 * math.pi / 32))
    assert learning_rate(config, 16) == pytest.approx(2 * math.cos(7 * math.pi / 16))


def test_metrics_add_up(tmp_path: Path) -> None:
    train("a", replace(KEEP, tsa="linear", weight=0.5), tmp_path, CPU)
    rows = rows_of(tmp_path)
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 3), (2, 6)]
    for row in rows:
        parts = row["supervised_loss"] + 0.5 * row["unsupervised_loss"]
        assert row["train_loss"] == pytest.approx(parts, rel=1e-5)
        assert 0 < row["mask_rate"] <= 1 and 0 < row["tsa_share"] <= 1
        assert 0 <= row["pseudo_label_accuracy"] <= 100 and 0 <= row["masked_accuracy"] <= 100
        assert 0 < row["pasted_area"] <= 0.25
        assert {"lr", "test_loss", "test_accuracy", "test_ece"} <= set(row)
    assert [row["tsa_threshold"] for row in rows] == pytest.approx([0.55, 1.0])


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_evaluation_after_the_run_is_the_one_during_it(
    ema: float, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    train("a", replace(KEEP, ema=ema, channels_last=bool(ema)), tmp_path, CPU)
    last = rows_of(tmp_path)[-1]
    result = evaluate_run(tmp_path, CPU.device)
    assert result == {name: last[name] for name in result} and len(result) == 4
    capsys.readouterr()
    evaluate_main([str(tmp_path), "--device", "cpu"])
    assert json.loads(capsys.readouterr().out) == result
    with pytest.raises(SystemExit, match="run.json is missing"):
        evaluate_main([str(tmp_path / "none")])


def test_unknown_labels_are_not_scored(tree: Path, tmp_path: Path) -> None:
    config = replace(
        SMALL, dataset="folder", data=str(tree), subset=0, test_subset=0,
        unlabelled=str(tree / "test"),
    )  # fmt: skip
    train("a", config, tmp_path / "run", CPU)
    assert not any("accuracy" in name for row in rows_of(tmp_path / "run") for name in row
                   if not name.startswith("test_"))  # fmt: skip


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({}, FloatingPointError, "not finite"),
        ({"keep": KeepPaste()}, ValueError, "NaN"),
        ({"method": "supervised"}, FloatingPointError, "not finite"),
    ],
)
def test_a_step_that_is_not_finite_names_its_images(change: dict, kind: type, message: str) -> None:
    trainer = make_trainer(replace(SMALL, **change))
    train_steps(trainer, stop=stop_after(1))
    torch.nn.init.constant_(trainer.model.fc.weight, torch.nan)
    with pytest.raises(kind, match=message) as error:
        train_steps(trainer)
    labelled, unlabelled = (
        list(stream.steps(0, 3, CPU.device))[1].numbers for stream in trainer.streams
    )
    labelled = trainer.images.labelled[labelled]
    place = f"epoch 1, step 2, on the training images {labelled.tolist()}"
    others = f" and the unlabelled images {unlabelled.tolist()}"
    assert place in str(error.value)
    assert (place + others in str(error.value)) == (trainer.config.method != "supervised")


def test_resume_checks_the_split(tree: Path, tmp_path: Path) -> None:
    config = replace(SMALL, dataset="folder", data=str(tree), subset=0, test_subset=0, labels=6)
    train("a", replace(config, epochs=1), tmp_path, CPU)
    (tree / "train" / "red" / "0.png").unlink()
    with pytest.raises(ValueError, match="the data are not those"):
        train("a", replace(config, epochs=1), tmp_path, CPU, resume=True)


def train_as_one(tree: str, folder: Path, processes: Processes) -> None:
    """A model without BatchNorm, which would see half a batch; 6 labels in batches of 4."""
    config = replace(
        KEEP, dataset="folder", data=tree, subset=0, test_subset=0, labels=6, record=True,
        confidence=0.3, arch="convnext_atto", tsa="linear", keep=KeepPaste(map=Centre()),
    )  # fmt: skip
    train("a", config, folder, processes)


def test_two_processes_train_as_one(tree: Path, tmp_path: Path) -> None:
    done = torchrun(__file__, tree, tmp_path / "two")
    assert done.returncode == 0, done.stderr
    train_as_one(str(tree), tmp_path / "one", CPU)
    for one, two in zip(rows_of(tmp_path / "one"), rows_of(tmp_path / "two"), strict=True):
        for name in ("supervised_loss", "unsupervised_loss", "tsa_share", "test_loss"):
            assert one[name] == pytest.approx(two[name], rel=1e-4) and one[name] != 0
    for folder in (tmp_path / "one", tmp_path / "two"):
        assert mean_of_items(folder) == pytest.approx(rows_of(folder)[-1]["test_accuracy"])


def test_a_run_resumed_after_its_end_stores_what_it_had_right(tmp_path: Path) -> None:
    config = replace(SMALL, record=True)
    train("a", config, tmp_path, CPU)
    before = (tmp_path / NAME).read_text()
    (tmp_path / NAME).unlink()
    train("a", config, tmp_path, CPU, resume=True)
    assert (tmp_path / NAME).read_text() == before


def test_bad_words_end_without_a_traceback(tree: Path, tmp_path: Path) -> None:
    folder = ["cifar10-uda-randaugment-4000", "--dataset", "folder", "--data", str(tree)]
    for words, message in [
        ([*folder, "--labels", "2"], "2 labels are fewer than the 3 classes"),
        ([*folder, "--labels", "25"], "25 labels were asked for, the training set has 24"),
        ([*folder, "--labels", "9"], "take --split balanced"),
        ([*folder, "--labels", "24", "--unlabelled", "nowhere"], "no images in nowhere"),
        ([*folder, "--labels", "24", "--arch", "vgg11", "--keep", "paste"], "of 16x16 pixels"),
        ([*folder, "--labels", "24", "--keep.size", "32", "--keep", "paste"], "at most 31"),
        (["digits-supervised-20", "--keep", "paste"], "nothing to keep from"),
    ]:
        with pytest.raises(SystemExit, match=message):
            main([*words, "--device", "cpu", "--out", str(tmp_path / "run")])
        assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_unlabelled_digits_help(seed: int, tmp_path: Path) -> None:
    accuracies = {}
    for arm in ("supervised", "uda-randaugment"):
        out = tmp_path / arm
        main([f"digits-{arm}-20", "--seed", str(seed), "--device", "cpu", "--out", str(out)])
        accuracies[arm] = rows_of(out)[-1]["test_accuracy"]
    assert accuracies["uda-randaugment"] > accuracies["supervised"] + 3


if __name__ == "__main__":
    with join_processes("cpu") as processes:
        train_as_one(sys.argv[1], Path(sys.argv[2]), processes)
