"""Run jobs on a SLURM cluster through submitit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from queueing.jobs import Job
from queueing.local import Outcome, follow

NAMES = ("slurm", "local", "debug")
"""submitit's clusters: SLURM, processes of this machine, and this process."""


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

    Raises:
        ValueError: submitit or the cluster is not there, or it does not know an option.
    """
    submitit = _submitit()
    logs = root / "logs" / "submitit"
    try:
        executor = submitit.AutoExecutor(folder=logs, cluster=cluster)
        executor.update_parameters(**options)
        with executor.batch():
            return [
                executor.submit(submitit.helpers.CommandFunction([*job.command], verbose=True))
                for job in queue
            ]
    except (RuntimeError, NameError, TypeError, OSError) as error:
        raise ValueError(f"submitit cannot use cluster {cluster!r}: {error}") from None


def run_all(
    queue: Sequence[Job], cluster: str, options: dict[str, Any], root: Path
) -> list[Outcome]:
    """Submit jobs and wait for them; Ctrl-C leaves them with the cluster."""
    handles = submit(queue, cluster, options, root)
    print(f"submitted {', '.join(str(handle.job_id) for handle in handles)}")
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
    lines = str(error or "it ended without finishing").strip().splitlines()
    return Outcome(job, "failed", log, lines[-1])
