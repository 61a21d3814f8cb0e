"""Experiments in words, from their settings: what a reader calls an arm, and where it was run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any, NamedTuple

from classification.importance import MAPS
from classification.methods import CUTS, KEEPS, MIXES
from keepbench.own_policy import Own, Timm
from keepbench.policies import POLICIES

Settings = Mapping[str, Any]

WORDS = {
    **{kind.name: kind.title for kind in (*POLICIES[1:], Own, Timm, *CUTS[1:], *MIXES[1:])},
    "uda": "RandAugment", "keepcutmix": "KeepCutMix", "dropout": "dropout",
    "droppath": "DropPath", "dropblock": "DropBlock", "fixmatch": "FixMatch",
    "cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "digits": "handwritten digits",
    "images": "a tree of images", "folder": "a folder of images", "market": "Market-1501",
    "coco": "COCO", "toy": "drawn images", "shake_shake_26_2x96d": "Shake-Shake 26 2x96d",
    "pyramidnet272_a200_shakedrop": "PyramidNet-272 + ShakeDrop",
    "faster_rcnn_fpn": "Faster R-CNN, FPN", "faster_rcnn_c4": "Faster R-CNN, C4",
    "retinanet": "RetinaNet",
}  # fmt: skip
MAP_WORDS = {kind.name: kind.title for kind in MAPS[1:]}
CONTROLS = {kind.name for kind in MAPS[1:] if kind.control}
OF_THE_LAW = ("keep.tau", "keep.match_area", "keep.p", "keep.labels")
"""Settings of Keep that change what a map does, not the map."""
STAGES = {kind.name: kind.stage for kind in KEEPS[1:]}
"""Which setting names the method that a Keep stage belongs to."""


class Named(NamedTuple):
    """A comparison in words: the two arms, and what they share."""

    arms: str
    place: str


def _word(name: Any) -> str:
    """A value of a setting as its authors write it."""
    text = str(name)
    text = text.rpartition(":")[2]  # a class of the user's own
    text = re.sub(r"^resnet(\d+)(\.\w+)?$", r"ResNet-\1", WORDS.get(text, text))
    return re.sub(r"^wrn(\d+)_(\d+)$", r"WRN-\1-\2", text)


def _kept(word: str) -> str:
    """The name of a method's Keep arm; of two that take turns, CutMix is the one that keeps."""
    return word.replace("CutMix", "KeepCutMix") if "or CutMix" in word else f"Keep{word}"


def method(settings: Settings) -> str:
    """The augmentation's name, as "KeepCutout" or "UDA + RandAugment"."""
    if "backbone" in settings:
        kind = PurePath(settings["backbone"]).stem.split("_", 1)[-1]
        erasing = {"plain": " + RandomErasing", "keep": " + KeepRandomErasing"}
        also = erasing.get(settings.get("erasing", ""), "")
        return f"{_word('random' if kind in ('', 'none') else kind)} backbone{also}"
    keep = settings.get("keep", "")
    if "erase_p" in settings:
        name = "KeepRandomErasing" if keep else "RandomErasing"
        return name if settings["erase_p"] else "standard baseline"
    if settings.get("method") == "supervised":
        return "labels only"
    used = [name for name in ("regulariser", "policy", "cut", "mix") if settings.get(name)]
    words = [
        _kept(_word(settings[name])) if STAGES.get(keep) == name else _word(settings[name])
        for name in used
    ] or ["crop and flip"]
    if "method" in settings:
        words.insert(0, {"uda": "UDA"}.get(settings["method"], _word(settings["method"])))
    return " + ".join(words)


