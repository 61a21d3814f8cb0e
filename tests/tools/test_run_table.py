from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from evidence.catalogue import TASKS, Catalogue, Package, load
from keepbench.experiments import Experiment
from queueing import cluster, local
from queueing.cli import main, summary
from queueing.jobs import TOOLS, Job, jobs, known
from queueing.local import Outcome

TASK = TASKS["classification"]
REAL = load({"classification": TASK})
TABLE = "demo"
FEW = ["--", "--subset", "40", "--test-subset", "20"]
"""Flags for each run: so few images that it takes no longer than its start."""


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch) -> Catalogue:
    """Two experiments that a CPU runs in seconds, as a table of their own."""
    package = REAL.packages["classification"]
    names = ("digits-resnet8-cutout", "digits-resnet8-keep_cutout")
    rows: dict[str, Experiment] = {
        name: replace(package.experiments[name], table=TABLE, trials=2) for name in names
    }
    made = Catalogue({"classification": Package(TASK, rows, package.budgets)})
    monkeypatch.setattr("queueing.cli.load", lambda: made)
    monkeypatch.setattr(local, "POLL_SECONDS", 0.05)
    return made


def queue(catalogue: Catalogue, root: Path, *, seeds: int = 0, only: str = "") -> list[Job]:
    return jobs(
        catalogue, TABLE, budget="smoke", seeds=seeds, only=only, extra=[], root=root
    )  # fmt: skip


def test_a_table_is_its_experiments_times_their_seeds(digits: Catalogue, tmp_path: Path) -> None:
    found = queue(digits, tmp_path)
    assert [(job.out.relative_to(tmp_path).as_posix()) for job in found] == [
        f"digits-resnet8-{name}/smoke/seed-{seed}"
        for seed in (0, 1)
        for name in ("cutout", "keep_cutout")
    ]
    assert len(queue(digits, tmp_path, seeds=1)) == 2
    assert len(queue(digits, tmp_path, only="keep", seeds=5)) == 5


@pytest.mark.parametrize("table", ["1", "2", "3", "4", "5", "8", "2a", "2b", "3a", "3b", "control"])
def test_every_table_of_classification_has_jobs(table: str, tmp_path: Path) -> None:
    found = jobs(REAL, table, budget="paper", seeds=1, only="", extra=[], root=tmp_path)
    assert len({job.out for job in found}) == len(found) > 1
    assert table in known(REAL)


@pytest.mark.parametrize("budget", ["smoke", "short", "paper"])
def test_nothing_of_any_table_is_finished_in_an_empty_folder(budget: str, tmp_path: Path) -> None:
    everything = load()
    for table in known(everything):
        found = jobs(everything, table, budget=budget, seeds=1, only="", extra=[], root=tmp_path)
        assert found
        assert not any(job.finished() for job in found)
        assert all(job.progress()[1] > 0 for job in found)


def test_tables_6_and_7_are_benchmarks(tmp_path: Path) -> None:
    (job,) = jobs(REAL, "6", budget="smoke", seeds=0, only="", extra=[], root=tmp_path)
    assert job.command[1].endswith("benchmark_cost.py")
    assert not job.finished()
    job.out.write_text("[]")
    assert job.finished()


@pytest.mark.parametrize(
    ("table", "only", "extra", "message"),
    [
        ("13", "", [], "no experiment belongs to '13'"),
        ("1", "vit", [], "no experiment of 1 has 'vit'"),
        ("1", "", ["--learning", "1"], "unrecognized arguments: --learning"),
        ("1", "", ["--keep.tau", "high"], "invalid float value: 'high'"),
        ("1", "", ["--epochs", "0"], "epochs must be in .1, 1e6., found 0"),
        ("1", "", ["--out", "x"], "set for each run"),
    ],
)
def test_wrong_words_are_refused_before_anything_runs(
    table: str, only: str, extra: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        jobs(REAL, table, budget="smoke", seeds=1, only=only, extra=extra, root=tmp_path)


def fake(root: Path, name: str, code: str) -> Job:
    """A job that runs a line of Python and is finished once its file is there."""
    return Job(name, (sys.executable, "-c", code), root / name)


@pytest.fixture
def three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Job]]:
    monkeypatch.setattr(local, "POLL_SECONDS", 0.05)
    write = f"open({str(tmp_path)!r} + '/%s', 'w').close()"
    yield [
        fake(tmp_path, "first", write % "first"),
        fake(tmp_path, "bad", "print('not the data'); raise SystemExit(3)"),
        fake(tmp_path, "liar", "pass"),
        fake(tmp_path, "last", write % "last"),
        fake(tmp_path, "halted", f"raise SystemExit({local.STOPPED})"),
    ]


