"""What befalls a run from outside: signals, folders, files and other processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from classification.config import Config
from classification.data import open_data
from classification.train import Trainer, train
from keepbench.leaving import PREEMPTED, exit_with_message
from keepbench.processes import Processes
from keepbench.run import read_rows
from keepbench.weights import load_checkpoint

CPU = Processes(torch.device("cpu"))
ROOT = Path(__file__).parents[2]
SMALL = Config(
    dataset="digits", arch="resnet8", subset=40, test_subset=20, epochs=2, batch_size=16,
    cut="cutout", keep="cut",
)  # fmt: skip


def rows_of(folder: Path) -> list[dict[str, float]]:
    """A run's metrics without what a clock measured."""
    rows = read_rows(folder / "metrics.jsonl")
    return [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in rows]


@contextmanager
def before_step(number: int, act: Callable[[], Any]) -> Iterator[None]:
    """Do something within before a step, counted from 1 over all epochs."""
    train_step, calls = Trainer.train_step, []

    def acting(self: Trainer, *arguments: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == number:
            act()
        return train_step(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train_step", acting)
        yield


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
@pytest.mark.parametrize("step", [2, 3, 4])  # 3 steps make an epoch
def test_a_run_that_a_signal_stopped_goes_on_as_if_it_was_not(
    name: str, step: int, tmp_path: Path
) -> None:
    train("a", SMALL, tmp_path / "whole", CPU)
    folder = tmp_path / "run"
    with before_step(step, lambda: signal.raise_signal(getattr(signal, name))):
        with pytest.raises(SystemExit) as left, exit_with_message():
            train("a", SMALL, folder, CPU)
    assert left.value.code == PREEMPTED
    state = load_checkpoint(folder / "last.pt")
    assert (state["epoch"] * 3 + state["step"]) == step
    with exit_with_message():
        train("a", SMALL, folder, CPU, resume=True)
    assert rows_of(folder) == rows_of(tmp_path / "whole")


@contextmanager
def powerless(folder: Path) -> Iterator[None]:
    """Within, this process may write in `folder` only if its mode allows it: not as root."""
    root = os.geteuid() == 0
    if root:
        os.chown(folder, 65534, 65534)
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_folder_that_may_not_be_written_is_refused_and_left_as_it_is() -> None:
    """First a new folder of a run; then one that holds a run, which is then gone on with."""
    data = open_data(SMALL, CPU.device)
    with tempfile.TemporaryDirectory() as name, powerless(Path(name)):
        place, folder = Path(name), Path(name, "run")
        place.chmod(0o555)
        with pytest.raises(SystemExit, match="Permission denied: .*run"), exit_with_message():
            train("a", SMALL, folder, CPU)
        assert not folder.exists()
        place.chmod(0o755)
        with before_step(4, lambda: folder.chmod(0o555)):
            with (
                pytest.raises(SystemExit, match="Permission denied.*saved before stands"),
                exit_with_message(),
            ):
                train("a", SMALL, folder, CPU)
        assert load_checkpoint(folder / "last.pt")["epoch"] == 1
        folder.chmod(0o755)
        train("a", SMALL, folder, CPU, resume=True)
        whole = Trainer(SMALL, data, CPU)
        expected = [whole.train_epoch() for _ in range(2)]
        assert [row["train_loss"] for row in rows_of(folder)] == [
            row["train_loss"] for row in expected
        ]


def spoil(tree: Path) -> Path:
    """Cut a training image off in its middle."""
    path = tree / "train" / "red" / "3.png"
    path.write_bytes(path.read_bytes()[:400])
    return path


@pytest.mark.parametrize("dataset", ["folder", "images"])
def test_a_truncated_image_is_named(dataset: str, tree: Path, tmp_path: Path) -> None:
    path = spoil(tree)
    config = Config(
        dataset=dataset, data=str(tree), image_size=24 if dataset == "images" else 0,
        arch="resnet8", epochs=1, batch_size=8, workers=0,
    )  # fmt: skip
    with pytest.raises(SystemExit, match=f"error: .*{path}"), exit_with_message():
        train("a", config, tmp_path / "run", CPU)


SEVERAL = """
import signal, sys
from dataclasses import replace
from pathlib import Path
from classification.config import Config
from keepbench.loop import Interrupted
from keepbench.processes import join_processes
from classification.train import Trainer, train

folder = Path(sys.argv[1])
config = Config(
    dataset="digits", arch="resnet8", subset=40, test_subset=20, epochs=4, batch_size=8,
    cut="cutout", keep="cut", early_head=sys.argv[2],
)
train_step, calls = Trainer.train_step, []

def stopping(self, *arguments):
    calls.append(1)
    if len(calls) == 3 and self.processes.rank == 1:  # one process alone is asked
        signal.raise_signal(signal.SIGTERM)
    return train_step(self, *arguments)

with join_processes("cpu") as processes:
    train("a", config, folder / "whole", processes)
    Trainer.train_step = stopping
    try:
        train("a", config, folder / "run", processes)
    except Interrupted as stopped:
        print(stopped)
    else:
        raise SystemExit("it was not stopped")
    Trainer.train_step = train_step
    train("a", config, folder / "run", processes, resume=True)
"""


def torchrun(code: str, *words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program as two processes."""
    script = folder / "program.py"
    script.write_text(code)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    search = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": search}
    return subprocess.run(
        [*command, str(script), *words],
        capture_output=True, text=True, env=environment, timeout=600,
    )  # fmt: skip


@pytest.mark.parametrize("early_head", ["", "layer1"])
def test_two_processes_that_one_signal_stopped_go_on_as_if_they_were_not(
    early_head: str, tmp_path: Path
) -> None:
    """All weights are equal; the interrupted epoch's sums were added up in another order."""
    done = torchrun(SEVERAL, str(tmp_path), early_head, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("stopped in epoch 4 after step 1 of 5") == 2  # 16 steps are done
    run, whole = (load_checkpoint(tmp_path / name / "last.pt") for name in ("run", "whole"))
    for part in ("model", "early_head"):
        assert run[part].keys() == whole[part].keys()
        for name, value in whole[part].items():
            assert torch.equal(value, run[part][name]), name
    rows = zip(rows_of(tmp_path / "run"), rows_of(tmp_path / "whole"), strict=True)
    for found, expected in rows:
        assert found == pytest.approx(expected, rel=1e-6)


FAILING = """
import sys
from pathlib import Path
from classification.config import Config
from keepbench.leaving import exit_with_message
from keepbench.processes import join_processes
from classification.train import Trainer, train

train_step, calls = Trainer.train_step, []

def failing(self, *arguments):
    calls.append(1)
    if len(calls) == 8 and self.processes.rank == 1:
        raise RuntimeError("the second process has had enough")
    return train_step(self, *arguments)

Trainer.train_step = failing
config = Config(dataset="digits", arch="resnet8", subset=40, test_subset=20, epochs=9, batch_size=8)
with exit_with_message(), join_processes("cpu") as processes:
    train("a", config, Path(sys.argv[1]), processes)
"""


def test_a_process_that_fails_ends_the_others_with_its_error(tmp_path: Path) -> None:
    done = torchrun(FAILING, str(tmp_path / "run"), folder=tmp_path)
    assert done.returncode != 0
    assert "the second process has had enough" in done.stderr
    assert load_checkpoint(tmp_path / "run" / "last.pt")["epoch"] == 1
