"""A trial's plan, written before its first run, and the runs that it asks for."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from classification.config import Config
from classification.experiments import EXPERIMENTS
from keepbench.files import write_text
from keepbench.right import NAME, read_right
from keepbench.run import RunRecord
from queueing.jobs import TOOLS, Job
from reporting.catalogue import TASKS
from trialling.analysis import Accuracies, findings, fit, going_on
from trialling.arms import METHODS, Contrast, arm_name, arm_settings, contrasts

LIMIT_SD = 0.40
"""Residual standard deviation, in points, above which a trial of 8 seeds or more goes on."""
PLAN = "plan.json"


class RunJob(Job):
    """A run of a trial, which is finished once its bits are stored, too."""

    def finished(self) -> bool:  # noqa: D102
        return super().finished() and (self.out / NAME).is_file()


@dataclass(frozen=True)
class Plan:
    """What a trial runs and asks.

    Attributes:
        method: a key of `METHODS`.
        arms: keys of `ARMS`, the reader's order.
        base: the settings that all arms share, those of the arm "none".
        contrasts: that are asked.
        budget: as it was given: "8 seeds" or "60 minutes".
        looks: seeds at which it is decided which arms go on; the last one ends the trial ...
        most: ... unless the residual is above `LIMIT_SD`, and this is more.
        margin: x, in points; a difference within ±x counts as none.
        first_seed: the others follow it; not 0 where 0 served to choose what is tried.
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

    @property
    def seeds(self) -> int:
        """Of each arm, if nothing is stopped or prolonged."""
        return self.looks[-1]

    def numbers(self, begin: int, end: int) -> range:
        """The seeds of some of its blocks, which are counted from 0."""
        return range(self.first_seed + begin, self.first_seed + end)

    def config(self, arm: str, seed: int = 0) -> Config:
        """The settings of a run."""
        settings = arm_settings(METHODS[self.method], arm)
        return replace(Config(**self.base), **settings, seed=seed)

    def name(self, arm: str) -> str:
        """An arm in words."""
        return arm_name(METHODS[self.method], arm)


def make_plan(
    base: Config,
    method: str,
    arms: tuple[str, ...],
    *,
    seeds: int,
    budget: str,
    margin: float,
    first_seed: int = 0,
) -> Plan:
    """The plan of a trial: with 8 seeds or more there is a look at half of them.

    Raises:
        ValueError: The method does not fit in the base.
    """
    if base.policy or base.cut or base.mix or base.keep:
        raise ValueError("the method is given by --method; leave policy, cut, mix and keep out")
    long = seeds >= 8
    plan = Plan(
        method, arms, asdict(replace(base, seed=0)), tuple(contrasts(METHODS[method], arms)),
        budget, (seeds // 2, seeds) if long else (seeds,), seeds * 3 // 2 if long else seeds,
        margin, first_seed,
    )  # fmt: skip
    for arm in arms:
        plan.config(arm)
    return plan


def read_plan(folder: Path) -> Plan:
    """The plan in a trial's folder.

    Raises:
        ValueError: There is none, or it cannot be used.
    """
    try:
        found = json.loads((folder / PLAN).read_text())
        listed = {name: tuple(found[name]) for name in ("arms", "looks")}
        asked = tuple(Contrast(**each) for each in found["contrasts"])
        plan = Plan(**{**found, **listed, "contrasts": asked})
        for arm in plan.arms:
            plan.config(arm)
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
    then |= {f"base.{name}": value for name, value in then.pop("base").items()}
    now |= {f"base.{name}": value for name, value in now.pop("base").items()}
    changed = sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))
    if changed:
        words = (
            ", ".join(
                f"{name}: {then.get(name)!r} then, {now.get(name)!r} now"
                for name in changed
                if name != "contrasts"
            )
            or "other contrasts"
        )
        raise ValueError(
            f"the plan in {folder} was fixed before the first run and is another ({words}); "
            "give another --out"
        )  # fmt: skip


def _flags(config: Config, base: Config) -> Iterator[str]:
    """The flags that make a config of another."""
    for each in fields(config):
        value, flag = getattr(config, each.name), "--" + each.name.replace("_", "-")
        if value == getattr(base, each.name):
            continue
        if isinstance(value, bool):
            yield flag if value else flag.replace("--", "--no-", 1)
        else:
            yield f"{flag}={value}"


def run_job(plan: Plan, arm: str, seed: int, folder: Path) -> RunJob:
    """A run of an arm, as a command of the queue."""
    config, out = plan.config(arm, seed), folder / arm / f"seed-{seed}"
    command = [sys.executable, str(TOOLS / TASKS["classification"].script), "trial"]
    command += [*_flags(config, EXPERIMENTS["trial"].config), "--out", str(out), "--resume"]
    return RunJob(f"{arm} seed {seed}", tuple(command), out, config)


def block(plan: Plan, arms: list[str], seed: int, folder: Path) -> list[RunJob]:
    """The runs of a seed, in a random order that follows from it."""
    order = random.Random(seed).sample(arms, len(arms))
    return [run_job(plan, arm, seed, folder) for arm in order]


def accuracies(plan: Plan, folder: Path) -> Accuracies:
    """The accuracies of all finished runs, from their bits.

    Raises:
        ValueError: A run's bits are not those of its metrics, or arms of a seed differ in data.
    """
    found: dict[str, dict[int, float]] = {arm: {} for arm in plan.arms}
    for seed in plan.numbers(0, plan.most):
        data = set()
        for arm in plan.arms:
            job = run_job(plan, arm, seed, folder)
            if not job.finished():
                continue
            record, right = RunRecord.read(job.out), read_right(job.out)
            value = 100 * float(right.double().mean())
            if abs(value - record.rows[-1]["test_accuracy"]) > 1e-9:
                raise ValueError(f"{job.out}: its bits say {value:.4f} %, its metrics another")
            found[arm][seed] = value
            data.add(record.data)
        if len(data) > 1:
            raise ValueError(f"{folder}: the arms of seed {seed} were not run on the same data")
    return found


def stages(plan: Plan, folder: Path) -> Iterator[list[RunJob]]:
    """The runs up to each look, one look after the other; each is asked for when all are done.

    A look sees the seeds before it alone, so that it decides the same when a trial goes on.
    """
    arms, begin = list(plan.arms), 0
    for look in plan.looks:
        numbers = plan.numbers(begin, look)
        yield [job for seed in numbers for job in block(plan, arms, seed, folder)]
        seen = {
            arm: {seed: value for seed, value in found.items() if seed < numbers.stop}
            for arm, found in accuracies(plan, folder).items()
        }
        arms = going_on(arms, findings(plan.contrasts, seen, plan.margin), plan.margin)
        begin = look
    if arms and plan.most > plan.seeds and fit(seen).sd > LIMIT_SD:
        more = plan.numbers(plan.seeds, plan.most)
        yield [job for seed in more for job in block(plan, arms, seed, folder)]
