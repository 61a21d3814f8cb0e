"""A replayed training image is the one that the network saw, bit for bit."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from classification.augmentation import Augmentation, Augmented
from classification.config import Config
from classification.data import open_data
from classification.importance import Recycled
from classification.methods import (
    CutMix,
    Cutout,
    KeepCut,
    KeepMix,
    KeepPaste,
    MixupOrCutMix,
    RandomErasing,
)
from classification.train import Trainer, train
from keepbench.images import Batch
from keepbench.loop import train_epoch
from keepbench.maps import Centre, Gradient, Inverted, Random, Shuffled
from keepbench.order import EpochBatches
from keepbench.policies import AutoAugment, RandAugment
from keepbench.processes import Processes
from previewing.runs import read_run
from replaying.cli import main
from replaying.replay import find_step, replay

CPU = Processes(torch.device("cpu"))
SMALL = Config(
    dataset="digits", arch="resnet8", subset=40, test_subset=10, eval_every=3, epochs=3,
    batch_size=16,
)  # fmt: skip
KEEP: dict[str, Any] = {"cut": Cutout(), "keep": KeepCut()}
PASTE: dict[str, Any] = {"policy": RandAugment(), "cut": Cutout(), "keep": KeepPaste()}
Seen = dict[tuple[int, int], tuple[Tensor, Tensor]]


def watched(config: Config, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Train a run: inputs and targets by (epoch from 1, number of the image)."""
    seen: Seen = {}
    augment = Augmentation.__call__

    def watching(self: Augmentation, epoch: int, step: int, samples: Batch) -> Augmented:
        batch = augment(self, epoch, step, samples)
        numbers = samples.numbers.tolist()
        for number, inputs, target in zip(numbers, batch.inputs, batch.targets, strict=True):
            seen[epoch + 1, number] = (inputs.clone(), target.clone())
        return batch

    with monkeypatch.context() as patch:
        patch.setattr(Augmentation, "__call__", watching)
        train("a", config, folder, CPU)
    return seen


