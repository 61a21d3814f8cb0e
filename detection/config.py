"""Every setting of a detection run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from detection.detectron import DETECTORS
from detection.names import BLOCKS
from keepbench.files import file_at
from keepbench.settings import check, check_shared, setting


def _exported(backbone: str) -> list[Path]:
    """The file of an exported backbone, and that of its settings."""
    places = ((path, path.with_suffix(".yaml")) for path in file_at(backbone))
    return [each for pair in places for each in pair if each.is_file()]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a run; what is not here is as in Detectron2's model zoo."""

    dataset: str = setting(
        "coco", "coco: any folder in COCO format; toy: drawn", choices=["coco", "toy"]
    )
    data: str = setting("data/coco", "dataset folder", role="neutral")
    train_images: str = setting("train2017", "folder of training images in --data")
    test_images: str = setting("val2017", "folder of test images in --data")
    train_boxes: str = setting(
        "annotations/instances_train2017.json", "training annotations in --data"
    )
    test_boxes: str = setting("annotations/instances_val2017.json", "test annotations in --data")
    test_on_train: bool = setting(False, "test on the training images, to see over-fitting")
    subset: int = setting(0, "number of training images; 0 = all", range="[0, 1e9]")
    test_subset: int = setting(0, "number of test images; 0 = all", range="[0, 1e9]")
    bad_boxes: str = setting(
        "clip",
        "what to do with boxes that are empty or leave their image",
        choices=["clip", "refuse"],
    )
    workers: int = setting(
        4, "processes that read images; 0 = none extra", range="[0, 512]", may_change=True
    )

    detector: str = setting("faster_rcnn_fpn", "from Detectron2's model zoo", choices=[*DETECTORS])
    depth: int = setting(50, "ResNet depth", choices=[*BLOCKS])
    backbone: str = setting(
        "",
        "file made by tools/export_backbone.py, or none: random weights",
        role="file",
        files=_exported,
    )
    smooth_l1_beta: float = setting(
        0.0, "RetinaNet's box loss; 0 = L1, zoo models until May 2020 used 0.1", range="[0, 1000]"
    )

    schedule: float = setting(
        3.0, "passes over the data; 1 = 90,000 steps of 16 COCO images", range="(0, 1000]"
    )
    iterations: int = setting(0, "steps, replaces --schedule; 0 = use it", range="[0, 1e9]")
    batch_size: int = setting(16, "images per step", range="[1, 65536]", shared=True)
    lr: float = setting(
        0.0, "peak learning rate; 0 = the zoo's, scaled with the batch", range="[0, 1e10]"
    )
    min_size: int = setting(
        0, "shorter image side; 0 = 640-800 in training, 800 in tests", range="[0, 4096]"
    )
    max_size: int = setting(1333, "longest image side", range="[1, 16384]")
    flip: bool = setting(True, "random horizontal flip")
    erasing: str = setting(
        "none",
        "random erasing: plain, or keep: boxes are importance and are spared",
        choices=["none", "plain", "keep"],
    )
    hidden_share: float = setting(
        0.3, "most that --erasing keep may hide of a box's area; 0 = nothing", range="[0, 1]"
    )

    extra: str = setting("", "further Detectron2 settings, as 'KEY VALUE KEY VALUE'")
    tests: int = setting(
        10, "tests and checkpoints, evenly over the run; the last at its end", range="[1, 1e6]"
    )
    pictures: int = setting(
        8,
        "test images drawn with boxes and predictions; 0 = none",
        range="[0, 1e5]",
        may_change=True,
    )
    record: bool = setting(
        False, "store each test image's average precision in the last test, as items.json",
        role="neutral",
    )  # fmt: skip
    gpus: int = setting(1, "processes, one GPU each", range="[1, 4096]", may_change=True)
    seed: int = setting(
        0, "seed of weights, order, crops and subset", range="[0, 2e9]", role="neutral"
    )

    def __post_init__(self) -> None:
        """Refuse settings out of range or that contradict each other, before anything is read."""
        check(self)
        if self.min_size > self.max_size:
            raise ValueError(f"min_size {self.min_size} is above max_size {self.max_size}")
        if self.smooth_l1_beta and self.detector != "retinanet":
            raise ValueError(f"smooth_l1_beta is RetinaNet's; {self.detector} has another loss")
        if self.detector == "faster_rcnn_c4" and self.depth < 50:
            raise ValueError(f"Detectron2 has no C4 head for ResNet-{self.depth}; 50 is the least")
        check_shared(self, self.gpus)
