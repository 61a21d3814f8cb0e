"""Every setting of a re-identification run. Defaults are those of Bag of Tricks.

Bag of Tricks: Luo et al., CVPRW 2019, arXiv:1903.07071, and its code, reid-strong-baseline.
"""

from __future__ import annotations

from dataclasses import dataclass

from keepbench.files import file_at
from keepbench.maps import KeepCut
from keepbench.settings import check, check_keep, check_lengths, one_of, setting

DATASETS = ["market", "toy"]
ARCHS = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]
FILLS = ["mean", "zero", "random"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a run; lengths are in pixels, shares and probabilities in [0, 1]."""

    dataset: str = setting(
        "market", "Market-1501's layout, or drawn pedestrians in it", choices=DATASETS
    )
    data: str = setting("data/market1501", "dataset folder; toy is drawn there", role="neutral")
    split_seed: int = setting(
        0, "seed of the split if there is only bounding_box_train", range="[0, 2e9]"
    )
    subset: int = setting(0, "number of training identities; 0 = all", range="[0, 1e9]")
    test_subset: int = setting(0, "number of test identities; 0 = all", range="[0, 1e9]")
    bad_files: str = setting(
        "refuse",
        "what to do with names outside the pattern and broken images",
        choices=["refuse", "skip"],
    )
    workers: int = setting(
        4,
        "processes or threads that read images; 0 = none extra",
        range="[0, 512]",
        may_change=True,
    )
    height: int = setting(256, "image height", range="[1, 4096]")
    width: int = setting(128, "image width", range="[1, 4096]")

    arch: str = setting("resnet50", "backbone, torchvision's", choices=ARCHS)
    weights: str = setting(
        "torchvision",
        "initial weights: torchvision (ImageNet V1), timm:NAME, none, or the file of a state dict "
        "or of a classification checkpoint",
        files=file_at,
    )
    download: bool = setting(
        False, "fetch torchvision's or timm's weights if missing", role="neutral"
    )
    last_stride: int = setting(1, "stride of the backbone's last stage", choices=[1, 2])
    stem_relu: bool = setting(False, "ReLU after the stem, which Bag of Tricks leaves out")
    neck: bool = setting(True, "BNNeck: BatchNorm between feature and classifier")

    padding: int = setting(10, "random-crop padding; 0 = no crop", range="[0, 512]")
    flip: bool = setting(True, "random horizontal flip")
    erase_p: float = setting(0.5, "Random Erasing probability", range="[0, 1]")
    erase_fill: str = setting(
        "mean",
        "mean: ImageNet's mean written into the normalised image, as Bag of Tricks does; "
        "zero: the mean colour; random: normal noise",
        choices=FILLS,
    )
    keep: KeepCut | None = one_of((KeepCut, KeepCut), "KeepAugment: erase only unimportant regions")

    num_ids: int = setting(16, "identities per batch (P)", range="[2, 4096]", shared=True)
    num_instances: int = setting(4, "images per identity (K)", range="[2, 4096]")
    epochs: int = setting(120, "passes over the identities", range="[1, 1e6]")
    lr: float = setting(
        3.5e-4,
        "Adam's peak learning rate, x0.1 at 1/3 and 7/12 of the epochs; 0 = learn nothing",
        range="[0, 1e10]",
    )
    weight_decay: float = setting(5e-4, "L2 on all parameters", range="[0, 1]")
    warmup: int = setting(
        10, "epochs of linear warm-up from 0.01 x lr, at most --epochs", range="[0, 1e6]"
    )
    smoothing: float = setting(0.1, "label smoothing", range="[0, 1)")
    margin: float = setting(0.3, "batch-hard triplet margin", range="[0, 1000]")
    centre_weight: float = setting(5e-4, "centre loss weight; 0 = off", range="[0, 1000]")
    centre_lr: float = setting(0.5, "SGD learning rate of the centres", range="(0, 1000]")
    losses: str = setting(
        "batched",
        "cross-entropy and triplet loss: batched, or torchreid's own, equal but slower on a GPU",
        choices=["batched", "torchreid"],
    )

    eval_every: int = setting(
        40,
        "epochs between tests; start and end are always tested",
        range="[1, 1e6]",
        role="neutral",
    )
    rerank: bool = setting(False, "k-reciprocal re-ranking at the end, in columns of its own")
    record: bool = setting(
        False, "store each query's average precision in the last test, as items.json",
        role="neutral",
    )  # fmt: skip
    sheet: int = setting(
        8, "queries in the final picture of ranked lists; 0 = no picture", range="[0, 1000]"
    )
    bf16: bool = setting(False, "bfloat16 autocast")
    channels_last: bool = setting(False, "channels-last memory format", role="neutral")
    tensorboard: bool = setting(
        False, "write TensorBoard events beside metrics.jsonl", may_change=True
    )
    seed: int = setting(
        0, "seed of weights, order, crops and boxes", range="[0, 2e9]", role="neutral"
    )

    def __post_init__(self) -> None:
        """Refuse settings out of range or that contradict each other, before anything is read."""
        check(self)
        check_keep(self, erase_p=self.erase_p > 0)
        if self.warmup > self.epochs:
            raise ValueError(f"warmup must be at most epochs={self.epochs}, found {self.warmup}")
        check_lengths((self.height, self.width), padding=self.padding)
        if self.keep:
            self.keep.check_image_size((self.height, self.width))

    @property
    def batch_size(self) -> int:
        """Images in a step, over all processes."""
        return self.num_ids * self.num_instances
