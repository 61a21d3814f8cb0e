"""Every setting of a training run."""

from __future__ import annotations

from dataclasses import dataclass

from keepbench.files import file_at, files_at
from keepbench.own_network import source_files
from keepbench.settings import (
    NO_GRADIENT,
    ORACLES,
    SALIENCIES,
    check,
    check_keep,
    check_lengths,
    check_scale,
    setting,
)

DATASETS = ["cifar10", "cifar100", "digits", "folder", "images"]
"""Small images (CIFAR, digits, a class-folder tree), or "images": a tree of large ones."""
POLICIES = ["", "autoaugment", "randaugment", "trivialaugment", "augmix"]
CUTS = ["", "cutout", "random_erasing", "gridmask"]
MIXES = ["", "cutmix", "mixup", "mixup_or_cutmix", "manifold_mixup", "attentive_cutmix"]
KEEPS = ["", "cut", "paste", "mix"]
REGULARISERS = ["", "dropout", "droppath", "dropblock"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a run; lengths are in pixels, shares and probabilities in [0, 1]."""

    dataset: str = setting("cifar10", "training data", choices=DATASETS)
    data: str = setting("data", "dataset folder", role="neutral")
    download: bool = setting(False, "fetch the official archive if missing", role="neutral")
    subset: int = setting(0, "number of training images; 0 = all", range="[0, 1e9]")
    test_subset: int = setting(0, "number of test images; 0 = all", range="[0, 1e9]")
    test_rest: bool = setting(
        False, "test also on the training images that --subset leaves out; small images only"
    )
    objects: str = setting(
        "",
        "boxes (CSV) or masks (folder) of a tree's training images, for --saliency oracle",
        role="neutral",
        files=files_at,
    )
    workers: int = setting(
        4,
        "processes that read a tree of large images; 0 = none extra",
        range="[0, 512]",
        may_change=True,
    )
    unreadable: str = setting(
        "refuse", "what to do with broken images", choices=["refuse", "skip"], role="neutral"
    )

    arch: str = setting(
        "resnet18",
        "model: one of classification.models, any of timm's, or FILE.py:FUNCTION",
        files=source_files,
    )
    dropout: float = setting(0.0, "dropout inside the blocks of a Wide ResNet", range="[0, 1)")
    zero_init_last: bool = setting(
        True, "start the last normalisation of a block at 0 if timm's model does; no = at 1"
    )
    regulariser: str = setting(
        "", "one of Table 5's regularisers, at its usual strength", choices=REGULARISERS
    )

    image_size: int = setting(
        0, "side of training images from a tree of large ones; 0 = small images", range="[0, 4096]"
    )
    test_size: int = setting(0, "side of test images; 0 = --image-size", range="[0, 4096]")
    test_resize: int = setting(
        0,
        "shorter side of test images before their middle is taken; 0 = 256/224 of it",
        range="[0, 8192]",
    )
    interpolation: str = setting(
        "nearest",
        "how policies sample; crops are bilinear; random = crops bilinear or bicubic, bicubic in "
        "tests, policies bilinear",
        choices=["nearest", "bilinear", "random"],
    )
    padding: int = setting(4, "random-crop padding of small images; 0 = no crop", range="[0, 512]")
    flip: bool = setting(True, "random horizontal flip")
    jitter: bool = setting(False, "CutMix's colour jitter and lighting noise")

    policy: str = setting("", "image-level augmentation", choices=POLICIES, role="policy")
    policy_set: str = setting(
        "cifar10", "AutoAugment policy", choices=["cifar10", "imagenet", "svhn"], role="policy"
    )
    num_ops: int = setting(3, "RandAugment operations per image", range="[1, 100]", role="policy")
    magnitude: int = setting(
        -1,
        "RandAugment strength, 0-30; for AutoAugment replaces its own; -1 = default",
        range="[-1, 30]",
        role="policy",
    )
    policy_space: str = setting(
        "torchvision",
        "whose operations a magnitude is for",
        choices=["torchvision", "original", "timm"],
        role="policy",
    )
    policy_fill: str = setting(
        "mean", "colour beyond the image in policies", choices=["mean", "black"], role="policy"
    )
    cut: str = setting("", "region-level augmentation", choices=CUTS, role="cut")
    size: int = setting(16, "side of Cutout's box; 0 = no box", range="[0, 4096]", role="cut")
    cut_p: float = setting(1.0, "probability of cutting an image", range="[0, 1]", role="cut")
    erasing: str = setting(
        "original",
        "whose Random Erasing: original = noise in 2-40% of the area, torchvision = zeros in 2-33%",
        choices=["original", "torchvision"],
        role="cut",
    )
    mix: str = setting("", "label-mixing augmentation", choices=MIXES, role="mix")
    mix_alpha: float = setting(
        1.0, "lambda is drawn from Beta(alpha, alpha)", range="(0, 1000]", role="mix"
    )
    attention: str = setting(
        "pretrained",
        "network of Attentive CutMix: pretrained, random, or a state dict's file",
        role="mix",
        files=file_at,
    )
    mix_p: float = setting(1.0, "probability of mixing a batch", range="[0, 1]", role="mix")

    keep: str = setting("", "stage that spares the important region", choices=KEEPS, role="keep")
    tau: float = setting(
        0.6,
        "importance quantile: cut at or below it, paste at or above",
        range="[0, 1]",
        role="keep",
    )
    paste_size: int = setting(16, "side of the pasted region", range="[1, 4096]", role="keep")
    match_area: bool = setting(False, "keep the plain method's cut-area distribution", role="keep")
    saliency: str = setting(
        "gradient",
        "importance map, or a control; auto = cheapest map that agrees with full ones, recycled = "
        "gradients of earlier steps, oracle = --objects",
        choices=[*SALIENCIES, "auto", "recycled", *ORACLES],
        role="keep",
    )
    agreement: float = setting(
        0.6, "box agreement with full maps that --saliency auto demands", range="[0, 1]", role="map"
    )
    scale: float = setting(
        1.0,
        "scale of the images that maps are computed on; 0.5 = low resolution",
        range="(0, 1]",
        role="map",
    )
    cache: int = setting(
        0, "epochs between refreshes of stored maps; 0 = none stored", range="[0, 1e6]", role="map"
    )
    early_head: str = setting("", "stage whose auxiliary head gives the maps", role="map")
    early_weight: float = setting(
        0.3, "auxiliary head's loss weight", range="[0, 1000]", role="map"
    )

    epochs: int = setting(300, "passes over the training set", range="[1, 1e6]")
    batch_size: int = setting(128, "images per step", range="[1, 65536]", shared=True)
    optimizer: str = setting("sgd", "sgd (Nesterov), or any of timm's; momentum = plain SGD")
    lr: float = setting(0.1, "peak learning rate; 0 = learn nothing", range="[0, 1e10]")
    momentum: float = setting(0.9, "SGD momentum", range="[0, 1)")
    weight_decay: float = setting(5e-4, "weight decay", range="[0, 1]")
    norm_decay: bool = setting(True, "decay biases and normalisation layers too")
    bias_decay: bool = setting(False, "with --no-norm-decay, decay other layers' biases")
    schedule: str = setting(
        "cosine",
        "cosine to 0, x0.1 at 25, 50 and 75% of the epochs, or a code's cosine by epochs",
        choices=["cosine", "step", "torchvision", "timm"],
    )
    warmup: int = setting(0, "epochs of linear warm-up, at most --epochs", range="[0, 1e6]")
    clip: float = setting(0.0, "max gradient norm; 0 = no clipping", range="[0, 1e6]")
    smoothing: float = setting(0.0, "label smoothing", range="[0, 1)")
    loss: str = setting("ce", "cross-entropy, or binary per class", choices=["ce", "bce"])
    ema: float = setting(0.0, "decay of averaged weights, then tested; 0 = off", range="[0, 1)")
    ema_every: int = setting(
        1,
        "steps between updates of averaged weights; from 2 on, a copy in warm-up, as torchvision's",
        range="[1, 1e6]",
    )

    flip_test: bool = setting(False, "average logits over an image and its mirror image in tests")

    nonfinite: str = setting(
        "stop", "on a non-finite loss or gradient", choices=["stop", "skip"], may_change=True
    )
    eval_every: int = setting(
        1, "epochs between tests; the last is always tested", range="[1, 1e6]", role="neutral"
    )
    occlusion: bool = setting(True, "the last test is also on occluded images", role="neutral")
    record: bool = setting(
        False, "store which images the last test has right, as right.json", role="neutral"
    )
    bf16: bool = setting(False, "bfloat16 autocast")
    channels_last: bool = setting(False, "channels-last memory format", role="neutral")
    compile: bool = setting(
        False, "torch.compile the model, its maps and the augmentation", role="neutral"
    )
    tensorboard: bool = setting(
        False, "write TensorBoard events beside metrics.jsonl", may_change=True
    )
    seed: int = setting(
        0, "seed of weights, order, crops, policies and boxes", range="[0, 2e9]", role="neutral"
    )

    def __post_init__(self) -> None:
        """Refuse settings out of range or that contradict each other, before anything is read."""
        check(self)
        if self.keep == "cut":
            check_keep(
                self, cut=self.cut in ("cutout", "random_erasing"), cut_p=self.cut_p > 0,
                size=self.size > 0 or self.cut != "cutout",
            )  # fmt: skip
        elif self.keep == "mix":
            check_keep(self, mix=self.mix in ("cutmix", "mixup_or_cutmix"), mix_p=self.mix_p > 0)
        else:
            check_keep(self, policy=bool(self.policy))
        if self.policy_space == "timm" and self.policy != "randaugment":
            raise ValueError(f"policy_space=timm is for RandAugment, found policy={self.policy!r}")
        if self.warmup > self.epochs:
            raise ValueError(f"warmup must be at most epochs={self.epochs}, found {self.warmup}")
        if self.dataset == "images" and not self.image_size:
            raise ValueError("a tree of large images needs --image-size")
        if self.test_resize and self.test_resize < (self.test_size or self.image_size):
            raise ValueError(f"test_resize={self.test_resize} is less than the side of test images")
        if self.dataset != "images" and (self.image_size or self.test_size or self.test_resize):
            raise ValueError(
                "image_size, test_size and test_resize are for dataset='images', "
                f"found {self.dataset!r}"
            )
        if self.test_rest and self.image_size:
            raise ValueError("test_rest is for small images, found a tree of large ones")
        if self.image_size:
            self.check_image_size((self.image_size, self.image_size))
        if self.cache:
            self._check_cache()
        if self.saliency == "auto":
            self._check_auto()
        if self.saliency == "recycled":
            self._check_recycled()
        if self.keep and self.saliency in ORACLES:
            if not self.objects:
                raise ValueError(f"saliency={self.saliency} needs --objects, boxes or masks")
            self._check_frame("another --saliency")

    def check_image_size(self, image_size: tuple[int, int]) -> None:
        """Raise ValueError for lengths that do not fit in the training images (H, W)."""
        lengths = {} if self.image_size else {"padding": self.padding}
        if self.cut == "cutout":
            lengths["size"] = self.size
        if self.keep == "paste":
            lengths["paste_size"] = self.paste_size
        check_lengths(image_size, **lengths)
        if self.keep:
            check_scale(self.scale, image_size)

    def _check_cache(self) -> None:
        if not self.keep or self.saliency in NO_GRADIENT:
            raise ValueError(
                f"cache={self.cache} has no map to store "
                f"(keep={self.keep!r}, saliency={self.saliency!r})"
            )
        self._check_frame("--cache 0")

    def _check_frame(self, cure: str) -> None:
        """Refuse stored maps of images that a policy has changed."""
        if self.policy and self.keep != "paste":
            raise ValueError(
                f"stored maps follow crop and flip, not what {self.policy} does to an image; "
                f"keep={self.keep} needs {cure} there"
            )

    def _check_recycled(self) -> None:
        if not self.keep or self.scale != 1.0 or self.cache:
            raise ValueError(
                "saliency=recycled stores the gradients of a Keep arm's own steps, found "
                f"keep={self.keep!r}, scale={self.scale}, cache={self.cache}"
            )
        if self.mix and self.mix not in ("cutmix", "attentive_cutmix"):
            raise ValueError(
                f"{self.mix} shows two images in one pixel, so the gradient there is no image's "
                "own; saliency=recycled needs another mix"
            )
        self._check_frame("another --saliency")

    def _check_auto(self) -> None:
        if not self.keep or self.scale != 1.0 or self.cache:
            raise ValueError(
                f"saliency=auto chooses the scale of the maps of a Keep arm itself, found "
                f"keep={self.keep!r}, scale={self.scale}, cache={self.cache}"
            )
