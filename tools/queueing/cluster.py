"""Run jobs on a SLURM cluster through submitit."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keepbench.files import parse_json, write_text
from queueing.jobs import Job
from queueing.local import Outcome, follow

NAMES = ("slurm", "local", "debug")
"""submitit's clusters: SLURM, processes of this machine, and this process."""
MOST_TIMEOUTS = 100
"""How often a job may be queued again; submitit's 3 would stop a long run that gets on."""
SUBMITTED = "jobs.json"
"""Numbers of the submitted jobs, by name, so that the same command finds them again."""


def _submitit() -> Any:
    try:
        import submitit
    except ImportError:
        raise ValueError("--cluster needs submitit: pip install submitit") from None
    return submitit


def parameters(words: Sequence[str]) -> dict[str, Any]:
    """`KEY=VALUE` words as submitit's parameters; whole numbers become such.

    Raises:
        ValueError: A word is not of this form.
    """
    pairs = [word.partition("=") for word in words]
    if wrong := [
        word for word, (name, sign, _) in zip(words, pairs, strict=True) if not (name and sign)
    ]:
        raise ValueError(f"{wrong[0]!r} is not KEY=VALUE, as slurm_partition=gpu or timeout_min=60")
    return {name: int(value) if value.isdigit() else value for name, _, value in pairs}


def submit(queue: Sequence[Job], cluster: str, options: dict[str, Any], root: Path) -> list[Any]:
    """Submit jobs, each a task of its own: submitit's handles.

    A job whose time is over saves its run, is queued again and goes on. One that an earlier command
    left with SLURM is not submitted again.

    Raises:
        ValueError: submitit or the cluster is not there, or it does not know an option.
    """
    submitit = _submitit()
    logs = root / "logs" / "submitit"
    try:
        executor = submitit.AutoExecutor(
            folder=logs, cluster=cluster, slurm_max_num_timeout=MOST_TIMEOUTS
        )
        executor.update_parameters(**options)
        handles = _left(logs) if cluster == "slurm" else {}
        if new := [job for job in queue if job.name not in handles]:
            with executor.batch():
                handles |= {job.name: executor.submit(_command(job)) for job in new}
    except (RuntimeError, NameError, TypeError, OSError, subprocess.SubprocessError) as error:
        raise ValueError(f"submitit cannot use cluster {cluster!r}: {error}") from None
    numbers = {name: handle.job_id for name, handle in handles.items()}
    write_text(logs / SUBMITTED, json.dumps(numbers, indent=1))
    return [handles[job.name] for job in queue]


def _command(job: Job) -> Any:
    """A sequence of one: submitit queues a sequence again, a mere command it does not."""
    helpers = _submitit().helpers
    found = helpers.FunctionSequence()
    found.add(helpers.CommandFunction([*job.command], verbose=True))
    return found


def _left(logs: Path) -> dict[str, Any]:
    """Handles of the jobs that an earlier command left with SLURM, by name."""
    if not (logs / SUBMITTED).exists():
        return {}
    command = ("squeue", "--me", "--array", "--noheader", "--format=%i")
    alive = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    numbers = parse_json((logs / SUBMITTED).read_text())
    slurm_job = _submitit().SlurmJob
    return {name: slurm_job(logs, each) for name, each in numbers.items() if each in alive}


def run_all(
    queue: Sequence[Job], cluster: str, options: dict[str, Any], root: Path
) -> list[Outcome]:
    """Submit jobs and wait for them; Ctrl-C leaves them with the cluster."""
    handles = submit(queue, cluster, options, root)
    print(f"jobs {', '.join(str(handle.job_id) for handle in handles)}")
    try:
        follow(
            queue,
            lambda: not all(handle.done() for handle in handles),
            lambda: sum(handle.done() for handle in handles),
        )
    except KeyboardInterrupt:
        print("the jobs go on; the same command shows and collects them")
        return [Outcome(job, "stopped", None, "left with the cluster") for job in queue]
    return [_outcome(job, handle) for job, handle in zip(queue, handles, strict=True)]


def _outcome(job: Job, handle: Any) -> Outcome:
    """How a submitted job ended: what it left decides, its exception says why it failed."""
    log = Path(handle.paths.stderr)
    error = handle.exception()
    if error is None and job.finished():
        return Outcome(job, "done", log)
    trace, _, _ = str(error or "it ended without finishing").partition(
        "\n" + "-" * 22 + "\nYou can"
    )
    return Outcome(job, "failed", log, trace.strip().splitlines()[-1])
