"""What the loop promises every task, on a model of four numbers."""

from __future__ import annotations

import os
import resource
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from keepbench import loop
from keepbench.leaving import INTERRUPTED, exit_with_message
from keepbench.loop import LossWatch, check_start, fit, train_epoch, train_steps
from keepbench.network import make_average
from keepbench.order import EpochBatches
from keepbench.own_network import find_function
from keepbench.processes import Processes, join_processes
from keepbench.run import Run
from keepbench.settings import setting
from keepbench.training import Row, Training
from runs import CPU, assert_resumes, rows_of, same, saved, torchrun


@dataclass(frozen=True, kw_only=True)
class Config:
    epochs: int = setting(2, "passes")
    batch_size: int = setting(4, "images per step", shared=True)
    lr: float = setting(0.1, "learning rate")
    bf16: bool = setting(False, "bfloat16")
    tensorboard: bool = setting(False, "write events")


class Toy(Training):
    """Ten images of four numbers, four a step: three steps an epoch.

    Args:
        before: what happens before a step, by its number from 1 over all epochs.
    """

    SUMS = ("loss", "steps")

    def __init__(
        self,
        config: Config,
        processes: Processes = CPU,
        before: dict[int, Callable[[], Any]] | None = None,
    ) -> None:
        super().__init__(config, processes)
        torch.manual_seed(0)
        self.images = torch.randn(10, 4)
        self.model = nn.Linear(4, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=config.lr, momentum=0.9)
        self.tested: nn.Module = make_average(self.model, 0.5)
        several = processes.world_size > 1
        self.network = DistributedDataParallel(self.model) if several else self.model
        self.before = before or {}
        self.steps = 3

    def batches(self) -> Iterator[list[int]]:
        ranks = {"rank": self.processes.rank, "world_size": self.processes.world_size}
        self.order = EpochBatches(
            num_images=10, batch_size=4, epoch=self.epoch, start=self.step, **ranks
        )
        return iter(self.order)

    def images_of(self, step: int) -> str:
        return f"the images {list(replace(self.order, start=0, rank=0, world_size=1))[step]}"

    def train_step(self, batch: list[int]) -> dict[str, Tensor]:
        self.before.get(self.epoch * self.steps + self.step + 1, lambda: None)()
        loss = (self.network(self.images[batch]) - 1).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.tested.update_parameters(self.model)
        return {"loss": loss, "steps": torch.ones(())}

    def epoch_figures(self, totals: Mapping[str, Tensor]) -> Row:
        return {"train_loss": float(totals["loss"] / totals["steps"])}

    def after_epoch(self) -> Row:
        return {"test": self.tested(self.images).mean().item()}


def run(folder: Path, config: Config | None = None, resume: bool = False, **options: Any) -> bool:
    return fit(Toy(config or Config(), **options), "toy", folder, resume=resume)


def fail(error: Exception) -> Callable[..., None]:
    def act(*arguments: object) -> None:
        raise error

    return act


# Stopping and going on


@pytest.mark.parametrize("step", range(1, 6))
def test_a_run_stopped_after_any_step_goes_on_there(step: int, tmp_path: Path) -> None:
    assert_resumes(lambda: Toy(Config()), step, tmp_path)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGUSR2"])
@pytest.mark.parametrize("step", [2, 3, 4])  # 3 steps make an epoch
def test_a_run_that_a_signal_stopped_is_saved_and_goes_on(
    name: str, step: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "whole")
    handler = signal.getsignal(signal.SIGTERM)
    ask = {step: lambda: signal.raise_signal(getattr(signal, name))}
    assert not run(tmp_path / "run", before=ask)
    assert signal.getsignal(signal.SIGTERM) is handler
    epoch, done = divmod(step - 1, 3)
    place = f"toy stopped in epoch {epoch + 1} after step {done + 1} of 3 and is saved; go on with:"
    assert place in capsys.readouterr().err
    assert len(rows_of(tmp_path / "run")) == epoch
    assert run(tmp_path / "run", resume=True)
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "whole")
    assert same(saved(tmp_path / "run"), saved(tmp_path / "whole"))


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    assert run(tmp_path)
    state, rows = saved(tmp_path), rows_of(tmp_path)
    assert run(tmp_path, resume=True)
    assert same(saved(tmp_path), state) and rows_of(tmp_path) == rows


def test_a_signal_in_a_test_is_heard_after_it(tmp_path: Path) -> None:
    class Testing(Toy):
        def after_epoch(self) -> Row:
            signal.raise_signal(signal.SIGTERM)
            return super().after_epoch()

    assert not fit(Testing(Config()), "toy", tmp_path)
    assert (saved(tmp_path)["epoch"], saved(tmp_path)["step"]) == (1, 0)


