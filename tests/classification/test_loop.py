"""Runs that are stopped, killed or fail, on digits and the smallest network."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from classification.cli import main
from classification.config import Config
from classification.data import open_data
from classification.train import Trainer, train
from keepbench import images
from keepbench.leaving import PREEMPTED, exit_with_message
from keepbench.loop import Interrupted, LossWatch, Progress, fit
from keepbench.processes import Processes
from keepbench.run import read_rows
from keepbench.weights import load_checkpoint

CPU = Processes(torch.device("cpu"))
ROOT = Path(__file__).parents[2]
SMALL = Config(
    dataset="digits", arch="resnet8", subset=40, test_subset=20, epochs=2, batch_size=16,
    cut="cutout", keep="cut", early_head="layer1",
)  # fmt: skip
WORDS = [
    "digits-resnet8-keep_cutout_low_early", "--subset", "40", "--test-subset", "20",
    "--batch-size", "16", "--device", "cpu",
]  # fmt: skip


def rows_of(folder: Path) -> list[dict[str, float]]:
    """A run's metrics without what a clock measured."""
    rows = read_rows(folder / "metrics.jsonl")
    return [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in rows]


def stopping_after(steps: int) -> Callable[[], None]:
    """A progress that asks to stop after so many steps of this process."""
    left = [steps]

    def progress() -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Interrupted

    return progress


@pytest.mark.parametrize(
    ("change", "stop"),
    [
        ({"ema": 0.9}, 1),
        ({"cache": 1, "early_head": ""}, 2),
        ({"arch": "wrn28_2", "dropout": 0.3, "early_head": "", "keep": ""}, 2),
        (
            {
                "dataset": "images",
                "image_size": 24,
                "subset": 0,
                "test_subset": 0,
                "batch_size": 8,
                "workers": 0,
            },
            2,
        ),
        ({}, 3),  # the last step of the epoch
    ],
)
def test_a_run_stopped_after_any_step_goes_on_there(
    change: dict, stop: int, tree: Path, tmp_path: Path
) -> None:
    config = replace(SMALL, data=str(tree), **change)
    data = open_data(config, CPU.device)
    whole, part, again = (Trainer(config, data, CPU) for _ in range(3))
    expected = [whole.train_epoch() for _ in range(2)][-1]
    part.train_epoch()
    with pytest.raises(Interrupted):
        part.train_epoch(stopping_after(stop))
    torch.save(part.state(), tmp_path / "state.pt")
    torch.rand(7)  # another process: its random numbers stand elsewhere
    again.load_state(load_checkpoint(tmp_path / "state.pt"))
    assert (again.epoch, again.step) == (1, stop)
    found = again.train_epoch()
    assert {k: v for k, v in found.items() if not k.endswith("seconds")} == {
        k: v for k, v in expected.items() if not k.endswith("seconds")
    }
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name


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


def test_a_signal_saves_and_leaves_with_its_own_exit_code(tmp_path: Path) -> None:
    process = start([*WORDS, "--epochs", "500"], tmp_path / "run")
    wait_for(tmp_path / "run" / "last.pt", process)
    process.send_signal(signal.SIGUSR1)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == PREEMPTED, errors.decode()
    assert b"is saved; --resume goes on there" in errors
    state = load_checkpoint(tmp_path / "run" / "last.pt")
    assert state["epoch"] == len(read_rows(tmp_path / "run" / "metrics.jsonl"))


def test_a_folder_in_use_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*WORDS, "--epochs", "500"]
    process = start(words, tmp_path / "run")
    wait_for(tmp_path / "run" / "run.json", process)
    try:
        with pytest.raises(SystemExit, match="another process is at work in"):
            main([*words, "--out", str(tmp_path / "run"), "--resume"])
    finally:
        process.kill()
        process.communicate()


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


