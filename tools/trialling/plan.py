"""A trial's plan, written before its first run, and the runs that it asks for."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from classification.config import Config
from evidence.catalogue import TASKS, Package, load
from keepbench.command import flags
from keepbench.files import write_text
from keepbench.identity import check_digests, digests
from keepbench.older import modern_plan
from keepbench.own_network import refuse_code
from keepbench.right import is_recorded, mean_of_items
from keepbench.run import RunRecord
from keepbench.settings import changed, flat, task_of
from queueing.jobs import TOOLS, Job
from trialling.analysis import Accuracies, findings, fit, going_on
from trialling.arms import METHODS, STAGES, arm_config, arm_name, stage_of
from trialling.contrasts import STRONGEST, Contrast, cell_name, contrasts, dose_contrasts
from trialling.doses import Dose, best_dose, dose_name, in_words
from trialling.own import Own, own_contrasts

LIMIT_SD = 0.40
"""Residual standard deviation, in points, above which a trial of 8 seeds or more goes on."""
PLAN = "plan.json"


class RunJob(Job):
    """A run of a trial, which is finished once what its items got is stored, too."""

    def finished(self) -> bool:  # noqa: D102
        recorded = not getattr(self.config, "record", False) or is_recorded(self.out)
        return recorded and super().finished()


@dataclass(frozen=True)
class Plan:
    """What a trial runs and asks.

    Attributes:
        method: a key of `METHODS`; "" if the arms are the user's own.
        arms: keys of `ARMS`, or of `own`, in the reader's order.
        base: the settings that all arms share, those of the arm "none".
        contrasts: that are asked.
        budget: as it was given: "8 seeds" or "60 minutes".
        looks: seeds at which it is decided which arms go on; the last one ends the trial ...
        most: ... unless the residual is above `LIMIT_SD`, and this is more. With doses, the seeds
            of the chosen ones.
        margin: x, in points; a difference within ±x counts as none.
        first_seed: the others follow it; not 0 where 0 served to choose what is tried.
        settings: the method's own, as all its arms have them.
        keep: those of Keep that all its arms have.
        doses: that replace some of these, from mild to strong; () is one trial as `settings` are.
        files: digests of the files that settings name, as of the network's code.
        own: the settings of the user's own arms by name; {} if they are a method's.
        task: whose runs they are.
        experiment: whose settings `base` changes.
    """

    method: str
    arms: tuple[str, ...]
    base: dict[str, Any]
    contrasts: tuple[Contrast, ...]
    budget: str
    looks: tuple[int, ...]
    most: int
    margin: float
    first_seed: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    keep: dict[str, Any] = field(default_factory=dict)
    doses: tuple[Dose, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    own: dict[str, dict[str, Any]] = field(default_factory=dict)
    task: str = "classification"
    experiment: str = "trial"

    @cached_property
    def package(self) -> Package:
        """The task.

        Raises:
            ValueError: It cannot be imported.
        """
        return package_of(self.task)

    @property
    def seeds(self) -> int:
        """Of each cell, if nothing is stopped or prolonged."""
        return self.looks[-1]

    @property
    def choosing(self) -> int:
        """The first seeds, on which doses are chosen."""
        return self.seeds // 2

    @cached_property
    def _cells(self) -> dict[str, tuple[str, Dose]]:
        found: dict[str, tuple[str, Dose]] = {}
        for arm in self.arms:
            doses = self.doses if arm in ("plain", "keep") else self.doses[-STRONGEST:]
            if not doses or arm == "none":
                doses = ({},)
            found |= {cell_name(arm, dose_name(dose)): (arm, dose) for dose in doses}
        return found

    @property
    def cells(self) -> tuple[str, ...]:
        """Arms, at each of their doses if there are some."""
        return tuple(self._cells)

    def numbers(self, begin: int, end: int) -> range:
        """The seeds of some of its blocks, which are counted from 0."""
        return range(self.first_seed + begin, self.first_seed + end)

    def config(self, cell: str, seed: int = 0) -> Any:
        """The settings of a run."""
        arm, dose = self._cells[cell]
        kind = type(self.package.experiments[self.experiment].config)
        base = changed(kind(), {**self.base, "seed": seed})
        if self.own:
            return changed(base, self.own[arm])
        method = METHODS[self.method]
        keep = changed(STAGES[stage_of(method)][1], self.keep)
        method = changed(method, {**self.settings, **dose})
        return arm_config(base, method, keep, arm)

    def name(self, cell: str) -> str:
        """A cell in words."""
        arm, dose = self._cells[cell]
        if self.own:
            return arm
        name = arm_name(METHODS[self.method], arm)
        return f"{name}, {in_words(dose)}" if dose else name

    def chosen(self, accuracies: Accuracies) -> tuple[str, str] | None:
        """The best cells of Keep and of the plain method on the first seeds; None before all ran.

        Without doses there are none.
        """
        if not self.doses:
            return None
        names, seeds = [*map(dose_name, self.doses)], self.numbers(0, self.choosing)
        keep, plain = (best_dose(accuracies, arm, names, seeds) for arm in ("keep", "plain"))
        if keep is None or plain is None:
            return None
        return cell_name("keep", keep), cell_name("plain", plain)


def package_of(task: str) -> Package:
    """A task of the benchmark.

    Raises:
        ValueError: It cannot be imported.
    """
    catalogue = load({task: TASKS[task]})
    if task not in catalogue.packages:
        raise ValueError(f"{task} cannot be run here: {catalogue.absent[task]}")
    return catalogue.packages[task]


def make_own_plan(
    base: Any,
    own: Own,
    *,
    seeds: int,
    budget: str,
    margin: float,
    first_seed: int = 0,
    experiment: str = "trial",
) -> Plan:
    """The plan of a trial of the user's own arms, each against the first; as `make_plan` else.

    Args:
        base: settings of all arms.
        own: those of each arm.
        seeds: of each arm.
        budget: in words.
        margin: in points.
        first_seed: the others follow it.
        experiment: whose settings `base` changes.
    """
    arms = tuple(own)
    looks, most = ((seeds // 2, seeds), seeds * 3 // 2) if seeds >= 8 else ((seeds,), seeds)
    files = digests(base)
    for arm, given in own.items():
        files |= {f"{arm}: {name}": each for name, each in digests(changed(base, given)).items()}
    return Plan(
        "", arms, flat(replace(base, seed=0)), tuple(own_contrasts(arms)), budget, looks, most,
        margin, first_seed, own={arm: dict(given) for arm, given in own.items()}, files=files,
        task=task_of(base), experiment=experiment,
    )  # fmt: skip


def make_plan(
    base: Config,
    method: str,
    arms: tuple[str, ...],
    *,
    seeds: int,
    budget: str,
    margin: float,
    first_seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    keep: Mapping[str, Any] | None = None,
    doses: tuple[Dose, ...] = (),
) -> Plan:
    """The plan of a trial: with 8 seeds or more there is a look at half of them.

    Args:
        base: settings of all arms, without a method.
        method: a key of `METHODS`.
        arms: keys of `ARMS`.
        seeds: of each arm.
        budget: in words.
        margin: in points.
        first_seed: the others follow it.
        settings: the method's own; None takes its defaults.
        keep: those of Keep that all Keep arms have; None takes the defaults.
        doses: that replace some of these.

    Raises:
        ValueError: The method does not fit in the base, or an arm has no contrast.
    """
    if base.policy or base.cut or base.mix or base.keep:
        raise ValueError("the method is given by --method; leave policy, cut, mix and keep out")
    about = METHODS[method]
    looks: tuple[int, ...] = (seeds,)
    if doses:
        most = seeds + seeds // 2
        names, words = [*map(dose_name, doses)], [*map(in_words, doses)]
        asked = dose_contrasts(about, arms, names, words)
    else:
        looks = (seeds // 2, seeds) if seeds >= 8 else looks
        most = seeds * 3 // 2 if seeds >= 8 else seeds
        asked = contrasts(about, arms)
    shared = STAGES[stage_of(about)][1]
    usual = {name: value for name, value in flat(shared).items() if name in ("tau", "size")}
    plan = Plan(
        method, arms, flat(replace(base, seed=0)), tuple(asked), budget, looks, most, margin,
        first_seed, flat(changed(about, settings or {})), {**usual, **(keep or {})}, doses,
        digests(base),
    )  # fmt: skip
    for each in plan.cells:
        plan.config(each)
    return plan


def _check_no_code(found: Mapping[str, Any]) -> None:
    """Raise ValueError if an arm of a stored plan is a class of somebody's, which would be run."""
    kinds = ("policy", "cut", "mix", "keep", "keep.map")
    for given in (found["base"], *found.get("own", {}).values()):
        for name in kinds:
            refuse_code(given.get(name))


