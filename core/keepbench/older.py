"""Settings of earlier versions, by the names that they have now.

Until 0.2 the settings of methods, Keep and maps stood beside one another, whether they had an
effect or not. Records of such runs are read here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_KEEP = {"tau": "keep.tau", "saliency": "keep.map", "scale": "keep.map.scale"}
RENAMED: dict[str, dict[str, str]] = {
    "classification": {
        "policy_set": "policy.policy_set",
        "num_ops": "policy.num_ops",
        "magnitude": "policy.magnitude",
        "policy_space": "policy.space",
        "policy_fill": "policy.fill",
        "size": "cut.size",
        "cut_p": "cut.p",
        "erasing": "cut.law",
        "mix_alpha": "mix.alpha",
        "mix_p": "mix.p",
        "attention": "mix.attention",
        "match_area": "keep.match_area",
        "paste_size": "keep.size",
        "cache": "keep.cache",
        "agreement": "keep.map.agreement",
        **_KEEP,
    },
    "semisup_uda": {
        "num_ops": "policy.num_ops",
        "magnitude": "policy.magnitude",
        "paste_size": "keep.size",
        **_KEEP,
    },
    "reid": _KEEP,
}
"""The present names of settings, by task and former name."""

_POLICIES = ("autoaugment", "randaugment", "trivialaugment", "augmix")
_GRADIENTS = ("gradient", "shuffled", "inverted")
_OF = {
    "policy.policy_set": ("autoaugment",),
    "policy.num_ops": ("randaugment",),
    "policy.magnitude": ("autoaugment", "randaugment"),
    "policy.space": ("autoaugment", "randaugment", "augmix"),
    "policy.fill": _POLICIES,
    "cut.size": ("cutout",),
    "cut.p": ("cutout", "random_erasing"),
    "cut.law": ("random_erasing",),
    "mix.alpha": ("cutmix", "mixup", "mixup_or_cutmix", "manifold_mixup"),
    "mix.p": ("cutmix", "mixup_or_cutmix"),
    "mix.attention": ("attentive_cutmix",),
    "keep.tau": ("cut", "paste", "mix"),
    "keep.match_area": ("cut", "mix"),
    "keep.size": ("paste",),
    "keep.cache": ("cut", "paste", "mix"),
    "keep.map": ("cut", "paste", "mix"),
    "keep.map.scale": _GRADIENTS,
    "keep.map.agreement": ("auto",),
}
"""The kinds that have a setting."""


def modern(task: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by their present names, without those of kinds that they do not name.

    Args:
        task: the package that they are of.
        settings: of any version.
    """
    names = RENAMED.get(task, {})
    found = {name: value for name, value in settings.items() if name not in names}
    for old, name in sorted(names.items(), key=lambda item: item[1].count(".")):
        if old not in settings:
            continue
        kind = name.rpartition(".")[0]
        owner = found.get(kind, "gradient" if kind == "keep.map" and found.get("keep") else "")
        if isinstance(owner, str) and owner in _OF[name]:
            found[name] = settings[old]
    if found.get("policy") == "randaugment" and found.get("policy.magnitude") == -1:
        found["policy.magnitude"] = 9
    return found


def modern_plan(found: Mapping[str, Any], stage: str, usual: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's plan of any version in the present form.

    Args:
        found: the plan as JSON has it.
        stage: the setting that its method is of.
        usual: the method's own settings where an old plan says nothing of them.
    """
    plan = {"doses": (), **found}
    if "keep" in plan:
        return plan
    base = plan["base"]
    own = modern("classification", plan.get("settings", {})).items()
    prefix = f"{stage}."
    named = {name.removeprefix(prefix): value for name, value in own if name.startswith(prefix)}
    keep = {"tau": base["tau"]} | ({"size": base["paste_size"]} if stage == "policy" else {})
    plan |= {"base": modern("classification", base), "settings": {**usual, **named}, "keep": keep}
    return plan
