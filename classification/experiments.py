"""What can be run: the settings, and named experiments as differences from one another."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from classification.data import DATASETS
from classification.methods import METHODS, SALIENCIES


def _setting(default: Any, help: str, choices: list[str] | None = None) -> Any:
    return field(default=default, metadata={"help": help, "choices": choices})


@dataclass(frozen=True, kw_only=True)
class Config:
    """Every setting of a training run. Lengths are in pixels."""

    dataset: str = _setting("cifar10", "what to train on", DATASETS)
    data: str = _setting("data", "folder of the dataset")
    download: bool = _setting(False, "fetch the official archive if it is not there")
    subset: int = _setting(0, "train on as many images only; 0 is all")
    test_subset: int = _setting(0, "test on as many images only; 0 is all")
    arch: str = _setting("resnet18", "model: one of classification.models, or any of timm's")
    method: str = _setting("none", "augmentation beside crop and flip", list(METHODS))
    keep: bool = _setting(False, "keep the important region: the method's Keep arm")
    size: int = _setting(16, "length of Cutout's box")
    tau: float = _setting(0.6, "quantile of importance up to which a region may be cut")
    match_area: bool = _setting(False, "keep plain Cutout's law of the cut area")
    saliency: str = _setting("gradient", "map, or a control in its place", list(SALIENCIES))
    scale: float = _setting(1.0, "of the copy that the map is taken of; 0.5 is low resolution")
    early_head: str = _setting("", "stage with an auxiliary head that the map is taken from")
    early_weight: float = _setting(0.3, "of the auxiliary head's loss")
    padding: int = _setting(4, "of the random crop")
    flip: bool = _setting(True, "mirror images at random")
    epochs: int = _setting(300, "passes over the training set")
    batch_size: int = _setting(128, "images in a step")
    lr: float = _setting(0.1, "learning rate at the start of the cosine")
    momentum: float = _setting(0.9, "of SGD, with Nesterov")
    weight_decay: float = _setting(5e-4, "of all parameters")
    dropout: float = _setting(0.0, "inside the blocks of a Wide ResNet")
    eval_every: int = _setting(1, "epochs between tests; the last is always tested")
    bf16: bool = _setting(False, "compute in bfloat16 (autocast)")
    channels_last: bool = _setting(False, "memory layout of images and weights")
    seed: int = _setting(0, "of weights, order, crops and boxes")


ARMS: dict[str, dict[str, Any]] = {
    "none": {"method": "none"},
    "cutout": {"method": "cutout"},
    "keep_cutout": {"method": "cutout", "keep": True},
    "random_erasing": {"method": "random_erasing"},
    "keep_random_erasing": {"method": "random_erasing", "keep": True},
    "cutmix": {"method": "cutmix"},
    "keep_cutmix": {"method": "cutmix", "keep": True},
}
CHEAP: dict[str, dict[str, Any]] = {
    "low": {"scale": 0.5},
    "early": {"early_head": "layer1"},
    "low_early": {"scale": 0.5, "early_head": "layer1"},
}


def _arms(prefix: str, base: Config) -> dict[str, Config]:
    """All arms of a data set and model: plain, Keep, and Keep with cheap maps."""
    arms: dict[str, Config] = {}
    for name, change in ARMS.items():
        arms[f"{prefix}-{name}"] = replace(base, **change)
        for cheap, setting in CHEAP.items() if change.get("keep") else ():
            arms[f"{prefix}-{name}_{cheap}"] = replace(base, **change, **setting)
    return arms


CIFAR10 = Config()  # Cutout's recipe at KeepAugment's 300 epochs and cosine (section 4.1)
DIGITS = replace(
    CIFAR10, dataset="digits", arch="resnet8", flip=False, epochs=12, batch_size=64, data=""
)

EXPERIMENTS: dict[str, Config] = {
    **_arms("cifar10-resnet18", CIFAR10),
    **_arms("cifar10-resnet20", replace(CIFAR10, arch="resnet20")),
    **_arms("digits-resnet8", DIGITS),
}
"""`python tools/run_classification.py cifar10-resnet18-keep_cutout --data FOLDER`.

KeepAugment Table 1: ResNet-18 with Cutout 95.6, KeepCutout 96.1, low resolution 96.2, early loss
96.0 % on CIFAR-10's test set, 300 epochs; 19 to 38 s per epoch on a TITAN X.
"""
