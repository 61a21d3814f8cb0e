"""Finished runs of the same settings, which need not be run again."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from keepbench.identity import check_digests
from keepbench.right import ITEMS, NAME
from keepbench.run import RunRecord
from queueing.jobs import same_settings
from trialling.data import digest_of_run
from trialling.runs import RunJob

FILES = ("metrics.jsonl", NAME, ITEMS, "run.json")
"""Files of a run that a trial reads; the record last, so that a copy cut off is no run."""


def _is_run_of(record: RunRecord, job: RunJob) -> bool:
    """Whether a run is finished and has a job's settings and files."""
    there = RunJob(job.name, job.command, record.folder, job.config)
    with suppress(ValueError):  # of other files
        check_digests(job.files, record.files, str(record.folder))
        return same_settings(record, job.config) and there.finished()
    return False


def _is_of(record: RunRecord, data: str) -> bool:
    """Whether a run is of data of a digest; "" is unknown, on either side."""
    return not record.data or not data or record.data == data


def take(jobs: Sequence[RunJob], sources: Sequence[Path]) -> int:
    """Copy what is finished at or below some folders to the jobs that ask for it: how many.

    Args:
        jobs: whose runs are looked for.
        sources: the folders.

    Raises:
        ValueError: A source is no folder, or the data cannot be read.
    """
    missing = [job for job in jobs if not job.out.exists()]
    found = []
    for source in sources:
        if not source.is_dir():
            raise ValueError(f"--take: there is no folder {source}")
        for path in sorted(source.rglob("run.json")):
            with suppress(ValueError):  # no run of ours
                found.append(RunRecord.read(path.parent))
    taken = 0
    data: dict[int, str] = {}  # by seed: its arms share their data
    for job in missing:
        fitting = [each for each in found if _is_run_of(each, job)]
        if fitting and job.config.seed not in data:
            data[job.config.seed] = digest_of_run(job.config)
        record = next((r for r in fitting if _is_of(r, data[job.config.seed])), None)
        if record is None:
            continue
        job.out.mkdir(parents=True)
        for name in FILES:
            if (record.folder / name).exists():
                shutil.copy(record.folder / name, job.out / name)
        taken += 1
    return taken
