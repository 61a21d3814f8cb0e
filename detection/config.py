"""Every setting of a detection run."""

from __future__ import annotations

from dataclasses import dataclass

from detection.detectron import DETECTORS
from detection.names import BLOCKS
from keepbench.settings import setting


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a run; what is not here is as in Detectron2's model zoo."""

    dataset: str = setting("coco", "coco: any folder of COCO's format; or toy", ["coco", "toy"])
    data: str = setting("data/coco", "folder of the dataset")
    train_images: str = setting("train2017", "folder of images in it")
    test_images: str = setting("val2017", "folder of images in it")
    train_boxes: str = setting("annotations/instances_train2017.json", "file in it")
    test_boxes: str = setting("annotations/instances_val2017.json", "file in it")
    test_on_train: bool = setting(False, "test on the training images: do they over-fit?")
    subset: int = setting(0, "train on as many images only; 0 is all")
    test_subset: int = setting(0, "test on as many images only; 0 is all")
    bad_boxes: str = setting("clip", "boxes outside their image or empty", ["clip", "refuse"])
    workers: int = setting(4, "processes that read images", may_change=True)

    detector: str = setting("faster_rcnn_fpn", "of Detectron2's model zoo", [*DETECTORS])
    depth: int = setting(50, "of the ResNet", [*BLOCKS])
    backbone: str = setting("", "file of tools/export_backbone.py, or none: random weights")
    smooth_l1_beta: float = setting(0.0, "of RetinaNet's box loss; 0.1 until May 2020")

    schedule: float = setting(3.0, "passes over the data: 1 is 90,000 steps of 16 COCO images")
    iterations: int = setting(0, "steps, in place of the schedule's")
    batch_size: int = setting(16, "images in a step, over all processes")
    lr: float = setting(0.0, "at the peak; 0 is the zoo's, scaled with the batch")
    min_size: int = setting(0, "shorter side of images in pixels; 0 is 640 to 800, tested at 800")
    max_size: int = setting(1333, "longest side of images in pixels")
    flip: bool = setting(True, "mirror images at random")

    extra: str = setting("", "more settings of Detectron2, as 'KEY VALUE KEY VALUE'")
    tests: int = setting(10, "tests and checkpoints over the run, evenly; the end is one")
    pictures: int = setting(8, "test images drawn with boxes and predictions", may_change=True)
    gpus: int = setting(1, "processes, a GPU each", may_change=True)
    seed: int = setting(0, "of weights, order and crops; and of the subset")

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other, before anything is read."""
        for name in ("batch_size", "tests", "gpus", "max_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")
        for name in ("subset", "test_subset", "iterations", "lr", "min_size", "smooth_l1_beta"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, found {getattr(self, name)}")
        if self.iterations == 0 and self.schedule <= 0:
            raise ValueError(f"schedule must be above 0, found {self.schedule}")
        if self.smooth_l1_beta and self.detector != "retinanet":
            raise ValueError(f"smooth_l1_beta is RetinaNet's; {self.detector} has another loss")
        if self.detector == "faster_rcnn_c4" and self.depth < 50:
            raise ValueError(f"Detectron2 has no C4 head for ResNet-{self.depth}; 50 is the least")
        if self.batch_size % self.gpus:
            raise ValueError(f"batch_size {self.batch_size} does not divide among {self.gpus} GPUs")
