"""The experiments of all tasks, and which of them differ in one switch."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import PurePath
from typing import Any

from keepbench.settings import Experiment

KEEP_FIELDS = {
    "keep", "tau", "paste_size", "match_area", "saliency", "agreement", "scale", "cache",
    "early_head", "early_weight",
}  # fmt: skip
"""Settings that mean something to a Keep arm only; its plain twin may have others."""
CONTROL_MAPS = ("random", "shuffled", "inverted", "centre")
OTHER_DATA = ("digits", "toy")
"""Datasets that the paper does not have."""
NEUTRAL = {
    "seed", "data", "download", "workers", "unreadable", "tensorboard",
    "channels_last", "compile", "eval_every",
}  # fmt: skip
"""Settings that do not change what an experiment is: where data lie, speed, what is told."""


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


def free_fields(config: Any) -> set[str]:
    """Settings that may change between runs that are compared."""
    return NEUTRAL | {each.name for each in fields(config) if each.metadata.get("may_change")}


FILES = {"backbone"}
"""Settings that name a file, which may lie in another folder."""


def plain(name: str, value: Any) -> Any:
    """A setting as JSON would bring it back, to compare."""
    if name in FILES and isinstance(value, str):
        return PurePath(value).name
    return list(value) if isinstance(value, tuple) else value


def changed(settings: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """Settings of a run that are not its experiment's, apart from neutral ones.

    One that a newer version added and the run does not know counts as the experiment's.
    """
    free, own = free_fields(config), asdict(config)
    return {
        name: settings[name]
        for name in own
        if name not in free
        and name in settings
        and plain(name, settings[name]) != plain(name, own[name])
    }


def _core(config: Any, without: set[str]) -> tuple[tuple[str, str], ...]:
    """The settings that two arms share, to compare."""
    skip = without | NEUTRAL
    return tuple((k, repr(v)) for k, v in sorted(asdict(config).items()) if k not in skip)


def _unusual(config: Any) -> int:
    """How many Keep settings are not the class's own."""
    return sum(
        each.name in KEEP_FIELDS and getattr(config, each.name) != each.default
        for each in fields(config)
    )


def is_keep(config: Any) -> bool:
    """Whether an experiment keeps regions by a gradient's map."""
    return bool(getattr(config, "keep", "")) and not is_control(config)


def is_control(config: Any) -> bool:
    """Whether an experiment keeps regions, but not the important ones."""
    if not getattr(config, "keep", ""):
        return False
    ignores = config.keep == "paste" and getattr(config, "tau", 1) == 0
    return ignores or getattr(config, "saliency", "") in CONTROL_MAPS


def plain_twins(experiments: Mapping[str, Experiment]) -> dict[str, str]:
    """For each Keep experiment the one that differs in the Keep settings alone.

    Of several, as with and without an auxiliary loss, that with the usual settings.
    """
    plains: dict[Any, str] = {}
    ordered = sorted(experiments, key=lambda name: -_unusual(experiments[name].config))
    for name in ordered:
        config = experiments[name].config
        if hasattr(config, "keep") and not config.keep:
            plains[_core(config, KEEP_FIELDS)] = name
    return {
        name: plains[core]
        for name, each in experiments.items()
        if getattr(each.config, "keep", "")
        and (core := _core(each.config, KEEP_FIELDS)) in plains
    }  # fmt: skip


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
    if saliency not in CONTROL_MAPS:
        return frozenset({"tau"})
    mapless = {"scale", "cache", "early_head", "early_weight"}  # no gradient: they do nothing
    return frozenset({"saliency"} | (mapless if saliency in ("random", "centre") else set()))


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
