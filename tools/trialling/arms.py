"""The arms of a trial, and the contrasts between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from keepbench.settings import nearest


class Method(NamedTuple):
    """A plain method, and what its Keep arm is called and does."""

    name: str
    keep_name: str
    settings: dict[str, Any]
    keep: str


METHODS = {
    "cutout": Method("Cutout", "KeepCutout", {"cut": "cutout"}, "cut"),
    "random_erasing": Method(
        "Random Erasing", "KeepRandomErasing", {"cut": "random_erasing", "cut_p": 0.5}, "cut"
    ),
    "cutmix": Method("CutMix", "KeepCutMix", {"mix": "cutmix", "mix_p": 0.5}, "mix"),
    "autoaugment": Method("AutoAugment", "KeepAutoAugment", {"policy": "autoaugment"}, "paste"),
    "randaugment": Method(
        "RandAugment", "KeepRandAugment", {"policy": "randaugment", "num_ops": 2}, "paste"
    ),
    "trivialaugment": Method(
        "TrivialAugment", "KeepTrivialAugment", {"policy": "trivialaugment"}, "paste"
    ),
}

ARMS: dict[str, str] = {
    "none": "crop and flip only",
    "plain": "the method",
    "keep": "Keep by a map at half resolution, at the method's own area",
    "random": "the same by a random map: for a cut, the A/A test",
    "inverted": "the same by the map upside down",
    "centre": "the same by a map that knows the centre only",
    "full": "Keep by a map at full resolution",
    "low_early": "Keep by a map at half resolution from an early head",
    "cached": "Keep by stored maps at half resolution, renewed every 10 epochs",
    "recycled": "Keep by the gradients of earlier steps",
    "oracle": "Keep by the ground truth of --objects, boxes or masks",
    "inverted_oracle": "the same upside down",
    "paper": "Keep as the paper has it: a cut may shrink at the border",
}
USUAL = ("none", "plain", "keep", "random", "inverted", "centre")

_LOW = {"scale": 0.5}
_MAPS: dict[str, dict[str, Any]] = {
    "keep": _LOW,
    "random": {"saliency": "random"},
    "inverted": {"saliency": "inverted", **_LOW},
    "centre": {"saliency": "centre"},
    "full": {},
    "low_early": {"early_head": "layer1", **_LOW},
    "cached": {"cache": 10, **_LOW},
    "recycled": {"saliency": "recycled"},
    "oracle": {"saliency": "oracle"},
    "inverted_oracle": {"saliency": "inverted_oracle"},
    "paper": _LOW,
}


def arm_settings(method: Method, arm: str) -> dict[str, Any]:
    """What an arm sets beside what all arms share."""
    if arm == "none":
        return {}
    if arm == "plain":
        return dict(method.settings)
    equal = method.keep != "paste" and arm != "paper"
    return {**method.settings, "keep": method.keep, "match_area": equal, **_MAPS[arm]}


def arm_name(method: Method, arm: str) -> str:
    """An arm in words, for a reader of the page."""
    further = {
        "random": "random map",
        "inverted": "inverted map",
        "centre": "centre map",
        "full": "full map",
        "low_early": "half map, early head",
        "cached": "stored maps",
        "recycled": "recycled maps",
        "oracle": "ground truth",
        "inverted_oracle": "inverted ground truth",
        "paper": "as in the paper",
    }
    simple = {"none": "crop and flip", "plain": method.name, "keep": method.keep_name}
    return simple.get(arm) or f"{method.keep_name}, {further[arm]}"


@dataclass(frozen=True)
class Contrast:
    """A difference that was decided on before the runs.

    Attributes:
        arm: whose accuracy counts as positive.
        base: whose counts as negative.
        kind: "check" of the machinery (A/A), "difference", or "equivalence".
        name: in words.
    """

    arm: str
    base: str
    kind: str
    name: str


def contrasts(method: Method, arms: Sequence[str]) -> list[Contrast]:
    """The contrasts between some arms, the A/A first."""
    cuts = method.keep != "paste"  # a pasted region of a random place is no plain policy
    wanted = [("random", "plain", "check")] if cuts else [("keep", "random", "difference")]
    wanted += [
        ("keep", "plain", "difference"),
        ("keep", "inverted", "difference"),
        ("keep", "centre", "difference"),
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
    return [
        Contrast(arm, base, kind, f"{arm_name(method, arm)} − {arm_name(method, base)}")
        for arm, base, kind in wanted
        if arm in arms and base in arms
    ]


def check_arms(method: str, arms: Sequence[str]) -> None:
    """Raise ValueError unless a method and arms are known, and make a trial."""
    if method not in METHODS:
        raise ValueError(f"no method {method!r}{nearest(method, METHODS)}")
    for arm in arms:
        if arm not in ARMS:
            raise ValueError(f"no arm {arm!r}{nearest(arm, ARMS)}")
        if arm == "paper" and not arm_settings(METHODS[method], "keep")["match_area"]:
            raise ValueError(f"{method} has no cut area that the paper's arm could change")
    alone = {*arms} - {
        name for each in contrasts(METHODS[method], arms) for name in (each.arm, each.base)
    }
    if alone or not arms:
        raise ValueError(f"arms without a contrast: {', '.join(sorted(alone)) or 'none given'}")