def test_a_second_ctrl_c_leaves_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        assert "Ctrl-C again leaves at once" in capsys.readouterr().err
        signal.raise_signal(signal.SIGINT)

    once = {5: lambda: signal.raise_signal(signal.SIGINT)}
    assert not run(tmp_path / "once", before=once)
    assert saved(tmp_path / "once")["step"] == 2
    with pytest.raises(SystemExit) as left, exit_with_message():
        run(tmp_path / "twice", before={5: twice})
    assert left.value.code == INTERRUPTED
    assert "stopped; the last checkpoint is intact" in capsys.readouterr().err
    assert saved(tmp_path / "twice")["step"] == 0


def test_a_long_epoch_is_saved_before_its_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SAVE_BEFORE_TEST", 0.0)
    run(tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(KeyError):
        patch.setattr(Toy, "after_epoch", fail(KeyError()))
        run(tmp_path / "run")
    assert (saved(tmp_path / "run")["epoch"], saved(tmp_path / "run")["step"]) == (0, 3)
    assert run(tmp_path / "run", resume=True)
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "whole")


def test_a_step_is_counted_before_its_end_is_told() -> None:
    toy, seen = Toy(Config()), []
    assert train_steps(
        toy,
        lambda: seen.append(("progress", toy.step)),
        lambda: bool(seen.append(("stop", toy.step))),
    )
    assert seen == [(who, step) for step in (1, 2, 3) for who in ("progress", "stop")]


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    run(tmp_path)
    state = saved(tmp_path)
    for change, message in (
        ({"epoch": 3}, "from epoch 3, the run has 2"),
        ({"model": {}}, "its weights have no bias, weight"),
        ({"optimizer": {}}, "does not fit this run"),
    ):
        with Run(tmp_path, "toy", Config(), CPU.device, resume=True) as folder:
            folder.load()
            folder.save(state | change)
        with pytest.raises(ValueError, match=message):
            run(tmp_path, resume=True)


def two_processes(folder: Path) -> None:
    """A whole run, one whose second process is asked to stop, and one whose second fails."""
    config = Config(epochs=4)
    with join_processes("cpu") as processes:
        other = replace(config, lr=0.1 + processes.rank)
        with pytest.raises(ValueError, match="lr: 0.1 in process 0, 1.1 in process 1"):
            check_start("toy", other, folder / "other", processes, resume=False)
        odd = replace(config, batch_size=5)
        with pytest.raises(ValueError, match="batch_size=5 does not divide by 2 processes"):
            check_start("toy", odd, folder / "other", processes, resume=False)
        toy = Toy(config, processes)
        toy.contents = lambda: [str(processes.rank)]  # type: ignore[method-assign]
        with pytest.raises(ValueError, match="processes read different data"):
            fit(toy, "toy", folder / "other")
        assert run(folder / "whole", config, processes=processes)
        before = {7: lambda: signal.raise_signal(signal.SIGTERM)} if processes.rank else {}
        assert not run(folder / "run", config, processes=processes, before=before)
        assert run(folder / "run", config, processes=processes, resume=True)
        before = {8: fail(RuntimeError("the second has had enough"))} if processes.rank else {}
        run(folder / "failed", config, processes=processes, before=before)


def test_two_processes_stop_go_on_and_fail_together(tmp_path: Path) -> None:
    """Asked before the seventh step, they tell one another after it and stop after the eighth."""
    done = torchrun(__file__, tmp_path)
    assert done.stderr.count("stopped in epoch 3 after step 2 of 3") == 1, done.stderr
    run, whole = saved(tmp_path / "run"), saved(tmp_path / "whole")
    assert same(run, whole)
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "whole")
    assert done.returncode and "RuntimeError: the second has had enough" in done.stderr
    assert saved(tmp_path / "failed")["epoch"] == 2
    assert not (tmp_path / "other").exists()


# Losses and values that are not finite


def test_a_loss_that_is_not_finite_names_its_images_and_is_not_saved(tmp_path: Path) -> None:
    toy = Toy(Config(lr=1e30))
    with pytest.raises(FloatingPointError, match="not finite in epoch 1, step 2, on the ") as e:
        fit(toy, "toy", tmp_path, resume=False)
    assert f"on the images {list(toy.order)[1]}; the last checkpoint" in str(e.value)
    assert not (tmp_path / "last.pt").exists() and not rows_of(tmp_path)


def test_it_is_looked_for_within_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECK_EVERY", 2)
    toy = Toy(Config())
    toy.images.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="epoch 1, step 1"):
        train_epoch(toy)
    assert toy.step == 2


def test_a_run_that_stops_does_not_save_it(tmp_path: Path) -> None:
    ask = {3: lambda: signal.raise_signal(signal.SIGTERM)}
    with pytest.raises(FloatingPointError):
        run(tmp_path, Config(lr=1e30), before=ask)
    assert not (tmp_path / "last.pt").exists()


def test_an_error_of_a_step_has_its_place_and_images() -> None:
    toy = Toy(Config(), before={5: fail(ValueError("a map has NaN"))})
    train_epoch(toy)
    with pytest.raises(ValueError, match=r"a map has NaN \(epoch 2, step 2, on the images \[\d"):
        train_epoch(toy)
    toy = Toy(Config(), before={2: fail(ValueError("a map has NaN"))})
    toy.images.fill_(torch.nan)  # the loss before it is what went wrong first
    with pytest.raises(FloatingPointError, match="epoch 1, step 1"):
        train_epoch(toy)