def assert_seen(seen: Seen, folder: Path, epoch: int, index: int, **options: Any) -> str:
    """Replay an image, compare it, and give back what was done."""
    image = replay(read_run(folder), epoch, index, CPU, quiet_bar=True, **options)
    assert image is not None
    inputs, target = seen[epoch, index]
    assert torch.equal(image.inputs, inputs)
    assert torch.equal(image.target, target)
    return " ".join(image.how)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"cut": RandomErasing()},
        {**PASTE, "keep": None},
        {"mix": CutMix()},
        {"mix": MixupOrCutMix()},
        {**KEEP, "keep": KeepCut(map=Random())},
        {"policy": AutoAugment(), "keep": KeepPaste(map=Centre())},
    ],
)
def test_arms_without_the_networks_map_need_no_training(
    change: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(SMALL, **change, epochs=2)
    seen = watched(config, tmp_path / "run", monkeypatch)
    (tmp_path / "run" / "last.pt").unlink()  # not needed
    monkeypatch.setattr(Trainer, "train_step", None)  # a training step would fail
    for epoch, index in ((1, 0), (2, 17), (2, 39)):
        assert "nothing was trained" in assert_seen(seen, tmp_path / "run", epoch, index)


@pytest.mark.parametrize(
    "change",
    [
        KEEP,
        {**KEEP, "keep": KeepCut(map=Gradient(scale=0.5)), "early_head": "layer1"},
        {**KEEP, "keep": KeepCut(cache=2)},
        {**KEEP, "keep": KeepCut(map=Recycled())},
        {**KEEP, "ema": 0.9, "keep": KeepCut(map=Shuffled())},
        {**PASTE, "clip": 1.0},
        {"mix": CutMix(), "keep": KeepMix(map=Inverted())},
    ],
)
def test_keep_arms_are_trained_again_up_to_the_step(
    change: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    config = replace(SMALL, **change)
    seen = watched(config, folder, monkeypatch)
    last = {
        step: numbers[0]
        for step, numbers in enumerate(EpochBatches(num_images=40, batch_size=16, epoch=2))
    }
    said = assert_seen(seen, folder, 3, last[0])
    assert "weights in previous.pt" in said
    assert "2 steps were trained again from previous.pt" in assert_seen(seen, folder, 3, last[2])
    said = assert_seen(seen, folder, 2, 5)
    step = find_step(config, 40, 1, 5)
    assert f"{3 + step} steps were trained again from the seed's first weights" in said


def test_a_kept_checkpoint_shortens_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the middle of an epoch, too; what was taken after the step is not used."""
    config, folder = replace(SMALL, **KEEP), tmp_path / "run"
    seen = watched(config, folder, monkeypatch)
    kept: list[Path] = []
    trainer = Trainer(config, open_data(config, CPU.device), CPU)

    def keep() -> None:
        kept.append(tmp_path / f"{trainer.epoch}-{trainer.step}.pt")
        torch.save(trainer.state(), kept[-1])

    train_epoch(trainer, keep)
    train_epoch(trainer, keep)
    index = next(n for n in range(40) if find_step(config, 40, 1, n) == 2)
    said = assert_seen(seen, folder, 2, index, checkpoints=kept)
    assert "weights in 1-2.pt" in said
    said = assert_seen(seen, folder, 2, index, checkpoints=[kept[3], kept[5]])
    assert "one step was trained again from 1-1.pt, taken after 1 epochs and 1 steps" in said


def test_a_damaged_checkpoint_of_the_folder_only_makes_the_way_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    seen = watched(replace(SMALL, **KEEP), folder, monkeypatch)
    (folder / "previous.pt").write_bytes(b"damaged")
    assert "first weights" in assert_seen(seen, folder, 3, 7)
    with pytest.raises(ValueError, match="no checkpoint of this run"):
        replay(read_run(folder), 3, 7, CPU, checkpoints=[folder / "previous.pt"])


def test_a_tree_of_large_images(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(
        dataset="images", data=str(tree), image_size=24, arch="resnet8", workers=0, epochs=2,
        batch_size=8, jitter=True, **KEEP,
    )  # fmt: skip
    seen = watched(config, tmp_path / "run", monkeypatch)
    for index in (0, 11, 23):
        assert_seen(seen, tmp_path / "run", 2, index)
    plain = replace(config, keep=None)
    seen = watched(plain, tmp_path / "plain", monkeypatch)
    assert_seen(seen, tmp_path / "plain", 2, 11)
    shutil.move(tree, tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="--data"):
        replay(read_run(tmp_path / "plain"), 2, 11, CPU)
    moved = read_run(tmp_path / "plain", str(tmp_path / "elsewhere"))
    image = replay(moved, 2, 11, CPU)
    assert image is not None and torch.equal(image.inputs, seen[2, 11][0])


def test_stages_lead_from_the_stored_image_to_the_networks_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(SMALL, **PASTE, subset=30, epochs=1)
    seen = watched(config, tmp_path / "run", monkeypatch)
    image = replay(read_run(tmp_path / "run"), 1, 3, CPU)
    assert image is not None
    assert torch.equal(image.stored, open_data(config, CPU.device).train.images[3])  # type: ignore[attr-defined]
    cropped, mask = image.stages["after crop and flip"], image.stages["where it was cut"].bool()
    altered = torch.where(mask, torch.zeros(()), image.stages["after the policy"])
    pasted = image.inputs != altered
    assert torch.equal(image.inputs[pasted], cropped[pasted])
    assert 0 < pasted.sum() <= 16 * 16
    assert image.stages["map"].shape == (32, 32)
    assert image.digest() == digest(seen[1, 3][0])


def digest(inputs: Tensor) -> str:
    return hashlib.sha256(inputs.numpy().tobytes()).hexdigest()


def test_the_command_writes_a_page_and_the_tensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    seen = watched(replace(SMALL, **KEEP, epochs=1), folder, monkeypatch)
    out, tensor = tmp_path / "page.html", tmp_path / "inputs.npy"
    main([str(folder), "--epoch", "1", "--index", "27", "--device", "cpu",
          "--out", str(out), "--tensor", str(tensor)])  # fmt: skip
    assert np.array_equal(np.load(tensor), seen[1, 27][0].numpy())
    assert digest(seen[1, 27][0]) in capsys.readouterr().out
    page = out.read_text()
    assert "Training image 27 in epoch 1" in page and 'alt="map of training image 27' in page


@pytest.mark.parametrize(("epoch", "index"), [(0, 0), (4, 0), (1, -1), (1, 40)])
def test_images_that_do_not_exist_are_refused(epoch: int, index: int) -> None:
    with pytest.raises(ValueError, match="--epoch" if index == 0 else "--index"):
        find_step(SMALL, 40, epoch - 1, index)
