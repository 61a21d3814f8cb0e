"""The arms of a trial: what each sets, and what all of them share."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from classification.config import Config
from keepbench.settings import nearest, with_role


class Method(NamedTuple):
    """A plain method, and what its Keep arm is called and does.

    Its settings are its own name, and defaults that suit a trial. Of its role's settings `has` are
    those that it uses.
    """

    name: str
    keep_name: str
    settings: dict[str, Any]
    keep: str
    has: tuple[str, ...]

    @property
    def role(self) -> str:
        """Of its settings, see `keepbench.settings.ROLES`."""
        return "policy" if self.keep == "paste" else self.keep


_POLICY = ("magnitude", "policy_space", "policy_fill")
METHODS = {
    "cutout": Method("Cutout", "KeepCutout", {"cut": "cutout"}, "cut", ("size", "cut_p")),
    "random_erasing": Method(
        "Random Erasing", "KeepRandomErasing", {"cut": "random_erasing", "cut_p": 0.5}, "cut",
        ("erasing", "cut_p"),
    ),
    "cutmix": Method(
        "CutMix", "KeepCutMix", {"mix": "cutmix", "mix_p": 0.5}, "mix", ("mix_alpha", "mix_p")
    ),
    "autoaugment": Method(
        "AutoAugment", "KeepAutoAugment", {"policy": "autoaugment"}, "paste",
        ("policy_set", *_POLICY),
    ),
    "randaugment": Method(
        "RandAugment", "KeepRandAugment", {"policy": "randaugment", "num_ops": 2}, "paste",
        ("num_ops", *_POLICY),
    ),
    "trivialaugment": Method(
        "TrivialAugment", "KeepTrivialAugment", {"policy": "trivialaugment"}, "paste",
        ("policy_fill",),
    ),
}  # fmt: skip

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


def arm_settings(method: Method, arm: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """What an arm sets beside what all arms share.

    Args:
        method: that is tried.
        arm: a key of `ARMS`.
        found: the method's settings, its own defaults or the user's.
    """
    if arm == "none":
        return {}
    if arm == "plain":
        return dict(found)
    equal = method.keep != "paste" and arm != "paper"
    return {**found, "keep": method.keep, "match_area": equal, **_MAPS[arm]}


def check_given(method: Method, arms: Collection[str], given: Collection[str]) -> None:
    """Raise ValueError for settings that cannot be all arms': those in which they differ.

    Settings of other methods, and of a Keep that no arm has, would be of no effect.

    Args:
        method: that is tried.
        arms: keys of `ARMS`.
        given: the names of settings that the user gave.
    """
    heads = any("early_head" in _MAPS.get(arm, {}) for arm in arms)
    keeps = {*arms} - {"none", "plain"}
    free = {"tau": bool(keeps), "paste_size": bool(keeps) and method.keep == "paste",
            "early_weight": heads}  # fmt: skip
    owned = with_role(Config(), "keep", "map") - {name for name, is_free in free.items() if is_free}
    if wrong := sorted(owned & {*given}):
        raise ValueError(
            f"{', '.join(wrong)}: arms own this, or none of them uses it; leave it out, and choose "
            "by --arms"
        )
    if "objects" in given and not any("oracle" in arm for arm in arms):
        raise ValueError("objects: no arm uses them; add oracle to --arms, or leave them out")
    others = with_role(Config(), "policy", "cut", "mix") - {*method.has}
    if wrong := sorted(others & {*given}):
        raise ValueError(
            f"{', '.join(wrong)}: no setting of {method.name}; the method is given by --method"
        )


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


def check_arms(method: str, arms: Sequence[str]) -> None:
    """Raise ValueError unless a method and arms are known."""
    if method not in METHODS:
        raise ValueError(f"no method {method!r}{nearest(method, METHODS)}")
    for arm in arms:
        if arm not in ARMS:
            raise ValueError(f"no arm {arm!r}{nearest(arm, ARMS)}")
        if arm == "paper" and METHODS[method].keep == "paste":
            raise ValueError(f"{method} has no cut area that the paper's arm could change")
