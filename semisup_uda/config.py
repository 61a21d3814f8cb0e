"""Every setting of a semi-supervised training run."""

from __future__ import annotations

from dataclasses import dataclass

from keepbench import maps
from keepbench.files import file_at
from keepbench.own_network import source_files
from keepbench.policies import Policy
from keepbench.settings import check, check_keep, check_lengths, one_of, setting
from keepbench.starting import COLOURS, WEIGHTS
from semisup_uda.policy import POLICIES, UDAPolicy

DATASETS = ["cifar10", "cifar100", "digits", "folder"]
METHODS = ["uda", "fixmatch", "supervised"]
SPLITS = ["first", "balanced"]
SCHEDULES = ["", "linear", "log", "exp"]


@dataclass(frozen=True, kw_only=True)
class KeepPaste(maps.KeepPaste):
    """Selective-Paste, by default by a map at half resolution."""

    map: maps.Map = one_of(
        maps.MAPS, "importance map, or a control", default=maps.Gradient(scale=0.5), required=True
    )


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a run; lengths are in pixels, shares and probabilities in [0, 1].

    The defaults are those of UDA's script for CIFAR-10 (github.com/google-research/uda,
    image/scripts/run_cifar10_gpu.sh), with the order crop and flip, then policy, then Cutout.
    """

    dataset: str = setting("cifar10", "training data: small images of one size", choices=DATASETS)
    data: str = setting("data", "dataset folder", role="neutral")
    download: bool = setting(False, "fetch the official archive if missing", role="neutral")
    subset: int = setting(0, "number of training images; 0 = all", range="[0, 1e9]")
    test_subset: int = setting(0, "number of test images; 0 = all", range="[0, 1e9]")
    labels: int = setting(4000, "number of labelled images", range="[1, 1e9]")
    split: str = setting(
        "first",
        "labelled images: the first in file order, or evenly from the classes",
        choices=SPLITS,
    )
    unlabelled: str = setting(
        "train", "unlabelled images: train (the whole training set), labelled, or a folder"
    )

    arch: str = setting(
        "wrn28_2",
        "model: one of classification.models, any of timm's, or FILE.py:FUNCTION",
        files=source_files,
    )
    weights: str = setting("", WEIGHTS, files=file_at)
    colours: str = setting("auto", COLOURS, choices=["auto", "data", "network"])
    padding: int = setting(4, "random-crop padding, by reflection; 0 = no crop", range="[0, 512]")
    flip: bool = setting(True, "random horizontal flip")

    method: str = setting("uda", "how unlabelled images are used", choices=METHODS)
    ratio: int = setting(7, "unlabelled images per labelled one in a step", range="[1, 1000]")
    weight: float = setting(1.0, "unlabelled loss weight", range="[0, 1000]")
    confidence: float = setting(
        0.8, "threshold on the largest probability of an unlabelled image", range="[0, 1]"
    )
    temperature: float = setting(0.4, "softmax temperature of UDA's target", range="(0, 100]")
    tsa: str = setting("", "training signal annealing schedule", choices=SCHEDULES)

    policy: Policy | None = one_of(
        POLICIES, "strong augmentation: UDA's RandAugment, or another", default=UDAPolicy()
    )
    cutout: int = setting(
        16, "side of the box cut from the strong view; 0 = none", range="[0, 4096]"
    )
    keep: KeepPaste | None = one_of(
        (KeepPaste, KeepPaste), "KeepAugment: paste the important region on the strong view"
    )

    epochs: int = setting(500, "tests of the model, evenly over the run", range="[1, 1e6]")
    steps: int = setting(1000, "steps between tests", range="[1, 1e6]")
    batch_size: int = setting(64, "labelled images per step", range="[1, 65536]", shared=True)
    lr: float = setting(0.03, "peak learning rate; 0 = learn nothing", range="[0, 1e10]")
    momentum: float = setting(0.9, "SGD momentum (Nesterov)", range="[0, 1)")
    weight_decay: float = setting(5e-4, "weight decay", range="[0, 1]")
    norm_decay: bool = setting(True, "decay biases and normalisation layers too")
    ema: float = setting(
        0.9999, "decay of averaged weights, tested in place; 0 = off", range="[0, 1)"
    )

    record: bool = setting(
        False, "store which images the last test has right, as right.json", role="neutral"
    )
    bf16: bool = setting(False, "bfloat16 autocast")
    channels_last: bool = setting(False, "channels-last memory format", role="neutral")
    compile: bool = setting(False, "torch.compile the model", role="neutral")
    tensorboard: bool = setting(
        False, "write TensorBoard events beside metrics.jsonl", may_change=True
    )
    seed: int = setting(
        0,
        "seed of weights, split, order, crops, policies and boxes",
        range="[0, 2e9]",
        role="neutral",
    )

    def __post_init__(self) -> None:
        """Refuse settings out of range or that contradict each other, before anything is read."""
        check(self)
        check_keep(  # UDA's images count above the confidence, FixMatch's from it on
            self, method=self.method != "supervised", policy=bool(self.policy),
            weight=self.weight > 0, confidence=self.confidence < 1 or self.method == "fixmatch",
        )  # fmt: skip

    def check_image_size(self, image_size: tuple[int, int]) -> None:
        """Raise ValueError for lengths that do not fit in the images (H, W)."""
        check_lengths(image_size, padding=self.padding, cutout=self.cutout)
        if self.keep:
            self.keep.check_image_size(image_size)

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.epochs * self.steps
