"""Give trials settings for all arms: each must reach every arm, or be refused in one sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import Field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from keepbench.settings import flat
from stressing.cases import Case, Outcome
from stressing.kinds import settings_of
from trialling.arms import METHODS, shared_keep
from trialling.cli import shared_settings
from trialling.plan import make_plan

TOGETHER = 40  # combinations for each method
ALWAYS = ("plain", "keep", "full")  # with these each other arm has a contrast
OTHERS = ("random", "inverted", "centre", "low_early", "cached", "recycled")


def _value(each: Field[Any], random: Random) -> Any:
    """Another value than the default, as a user might give it."""
    kind: type = type(each.default)
    choices = each.metadata["choices"]
    if kind is bool:
        return not each.default
    if choices:
        return random.choice([choice for choice in choices if choice != each.default])
    if each.metadata["kinds"]:
        return random.choice(each.metadata["kinds"][1:]).name
    if kind is str:
        return {"arch": "resnet8", "optimizer": "lamb", "early_head": "layer1"}.get(each.name, "x")
    return kind(random.choice([2, 8, 16] if kind is int else [0.25, 0.5]))


def _word(name: str, value: Any) -> str:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return f"--{flag}={value}"


def try_settings(method: str, given: dict[str, Any], random: Random, folder: Path) -> Outcome:
    """Plan a trial with settings for all arms, and look for them in each arm's."""
    arms = (*ALWAYS, *random.sample(OTHERS, 2))
    words = [_word(name, value) for name, value in given.items()]
    about, said = METHODS[method], f"trial {method} {' '.join(arms)} -- {' '.join(words)}"
    try:
        base, own, keep = shared_settings("cifar10", "", about, arms, (), words)
        plan = make_plan(
            base,
            method,
            arms,
            seeds=3,
            budget="",
            margin=0.5,
            settings=flat(own),
            keep=shared_keep(keep),
        )
    except ValueError as error:
        lines = str(error).splitlines()
        fault = [f"{len(lines)} lines of error: {said}"] if len(lines) != 1 else []
        return Outcome(Counter({"settings of trials refused": 1}), fault)
    configs = {arm: flat(plan.config(arm)) for arm in plan.arms}
    lost = [
        f"{name} is {config[name]!r} in {arm}: {said}"
        for arm, config in configs.items()
        for name, value in given.items()
        if config.get(name, value) != value
    ]
    lost += [
        f"{name} is in no arm: {said}"
        for name in given
        if not any(name in config for config in configs.values())
    ]
    return Outcome(Counter({"settings of trials in every arm": 1}), lost)


def cases() -> Iterator[Case]:
    """Every setting alone with every method, and several together."""
    known = {
        flag.lstrip("-").replace("-", "_"): each for flag, each, _ in settings_of("classification")
    }

    def run(method: str, only: str, random: Random, folder: Path) -> Outcome:
        chosen = [only] if only else random.sample([*known], random.randint(2, 4))
        given = {name: _value(known[name], random) for name in chosen}
        return try_settings(method, given, random, folder)

    for method in METHODS:
        for name in known:
            yield Case(f"flags trial {method} {name}", partial(run, method, name))
        for number in range(TOGETHER):
            yield Case(f"flags trial {method} together {number}", partial(run, method, ""))
