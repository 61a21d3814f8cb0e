"""A trial's plan, written before its first run."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from classification.config import Config
from evidence.catalogue import TASKS, Package, load
from keepbench.files import write_text
from keepbench.identity import check_digests, digests
from keepbench.older import modern_plan
from keepbench.settings import Code, changed, flat, task_of
from keepbench.training import Training
from trialling.analysis import Accuracies
from trialling.arms import METHODS, STAGES, arm_config, arm_name, shared_keep, stage_of
from trialling.checking import check_contrasts, check_stored
from trialling.contrasts import STRONGEST, Contrast, cell_name, contrasts, dose_contrasts
from trialling.data import DATA
from trialling.doses import Dose, best_dose, dose_name, in_words
from trialling.own import Own, is_name, own_contrasts

LIMIT_SD = 0.40
"""Residual standard deviation, in points, above which a trial of 8 seeds or more goes on."""
PLAN = "plan.json"


@dataclass(frozen=True)
class Plan:
    """Runs and questions of a trial.

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
        teacher: those of the map of the arm "teacher".
        doses: that replace some of these, from mild to strong; () is one trial as `settings` are.
        files: digests of the files that settings name, as of the network's code; of the images if
            they are a tree's.
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
    teacher: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def package(self) -> Package:
        """The task.

        Raises:
            ValueError: It cannot be imported.
        """
        return package_of(self.task)

    @property
    def seeds(self) -> int:
        """Seeds of each cell, if nothing is stopped or prolonged."""
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

    @cached_property
    def usual(self) -> Any:
        """The defaults of the task's settings."""
        return type(self.package.experiments[self.experiment].config)()

    @property
    def shared(self) -> Any:
        """The settings of all arms, to be read: of the user's own classes, no code is run."""
        return changed(self.usual, self.base, code="leave")

    def config(self, cell: str, seed: int = 0, *, code: Code = "run") -> Any:
        """The settings of a run; with `code="leave"` those of a run that another process does."""
        arm, dose = self._cells[cell]
        base = changed(self.usual, {**self.base, "seed": seed}, code=code)
        if self.own:
            return changed(base, self.own[arm], code=code)
        method = METHODS[self.method]
        keep = changed(STAGES[stage_of(method)][1], self.keep, code=code)
        method = changed(method, {**self.settings, **dose}, code=code)
        return arm_config(base, method, keep, arm, self.teacher)

    def files_of(self, cell: str) -> dict[str, str]:
        """Digests of the files that the settings of a cell name, by setting."""
        prefix = f"{cell}: "
        common = {name: each for name, each in self.files.items() if ": " not in name}
        own = {name: each for name, each in self.files.items() if name.startswith(prefix)}
        return common | {name.removeprefix(prefix): each for name, each in own.items()}

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


def check_begin(plan: Plan) -> None:
    """Raise ValueError for an arm that cannot begin, as its weights are not there.

    Detection begins by its framework, which is not asked.
    """
    if plan.task == "detection":
        return
    trainer: type[Training] = importlib.import_module(f"{plan.task}.train").Trainer
    for cell in plan.cells:
        try:
            trainer.check(plan.config(cell), goes_on=False)
        except ValueError as error:
            raise ValueError(f"{plan.name(cell)}: {error}") from None


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
    teacher: Mapping[str, Any] | None = None,
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
        teacher: settings of the teacher's map.

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
    usual = shared_keep(STAGES[stage_of(about)][1])
    plan = Plan(
        method, arms, flat(replace(base, seed=0)), tuple(asked), budget, looks, most, margin,
        first_seed, flat(changed(about, settings or {})), {**usual, **(keep or {})}, doses,
        digests(base), teacher=dict(teacher or {}),
    )  # fmt: skip
    files = dict(plan.files)
    for cell in plan.cells:
        files |= digests(plan.config(cell))
    return replace(plan, files=files)


def read_plan(folder: Path) -> Plan:
    """The plan in a trial's folder, which may be a stranger's: no code that it names is run.

    Raises:
        ValueError: There is none, or it cannot be used.
    """
    try:
        found = json.loads((folder / PLAN).read_text())
        if not found.get("own"):
            method = METHODS.get(found["method"])
            if method is None:
                raise ValueError(f"method {found['method']!r} is none of {', '.join(METHODS)}")
            found = modern_plan(found, stage_of(method), flat(method))
        check_stored(found)
        listed = {name: tuple(found[name]) for name in ("arms", "looks", "doses")}
        asked = tuple(map(Contrast.read, found["contrasts"]))
        plan = Plan(**{**found, **listed, "contrasts": asked})
        if strange := [arm for arm in plan.own if not is_name(arm)]:
            raise ValueError(f"{strange[0]!r} is no name of an arm")
        check_contrasts(plan.contrasts, plan.cells)
        for each in plan.cells:
            plan.config(each, code="leave")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        lacking = "it has no " * isinstance(error, KeyError)
        raise ValueError(f"{folder / PLAN} cannot be used: {lacking}{error}") from None
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
    then, now, what = asdict(read_plan(folder)), asdict(plan), f"the plan in {folder}"
    begun, present = then.pop("files"), now.pop("files")
    # of other images no run stays
    check_digests({name: each for name, each in begun.items() if name == DATA}, present, what)
    try:
        check_digests(begun, present, what)
    except ValueError as error:
        raise ValueError(f"{error} and --take {folder} for the runs of arms that stay") from None
    usual = flat(plan.usual)
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


def used_seeds(plan: Plan, folder: Path) -> Iterator[str]:
    """A remark if seeds of a plan served a trial of the same data in a folder beside its own.

    Args:
        plan: that has no run yet.
        folder: its trial's.
    """

    def place(data: str) -> Path:
        return Path(data).expanduser().resolve()

    mine, found = plan.numbers(0, plan.most), {}
    for path in folder.parent.glob(f"*/{PLAN}"):
        with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):  # none of ours
            other = json.loads(path.read_text())
            base = other["base"]
            data = other.get("task", plan.task), base["dataset"], place(base["data"])
            first = other.get("first_seed", 0)
            if path.parent.resolve() != folder.resolve() and data == (
                plan.task, plan.base["dataset"], place(plan.base["data"])
            ):  # fmt: skip
                found[path.parent] = range(first, first + other.get("most", other["looks"][-1]))
    both = sorted(
        str(place)
        for place, seeds in found.items()
        if max(seeds.start, mine.start) < min(seeds.stop, mine.stop)
    )
    if both:
        unused = max(seeds.stop for seeds in found.values())
        yield (
            f"remark: seeds from {plan.first_seed} on also served {', '.join(both)}; if what is "
            f"tried here was chosen there, give --first-seed {unused}"
        )
