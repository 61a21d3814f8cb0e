"""Whether a stored plan is one: what a stranger, or a slip of the hand, may have left in it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from keepbench.settings import is_within
from trialling.analysis import MOST_SEEDS
from trialling.contrasts import Contrast

_TEXTS = ("method", "budget", "task", "experiment")
_TABLES = ("base", "settings", "keep", "teacher", "files", "own")
_LISTS = ("arms", "looks", "doses", "contrasts")
_PARTS = {"arms": str, "looks": int, "doses": dict, "contrasts": dict, "files": str, "own": dict}
_WORDS: dict[type, str] = {
    str: "text", dict: "a table", list: "a list", int: "a whole number", float: "a number",
}  # fmt: skip
_KINDS: dict[str, type] = (
    dict.fromkeys(_TEXTS, str)
    | dict.fromkeys(_TABLES, dict)
    | dict.fromkeys(_LISTS, list)
    | {"most": int, "first_seed": int, "margin": float}
)
_RANGES = {"margin": "(0, 100]", "first_seed": "[0, 1.9e9]", "most": f"[1, {2 * MOST_SEEDS}]"}
_CONTRASTS = ("check", "difference", "equivalence", "slope")


def _check_kind(name: str, value: Any, kind: type) -> None:
    """Raise ValueError unless a value is of a kind; a whole number is a number, too."""
    fits = type(value) is kind or (kind is float and type(value) is int)
    if not fits and not (kind is list and type(value) is tuple):
        raise ValueError(f"{name} is not {_WORDS[kind]}: {value!r}")


def check_stored(found: Mapping[str, Any]) -> None:
    """Look at types and ranges of a plan as JSON has it.

    Raises:
        ValueError: A part is of another type or out of range.
        KeyError: A part is missing.
    """
    for name, kind in _KINDS.items():
        if name in found:
            _check_kind(name, found[name], kind)
    for name, kind in _PARTS.items():
        parts = found.get(name, ())
        for part in parts.values() if isinstance(parts, dict) else parts:
            _check_kind(f"a part of {name}", part, kind)
    if lacking := {"dataset", "data"} - found["base"].keys():
        raise ValueError(f"base has no {' and no '.join(sorted(lacking))}")
    for name, interval in _RANGES.items():
        if name in found and not is_within(found[name], interval):
            raise ValueError(f"{name} must be in {interval}, found {found[name]}")
    for dose in found["doses"]:
        for name, value in dose.items():
            _check_kind(f"the dose {name}", value, float)
    looks, most = found["looks"], found["most"]
    if not looks or [*looks] != sorted({*looks}) or not 1 <= looks[0] <= looks[-1] <= most:
        raise ValueError(
            f"looks must be numbers of seeds that rise from 1 to {most} at most, found {[*looks]}"
        )
    if twice := [arm for arm, times in Counter(found["arms"]).items() if times > 1]:
        raise ValueError(f"arms has {twice[0]!r} twice")


def check_contrasts(contrasts: Sequence[Contrast], cells: Collection[str]) -> None:
    """Look whether contrasts are of a plan's cells.

    Raises:
        ValueError: There are none, or one is of what the plan does not run.
    """
    if not contrasts:
        raise ValueError("contrasts is empty, so that nothing is asked")
    for each in contrasts:
        for name in ("arm", "base", "kind", "name", "family"):
            _check_kind(f"a contrast's {name}", getattr(each, name), str)
        if each.kind not in _CONTRASTS:
            raise ValueError(f"a contrast is of kind {each.kind!r}, none of {_CONTRASTS}")
        for cell, weight in each.weights.items():
            if cell not in cells:
                raise ValueError(f"the contrast {each.name!r} names an arm that is none: {cell!r}")
            if not math.isfinite(weight):
                raise ValueError(f"the contrast {each.name!r} weighs {cell!r} by {weight}")
