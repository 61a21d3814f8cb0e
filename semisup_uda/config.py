"""Every setting of a semi-supervised training run."""

from __future__ import annotations

from dataclasses import dataclass

from keepbench.methods import SALIENCIES
from keepbench.settings import setting

DATASETS = ["cifar10", "cifar100", "digits", "folder"]
METHODS = ["uda", "fixmatch", "supervised"]
SPLITS = ["first", "balanced"]
SCHEDULES = ["", "linear", "log", "exp"]
POLICIES = ["", "uda", "randaugment", "trivialaugment", "autoaugment"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a run; lengths are in pixels, shares and probabilities in [0, 1].

    The defaults are those of UDA's script for CIFAR-10 (github.com/google-research/uda,
    image/scripts/run_cifar10_gpu.sh), with the order crop and flip, then policy, then Cutout.
    """

    dataset: str = setting("cifar10", "what to train on: small images of one size", DATASETS)
    data: str = setting("data", "folder of the dataset")
    download: bool = setting(False, "fetch the official archive if it is not there")
    subset: int = setting(0, "a training set of as many images only; 0 is all")
    test_subset: int = setting(0, "test on as many images only; 0 is all")
    labels: int = setting(4000, "images whose label is used")
    split: str = setting("first", "the first in file order, or evenly from the classes", SPLITS)
    unlabelled: str = setting(
        "train", "images without labels: train (the whole training set), labelled, or a folder"
    )

    arch: str = setting("wrn28_2", "model: one of classification.models, or any of timm's")
    padding: int = setting(4, "of the random crop, by reflection")
    flip: bool = setting(True, "mirror images at random")

    method: str = setting("uda", "what is learned from images without labels", METHODS)
    ratio: int = setting(7, "unlabelled images for each labelled one in a step")
    weight: float = setting(1.0, "of the loss of unlabelled images")
    confidence: float = setting(0.8, "largest probability from which an unlabelled image counts")
    temperature: float = setting(0.4, "by which UDA sharpens its target")
    tsa: str = setting("", "schedule of training signal annealing", SCHEDULES)

    policy: str = setting("uda", "of the strong view: UDA's RandAugment, or another", POLICIES)
    num_ops: int = setting(2, "of randaugment: operations in a row")
    magnitude: int = setting(-1, "of randaugment and autoaugment, 0 to 30; -1 is their own")
    cutout: int = setting(16, "length of the box cut from the strong view; 0 cuts none")
    keep: str = setting("", "paste the important region on the strong view", ["", "paste"])
    tau: float = setting(0.6, "quantile of importance to paste from")
    paste_size: int = setting(16, "length of the pasted region")
    saliency: str = setting("gradient", "map, or a control in its place", SALIENCIES)
    scale: float = setting(0.5, "of the copy that the map is taken of; 1 is full resolution")

    epochs: int = setting(500, "tests of the model, evenly over the run")
    steps: int = setting(1000, "between tests")
    batch_size: int = setting(64, "labelled images in a step, over all processes")
    lr: float = setting(0.03, "learning rate at its highest")
    momentum: float = setting(0.9, "of Nesterov's SGD")
    weight_decay: float = setting(5e-4, "of weights")
    norm_decay: bool = setting(True, "decay biases and normalisation layers too")
    ema: float = setting(0.9999, "decay of averaged weights, which are then tested; 0 is none")

    bf16: bool = setting(False, "compute in bfloat16 (autocast)")
    channels_last: bool = setting(False, "memory layout of images and weights")
    compile: bool = setting(False, "torch.compile the model")
    tensorboard: bool = setting(False, "TensorBoard events beside metrics.jsonl", may_change=True)
    seed: int = setting(0, "of weights, split, order, crops, policies and boxes")

    def __post_init__(self) -> None:
        """Refuse settings that are out of range or contradict each other, before any reading."""
        for name in ("labels", "ratio", "paste_size", "epochs", "steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")
        for name in ("subset", "test_subset", "padding", "cutout", "weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, found {getattr(self, name)}")
        if not 0.0 < self.temperature:
            raise ValueError(f"temperature must be positive, found {self.temperature}")
        if not 0.0 <= self.confidence <= 1.0:
            raise ValueError(f"confidence must be a probability, found {self.confidence}")
        if not 0.0 <= self.ema < 1.0:
            raise ValueError(f"ema must be in [0, 1), found {self.ema}")
        if self.keep and (self.method == "supervised" or not self.policy):
            raise ValueError(
                f"keep={self.keep} has no strong view to paste on "
                f"(method={self.method!r}, policy={self.policy!r})"
            )

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.epochs * self.steps