@pytest.mark.parametrize("devices", [["cpu"], ["cpu", "cpu"]])
def test_a_failed_run_does_not_stop_the_rest(
    devices: list[str], three: list[Job], tmp_path: Path
) -> None:
    words = {each.job.name: each.word for each in local.run_all(three, devices, tmp_path)}
    assert words == {
        "first": "done", "bad": "failed", "liar": "failed", "last": "done", "halted": "stopped",
    }  # fmt: skip


def test_the_summary_counts_and_names_what_failed(three: list[Job], tmp_path: Path) -> None:
    lines = summary([Outcome(three[0], "skipped"), *local.run_all(three[:3], ["cpu"], tmp_path)])
    assert lines[0] == "1 skipped, 1 done, 2 failed"
    assert lines[1].startswith("failed: bad: not the data (see ")


def test_a_signal_stops_the_run_and_the_queue(tmp_path: Path) -> None:
    """However late the run begins, and however long it would go on."""
    began, main_thread = tmp_path / "began", threading.main_thread().ident
    wait = f"import time; open({str(began)!r}, 'w').close(); time.sleep(1000)"
    work = [fake(tmp_path, "one", wait), fake(tmp_path, "two", wait)]
    ended_too_early = threading.Event()

    def stop() -> None:
        while not began.exists() and not ended_too_early.wait(0.02):
            pass
        if not ended_too_early.is_set():
            signal.pthread_kill(main_thread, signal.SIGTERM)  # type: ignore[arg-type]

    thread = threading.Thread(target=stop)
    thread.start()
    try:
        ended = local.run_all(work, ["cpu"], tmp_path)
    finally:
        ended_too_early.set()
        thread.join()
    assert [each.word for each in ended] == ["failed", "stopped"]  # killed; and not begun
    assert ended[0].last == f"exit code {-signal.SIGTERM}"
    assert ended[1].last == "not begun"


def test_a_run_that_begins_while_all_are_halted_is_stopped(tmp_path: Path) -> None:
    halted, alive = threading.Event(), set()
    halted.set()
    job = fake(tmp_path, "late", "import time; time.sleep(1000)")
    assert local.run(job, "cpu", tmp_path, alive, halted).word == "failed"
    assert not alive


def test_a_queue_runs_resumes_and_skips(
    digits: Catalogue, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [TABLE, "--seeds", "1", "--only", "keep", "--out", str(tmp_path), "--devices", "cpu"]
    main([*words, *FEW])
    assert "1 done" in capfd.readouterr().out
    folder = queue(digits, tmp_path, only="keep")[0].out
    rows = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["epoch"] for row in rows] == [1, 2]

    shutil.move(folder / "previous.pt", folder / "last.pt")  # as if killed after the first epoch
    (folder / "metrics.jsonl").write_text(rows[0] + "\n")
    main([*words, *FEW])
    assert "1 done" in capfd.readouterr().out
    again = [json.loads(row) for row in (folder / "metrics.jsonl").read_text().splitlines()]
    assert again[1]["test_loss"] == json.loads(rows[1])["test_loss"]

    main([*words, *FEW])
    said = capfd.readouterr().out
    assert "1 of them finished before" in said and "1 skipped" in said
    main([*words, "--dry-run", *FEW, "--keep.tau", "0.3"])  # the folder holds another run
    assert "0 of them finished before" in capfd.readouterr().out