def read_plan(folder: Path) -> Plan:
    """The plan in a trial's folder.

    Raises:
        ValueError: There is none, or it cannot be used.
    """
    try:
        found = json.loads((folder / PLAN).read_text())
        if not found.get("own"):
            method = METHODS[found["method"]]
            found = modern_plan(found, stage_of(method), flat(method))
        _check_no_code(found)
        listed = {name: tuple(found[name]) for name in ("arms", "looks", "doses")}
        asked = tuple(map(Contrast.read, found["contrasts"]))
        plan = Plan(**{**found, **listed, "contrasts": asked})
        for each in plan.cells:
            plan.config(each)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / PLAN} cannot be used: {error}") from None
    return plan


def fix_plan(plan: Plan, folder: Path) -> None:
    """Write a plan before the first run, or raise ValueError unless it is the one that is there."""
    path = folder / PLAN
    if not path.exists():
        if any(folder.glob("*/seed-*")):
            raise ValueError(f"{folder} holds runs but no plan; give another --out")
        folder.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(asdict(plan), indent=1) + "\n")
        return
    then, now = asdict(read_plan(folder)), asdict(plan)
    check_digests(then.pop("files"), now.pop("files"), f"the plan in {folder}")
    usual = flat(type(plan.package.experiments[plan.experiment].config)())
    # a setting that is newer than the plan had its default's effect
    then["base"] = {n: usual[n] for n in now["base"] if n in usual} | then["base"]
    for each in (then, now):
        for part in ("base", "settings", "keep"):
            each |= {f"{part}.{name}": value for name, value in each.pop(part).items()}
    other = sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))
    if other:
        words = (
            ", ".join(
                f"{name}: {then.get(name)!r} then, {now.get(name)!r} now"
                for name in other
                if name != "contrasts"
            )
            or "other contrasts"
        )
        raise ValueError(
            f"the plan in {folder} was fixed before the first run and is another ({words}); "
            "give another --out"
        )  # fmt: skip


