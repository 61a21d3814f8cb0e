from __future__ import annotations

import fcntl
import json
import os
import pickle
import platform
import resource
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest
import torch

from keepbench.checkpoints import load_state
from keepbench.files import file_at, files_at, write_whole
from keepbench.identity import Identity, digests
from keepbench.machine import find_device
from keepbench.own_network import source_files
from keepbench.run import Run, RunRecord, check_folder, read_rows
from keepbench.settings import check, setting
from keepbench.weights import load_checkpoint

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Config:
    arch: str = setting("small", "network", files=source_files)
    epochs: int = setting(3, "passes", range="[1, 100]")
    lr: float = setting(0.1, "learning rate")
    keep: bool = setting(False, "keep regions")
    workers: int = setting(4, "processes", may_change=True)
    seed: int = setting(0, "seed")

    def __post_init__(self) -> None:
        check(self)


def test_a_folder_explains_itself(tmp_path: Path) -> None:
    Run(tmp_path / "run", "plain", Config(epochs=7), CPU, resume=False).close()
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert about["experiment"] == "plain" and about["budget"] == "paper"
    assert about["settings"] == {
        "arch": "small", "epochs": 7, "lr": 0.1, "keep": False, "workers": 4, "seed": 0,
    }  # fmt: skip
    assert about["versions"]["torch"] == torch.__version__.split("+")[0]
    assert about["command"].startswith("python tools/")
    assert {"commit", "hardware"} < set(about)


def test_a_folder_is_not_overwritten(tmp_path: Path) -> None:
    Run(tmp_path, "plain", Config(), CPU, resume=False).close()
    with pytest.raises(ValueError, match="already holds a run of plain; give --resume"):
        Run(tmp_path, "plain", Config(), CPU, resume=False).close()
    with pytest.raises(ValueError, match="epochs: 3 then, 4 now"):
        Run(tmp_path, "plain", Config(epochs=4), CPU, resume=True)
    Run(tmp_path, "plain", Config(), CPU, resume=True).close()


def test_a_run_from_before_a_setting_had_its_default(tmp_path: Path) -> None:
    Run(tmp_path, "plain", Config(), CPU, resume=False).close()
    about = json.loads((tmp_path / "run.json").read_text())
    del about["settings"]["keep"]
    (tmp_path / "run.json").write_text(json.dumps(about))
    Run(tmp_path, "plain", Config(), CPU, resume=True).close()
    with pytest.raises(ValueError, match="keep: False then, True now"):
        Run(tmp_path, "plain", Config(keep=True), CPU, resume=True)


@dataclass(frozen=True, kw_only=True)
class Filed:
    weights: str = setting("random", "weights, or random", files=file_at)
    masks: str = setting("", "folder", files=files_at)


def test_what_settings_name_is_the_same_when_a_run_goes_on(tmp_path: Path) -> None:
    weights, masks = tmp_path / "a.pt", tmp_path / "masks"
    (masks / "cat").mkdir(parents=True)
    (masks / "cat" / "1.png").write_bytes(b"one")
    weights.write_bytes(b"first")
    config = Filed(weights=str(weights), masks=str(masks))
    Run(tmp_path / "run", "plain", config, CPU, resume=False).close()
    assert {*RunRecord.read(tmp_path / "run").files} == {"weights", "masks"}
    for path in (weights, masks / "cat" / "1.png"):
        before, name = path.read_bytes(), "weights" if path == weights else "masks"
        path.write_bytes(b"another")
        with pytest.raises(ValueError, match=f"what {name} names has changed since; bring it back"):
            check_folder(tmp_path / "run", Identity("plain", config), resume=True)
        path.write_bytes(before)
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    weights.write_bytes(b"another")
    (tmp_path / "run" / "run.json").write_text(json.dumps({**about, "files": None}))
    Run(tmp_path / "run", "plain", config, CPU, resume=True).close()  # it was not known then
    assert digests(Filed()) == {}


def test_some_settings_may_change_when_a_run_goes_on(tmp_path: Path) -> None:
    Run(tmp_path, "plain", Config(workers=1), CPU, resume=False).close()
    Run(tmp_path, "plain", Config(workers=2), CPU, resume=True).close()


