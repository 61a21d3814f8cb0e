"""The contrasts of a trial: weighted sums of cells, decided on before the runs.

A cell is an arm, at a dose where the trial has doses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keepbench.settings import Kind
from trialling.arms import arm_name, stage_of

STRONGEST = 3
"""Doses at which controls are run."""


def cell_name(arm: str, dose: str = "") -> str:
    """The name of an arm at a dose."""
    return f"{arm}-{dose}" if dose else arm


@dataclass(frozen=True)
class Contrast:
    """A difference that was decided on before the runs.

    Attributes:
        arm: whose accuracy counts as positive.
        base: whose counts as negative.
        kind: "check" of the machinery (A/A), "difference", "equivalence", or "slope".
        name: in words.
        doses: at which it is taken, and each one's weight; () where there are none.
        family: of those that share Holm's correction.
    """

    arm: str
    base: str
    kind: str
    name: str
    doses: tuple[tuple[str, float], ...] = ()
    family: str = ""

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each cell."""
        doses = self.doses or (("", 1.0),)
        return {
            cell_name(arm, dose): sign * weight
            for arm, sign in ((self.arm, 1.0), (self.base, -1.0))
            for dose, weight in doses
        }

    @classmethod
    def read(cls, found: Mapping[str, Any]) -> Contrast:
        """As JSON brings it back."""
        return cls(**{**found, "doses": tuple((d, w) for d, w in found.get("doses", ()))})


def contrasts(method: Kind, arms: Sequence[str]) -> list[Contrast]:
    """The contrasts between some arms, the A/A first.

    Raises:
        ValueError: An arm has none.
    """
    cuts = stage_of(method) != "policy"  # a pasted region of a random place is no plain policy
    wanted = [("random", "plain", "check")] if cuts else [("keep", "random", "difference")]
    wanted += [
        ("keep", "plain", "difference"),
        ("keep", "inverted", "difference"),
        ("keep", "centre", "difference"),
        ("teacher", "plain", "difference"),
        ("teacher", "keep", "difference"),
        ("oracle", "plain", "difference"),
        ("oracle", "inverted_oracle", "difference"),
        ("keep", "oracle", "difference"),
        ("paper", "plain", "difference"),
        ("plain", "none", "difference"),
        ("keep", "full", "equivalence"),
        ("low_early", "full", "equivalence"),
        ("cached", "full", "equivalence"),
        ("recycled", "full", "equivalence"),
    ]
    found = [
        Contrast(arm, base, kind, f"{arm_name(method, arm)} − {arm_name(method, base)}")
        for arm, base, kind in wanted
        if arm in arms and base in arms
    ]
    if alone := {*arms} - {name for each in found for name in (each.arm, each.base)}:
        raise ValueError(f"arms without a contrast: {', '.join(sorted(alone))}")
    return found


def dose_contrasts(
    method: Kind, arms: Sequence[str], doses: Sequence[str], words: Sequence[str]
) -> list[Contrast]:
    """Keep against the plain method at each dose, the slope of that, and Keep against controls.

    Args:
        method: that is tried.
        arms: with "plain" and "keep"; all but these and "none" are controls.
        doses: their names, from mild to strong.
        words: what readers call them.

    Raises:
        ValueError: "plain" or "keep" is missing.
    """
    if missing := {"plain", "keep"} - {*arms}:
        raise ValueError(f"a trial of doses needs the arms plain and keep, {missing} is missing")
    keep, plain = arm_name(method, "keep"), arm_name(method, "plain")
    found = [
        Contrast("keep", "plain", "difference", f"{keep} − {plain}, {said}", ((dose, 1.0),), "dose")
        for dose, said in zip(doses, words, strict=True)
    ]
    places = [place - (len(doses) - 1) / 2 for place in range(len(doses))]
    spread = sum(place**2 for place in places)
    slope = tuple((dose, place / spread) for dose, place in zip(doses, places, strict=True))
    name = f"{keep} − {plain}, more with each step of the dose"
    found.append(Contrast("keep", "plain", "slope", name, slope, "slope"))
    strong = doses[-STRONGEST:]
    mean = tuple((dose, 1 / len(strong)) for dose in strong)
    for arm in arms:
        if arm in ("none", "plain", "keep"):
            continue
        check = arm == "random" and stage_of(method) != "policy"
        first, second = ("random", "plain") if check else ("keep", arm)
        name = (
            f"{arm_name(method, first)} − {arm_name(method, second)}, {strong[0]} to {strong[-1]}"
        )
        kind, family = ("check", "check") if check else ("difference", "control")
        found.append(Contrast(first, second, kind, name, mean, family))
    return sorted(found, key=lambda each: each.kind != "check")