def details(settings: Settings) -> dict[str, str]:
    """Words that set arms of one method apart, by setting."""
    keep, found = settings.get("keep", ""), {}
    if settings.get("cut.size", 16) != 16:
        found["cut.size"] = f"length {settings['cut.size']}"
    usual = {"autoaugment": -1, "randaugment": 9}.get(settings.get("policy", ""))
    if usual is not None and settings["policy.magnitude"] != usual:
        found["policy.magnitude"] = f"magnitude {settings['policy.magnitude']}"
    if settings.get("smooth_l1_beta"):
        found["smooth_l1_beta"] = f"beta {settings['smooth_l1_beta']:g}"
    if "method" in settings and settings.get("policy") == "randaugment":
        found["policy"] = "torchvision's operations"
    if settings.get("early_head"):
        found["early_head"] = "early map" if keep else "early loss"
    if "epochs" in settings and "steps" not in settings:
        found["epochs"] = f"{settings['epochs']} epochs"
    if keep:
        found |= _kind_of_map(settings)
    return found


def _kind_of_map(settings: Settings) -> dict[str, str]:
    kind, scale = settings["keep.map"], settings.get("keep.map.scale", 1)
    found = {}
    if settings.get("keep.rising"):
        found["keep.tau"] = f"tau rising from {settings['keep.tau']:g}"
    elif settings["keep.tau"] != 0.6:
        found["keep.tau"] = f"tau {settings['keep.tau']:g}"
    if settings.get("keep.p", 1) < 1:
        found["keep.p"] = f"in {settings['keep.p']:.0%} of the images"
    if settings.get("keep.labels", "area") != "area":
        found["keep.labels"] = f"labels by {settings['keep.labels']}"
    if settings.get("keep.match_area"):
        found["keep.match_area"] = "at equal area"
    if kind != "gradient":
        found["keep.map"] = f"{MAP_WORDS.get(kind, _word(kind))} map"
    if scale < 1:
        found["keep.map.scale"] = f"{'half' if scale == 0.5 else f'{scale:.0%}'}-size map"
    if settings.get("keep.size", 16) != 16:
        found["keep.size"] = f"paste of {settings['keep.size']}"
    if settings.get("keep.cache"):
        found["keep.cache"] = "stored maps"
    return found


def place(settings: Settings) -> Iterator[str]:
    """Data and network, as "CIFAR-10", "5,000 images", "ResNet-8"."""
    dataset = settings.get("dataset", "")
    own = dataset in ("images", "folder")
    yield (own and PurePath(settings.get("data", "")).name) or _word(dataset)
    if settings.get("subset"):
        people = "erase_p" in settings
        yield f"{settings['subset']:,} {'people' if people else 'images'}"
    if "labels" in settings:
        yield f"{settings['labels']:,} {'balanced ' * (settings['split'] == 'balanced')}labels"
    if "detector" in settings:
        yield _word(settings["detector"])
        yield f"ResNet-{settings['depth']}"
    else:
        pretrained = "erase_p" not in settings and settings.get("weights")
        yield "pretrained " * bool(pretrained) + _word(settings.get("arch", ""))
    if settings.get("erase_p"):
        yield "Bag of Tricks"


def arm(settings: Settings) -> str:
    """An arm by itself."""
    found = details(settings)
    found.pop("epochs", None)
    return ", ".join([method(settings), *found.values()])


def compared(first: Settings, second: Settings) -> Named:
    """Two arms by what differs, and what they share, as one reads a comparison.

    A kind of map that only the Keep arm has is part of where it was run, not of its name.
    """
    names = [method(first), method(second)]
    found = [details(first), details(second)]
    controls = [each.get("keep.map") in CONTROLS for each in (first, second)]
    told = {"keep.map"} if any(controls) else {*OF_THE_LAW, "epochs"}
    if names[0] == names[1] and not any(controls):
        told = {*found[0], *found[1]}
    told = {key for key in told if found[0].get(key) != found[1].get(key)}
    arms = [
        ", ".join([name, *(text for key, text in each.items() if key in told)])
        for name, each in zip(names, found, strict=True)
    ]
    shared = [text for key, text in found[0].items() if key not in told | {"epochs"}]
    return Named(
        " − ".join(arms).replace(", at equal", " at equal"), ", ".join([*place(first), *shared])
    )