def test_a_folder_has_one_writer(tmp_path: Path) -> None:
    with Run(tmp_path, "plain", Config(), CPU, resume=False):
        with pytest.raises(ValueError, match="another process is at work in"):
            Run(tmp_path, "plain", Config(), CPU, resume=True)
    with Run(tmp_path, "plain", Config(), CPU, resume=True):
        pass


def test_a_reader_that_outlives_its_run_does_not_keep_the_folder(tmp_path: Path) -> None:
    """A process opens the run and starts another, as a loader does, and dies."""
    before, after = os.pipe()
    if not (child := os.fork()):
        Run(tmp_path, "plain", Config(), CPU, resume=False)
        if os.fork():
            os._exit(0)
        os.close(after)
        os.read(before, 1)  # until the test is over
        os._exit(0)
    os.waitpid(child, 0)
    Run(tmp_path, "plain", Config(), CPU, resume=True).close()
    os.close(after)


def test_resuming_drops_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    run = Run(tmp_path, "plain", Config(), CPU, resume=False)
    assert run.load() is None
    for epoch in (1, 2, 3):
        run.log(epoch=epoch, loss=1.0 / epoch)
        if epoch < 3:
            run.save({"epoch": epoch, "step": 0, "weight": torch.full((2,), float(epoch))})
    state = run.load()
    assert state is not None and state["epoch"] == 2
    assert torch.equal(state["weight"], torch.tensor([2.0, 2.0]))
    assert run.rows() == [{"epoch": 1, "loss": 1.0}, {"epoch": 2, "loss": 0.5}]


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    run = Run(tmp_path, "plain", Config(), CPU, resume=False)
    for epoch in (1, 2):
        run.save({"epoch": epoch, "step": 0, "weight": torch.zeros(1000)})
    whole = (tmp_path / "last.pt").read_bytes()
    (tmp_path / "last.pt").write_bytes(whole[: len(whole) // 2])
    state = run.load()
    assert state is not None and state["epoch"] == 1
    run.save({"epoch": 2, "step": 0, "weight": torch.zeros(1000)})  # pushes out no readable one
    assert load_checkpoint(tmp_path / "previous.pt")["epoch"] == 1
    for name in ("last.pt", "previous.pt"):
        (tmp_path / name).write_bytes(b"")
    for _ in range(2):
        with pytest.raises(ValueError, match="no checkpoint in .* can be read"):
            run.load()


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    with Run(tmp_path, "plain", Config(), CPU, resume=False) as run:
        run.save({"epoch": 1, "step": 0, "weight": torch.arange(1000.0)})
    path = tmp_path / "last.pt"
    whole = bytearray(path.read_bytes())
    whole[whole.index(torch.arange(1000.0).numpy().tobytes()) + 999] ^= 1
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="the checksum of .* is wrong"):
        load_checkpoint(path)


def test_a_kill_between_two_renames_loses_nothing(tmp_path: Path) -> None:
    with Run(tmp_path, "plain", Config(), CPU, resume=False) as run:
        for epoch in (1, 2):
            run.save({"epoch": epoch, "step": 0})
        (tmp_path / "last.pt").rename(tmp_path / "new.pt")
        state = run.load()
        assert state is not None and state["epoch"] == 2
    assert (
        load_checkpoint(tmp_path / "last.pt")["epoch"] == 2
    )  # a run that is over is not saved again


def test_a_last_line_without_its_end_is_not_joined(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with Run(tmp_path, "plain", Config(), CPU, resume=False) as run:
        run.log(epoch=1)
        run.save({"epoch": 1, "step": 0})
        path.write_bytes(path.read_bytes().rstrip())
        run.load()
        run.log(epoch=2)
    assert read_rows(path) == [{"epoch": 1}, {"epoch": 2}]


def test_a_damaged_line_is_left_out_and_counted(tmp_path: Path) -> None:
    write_record(tmp_path, {})
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"epoch": 1}\n\xff{"epoch": 2}\n7\n{"epoch": 3}\n{"epo')
    record = RunRecord.read(tmp_path)
    assert record.rows == read_rows(path) == [{"epoch": 1}, {"epoch": 3}]
    assert record.damaged == 3


def write_record(folder: Path, change: dict[str, Any]) -> None:
    """A `run.json` as `Run` leaves it, before it knew of tasks."""
    about = {"experiment": "plain", "budget": "smoke", "settings": {"epochs": 2, "seed": 5},
             "command": "python tools/run_reid.py plain --seed 5", "commit": None}  # fmt: skip
    (folder / "run.json").write_text(json.dumps(about | change))


def test_a_record_is_read(tmp_path: Path) -> None:
    with Run(tmp_path, "plain", Config(seed=3), CPU, resume=False, budget="smoke") as run:
        run.log(epoch=1, loss=0.5)
    record = RunRecord.read(tmp_path)
    assert (record.experiment, record.budget, record.seed) == ("plain", "smoke", 3)
    assert record.task == Config.__module__.partition(".")[0]
    assert record.config(Config) == Config(seed=3)
    assert record.rows == [{"epoch": 1, "loss": 0.5}]
    assert record.versions["torch"] == torch.__version__.split("+")[0]


def test_the_task_is_written_down_or_that_of_the_command(tmp_path: Path) -> None:
    for change, task in (
        ({}, "reid"),
        ({"task": "detection"}, "detection"),
        ({"command": "python tools/quickstart.py"}, ""),
    ):
        write_record(tmp_path, change)
        assert RunRecord.read(tmp_path).task == task


DEEP = b'{"settings": ' * 100_000
DAMAGE = {
    b"": "Expecting value",
    b"[]": "no JSON object",
    b'{"settings": {}}': "no usable experiment, budget",
    b"\xff\xfe": "can't decode",
    b'{"expe': "Unterminated string",
    DEEP: "nested too deeply",
    b'{"experiment": "\\ud800"}': "surrogates not allowed",
    b'{"seed": ' + b"9" * 400 + b"}": "a number of 400 digits",
    b'{"experiment": 1, "budget": "paper", "settings": {}}': "no usable experiment",
    b'{"experiment": "x", "budget": "paper", "settings": []}': "no usable settings",
    b'{"experiment": "x", "budget": "y", "settings": {}, "commit": true}': "no usable commit",
    b'{"experiment": "x", "budget": "y", "settings": {}, "versions": {"a": 1}}': "usable versions",
}


@pytest.mark.parametrize("content", DAMAGE, ids=DAMAGE.values())
def test_a_damaged_record_is_refused_with_its_reason(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(ValueError, match=f"run.json is damaged: .*{DAMAGE[content]}"):
        RunRecord.read(tmp_path)
    with pytest.raises(ValueError, match="; give another --out"):
        Run(tmp_path, "plain", Config(), CPU, resume=True)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"depth": 3}, ": depth is no setting"),
        ({"epochs": 0}, r": epochs must be in \[1, 100\], found 0"),
        ({"epochs": [1]}, r": epochs must be a whole number, found \[1\]"),
        ({"arch": "evil.py:make"}, ": evil.py:make is code, which is not run because a file says"),
    ],
)
def test_settings_of_another_kind_are_no_config(
    settings: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    write_record(tmp_path, {"settings": settings})
    with pytest.raises(ValueError, match=reason):
        RunRecord.read(tmp_path).config(Config)


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run.json is missing"):
        RunRecord.read(tmp_path)


class _Killed(BaseException):
    pass


def _killing(monkeypatch: pytest.MonkeyPatch, moment: int) -> None:
    """Die at a moment, counted in calls that put something onto the disk.

    What was written and not yet flushed is lost: half of a file, or the end of a line.
    """
    calls = []

    def counted(function: Callable, truncates: bool) -> Callable:
        def call(*arguments: Any) -> None:
            calls.append(1)
            if len(calls) == moment:
                if truncates:
                    file, size = arguments[0], os.fstat(arguments[0]).st_size
                    appends = fcntl.fcntl(file, fcntl.F_GETFL) & os.O_APPEND
                    os.ftruncate(file, size - 3 if appends else size // 2)
                raise _Killed
            function(*arguments)

        return call

    monkeypatch.setattr("keepbench.run.os.fsync", counted(os.fsync, truncates=True))
    monkeypatch.setattr("keepbench.run.os.replace", counted(os.replace, truncates=False))


def _work(folder: Path, epochs: int, saved: list[int]) -> None:
    """A run in small: each epoch adds to a number, and logs and saves it."""
    with Run(folder, "plain", Config(), CPU, resume=True) as run:
        state = run.load() or {"epoch": 0, "step": 0, "sum": torch.zeros(1000)}
        while state["epoch"] < epochs:
            epoch = state["epoch"] + 1
            state = {"epoch": epoch, "step": 0, "sum": state["sum"] + epoch}
            run.log(epoch=epoch, sum=float(state["sum"][0]))
            run.save(state)
            saved.append(epoch)


def test_a_kill_at_any_moment_of_writing_loses_nothing_that_was_saved(tmp_path: Path) -> None:
    """Every flush and rename of a run of three epochs that is started twice, one after another."""
    _work(tmp_path / "whole", 3, [])
    expected = read_rows(tmp_path / "whole" / "metrics.jsonl")
    kills, completed = 0, False
    while not completed:
        folder, saved = tmp_path / str(kills), []
        with pytest.MonkeyPatch.context() as patch:
            _killing(patch, kills + 1)
            try:
                _work(folder, 2, saved)
                _work(folder, 3, saved)
                completed = True
            except _Killed:
                kills += 1
        with Run(folder, "plain", Config(), CPU, resume=True) as run:
            state = run.load() or {"epoch": 0}
            done = max(saved, default=0)
            assert state["epoch"] in (done, done + 1)
            assert run.rows() == expected[: state["epoch"]]
        _work(folder, 3, [])
        assert read_rows(folder / "metrics.jsonl") == expected
    # run.json, a first epoch, two more with a checkpoint before them
    assert kills == 2 + 4 + 2 * 5


WHOLE = {"epoch": 1, "step": 0, "sums": torch.zeros(2), "model": {"a": torch.ones(2)}}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"epoch": None}, "its epoch is a NoneType"),
        ({"epoch": True}, "its epoch is a bool"),
        ({"step": -1}, "it is at epoch 1, step -1"),
        ({"sums": [1.0]}, "its sums is a list"),
        ({"model": {"a": 1}}, "1 weights are no plain tensors: a"),
        ({"model": {"a": torch.ones(2, device="meta")}}, "1 weights are no plain tensors: a"),
        ({"average": {"a": torch.tensor(torch.nan)}}, "1 weights are NaN or infinite: a"),
        ({"optimizer": "x"}, "its optimizer is a str"),
        ({"ranks": {}}, "its ranks is a dict"),
        ({"run": "[]"}, "it is no JSON object"),
        ({"run": "[" * 100_000}, "it is nested too deeply"),
        ({"metrics": "{}"}, "it is no JSON list"),
        ({"metrics": "[1]"}, "its metrics are no rows"),
        ({"metrics": '[{"epoch": "x"}]'}, "its metrics are no rows"),
        ({"metrics": b"[]"}, "its metrics is a bytes"),
    ],
)
def test_a_checkpoint_with_a_field_of_another_kind_is_refused(
    change: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    torch.save(WHOLE, tmp_path / "last.pt")
    assert load_state(tmp_path / "last.pt").keys() == WHOLE.keys()
    torch.save(WHOLE | change, tmp_path / "last.pt")
    with pytest.raises(ValueError, match=f"last.pt is no checkpoint of a run: {reason}"):
        load_state(tmp_path / "last.pt")


def test_ctrl_c_waits_for_a_file_to_be_whole(tmp_path: Path) -> None:
    """torch's writer aborts the process when it is left in the middle."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a worker may ignore it
    state = {"epoch": 1, "weight": torch.arange(1000.0)}

    def write(file: IO[bytes]) -> None:
        signal.raise_signal(signal.SIGINT)
        torch.save(state, file)

    try:
        with pytest.raises(KeyboardInterrupt):
            write_whole(tmp_path / "last.pt", write)
        assert load_checkpoint(tmp_path / "last.pt").keys() == state.keys()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


class _Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemError('the file ran code')",)


def test_reading_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    with open(tmp_path / "trap.pt", "wb") as file:
        torch.save({"epoch": 1, "trap": _Trap()}, file, pickle_module=pickle)
    with pytest.raises(ValueError, match="cannot be read"):
        load_checkpoint(tmp_path / "trap.pt")
    with pytest.raises(ValueError, match="there is no checkpoint"):
        load_checkpoint(tmp_path / "nothing.pt")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_freed_memory_is_used_again() -> None:
    """64 MiB are 16,384 pages of 4 KiB; sooner or later all of them are there already."""
    find_device("cpu")
    faults = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.empty(2**24).fill_(1.0)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    assert min(faults[1:]) < 100, faults
