"""The runs that a trial's plan asks for, and what they measure."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from evidence.catalogue import TASKS
from evidence.folders import measured, number
from keepbench.command import flags
from keepbench.identity import check_digests
from keepbench.right import is_recorded, mean_of_items, recorded
from keepbench.run import RunRecord
from keepbench.settings import changed, flat
from queueing.jobs import TOOLS, Job
from trialling.analysis import Accuracies, findings, fit, going_on, within
from trialling.contrasts import Contrast, cell_name
from trialling.plan import LIMIT_SD, Plan


@dataclass(frozen=True)
class RunJob(Job):
    """A run of a trial, which is finished once what its items got is stored, too.

    Attributes:
        files: digests of the files that its settings name, by setting.
    """

    files: Mapping[str, str] = field(default_factory=dict, repr=False)

    def finished(self) -> bool:  # noqa: D102
        recorded = not getattr(self.config, "record", False) or is_recorded(self.out)
        return recorded and super().finished()


def command_of(plan: Plan, config: Any, out: Path) -> tuple[str, ...]:
    """The command that runs a config of a plan into a folder."""
    usual = plan.package.experiments[plan.experiment].config
    script = str(TOOLS / TASKS[plan.task].script)
    return (sys.executable, script, plan.experiment, *flags(config, usual), "--out", str(out))


def run_job(plan: Plan, cell: str, seed: int, folder: Path) -> RunJob:
    """A run of a cell, as a command of the queue."""
    config, out = plan.config(cell, seed, code="leave"), folder / cell / f"seed-{seed}"
    if flat(config).get("keep.map.folder") == "":  # a teacher's maps serve all seeds
        config = changed(config, {"keep.map.folder": str(folder / "maps")}, code="leave")
    command = (*command_of(plan, config, out), "--resume")
    return RunJob(f"{cell} seed {seed}", command, out, config, files=plan.files_of(cell))


def block(plan: Plan, cells: Sequence[str], seed: int, folder: Path) -> list[RunJob]:
    """The runs of a seed, in a random order that follows from it."""
    order = random.Random(seed).sample([*cells], len(cells))
    return [run_job(plan, cell, seed, folder) for cell in order]


def accuracies(plan: Plan, folder: Path) -> Accuracies:
    """Results of all finished runs, in %, from each item's result if that is its mean.

    Raises:
        ValueError: A run's metrics or items are damaged, its items are not those of its metrics,
            or arms of a seed differ in data.
    """
    found: dict[str, dict[int, float]] = {cell: {} for cell in plan.cells}
    for seed in plan.numbers(0, plan.most):
        data = set()
        for cell in plan.cells:
            job = run_job(plan, cell, seed, folder)
            if not job.finished():
                continue
            record = RunRecord.read(job.out)
            row, task = record.rows[-1], plan.package.task
            try:
                value = measured(record, task)
            except ValueError as error:
                raise ValueError(f"{job.out}: {error}") from None
            figure = task.items or task.metric
            if is_recorded(job.out) and figure in row:  # not if it was asked for afterwards
                mean, said = mean_of_items(job.out), number(row, figure)
                if said is None or abs(mean - said) > 1e-6:
                    raise ValueError(f"{job.out}: its items say {mean:.4f} %, its metrics another")
                if not task.items:
                    value = mean
            check_digests(job.files, record.files, f"{job.out}")
            found[cell][seed] = value
            data.add(record.data)
        if len(data) > 1:
            raise ValueError(f"{folder}: the arms of seed {seed} were not run on the same data")
    return found


def item_means(plan: Plan, found: Accuracies, folder: Path) -> Accuracies:
    """The mean over what each item got, in %, of runs that are finished and have it stored."""
    places = {
        cell: {seed: run_job(plan, cell, seed, folder).out for seed in seeds}
        for cell, seeds in found.items()
    }
    return {
        cell: {seed: mean_of_items(out) for seed, out in outs.items() if is_recorded(out)}
        for cell, outs in places.items()
    }


def same_items(plan: Plan, asked: Contrast, found: Accuracies, folder: Path) -> bool:
    """Whether the two arms of a contrast got the same for each item in each seed of both."""

    def items(cell: str, seed: int) -> Tensor | None:
        out = run_job(plan, cell, seed, folder).out
        return recorded(out) if is_recorded(out) else None

    for dose, _ in asked.doses or (("", 1.0),):
        arm, base = cell_name(asked.arm, dose), cell_name(asked.base, dose)
        seeds = found[arm].keys() & found[base].keys()
        if not seeds or any(found[arm][seed] != found[base][seed] for seed in seeds):
            return False
        for seed in seeds:
            first, second = items(arm, seed), items(base, seed)
            if first is None or second is None or not first.equal(second):
                return False
    return True


def stages(plan: Plan, folder: Path) -> Iterator[list[RunJob]]:
    """The runs up to each look, one look after the other; each is asked for when all are done.

    A look sees the seeds before it alone, so that it decides the same when a trial goes on.
    """
    cells, begin = list(plan.cells), 0
    for look in plan.looks:
        numbers = plan.numbers(begin, look)
        yield [job for seed in numbers for job in block(plan, cells, seed, folder)]
        seen = within(accuracies(plan, folder), plan.numbers(0, look))
        if not plan.doses:
            cells = going_on(cells, findings(plan.contrasts, seen, plan.margin), plan.margin)
        begin = look
    if plan.doses:
        chosen = plan.chosen(seen) or ()
        going = [*chosen, *({"none"} & {*plan.cells})] if chosen else []
    else:
        going = cells if cells and plan.most > plan.seeds and fit(seen).sd > LIMIT_SD else []
    if going:
        more = plan.numbers(plan.seeds, plan.most)
        yield [job for seed in more for job in block(plan, going, seed, folder)]