@pytest.mark.parametrize("spoilt", ["weights", "test"])
def test_weights_and_metrics_that_are_not_finite_are_not_saved(spoilt: str, tmp_path: Path) -> None:
    """The loss of an epoch's last step may be finite when its update is not."""

    class Spoilt(Toy):
        def after_epoch(self) -> Row:
            if spoilt == "weights":
                nn.init.constant_(self.model.bias, torch.inf)
            return {"test": float("nan")} if spoilt == "test" else {}

    with pytest.raises(FloatingPointError, match=f"{spoilt} not finite after epoch 1, step 0"):
        fit(Spoilt(Config()), "toy", tmp_path)
    assert not (tmp_path / "last.pt").exists() and not rows_of(tmp_path)


def test_the_watch_notes_the_first() -> None:
    toy = Toy(Config())
    toy.batches()
    watch = LossWatch(toy)
    watch.add(0, torch.tensor(1.0))
    watch.check()
    for step, loss in enumerate((float("inf"), float("nan"), 1.0)):
        watch.add(step + 1, torch.tensor(loss))
    with pytest.raises(FloatingPointError, match="step 2"):
        watch.check()


# The folder


def test_a_full_disk_ends_with_a_message_and_loses_nothing(tmp_path: Path) -> None:
    """The size that files may have stands in for a disk that fills up."""
    run(tmp_path / "whole")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    full = {4: lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2048, before[1]))}
    try:
        with pytest.raises(SystemExit, match="last checkpoint is intact"), exit_with_message():
            run(tmp_path / "run", before=full)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert saved(tmp_path / "run")["epoch"] == 1
    run(tmp_path / "run", resume=True)
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "whole")


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


def test_a_folder_that_may_not_be_written_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    """First a new folder of a run; then one that holds a run, which is then gone on with."""
    run(tmp_path)
    expected = rows_of(tmp_path)
    with tempfile.TemporaryDirectory() as name, powerless(Path(name)):
        place, folder = Path(name), Path(name, "run")
        place.chmod(0o555)
        with pytest.raises(SystemExit, match="Permission denied: .*run"), exit_with_message():
            run(folder)
        assert not folder.exists()
        place.chmod(0o755)
        with pytest.raises(SystemExit, match="Permission.*is intact"), exit_with_message():
            run(folder, before={4: lambda: folder.chmod(0o555)})
        assert saved(folder)["epoch"] == 1
        folder.chmod(0o755)
        run(folder, resume=True)
        assert rows_of(folder) == expected


def test_a_folder_in_use_or_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    def again() -> None:
        with pytest.raises(SystemExit, match="error: another process is at work in"):
            with exit_with_message():
                run(tmp_path / "run", resume=True)

    run(tmp_path / "run", before={1: again})
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="Not a directory"), exit_with_message():
        run(tmp_path / "file" / "run")


def test_a_run_goes_on_with_the_data_that_it_began_with(tmp_path: Path) -> None:
    def fit_on(content: str, record: dict[str, Any]) -> bool:
        toy = Toy(Config())
        toy.contents, toy.records = lambda: [content], {"split.json": record}  # type: ignore[method-assign]
        return fit(toy, "toy", tmp_path, resume=True)

    assert fit_on("abc", {"labels": [1, 2]}) and fit_on("abc", {"labels": [1, 2]})
    with pytest.raises(ValueError, match="began with other data: labels differ"):
        fit_on("abc", {"labels": [1, 3]})
    with pytest.raises(ValueError, match="data"):
        fit_on("abd", {"labels": [1, 2]})
    (tmp_path / "split.json").write_text("{")
    with pytest.raises(ValueError, match="split.json is damaged"):
        fit_on("abc", {"labels": [1, 2]})


def test_rows_are_written_for_tensorboard_too(tmp_path: Path) -> None:
    run(tmp_path, Config(tensorboard=True))
    assert list(tmp_path.glob("events.out.tfevents.*"))


# Messages


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), "out of memory .*lower --batch-size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out of memory"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal"), "try fewer --workers"),
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (ValueError("no such thing"), "error: no such thing"),
        (FloatingPointError("not finite"), "error: not finite"),
    ],
)
def test_what_goes_wrong_is_said(error: Exception, message: str) -> None:
    with pytest.raises(SystemExit, match=message), exit_with_message():
        raise error


def test_an_error_of_the_users_own_code_is_said_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def lose():\n    raise KeyError('lost')")
    lose = find_function(f"{tmp_path}/own.py:lose")
    message = r"error: .*own.py, line 2: KeyError: 'lost'"
    with pytest.raises(SystemExit, match=message), exit_with_message():
        lose()


def test_another_error_is_not_hidden() -> None:
    with pytest.raises(RuntimeError, match="a bug"), exit_with_message():
        raise RuntimeError("a bug")


if __name__ == "__main__":
    two_processes(Path(sys.argv[1]))
