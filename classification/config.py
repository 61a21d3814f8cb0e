"""Every setting of a training run."""

from __future__ import annotations

from dataclasses import dataclass, replace

from classification.methods import CUTS, KEEPS, MIXES, Cut, Keep, Mix
from classification.models import pretrained
from keepbench.files import file_at, files_at
from keepbench.own_network import source_files
from keepbench.own_policy import Own, Timm
from keepbench.policies import POLICIES, Policy
from keepbench.settings import check, check_lengths, one_of, setting
from keepbench.starting import COLOURS, WEIGHTS

DATASETS = ["cifar10", "cifar100", "digits", "folder", "images"]
"""Small images (CIFAR, digits, a class-folder tree), or "images": a tree of large ones."""
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
        "boxes (CSV) or masks (folder) of a tree's training images, for --keep.map oracle",
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
    weights: str = setting("", WEIGHTS, files=file_at)
    colours: str = setting("auto", COLOURS, choices=["auto", "data", "network"])
    frozen: str = setting("", "last of the first stages that stay as --weights has them")
    classifier_lr: float = setting(
        1.0, "learning rate of the classifier, in units of --lr", range="(0, 1e4]"
    )
    dropout: float = setting(0.0, "dropout inside the blocks of a Wide ResNet", range="[0, 1)")
    zero_init_last: bool = setting(
        True, "start the last normalisation of a block at 0 if timm's model does; no = at 1"
    )
    regulariser: str = setting(
        "", "one of Table 5's regularisers, at its usual strength", choices=REGULARISERS
    )

    image_size: int = setting(
        0,
        "side of training images from a tree of large ones; 0 = small images, or with --weights "
        "timm's for the network",
        range="[0, 4096]",
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

    policy: Policy | None = one_of((*POLICIES, Own, Timm), "image-level augmentation")
    cut: Cut | None = one_of(CUTS, "region-level augmentation")
    mix: Mix | None = one_of(MIXES, "label-mixing augmentation")
    keep: Keep | None = one_of(KEEPS, "KeepAugment: the stage that spares the important region")
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
        if self.warmup > self.epochs:
            raise ValueError(f"warmup must be at most epochs={self.epochs}, found {self.warmup}")
        if self.frozen and not self.weights:
            raise ValueError(f"frozen={self.frozen} would keep random weights; give --weights")
        if self.dataset == "images" and not self.image_size:
            known = pretrained(self.weights, self.arch) if self.weights else {}
            if "input_size" not in known:
                raise ValueError(
                    "a tree of large images needs --image-size, or --weights whose network timm "
                    "knows"
                )
            object.__setattr__(self, "image_size", known["input_size"][-1])
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
        if self.keep:
            self.keep.check_in(self)

    def check_image_size(self, image_size: tuple[int, int]) -> None:
        """Raise ValueError for lengths that do not fit in the training images (H, W)."""
        if not self.image_size:
            check_lengths(image_size, padding=self.padding)
        for each in (self.cut, self.keep):
            if each:
                each.check_image_size(image_size)

    @property
    def plain(self) -> Config:
        """Its plain arm."""
        return replace(self, keep=None)
