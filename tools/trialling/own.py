"""Arms of a trial that a user brings: settings, a file of them, or an augmentation."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from classification.methods import Cut, Mix
from evidence.catalogue import Package
from keepbench.own_network import find_function, is_function
from keepbench.policies import Policy
from keepbench.settings import changed, flat, walk
from keepbench.settings_file import read_settings
from queueing.jobs import given_settings
from trialling.arms import METHODS, stage_of
from trialling.contrasts import Contrast

Own = Mapping[str, Mapping[str, Any]]
"""The settings of each arm by its name, the reference first."""

_NAME = re.compile(r"[\w][\w.+-]{0,39}")
_TIMM = re.compile(r"(rand|augmix|original|originalr|v0|v0r|3a|3aw)(-|$)")
HELP = (
    "an arm of your own, the first of several the reference: NAME=SETTINGS as flags "
    "('kept=--policy trivialaugment --keep paste'), FILE.yaml of settings, FILE.py:NAME of a "
    "transform, a function of a batch or a class, a method (cutout), or timm's words "
    "(rand-m9-mstd0.5); NAME= is what all arms share"
)


def _code(name: str) -> dict[str, Any]:
    """The settings that take a class of the user's own, or a transform."""
    found: Any = find_function(name)
    if isinstance(found, type):
        for stage, base in (("policy", Policy), ("cut", Cut), ("mix", Mix)):
            if issubclass(found, base):
                return {stage: name}
    return {"policy": "own", "policy.transform": name}


def _settings(words: str, package: Package, base: Any) -> dict[str, Any]:
    """What the words of an arm set, by name.

    Raises:
        ValueError: They set nothing that there is.
    """
    if not words:
        return {}
    if words.startswith("-"):
        return given_settings(package, shlex.split(words))
    if Path(words).suffix in (".yaml", ".yml", ".json"):
        usual = flat(base)
        own = walk(read_settings(Path(words), base))
        return {
            name: value
            for name, each, value in own
            if each.metadata["role"] != "neutral" and usual.get(name) != value
        }
    if _TIMM.match(words):
        return {"policy": "timm", "policy.config": words}
    if is_function(words):
        return _code(words)
    if words in METHODS:
        method = METHODS[words]
        stage = stage_of(method)
        return {stage: words} | {f"{stage}.{n}": value for n, value in flat(method).items()}
    raise ValueError(
        f"{words!r} is no arm: give settings as flags, FILE.yaml, FILE.py:NAME, a method "
        f"({', '.join(METHODS)}) or timm's words"
    )


def parse_arms(words: Sequence[str], package: Package, base: Any) -> dict[str, dict[str, Any]]:
    """The arms that NAME=SETTINGS give.

    Raises:
        ValueError: A name or what follows it is wrong, two arms are the same, or there is only one.
    """
    found: dict[str, dict[str, Any]] = {}
    for word in words:
        name, is_arm, settings = word.partition("=")
        if not is_arm or not _NAME.fullmatch(name):
            raise ValueError(
                f"--arm {word!r}: give NAME=SETTINGS, a name of up to 40 letters, digits, . + - _"
            )
        if name in found:
            raise ValueError(f"--arm {name} is given twice")
        try:
            found[name] = _settings(settings.strip(), package, base)
            changed(base, found[name])
        except ValueError as error:
            raise ValueError(f"--arm {name}: {error}") from None
    configs = {name: changed(base, given) for name, given in found.items()}
    for name, config in configs.items():
        alike = [other for other in configs if other != name and configs[other] == config]
        if alike:
            raise ValueError(f"--arm {name} and {alike[0]} are the same settings")
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
