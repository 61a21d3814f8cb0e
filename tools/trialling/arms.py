"""The arms of a trial: a plain method, its Keep arm by some maps, and controls."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

from classification.config import Config
from classification.importance import InvertedOracle, Oracle, Recycled, Teacher
from classification.methods import Cut, CutMix, Cutout, Keep, KeepCut, KeepMix, KeepPaste, Mix
from classification.methods import RandomErasing as Erasing
from keepbench.maps import Centre, Gradient, Inverted, Map, Random
from keepbench.policies import AutoAugment, Policy, RandAugment, TrivialAugment
from keepbench.settings import Kind, flat, nearest, with_role

METHODS: dict[str, Kind] = {
    method.name: method
    for method in (
        Cutout(), Erasing(p=0.5), CutMix(p=0.5), AutoAugment(), RandAugment(num_ops=2),
        TrivialAugment(),
    )
}  # fmt: skip
"""Plain methods with settings that suit a trial."""
STAGES: dict[str, tuple[type[Kind], Keep]] = {
    "policy": (Policy, KeepPaste()),
    "cut": (Cut, KeepCut()),
    "mix": (Mix, KeepMix()),
}
"""By the setting that a method is of: its base class, and what makes it a Keep arm."""


def stage_of(method: Kind) -> str:
    """The setting that a method is of."""
    return next(stage for stage, (base, _) in STAGES.items() if isinstance(method, base))


def keep_title(method: Kind) -> str:
    """The name of a method's Keep arm."""
    return f"Keep{method.title}"


class Arm(NamedTuple):
    """An arm beside the plain method.

    Attributes:
        about: for `--help`.
        words: after the name of the Keep method, for a reader of the page.
        map: that it keeps by; None if it does not.
        cache: epochs between refreshes of stored maps.
        early_head: stage whose head gives the maps.
    """

    about: str
    words: str
    map: Map | None
    cache: int = 0
    early_head: str = ""


_LOW = Gradient(scale=0.5)
ARMS = {
    "none": Arm("crop and flip only", "crop and flip", None),
    "plain": Arm("the method", "", None),
    "keep": Arm("Keep by a map at half resolution, at the method's own area", "", _LOW),
    "random": Arm("the same by a random map: for a cut, the A/A test", "random map", Random()),
    "inverted": Arm("the same by the map upside down", "inverted map", Inverted(scale=0.5)),
    "centre": Arm("the same by a map that knows the centre only", "centre map", Centre()),
    "full": Arm("Keep by a map at full resolution", "full map", Gradient()),
    "low_early": Arm(
        "Keep by a map at half resolution from an early head", "half map, early head", _LOW,
        early_head="layer1",
    ),
    "cached": Arm(
        "Keep by stored maps at half resolution, renewed every 10 epochs", "stored maps", _LOW, 10
    ),
    "recycled": Arm("Keep by the gradients of earlier steps", "recycled maps", Recycled()),
    "teacher": Arm(
        "Keep by the maps of a trained network (--teacher), computed once", "teacher's maps",
        Teacher(),
    ),
    "oracle": Arm(
        "Keep by the ground truth of --objects, boxes or masks", "ground truth", Oracle()
    ),
    "inverted_oracle": Arm("the same upside down", "inverted ground truth", InvertedOracle()),
    "paper": Arm(
        "Keep as the paper has it: a cut may shrink at the border", "as in the paper", _LOW
    ),
}  # fmt: skip
USUAL = ("none", "plain", "keep", "random", "inverted", "centre")


def arm_config(
    base: Config, method: Kind, keep: Keep, arm: str, teacher: Mapping[str, Any] | None = None
) -> Config:
    """The settings of an arm.

    Args:
        base: what all arms share, those of "none".
        method: as all arms have it.
        keep: as all Keep arms have it, but for the map.
        arm: a key of `ARMS`.
        teacher: settings of a `classification.importance.Teacher`.
    """
    about = ARMS[arm]
    own: dict[str, Any] = {stage_of(method): method}
    plain = base if arm == "none" else replace(base, **own)
    if about.map is None:
        return plain
    kind = about.map
    if isinstance(kind, Teacher):
        kind = replace(kind, **teacher or {})
    keep = replace(keep, map=kind, cache=about.cache)
    if isinstance(keep, KeepCut):
        keep = replace(keep, match_area=arm != "paper")
    return replace(plain, keep=keep, early_head=about.early_head)


def shared_keep(keep: Keep) -> dict[str, Any]:
    """The settings of Keep that all Keep arms have: not the map, nor what follows it."""
    return {name: value for name, value in flat(keep).items() if name in ("tau", "size")}


def check_given(method: Kind, arms: Collection[str], given: Mapping[str, Any]) -> None:
    """Raise ValueError for settings that cannot be all arms': those in which they differ.

    Settings of other methods, and of a Keep that no arm has, would be of no effect.

    Args:
        method: that is tried.
        arms: keys of `ARMS`.
        given: the settings that the user gave, by name.
    """
    stage = stage_of(method)
    if {*STAGES} & given.keys():
        raise ValueError("the method is given by --method; leave policy, cut, mix and keep out")
    keeps = any(ARMS[arm].map for arm in arms)
    free = {"keep.tau"} if keeps else set()
    free |= {"keep.size"} if keeps and stage == "policy" else set()
    free |= {"early_weight"} if any(ARMS[arm].early_head for arm in arms) else set()
    owned = {n for n in given if n.partition(".")[0] == "keep"} | with_role(Config(), "map")
    if wrong := sorted(given.keys() & (owned - free)):
        raise ValueError(
            f"{', '.join(wrong)}: arms own this, or none of them uses it; leave it out, and choose "
            "by --arms"
        )
    if "objects" in given and not any("oracle" in arm for arm in arms):
        raise ValueError("objects: no arm uses them; add oracle to --arms, or leave them out")
    own = {f"{stage}.{each.name}" for each in fields(method)}
    if wrong := sorted(n for n in given if n.partition(".")[0] in STAGES and n not in own):
        raise ValueError(
            f"{', '.join(wrong)}: no setting of {method.title}; the method is given by --method"
        )


def arm_name(method: Kind, arm: str) -> str:
    """An arm in words, for a reader of the page."""
    words = ARMS[arm].words
    if ARMS[arm].map is None:
        return words or method.title
    return f"{keep_title(method)}, {words}" if words else keep_title(method)


def check_arms(method: str, arms: Sequence[str]) -> None:
    """Raise ValueError unless a method and arms are known."""
    if method not in METHODS:
        raise ValueError(f"no method {method!r}{nearest(method, METHODS)}")
    for arm in arms:
        if arm not in ARMS:
            raise ValueError(f"no arm {arm!r}{nearest(arm, ARMS)}")
        if arm == "paper" and stage_of(METHODS[method]) == "policy":
            raise ValueError(f"{method} has no cut area that the paper's arm could change")
