"""Every setting of a re-identification run. Defaults are those of Bag of Tricks.

Bag of Tricks: Luo et al., CVPRW 2019, arXiv:1903.07071, and its code, reid-strong-baseline.
"""

from __future__ import annotations

from dataclasses import dataclass

from keepbench.methods import SALIENCIES
from keepbench.settings import setting

DATASETS = ["market", "toy"]
ARCHS = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]
FILLS = ["mean", "zero", "random"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a run; lengths are in pixels, shares and probabilities in [0, 1]."""

    dataset: str = setting("market", "Market-1501's layout, or drawn pedestrians in it", DATASETS)
    data: str = setting("data/market1501", "folder of the dataset; drawn ones are put there")
    split_seed: int = setting(0, "of the split of a folder that has only bounding_box_train")
    subset: int = setting(0, "train on as many identities only; 0 is all")
    test_subset: int = setting(0, "test on as many identities only; 0 is all")
    bad_files: str = setting(
        "refuse", "what to do with names outside the pattern and broken images", ["refuse", "skip"]
    )
    workers: int = setting(4, "processes or threads that read images", may_change=True)
    height: int = setting(256, "of images")
    width: int = setting(128, "of images")

    arch: str = setting("resnet50", "backbone, torchvision's", ARCHS)
    weights: str = setting(
        "torchvision",
        "at the start: torchvision (ImageNet V1), timm:NAME, none, or the file of a state dict or "
        "of a checkpoint of a classification run",
    )
    download: bool = setting(False, "fetch torchvision's or timm's weights if they are not here")
    last_stride: int = setting(1, "of the backbone's last stage: 1 or 2")
    stem_relu: bool = setting(False, "activation after the stem, which Bag of Tricks leaves out")
    neck: bool = setting(True, "BNNeck: batch normalisation between feature and classifier")

    padding: int = setting(10, "of the random crop")
    flip: bool = setting(True, "mirror images at random")
    erase_p: float = setting(0.5, "probability of Random Erasing")
    erase_fill: str = setting(
        "mean",
        "mean: ImageNet's mean written into the normalised image, as Bag of Tricks does; "
        "zero: the mean colour; random: normal noise",
        FILLS,
    )
    keep: str = setting("", "cut: erase where it is not important", ["", "cut"])
    tau: float = setting(0.6, "quantile of importance that an erased box reaches at most")
    saliency: str = setting("gradient", "map, or a control in its place", SALIENCIES)
    scale: float = setting(1.0, "of the copy that the map is taken of; 0.5 is low resolution")

    num_ids: int = setting(16, "identities in a batch (P), over all processes")
    num_instances: int = setting(4, "images of each of them (K)")
    epochs: int = setting(120, "passes over the identities")
    lr: float = setting(3.5e-4, "of Adam; a tenth after 1/3 and 7/12 of the epochs")
    weight_decay: float = setting(5e-4, "of all parameters (L2)")
    warmup: int = setting(10, "epochs of linear warm-up from a hundredth; 0 is none")
    smoothing: float = setting(0.1, "of labels")
    margin: float = setting(0.3, "of the batch-hard triplet loss")
    centre_weight: float = setting(5e-4, "of the centre loss; 0 leaves it out")
    centre_lr: float = setting(0.5, "of the centres (SGD)")
    losses: str = setting(
        "batched",
        "cross-entropy and triplet loss: batched, or torchreid's own, which are equal and make a "
        "GPU wait",
        ["batched", "torchreid"],
    )

    eval_every: int = setting(40, "epochs between tests; start and end are always tested")
    rerank: bool = setting(False, "k-reciprocal re-ranking at the end, a column of its own")
    sheet: int = setting(8, "queries in the picture of ranked lists at the end; 0 draws none")
    bf16: bool = setting(False, "compute in bfloat16 (autocast)")
    channels_last: bool = setting(False, "memory layout of images and weights")
    tensorboard: bool = setting(False, "TensorBoard events beside metrics.jsonl", may_change=True)
    seed: int = setting(0, "of weights, order, crops and boxes")

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other, before anything is read."""
        if self.keep and not self.erase_p:
            raise ValueError(f"keep={self.keep} has nothing to keep from (erase_p=0)")
        if self.num_ids < 2 or self.num_instances < 2:
            raise ValueError(
                f"batch-hard triplets need 2 identities and 2 images of each at least, found "
                f"num_ids={self.num_ids}, num_instances={self.num_instances}"
            )
        if self.last_stride not in (1, 2):
            raise ValueError(f"last_stride must be 1 or 2, found {self.last_stride}")
        if min(self.epochs, self.eval_every, self.height, self.width) < 1:
            raise ValueError("epochs, eval_every, height and width must be at least 1")
        if min(self.subset, self.test_subset, self.workers, self.sheet, self.warmup) < 0:
            raise ValueError("subset, test_subset, workers, sheet and warmup must not be negative")
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing must be in [0, 1), found {self.smoothing}")

    @property
    def batch_size(self) -> int:
        """Images in a step, over all processes."""
        return self.num_ids * self.num_instances