def test_a_reader_that_dies_ends_with_a_message(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*arguments: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    config = replace(
        SMALL, dataset="images", data=str(tree), image_size=24, subset=0, test_subset=0,
        batch_size=8, workers=1,
    )  # fmt: skip
    monkeypatch.setattr(images, "read_image", die)
    with (
        pytest.raises(SystemExit, match="DataLoader worker .*try fewer --workers"),
        exit_with_message(),
    ):
        train("a", config, tmp_path / "run", CPU)


def test_a_full_disk_ends_with_a_message_and_loses_nothing(tmp_path: Path) -> None:
    """The size that files may have stands in for a disk that fills up."""
    train("a", replace(SMALL, epochs=2), tmp_path / "whole", CPU)
    config, folder = replace(SMALL, epochs=2), tmp_path / "run"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    trainer = Trainer(config, open_data(config, CPU.device), CPU)
    train_epoch = trainer.train_epoch

    def fill(*arguments: object) -> dict:
        if trainer.epoch == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2048, before[1]))
        return train_epoch(*arguments)  # type: ignore[arg-type]

    trainer.train_epoch = fill  # type: ignore[method-assign]
    try:
        with pytest.raises(SystemExit, match="what was saved before stands"), exit_with_message():
            fit(trainer, "a", config, folder, CPU)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert load_checkpoint(folder / "last.pt")["epoch"] == 1
    train("a", config, folder, CPU, resume=True)
    assert rows_of(folder) == rows_of(tmp_path / "whole")


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="Not a directory"):
        main([*WORDS, "--out", str(tmp_path / "file" / "run")])


def test_a_loss_that_is_not_finite_names_its_images(tmp_path: Path) -> None:
    config = replace(SMALL, lr=1e30, epochs=1)
    order = list(Trainer(config, open_data(config, CPU.device), CPU)._order())
    arms = {"": ("not finite in epoch 1, step 2", FloatingPointError), "cut": ("NaN", ValueError)}
    for keep, (message, kind) in arms.items():
        with pytest.raises(kind, match=message) as error:
            train("a", replace(config, keep=keep), tmp_path / keep, CPU)
        assert f"training images {order[1]}" in str(error.value)
        assert not (tmp_path / keep / "last.pt").exists()


def test_steps_that_are_not_finite_can_be_skipped(tmp_path: Path) -> None:
    """One image's pixels give NaN: its step is left out, and the weights stay finite."""
    config = replace(SMALL, nonfinite="skip", keep="", early_head="", epochs=1)
    trainer = Trainer(config, open_data(config, CPU.device), CPU)
    order = list(trainer._order())
    normalised = trainer.augment.inputs
    bad = order[1][0]

    def inputs(pixels: torch.Tensor) -> torch.Tensor:
        images = normalised(pixels)
        return images * float("nan") if trainer.step == 1 and trainer.epoch == 0 else images

    trainer.augment.inputs = inputs  # type: ignore[method-assign]
    row = trainer.train_epoch()
    assert bad not in order[0] and row["skipped_steps"] == 1
    assert all(value.isfinite().all() for value in trainer.model.state_dict().values())
    assert row["train_loss"] < 10


def test_the_loss_watch_notes_the_first() -> None:
    watch = LossWatch(CPU.device)
    for step, loss in enumerate((1.0, float("inf"), float("nan"))):
        assert watch.check() == (None if step < 2 else 1)
        watch.add(step, torch.tensor(loss))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), "out of memory .*lower --batch-size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out of memory"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal"), "try fewer --workers"),
        (PermissionError(13, "Permission denied"), "Permission denied.*what was saved"),
        (ValueError("no such thing"), "error: no such thing"),
    ],
)
def test_what_goes_wrong_is_said(error: Exception, message: str) -> None:
    with pytest.raises(SystemExit, match=message), exit_with_message():
        raise error


def test_another_error_is_not_hidden() -> None:
    with pytest.raises(RuntimeError, match="a bug"), exit_with_message():
        raise RuntimeError("a bug")


def test_two_processes_stop_after_the_same_step() -> None:
    """The second process alone is asked; both learn of it at their next talk."""

    class Two(Processes):
        def any(self, flag: bool) -> bool:
            return True

    from tqdm import tqdm

    for asked in (False, True):
        progress = Progress(tqdm(disable=True), Two(CPU.device, 0, 2))
        progress.asked = asked
        with pytest.raises(Interrupted):
            for _ in range(100):
                progress()
        assert progress.calls == 16


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
    """Thousands of steps with maps, an early head and stored maps take no more memory."""
    config = replace(SMALL, cache=2, early_head="", epochs=10_000, eval_every=10_000)
    trainer = Trainer(config, open_data(config, CPU.device), CPU)

    def resident() -> float:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 2**20

    sizes = []
    for _ in range(5):
        for _ in range(250):
            trainer.train_epoch()
        sizes.append(resident())
    print("MiB after each 750 steps:", [round(size, 1) for size in sizes])
    assert sizes[-1] - sizes[1] < 8