def run_job(plan: Plan, cell: str, seed: int, folder: Path) -> RunJob:
    """A run of a cell, as a command of the queue."""
    config, out = plan.config(cell, seed), folder / cell / f"seed-{seed}"
    usual = plan.package.experiments[plan.experiment].config
    command = [sys.executable, str(TOOLS / TASKS[plan.task].script), plan.experiment]
    command += [*flags(config, usual), "--out", str(out), "--resume"]
    return RunJob(f"{cell} seed {seed}", tuple(command), out, config)


def block(plan: Plan, cells: Sequence[str], seed: int, folder: Path) -> list[RunJob]:
    """The runs of a seed, in a random order that follows from it."""
    order = random.Random(seed).sample([*cells], len(cells))
    return [run_job(plan, cell, seed, folder) for cell in order]


def accuracies(plan: Plan, folder: Path) -> Accuracies:
    """What all finished runs measure, in %, from what each item got where it is stored.

    Raises:
        ValueError: A run's items are not those of its metrics, or arms of a seed differ in data.
    """
    found: dict[str, dict[int, float]] = {cell: {} for cell in plan.cells}
    for seed in plan.numbers(0, plan.most):
        data = set()
        for cell in plan.cells:
            job = run_job(plan, cell, seed, folder)
            if not job.finished():
                continue
            record = RunRecord.read(job.out)
            value = float(record.rows[-1][plan.package.task.metric])
            if is_recorded(job.out):
                told, value = value, mean_of_items(job.out)
                if abs(value - told) > 1e-6:
                    raise ValueError(f"{job.out}: its items say {value:.4f} %, its metrics another")
            own = {n.removeprefix(f"{cell}: "): each for n, each in plan.files.items()}
            check_digests(own, record.files, f"{job.out}")
            found[cell][seed] = value
            data.add(record.data)
        if len(data) > 1:
            raise ValueError(f"{folder}: the arms of seed {seed} were not run on the same data")
    return found


def within(accuracies: Accuracies, seeds: range) -> Accuracies:
    """Those of some seeds alone."""
    return {
        cell: {seed: value for seed, value in found.items() if seed in seeds}
        for cell, found in accuracies.items()
    }


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
