"""Two processes train as one, stop together and go on."""

from __future__ import annotations

import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from classification.config import Config
from classification.importance import Recycled, Teacher
from classification.methods import Cutout, KeepCut
from classification.models import create_model
from classification.train import Trainer, train
from keepbench.loop import fit
from keepbench.maps import Centre, Gradient
from keepbench.processes import Processes, join_processes
from runs import CPU, rows_of, same, saved, torchrun

# A model without BatchNorm, which would see half a batch; 24 images in steps of 10, 10, 4
KEEP = Config(
    dataset="folder", arch="convnext_atto", epochs=2, batch_size=10, lr=0.01, cut=Cutout(),
    keep=KeepCut(map=Centre()), early_head="stages.0",
)  # fmt: skip
# Without a step of learning the maps of all images are the same, whoever computes them
STORED = replace(KEEP, epochs=1, lr=0.0, keep=KeepCut(cache=5), early_head="")
RECYCLED = replace(STORED, keep=KeepCut(map=Recycled()))
TEACHER = replace(STORED, keep=KeepCut(map=Teacher(weights="random")))
BEGUN = replace(KEEP, classifier_lr=10.0, early_head="")
STOPPED = Config(
    dataset="digits", arch="resnet8", subset=40, test_subset=20, epochs=3, batch_size=8,
    cut=Cutout(), keep=KeepCut(map=Gradient(scale=0.5), cache=2), early_head="layer1",
)  # fmt: skip


class Asked(Trainer):
    """One process alone is asked to stop, before the third step."""

    def train_step(self, batch: Any) -> dict[str, torch.Tensor]:
        if (self.epoch, self.step, self.processes.rank) == (0, 2, 1):
            signal.raise_signal(signal.SIGTERM)
        return super().train_step(batch)


def train_as_one(tree: str, folder: Path, processes: Processes) -> None:
    folder.mkdir(exist_ok=True)
    weights = folder / f"{processes.rank}.pt"
    torch.save(create_model(KEEP.arch, 5).state_dict(), weights)  # each process has its own draw
    begun = replace(BEGUN, weights=str(folder / "0.pt"), frozen="stages.0")
    processes.gathered(None)  # all are written
    configs = {"keep": KEEP, "stored": STORED, "recycled": RECYCLED, "teacher": TEACHER}
    for name, config in {**configs, "begun": begun}.items():
        train(name, replace(config, data=tree), folder / name, processes)


def two_processes(tree: str, folder: Path) -> None:
    with join_processes("cpu") as processes:
        train_as_one(tree, folder, processes)
        whole = train("a", STOPPED, folder / "whole", processes)
        asked = Asked(STOPPED, whole.data, processes)
        assert not fit(asked, "a", folder / "stopped")
        train("a", STOPPED, folder / "stopped", processes, resume=True)


def test_two_processes_train_as_one_stop_together_and_go_on(tree: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "1", tmp_path / "2"
    done = torchrun(__file__, tree, two)
    assert done.returncode == 0, done.stderr
    train_as_one(str(tree), one, CPU)
    for a, b in zip(rows_of(one / "keep"), rows_of(two / "keep"), strict=True):
        for name in ("train_loss", "test_loss", "changed_area"):
            assert a[name] == pytest.approx(b[name], rel=1e-4)
    for name in ("stored", "recycled", "teacher"):
        maps = [saved(folder / name)["cache"]["maps"] for folder in (one, two)]
        assert (maps[0].flatten(1).amax(1) == 255).all()
        assert (maps[0].int() - maps[1].int()).abs().max() <= 1
    begun, given = saved(two / "begun")["model"], torch.load(two / "0.pt")
    same_names = {name for name, value in given.items() if value.equal(begun[name])}
    assert same_names == {n for n in given if n.startswith(("stem.", "stages.0."))}
    assert done.stderr.count("begins with") == 1
    assert done.stderr.count("stopped in epoch 1 after step 4 of 5") == 1
    whole, stopped = two / "whole", two / "stopped"
    assert same(saved(whole), saved(stopped))
    assert rows_of(stopped) == rows_of(whole)


if __name__ == "__main__":
    two_processes(sys.argv[1], Path(sys.argv[2]))
