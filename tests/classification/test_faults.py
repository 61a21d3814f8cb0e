"""What befalls a run from outside: damaged files, values that are not finite, kills."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from classification.config import Config
from classification.data import open_data
from classification.methods import Cutout, KeepCut
from classification.train import Trainer, train
from keepbench import images
from keepbench.leaving import PREEMPTED, exit_with_message
from keepbench.loop import train_epoch, train_steps
from keepbench.run import Run
from keepbench.weights import load_checkpoint
from runs import CPU, ROOT, rows_of, stop_after

SMALL = Config(
    dataset="digits", arch="resnet8", subset=40, test_subset=20, epochs=2, batch_size=16,
    cut=Cutout(), keep=KeepCut(), early_head="layer1",
)  # fmt: skip
WORDS = [
    "digits-resnet8-keep_cutout_low_early", "--subset", "40", "--test-subset", "20",
    "--batch-size", "16", "--device", "cpu",
]  # fmt: skip
FILES = Config(dataset="images", image_size=24, arch="resnet8", batch_size=8, workers=0)


def test_a_reader_that_dies_ends_with_a_message(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*arguments: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(images, "read_image", die)
    config = replace(FILES, data=str(tree), workers=1)
    message = "DataLoader worker .*try fewer --workers"
    with pytest.raises(SystemExit, match=message), exit_with_message():
        train("a", config, tmp_path / "run", CPU)


def test_resnet18_is_not_trained_on_photographs_unless_it_was_begun(
    tree: Path, tmp_path: Path
) -> None:
    config = replace(FILES, data=str(tree), arch="resnet18", image_size=65, epochs=1, subset=8)
    with pytest.raises(ValueError, match="timm's, resnet18"):
        train("a", config, tmp_path / "run", CPU)
    Run(tmp_path / "run", "a", config, CPU.device, resume=False).close()
    assert train("a", config, tmp_path / "run", CPU, resume=True)


@pytest.mark.parametrize("change", [{}, {"dataset": "folder", "image_size": 0}])
def test_a_truncated_image_is_named(change: dict, tree: Path, tmp_path: Path) -> None:
    path = tree / "train" / "red" / "3.png"
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(SystemExit, match=f"error: .*{path}"), exit_with_message():
        train("a", replace(FILES, data=str(tree), **change), tmp_path / "run", CPU)


def test_a_step_that_is_not_finite_names_its_images_and_the_cure() -> None:
    data = open_data(SMALL, CPU.device)
    arms = {None: (FloatingPointError, "not finite.*skip with --resume")}
    arms |= {KeepCut(): (ValueError, "NaN")}
    for keep, (kind, message) in arms.items():
        trainer = Trainer(replace(SMALL, keep=keep, early_head=""), data, CPU)
        train_steps(trainer, stop=stop_after(1))
        torch.nn.init.constant_(trainer.model.fc.weight, torch.nan)
        with pytest.raises(kind, match=message) as error:
            train_steps(trainer)
        images = list(replace(trainer.order, start=0))[1]
        assert f"step 2, on the training images {images}" in str(error.value)


def test_steps_that_are_not_finite_can_be_skipped() -> None:
    """The second step's pixels give NaN: it is left out, and the weights stay finite."""
    config = replace(SMALL, nonfinite="skip", keep=None, early_head="", epochs=1)
    trainer = Trainer(config, open_data(config, CPU.device), CPU)
    stage = trainer.augment.pipeline.stages["colour"]

    def spoiled(pixels: torch.Tensor) -> torch.Tensor:
        return stage.run(pixels) * (float("nan") if trainer.step == 1 else 1.0)

    trainer.augment.pipeline.stages["colour"] = stage._replace(run=spoiled)
    row = train_epoch(trainer)
    assert row is not None and row["skipped_steps"] == 1
    assert all(value.isfinite().all() for value in trainer.model.state_dict().values())
    assert row["train_loss"] < 10


def start(words: list[str], folder: Path, by: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    """The command line in a process of its own, or several `by` torchrun."""
    command = [sys.executable, *by, str(ROOT / "tools" / "run_classification.py"), *words]
    return subprocess.Popen(
        [*command, "--out", str(folder)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    """Until a file is there."""
    while not path.exists():
        assert process.poll() is None, process.stderr.read().decode()  # type: ignore[union-attr]
        time.sleep(0.01)


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others(tmp_path: Path) -> None:
    """The second of two is killed; the job ends with an error and does not wait for it."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = start([*WORDS, "--epochs", "5000"], tmp_path / "run", torchrun)
    wait_for(tmp_path / "run" / "last.pt", process)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(workers) == 2
    os.kill(int(workers[1]), signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode not in (0, PREEMPTED)
    assert b"Signal 9" in errors
    assert load_checkpoint(tmp_path / "run" / "last.pt")["epoch"] >= 1


def saved_epochs(folder: Path) -> int:
    """Epochs of the newest checkpoint in a folder that can be read."""
    found = [0]
    for name in ("new.pt", "last.pt", "previous.pt"):
        with contextlib.suppress(ValueError):
            found.append(load_checkpoint(folder / name)["epoch"])
    return max(found)


@pytest.mark.slow
def test_fifty_kills_lose_nothing_beyond_the_last_saved_step(tmp_path: Path) -> None:
    """Killed fifty times at random moments, a run ends as one that was never stopped.

    Each process is killed up to a second after its first row of metrics, when an epoch and its
    saving take a tenth of that, so many kills fall into the writing of a checkpoint.
    """
    words, folder = [*WORDS, "--epochs", "400"], tmp_path / "run"
    process = start(words, tmp_path / "whole")
    process.communicate(timeout=900)
    assert process.returncode == 0
    generator = torch.Generator().manual_seed(0)
    metrics = folder / "metrics.jsonl"
    saved, lost, writing = [0], 0, 0
    for _ in range(50):
        before = metrics.stat().st_mtime_ns if metrics.exists() else 0
        process = start([*words, "--resume"], folder)
        wait_for(metrics, process)
        while metrics.stat().st_mtime_ns == before:
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(float(torch.rand((), generator=generator)))
        process.kill()
        process.communicate()
        writing += (folder / "new.pt").exists()
        saved.append(saved_epochs(folder))
        lost += saved[-1] < saved[-2]
    process = start([*words, "--resume"], folder)
    process.communicate(timeout=900)
    print(json.dumps({"saved": saved, "killed_while_writing": writing, "lost": lost}))
    assert lost == 0 and 0 < saved[-1] < 400
    assert rows_of(folder) == rows_of(tmp_path / "whole")


@pytest.mark.slow
def test_memory_stays_flat() -> None:
    """Thousands of steps with maps and stored maps take no more memory."""
    config = replace(SMALL, keep=KeepCut(cache=2), early_head="", epochs=10_000, eval_every=10_000)
    trainer = Trainer(config, open_data(config, CPU.device), CPU)

    def resident() -> float:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 2**20

    sizes = []
    for _ in range(5):
        for _ in range(250):
            train_epoch(trainer)
        sizes.append(resident())
    print("MiB after each 750 steps:", [round(size, 1) for size in sizes])
    assert sizes[-1] - sizes[1] < 8
