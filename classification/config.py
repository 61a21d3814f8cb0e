"""Every setting of a training run."""

from __future__ import annotations

from dataclasses import dataclass

from keepbench.methods import POLICIES, SALIENCIES
from keepbench.settings import setting

DATASETS = ["cifar10", "cifar100", "digits", "folder", "images"]
"""Small images (CIFAR, digits, a class-folder tree), or "images": a tree of large ones."""
CUTS = ["", "cutout", "random_erasing", "gridmask"]
MIXES = ["", "cutmix", "mixup", "mixup_or_cutmix", "manifold_mixup", "attentive_cutmix"]
KEEPS = ["", "cut", "paste", "mix"]
REGULARISERS = ["", "dropout", "droppath", "dropblock"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a run; lengths are in pixels, shares and probabilities in [0, 1]."""

    dataset: str = setting("cifar10", "what to train on", DATASETS)
    data: str = setting("data", "folder of the dataset")
    download: bool = setting(False, "fetch the official archive if it is not there")
    subset: int = setting(0, "train on as many images only; 0 is all")
    test_subset: int = setting(0, "test on as many images only; 0 is all")
    workers: int = setting(4, "processes that read a tree of large images", may_change=True)
    unreadable: str = setting("refuse", "what to do with a broken image", ["refuse", "skip"])

    arch: str = setting("resnet18", "model: one of classification.models, or any of timm's")
    dropout: float = setting(0.0, "inside the blocks of a Wide ResNet")
    regulariser: str = setting("", "one of Table 5's, with its usual strength", REGULARISERS)

    image_size: int = setting(0, "length of training images from a tree of large ones")
    test_size: int = setting(0, "length of test images; 0 is the training length")
    padding: int = setting(4, "of the random crop of small images")
    flip: bool = setting(True, "mirror images at random")
    jitter: bool = setting(False, "CutMix's colour jitter and lighting noise")

    policy: str = setting("", "image-level augmentation", POLICIES)
    policy_set: str = setting("cifar10", "AutoAugment's policy", ["cifar10", "imagenet", "svhn"])
    num_ops: int = setting(3, "of RandAugment: operations in a row")
    magnitude: int = setting(-1, "of RandAugment, 0 to 30; of AutoAugment in place of its own")
    policy_space: str = setting(
        "torchvision", "what a magnitude means", ["torchvision", "original"]
    )
    cut: str = setting("", "region-level augmentation", CUTS)
    size: int = setting(16, "length of Cutout's box")
    cut_p: float = setting(1.0, "probability of cutting an image")
    mix: str = setting("", "label-mixing augmentation", MIXES)
    mix_alpha: float = setting(1.0, "of the Beta law of lambda")
    attention: str = setting(
        "pretrained", "network of Attentive CutMix: pretrained, random, or a state dict's file"
    )
    mix_p: float = setting(1.0, "probability of mixing a batch")

    keep: str = setting("", "stage that keeps the important region", KEEPS)
    tau: float = setting(0.6, "quantile of importance: cut at most there, paste from there")
    paste_size: int = setting(16, "length of the pasted region")
    match_area: bool = setting(False, "keep the plain method's law of the cut area")
    saliency: str = setting(
        "gradient",
        "map, or a control in its place; auto takes the cheapest map that agrees with full ones",
        [*SALIENCIES, "auto"],
    )
    agreement: float = setting(0.6, "of auto: how far boxes must agree with full maps', 0 to 1")
    scale: float = setting(1.0, "of the copy that the map is taken of; 0.5 is low resolution")
    cache: int = setting(0, "epochs between refreshes of stored maps; 0 stores none")
    early_head: str = setting("", "stage with an auxiliary head that the map is taken from")
    early_weight: float = setting(0.3, "of the auxiliary head's loss")

    epochs: int = setting(300, "passes over the training set")
    batch_size: int = setting(128, "images in a step, over all processes")
    optimizer: str = setting("sgd", "sgd (Nesterov), or any of timm's")
    lr: float = setting(0.1, "learning rate at its highest")
    momentum: float = setting(0.9, "of SGD")
    weight_decay: float = setting(5e-4, "of weights")
    norm_decay: bool = setting(True, "decay biases and normalisation layers too")
    schedule: str = setting("cosine", "cosine to 0, or x0.1 at 25, 50 and 75 %", ["cosine", "step"])
    warmup: int = setting(0, "epochs of linear warm-up")
    clip: float = setting(0.0, "global norm that gradients are clipped at; 0 is never")
    smoothing: float = setting(0.0, "of labels")
    loss: str = setting("ce", "cross-entropy, or binary per class", ["ce", "bce"])
    ema: float = setting(0.0, "decay of averaged weights, which are then tested; 0 is none")

    nonfinite: str = setting(
        "stop", "at a loss or gradient that is not finite", ["stop", "skip"], may_change=True
    )
    eval_every: int = setting(1, "epochs between tests; the last is always tested")
    bf16: bool = setting(False, "compute in bfloat16 (autocast)")
    channels_last: bool = setting(False, "memory layout of images and weights")
    compile: bool = setting(False, "torch.compile the model, its maps and the augmentation")
    tensorboard: bool = setting(False, "TensorBoard events beside metrics.jsonl", may_change=True)
    seed: int = setting(0, "of weights, order, crops, policies and boxes")

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other, before anything is read."""
        needs = {"cut": self.cut in ("cutout", "random_erasing"), "paste": bool(self.policy)}
        needs["mix"] = self.mix in ("cutmix", "mixup_or_cutmix")
        if self.keep and not needs[self.keep]:
            raise ValueError(
                f"keep={self.keep} has nothing to keep from "
                f"(policy={self.policy!r}, cut={self.cut!r}, mix={self.mix!r})"
            )
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError("epochs and batch_size must be at least 1")
        if self.dataset == "images" and self.image_size < 1:
            raise ValueError("a tree of large images needs --image-size")
        if self.cache:
            self._check_cache()
        if self.saliency == "auto":
            self._check_auto()

    def _check_cache(self) -> None:
        if self.cache < 0:
            raise ValueError(f"cache must be 0 or epochs between refreshes, found {self.cache}")
        if not self.keep or self.saliency in ("random", "centre"):
            raise ValueError(
                f"cache={self.cache} has no map to store "
                f"(keep={self.keep!r}, saliency={self.saliency!r})"
            )
        if self.policy and self.keep != "paste":
            raise ValueError(
                f"stored maps follow crop and flip, not what {self.policy} does to an image; "
                f"keep={self.keep} needs --cache 0 there"
            )

    def _check_auto(self) -> None:
        if not self.keep or self.scale != 1.0 or self.cache:
            raise ValueError(
                f"saliency=auto chooses the scale of the maps of a Keep arm itself, found "
                f"keep={self.keep!r}, scale={self.scale}, cache={self.cache}"
            )
        if not 0.0 <= self.agreement <= 1.0:
            raise ValueError(f"agreement must be in [0, 1], found {self.agreement}")
