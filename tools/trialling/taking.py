"""Finished runs of the same settings, which need not be run again."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from keepbench.identity import check_digests
from keepbench.right import NAME
from keepbench.run import RunRecord
from queueing.jobs import same_settings
from trialling.plan import RunJob

FILES = ("metrics.jsonl", NAME, "run.json")
"""What a trial reads of a run; the record last, so that a copy that was cut off is no run."""


def take(
    jobs: Sequence[RunJob], sources: Sequence[Path], files: Mapping[str, str] | None = None
) -> int:
    """Copy what is finished at or below some folders to the jobs that ask for it: how many.

    Args:
        jobs: whose runs are looked for.
        sources: the folders.
        files: digests of the files that the jobs' settings name; a run that was made with others is
            another.

    Raises:
        ValueError: A source is no folder.
    """
    missing = [job for job in jobs if not job.out.exists()]
    found = []
    for source in sources:
        if not source.is_dir():
            raise ValueError(f"--take: there is no folder {source}")
        for path in sorted(source.rglob("run.json")):
            try:
                record = RunRecord.read(path.parent)
                check_digests(files or {}, record.files, str(path.parent))
            except ValueError:
                continue  # no run of ours, or of other files
            found.append(record)
    taken = 0
    for job in missing:
        for record in found:
            there = RunJob(job.name, job.command, record.folder, job.config)
            if same_settings(record, job.config) and there.finished():
                job.out.mkdir(parents=True)
                for name in FILES:
                    shutil.copy(record.folder / name, job.out / name)
                taken += 1
                break
    return taken