def test_a_dry_run_prints_commands_that_work(
    digits: Catalogue, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    main([TABLE, "--seeds", "1", "--out", str(tmp_path), "--dry-run"])
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 3
    assert str(TOOLS / "run_classification.py") in lines[1]
    assert not list(tmp_path.iterdir())


def test_parameters_of_the_cluster() -> None:
    assert cluster.parameters(["slurm_partition=gpu", "timeout_min=60"]) == {
        "slurm_partition": "gpu", "timeout_min": 60,
    }  # fmt: skip
    with pytest.raises(ValueError, match="'gpu' is not KEY=VALUE"):
        cluster.parameters(["gpu"])


def test_submitit_runs_jobs_as_processes(three: list[Job], tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed")
    queue = [*three[:4], fake(tmp_path, "speaks", "raise SystemExit('error: no data')")]
    ended = cluster.run_all(queue, "local", {"timeout_min": 5}, tmp_path)
    assert [each.word for each in ended] == ["done", "failed", "failed", "done", "failed"]
    assert ended[4].last.endswith("error: no data")
    assert ended[0].log and ended[0].log.parent == tmp_path / "logs" / "submitit"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """SLURM's commands as far as submitit looks: its folder; `alive` holds the jobs of squeue."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    (folder / "alive").write_text("")
    for name, does in {
        "sbatch": f"echo $$ >> {folder}/submitted; echo Submitted batch job $$",
        "squeue": f"cat {folder}/alive",
        "srun": "true",
    }.items():
        (folder / name).write_text(f"#!/bin/sh\n{does}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return folder


def test_a_job_that_was_left_with_slurm_is_not_submitted_again(
    three: list[Job], slurm: Path, tmp_path: Path
) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed")

    def submit(number: int) -> list[str]:
        return [each.job_id for each in cluster.submit(three[:number], "slurm", {}, tmp_path)]

    (first,) = submit(1)
    (slurm / "alive").write_text(first)
    assert submit(1) == [first]
    found = submit(2)
    assert found[0] == first and len({*found}) == 2
    (slurm / "alive").write_text("")
    assert submit(1) != [first]
    assert len((slurm / "submitted").read_text().split()) == 3


def test_a_job_whose_time_is_over_is_queued_again(
    three: list[Job], slurm: Path, tmp_path: Path
) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed")
    (handle,) = cluster.submit(three[:1], "slurm", {}, tmp_path)
    submitted = handle.submission()
    again = submitted._checkpoint_function()  # what submitit does at its signal
    assert again is not None and again.function is submitted.function
    (script,) = (tmp_path / "logs" / "submitit").glob("*_submission.sh")
    assert "--signal=USR2@90" in script.read_text()  # which a run takes as SIGTERM


@pytest.mark.skipif(bool(shutil.which("sbatch")), reason="SLURM is here")
def test_without_slurm_the_message_says_so(three: list[Job], tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed")
    with pytest.raises(ValueError, match="submitit cannot use cluster 'slurm'"):
        cluster.submit(three, "slurm", {}, tmp_path)


def test_without_submitit_the_message_says_how(
    three: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ValueError, match="pip install submitit"):
        cluster.submit(three, "local", {}, tmp_path)


QUEUE = """
import sys, threading
from pathlib import Path
from queueing.jobs import Job
from queueing.local import run

root = Path(sys.argv[1])
wait = f"import time; open({str(root / 'began')!r}, 'w'); time.sleep(1000)"
run(Job("long", (sys.executable, "-c", wait), root / "run"), "cpu", root, set(), threading.Event())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells children of a death")
def test_a_killed_queue_takes_its_run_along(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    queue = subprocess.Popen([sys.executable, "-c", QUEUE, str(tmp_path)], env=environment)
    while not (tmp_path / "began").exists():
        assert queue.poll() is None
        time.sleep(0.01)
    (run,) = Path(f"/proc/{queue.pid}/task/{queue.pid}/children").read_text().split()
    queue.kill()
    queue.wait()
    state = Path(f"/proc/{run}/stat")
    for _ in range(1000):
        if not state.exists() or state.read_text().split()[2] == "Z":
            return
        time.sleep(0.01)
    raise AssertionError(f"the run {run} outlived its queue")
