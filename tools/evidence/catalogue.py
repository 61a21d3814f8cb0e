"""The experiments of all tasks, and which of them differ in one switch."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any

from keepbench.experiments import Experiment
from keepbench.settings import defaults, flat, from_flat, with_role

OTHER_DATA = ("digits", "toy")
"""Datasets that the paper does not have."""
TREES = ("folder", "images")
"""Datasets that are any tree of images: the folder says which."""
PUBLISHED = ("imagenet",)
"""Trees of experiments that are the same images under any name."""


@dataclass(frozen=True)
class Task:
    """One package of the benchmark.

    Attributes:
        name: of the package.
        title: for readers.
        script: under tools/ that runs it.
        metric: its headline figure in `metrics.jsonl`, in points of 100.
        label: of that figure.
        items: the figure that is the mean of what its test items got, if that is another.
    """

    name: str
    title: str
    script: str
    metric: str
    label: str
    items: str = ""


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
        Task(
            "detection", "Object detection", "run_detection.py", "test_AP", "box AP, %",
            items="test_image_AP",
        ),
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
    """Everything that can be run.

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

    One that a newer version added and the run does not know counts as the experiment's; of another
    kind, those count that are not its defaults.
    """
    own, files, neutral = flat(config), with_role(config, "file"), with_role(config, "neutral")
    usual = dict(own)
    with suppress(ValueError):  # a kind of the user's own, which is not read
        usual = defaults(from_flat(type(config), settings)) | own
    return {
        name: value
        for name, value in settings.items()
        if name not in neutral
        and (name in own or "." in name)
        and plain(value, name in files) != plain(usual.get(name), name in files)
    }


def _core(config: Any, without: Collection[str] = ()) -> tuple[tuple[str, str], ...]:
    """The settings that two arms share, to compare."""
    skip = {*without} | with_role(config, "neutral")
    return tuple((k, repr(v)) for k, v in sorted(flat(config).items()) if k not in skip)


def _plain(config: Any) -> tuple[tuple[str, str], ...]:
    """The settings that a Keep arm shares with its plain twin, which may have an early head."""
    return _core(replace(config, keep=None), with_role(config, "map"))


def is_keep(config: Any) -> bool:
    """Whether an experiment keeps important regions."""
    return bool(getattr(config, "keep", None)) and not is_control(config)


def is_control(config: Any) -> bool:
    """Whether an experiment keeps regions, but not the important ones."""
    keep = getattr(config, "keep", None)
    return keep is not None and (keep.map.control or keep.ignores_map)


def plain_twins(experiments: Mapping[str, Experiment]) -> dict[str, str]:
    """For each Keep experiment the one that differs in Keep alone.

    Of several, as with and without an auxiliary loss, that with the usual settings.
    """
    kept = {n: e.config for n, e in experiments.items() if getattr(e.config, "keep", None)}
    plains: dict[Any, str] = {}
    for name, each in experiments.items():
        if name in kept or not hasattr(each.config, "keep"):
            continue
        core = _plain(each.config)
        usual = defaults(each.config)
        unusual = any(flat(each.config)[n] != usual[n] for n in with_role(each.config, "map"))
        if core not in plains or not unusual:
            plains[core] = name
    return {
        name: plains[core] for name, config in kept.items() if (core := _plain(config)) in plains
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
    kind = config.keep.map
    if not kind.control:
        return frozenset({"keep.tau"})
    if kind.gradient:
        return frozenset({"keep.map"})
    idle = {"keep.map.scale", "keep.map.agreement", "keep.cache"}  # of gradients alone
    return frozenset({"keep.map"} | idle | with_role(config, "map"))


def control_twins(experiments: Mapping[str, Experiment]) -> dict[str, list[str]]:
    """For each Keep experiment those that differ in the map, or in that tau ignores it."""
    controls: dict[Any, list[str]] = {}
    for name, each in experiments.items():
        if is_control(each.config):
            switch = _switch(each.config)
            controls.setdefault((switch, _core(each.config, switch)), []).append(name)
    switches = {switch for switch, _ in controls}
    found = {
        name: sorted(
            control
            for switch in switches
            for control in controls.get((switch, _core(each.config, switch)), [])
        )
        for name, each in experiments.items()
        if is_keep(each.config)
    }
    return {name: names for name, names in found.items() if names}
