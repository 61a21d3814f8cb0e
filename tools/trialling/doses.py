"""The doses of a trial: settings of the method at which it is tried, from mild to strong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from keepbench.settings import Kind, nearest
from trialling.analysis import Accuracies
from trialling.contrasts import STRONGEST, Contrast, cell_name

Dose = Mapping[str, Any]
"""Values of the method's own settings, by name."""


def dose_name(dose: Dose) -> str:
    """As part of a cell's name: 24, or 4x25."""
    return "x".join(f"{value:g}" for value in dose.values())


def in_words(dose: Dose) -> str:
    """For readers: size 24, or num_ops 4, magnitude 25."""
    return ", ".join(f"{name} {value:g}" for name, value in dose.items())


def parse_doses(method: Kind, words: Sequence[str]) -> tuple[dict[str, Any], ...]:
    """The doses that NAME=VALUE,VALUE,... ask for; values of several settings stand side by side.

    Raises:
        ValueError: A setting is not the method's, is no number or is given twice, or its values
            are too few, of another number than others', not different, or not in order.
    """
    kinds: dict[str, type] = {each.name: type(each.default) for each in fields(method)}
    known = sorted(name for name, kind in kinds.items() if kind in (int, float))
    if not known:
        raise ValueError(f"--dose: {method.title} has no number that could be its dose")
    found: dict[str, list[Any]] = {}
    for word in words:
        name, _, values = word.partition("=")
        if name not in known:
            raise ValueError(
                f"--dose {word}: {name!r} is no number that {method.title} has"
                f"{nearest(name, known)}; give NAME=VALUE,VALUE,... with {', '.join(known)}"
            )
        if name in found:
            raise ValueError(f"--dose {word}: {name} is given twice")
        try:
            found[name] = [kinds[name](value) for value in values.split(",")]
        except ValueError:
            raise ValueError(f"--dose {word}: {values!r} are not all numbers of {name}") from None
    lengths = {len(values) for values in found.values()}
    doses = [dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=False)]
    if len(lengths) != 1 or len({*map(dose_name, doses)}) != len(doses) or len(doses) < STRONGEST:
        raise ValueError(
            f"--dose {' '.join(words)}: give {STRONGEST} different doses or more, from mild to "
            "strong, and as many values of each setting"
        )
    if len(found) == 1:  # of several settings none needs to rise: 2,2,4 beside 5,20,15
        (only,) = found.values()
        if only not in (sorted(only), sorted(only, reverse=True)):
            raise ValueError(
                f"--dose {' '.join(words)}: order the doses from mild to strong; a slope and the "
                f"{STRONGEST} strongest follow their order"
            )
    return tuple(doses)


def best_dose(accuracies: Accuracies, arm: str, doses: Sequence[str], seeds: range) -> str | None:
    """The dose of an arm with the highest mean over some seeds, the mildest of equal ones.

    None if a run is missing.
    """
    means = []
    for dose in doses:
        found = accuracies.get(cell_name(arm, dose), {})
        if not {*seeds} <= found.keys():
            return None
        means.append(sum(found[seed] for seed in seeds) / len(seeds))
    return doses[means.index(max(means))]


def choice_contrasts(names: Mapping[str, str], keep: str, plain: str) -> list[Contrast]:
    """The chosen cells of Keep and of the plain method against each other and crop and flip.

    Args:
        names: of all cells, for readers; without "none" if the trial has none.
        keep: the chosen cell of Keep.
        plain: that of the plain method.
    """
    pairs = [(keep, base) for base in (plain, "none") if base in names]
    return [
        Contrast(arm, base, "difference", f"{names[arm]} − {names[base]}", family="choice")
        for arm, base in pairs
    ]
