"""The experiments of all tasks, and which of them differ in one switch."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import PurePath
from typing import Any

from keepbench.settings import CONTROLS, NO_GRADIENT, Experiment, with_role

OTHER_DATA = ("digits", "toy")
"""Datasets that the paper does not have."""


@dataclass(frozen=True)
class Task:
    """One package of the benchmark.

    Attributes:
        name: of the package.
        title: for readers.
        script: under tools/ that runs it.
        metric: its headline figure in `metrics.jsonl`, in points of 100.
        label: of that figure.
    """

    name: str
    title: str
    script: str
    metric: str
    label: str


TASKS = {
    task.name: task
    for task in (
        Task(
            "classification", "Image classification", "run_classification.py",
            "test_accuracy", "test accuracy, %",
        ),
        Task(
            "semisup_uda", "Semi-supervised learning", "run_semisup_uda.py",
            "test_accuracy", "test accuracy, %",
        ),
        Task("reid", "Person re-identification", "run_reid.py", "mAP", "mAP, %"),
        Task("detection", "Object detection", "run_detection.py", "test_AP", "box AP, %"),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Package:
    """A task whose experiments are known here."""

    task: Task
    experiments: Mapping[str, Experiment]
    budgets: Mapping[str, Callable[[Any], Any]]


@dataclass
class Catalogue:
    """What can be run.

    Attributes:
        packages: by task.
        absent: tasks whose experiments could not be read, and why.
    """

    packages: dict[str, Package] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def find(self, experiment: str, task: str) -> Package | None:
        """The package with an experiment: the task's, or any if the task is not known ("")."""
        found = [p for p in self.packages.values() if experiment in p.experiments]
        return next((p for p in found if task in ("", p.task.name)), None)

    def of_table(self, table: str) -> dict[str, tuple[Package, Experiment]]:
        """Experiments by name that belong to a table, figure or "control"."""
        return {
            name: (package, each)
            for package in self.packages.values()
            for name, each in package.experiments.items()
            if table in tables(each)
        }


def tables(experiment: Experiment) -> list[str]:
    """The tables and figures that an experiment belongs to."""
    return [word for word in experiment.table.replace(" ", "").split(",") if word]


def is_small(experiment: Experiment) -> bool:
    """Whether an experiment is none of the paper's: sized for a CPU, or on part of the data."""
    config = experiment.config
    part = getattr(config, "subset", 0) > 0 or getattr(config, "dataset", "") in OTHER_DATA
    return part or "small" in tables(experiment)


def load(names: Mapping[str, Task] = TASKS) -> Catalogue:
    """Read the experiments of every task that can be imported."""
    catalogue = Catalogue()
    for name, task in names.items():
        try:
            module = importlib.import_module(f"{name}.experiments")
        except Exception as error:  # also of an optional package that is broken
            catalogue.absent[name] = f"{type(error).__name__}: {error}"
            continue
        catalogue.packages[name] = Package(task, module.EXPERIMENTS, module.BUDGETS)
    return catalogue


def plain(value: Any, is_file: bool = False) -> Any:
    """A setting as JSON would bring it back, to compare; a file may lie in another folder."""
    if is_file and isinstance(value, str):
        return PurePath(value).name
    return list(value) if isinstance(value, tuple) else value


def changed(settings: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """Settings of a run that are not its experiment's, apart from neutral ones.

    One that a newer version added and the run does not know counts as the experiment's.
    """
    own, files, neutral = asdict(config), with_role(config, "file"), with_role(config, "neutral")
    return {
        name: settings[name]
        for name in own
        if name not in neutral
        and name in settings
        and plain(settings[name], name in files) != plain(own[name], name in files)
    }


def _core(config: Any, without: set[str]) -> tuple[tuple[str, str], ...]:
    """The settings that two arms share, to compare."""
    skip = without | with_role(config, "neutral")
    return tuple((k, repr(v)) for k, v in sorted(asdict(config).items()) if k not in skip)


def _unusual(config: Any) -> int:
    """How many Keep settings are not the class's own."""
    keep = with_role(config, "keep", "map")
    return sum(f.name in keep and getattr(config, f.name) != f.default for f in fields(config))


def is_keep(config: Any) -> bool:
    """Whether an experiment keeps regions by a gradient's map."""
    return bool(getattr(config, "keep", "")) and not is_control(config)


def is_control(config: Any) -> bool:
    """Whether an experiment keeps regions, but not the important ones."""
    if not getattr(config, "keep", ""):
        return False
    ignores = config.keep == "paste" and getattr(config, "tau", 1) == 0
    return ignores or getattr(config, "saliency", "") in CONTROLS


def plain_twins(experiments: Mapping[str, Experiment]) -> dict[str, str]:
    """For each Keep experiment the one that differs in the Keep settings alone.

    Of several, as with and without an auxiliary loss, that with the usual settings.
    """
    plains: dict[Any, str] = {}
    ordered = sorted(experiments, key=lambda name: -_unusual(experiments[name].config))
    for name in ordered:
        config = experiments[name].config
        if hasattr(config, "keep") and not config.keep:
            plains[_core(config, with_role(config, "keep", "map"))] = name
    return {
        name: plains[core]
        for name, each in experiments.items()
        if getattr(each.config, "keep", "")
        and (core := _core(each.config, with_role(each.config, "keep", "map"))) in plains
    }


def backbones(experiments: Mapping[str, Experiment]) -> list[tuple[str, str, str]]:
    """Experiments that differ in the backbone alone: one of Keep, another, and the other's name."""
    arms: dict[Any, list[tuple[str, str]]] = {}
    for name, each in experiments.items():
        stem = PurePath(getattr(each.config, "backbone", "")).stem
        arms.setdefault(_core(each.config, {"backbone"}), []).append((name, stem))
    return [
        (keep, other, stem)
        for group in arms.values()
        for keep, own in group
        for other, stem in group
        if "keep" in own and "keep" not in stem
    ]


def _switch(config: Any) -> frozenset[str]:
    """The settings in which a control differs from the Keep arm that it belongs to."""
    saliency = getattr(config, "saliency", "")
    if saliency not in CONTROLS:
        return frozenset({"tau"})
    idle = with_role(config, "map") if saliency in NO_GRADIENT else set()
    return frozenset({"saliency"} | idle)


def control_twins(experiments: Mapping[str, Experiment]) -> dict[str, list[str]]:
    """For each Keep experiment those that differ in the map, or in that tau ignores it."""
    controls: dict[Any, list[str]] = {}
    for name, each in experiments.items():
        if is_control(each.config):
            switch = _switch(each.config)
            controls.setdefault((switch, _core(each.config, set(switch))), []).append(name)
    switches = {switch for switch, _ in controls}
    found = {
        name: sorted(
            control
            for switch in switches
            for control in controls.get((switch, _core(each.config, set(switch))), [])
        )
        for name, each in experiments.items()
        if is_keep(each.config)
    }
    return {name: names for name, names in found.items() if names}
