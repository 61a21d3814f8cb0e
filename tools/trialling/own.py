"""Arms of a trial that a user brings: settings, a file of them, or an augmentation."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from evidence.catalogue import Package
from keepbench.own_network import find_function, is_function
from keepbench.settings import Kind, changed, flat, with_role
from keepbench.settings_file import read_settings
from queueing.jobs import given_settings
from trialling.arms import METHODS, STAGES, stage_of
from trialling.contrasts import Contrast

Own = Mapping[str, Mapping[str, Any]]
"""The settings of each arm by its name, the reference first."""

_NAME = re.compile(r"[^\W_][\w.+-]{0,39}")
_TAKEN = ("logs", "maps", "plan.json", "trial.html")  # in a trial's folder, beside the arms'
_TIMM = re.compile(r"(rand|augmix|original|originalr|v0|v0r|3a|3aw)(-|$)")
_DATA = {"dataset", "subset", "test_subset"}
HELP = (
    "an arm of your own, the first of several the reference: NAME=SETTINGS as flags "
    "('kept=--policy trivialaugment --keep paste'), FILE.yaml of settings, FILE.py:NAME of a "
    "transform, a function of a batch or a class, a method (cutout, augmix), or timm's words "
    "(rand-m9-mstd0.5); NAME= is what all arms share"
)


def _of_all(config: Any) -> set[str]:
    """Settings that are no arm's: the arms of a seed share data, seed and records."""
    return with_role(config, "neutral") | _DATA


def _code(name: str) -> dict[str, Any]:
    """The settings that take a class of the user's own, or a transform.

    Raises:
        ValueError: It is neither.
    """
    found: Any = find_function(name)
    if isinstance(found, type):
        for stage, (base, _) in STAGES.items():
            if issubclass(found, base):
                return {stage: name}
    if not callable(found) or (isinstance(found, type) and issubclass(found, Kind)):
        raise ValueError(
            f"{name} is neither a transform nor a class of Policy, Cut or Mix; a map or a Keep is "
            f"given as flags, '--keep cut --keep.map {name}'"
        )
    return {"policy": "own", "policy.transform": name}


def _method(words: str, base: Any) -> dict[str, Any]:
    """The settings of a method by its name, as a trial or else as its class has them; {} if none.

    Args:
        words: the name.
        base: settings of the task.
    """
    if words in METHODS:
        method = METHODS[words]
        stage = stage_of(method)
        return {stage: words} | {f"{stage}.{n}": value for n, value in flat(method).items()}
    stages = [each for each in fields(base) if each.name in STAGES]
    known = {kind.name: each.name for each in stages for kind in each.metadata["kinds"][1:]}
    return {known[words]: words} if words in known else {}


def _settings(words: str, package: Package, base: Any) -> dict[str, Any]:
    """Settings of an arm's words, by name.

    Raises:
        ValueError: They set nothing that there is.
    """
    if not words:
        return {}
    if words.startswith("-"):
        return given_settings(package, shlex.split(words))
    if Path(words).suffix in (".yaml", ".yml", ".json"):
        usual = flat(base)
        own = flat(read_settings(Path(words), base))
        return {
            name: value
            for name, value in own.items()
            if name not in _of_all(base) and usual.get(name) != value
        }
    found = _code(words) if is_function(words) else _method(words, base)
    if not found and _TIMM.match(words):
        found = {"policy": "timm", "policy.config": words}
    if not found:
        raise ValueError(
            f"{words!r} is no arm: give settings as flags (NAME='--cut cutout'), FILE.yaml, "
            f"FILE.py:NAME, a method ({', '.join(METHODS)}) or timm's words (rand-m9-mstd0.5)"
        )
    if lacking := [stage for stage in STAGES if stage in found and not hasattr(base, stage)]:
        raise ValueError(f"{words} is a {lacking[0]}, which {package.task.name} does not have")
    return found


def _whole(given: Mapping[str, Any], base: Any, config: Any) -> dict[str, Any]:
    """Settings of an arm, with all those of the user's own classes.

    So its plan can be read without their code.

    Args:
        given: what its words set.
        base: settings of all arms.
        config: of the arm.
    """
    usual, found = flat(base), flat(config)
    own = [n for n in given if any(is_function(str(each.get(n, ""))) for each in (usual, found))]
    below = tuple(f"{name}." for name in own)
    return {n: found[n] for n in found if n in given or n.startswith(below)}


def is_name(name: str) -> bool:
    """Whether an arm, and its folder, may be called so."""
    return bool(_NAME.fullmatch(name)) and name.lower() not in _TAKEN


def parse_arms(words: Sequence[str], package: Package, base: Any) -> dict[str, dict[str, Any]]:
    """The arms that NAME=SETTINGS give.

    Raises:
        ValueError: A name or what follows it is wrong, two arms are the same, or there is only one.
    """
    found: dict[str, dict[str, Any]] = {}
    configs: dict[str, Any] = {}
    for given in words:
        name, is_arm, settings = given.partition("=")
        if not is_arm or not _NAME.fullmatch(name):
            raise ValueError(
                f"--arm {given!r}: give NAME=SETTINGS, a name of up to 40 letters, digits, . + - _ "
                "that begins with a letter or digit"
            )
        if name.lower() in (*_TAKEN, *map(str.lower, found)):  # some file systems fold case
            raise ValueError(f"--arm {name}: the name is taken; give another")
        try:
            own = _settings(settings.strip(), package, base)
            configs[name] = changed(base, own)
            found[name] = _whole(own, base, configs[name])
        except ValueError as error:
            reason = str(error).removeprefix("--config ")
            raise ValueError(f"--arm {name}: {reason}") from None
        if shared := sorted(found[name].keys() & _of_all(type(base)())):
            raise ValueError(
                f"--arm {name}: {shared[0]} is no part of an arm: data, seed, speed and records "
                "are given for all, after --"
            )
        for other, config in configs.items():
            if other != name and config == configs[name]:
                raise ValueError(f"--arm {name} and {other} are the same settings")
    if len(found) < 2:
        raise ValueError("give --arm twice or more: the first is the reference")
    return found


def own_contrasts(arms: Sequence[str]) -> list[Contrast]:
    """Each arm against the first."""
    first, *others = arms
    return [Contrast(arm, first, "difference", f"{arm} − {first}") for arm in others]


def check_shared(given: Mapping[str, Any], own: Own) -> None:
    """Raise ValueError for settings of all arms that an arm replaces: which holds would be unclear.

    Args:
        given: for all arms.
        own: of the arms.
    """
    for name, settings in own.items():
        if both := sorted(given.keys() & settings.keys()):
            raise ValueError(f"{both[0]} is set for all arms and for {name}; leave one out")
