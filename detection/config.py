"""Every setting of a detection run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from detection.detectron import DETECTORS
from detection.names import BLOCKS


def _setting(
    default: Any, help: str, choices: list[Any] | None = None, *, free: bool = False
) -> Any:
    """A field; a `free` one may change when a run goes on, since it changes no result."""
    return field(default=default, metadata={"help": help, "choices": choices, "free": free})


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a run; what is not here is as in Detectron2's model zoo."""

    dataset: str = _setting("coco", "coco: any folder of COCO's format; or toy", ["coco", "toy"])
    data: str = _setting("data/coco", "folder of the dataset")
    train_images: str = _setting("train2017", "folder of images in it")
    test_images: str = _setting("val2017", "folder of images in it")
    train_boxes: str = _setting("annotations/instances_train2017.json", "file in it")
    test_boxes: str = _setting("annotations/instances_val2017.json", "file in it")
    test_on_train: bool = _setting(False, "test on the training images: do they over-fit?")
    subset: int = _setting(0, "train on as many images only; 0 is all")
    test_subset: int = _setting(0, "test on as many images only; 0 is all")
    bad_boxes: str = _setting("clip", "boxes outside their image or empty", ["clip", "refuse"])
    workers: int = _setting(4, "processes that read images", free=True)

    detector: str = _setting("faster_rcnn_fpn", "of Detectron2's model zoo", [*DETECTORS])
    depth: int = _setting(50, "of the ResNet", [*BLOCKS])
    backbone: str = _setting("", "file of tools/export_backbone.py, or none: random weights")
    smooth_l1_beta: float = _setting(0.0, "of RetinaNet's box loss; 0.1 until May 2020")

    schedule: float = _setting(3.0, "passes over the data: 1 is 90,000 steps of 16 COCO images")
    iterations: int = _setting(0, "steps, in place of the schedule's")
    batch_size: int = _setting(16, "images in a step, over all processes")
    lr: float = _setting(0.0, "at the peak; 0 is the zoo's, scaled with the batch")
    min_size: int = _setting(0, "shorter side of images in pixels; 0 is 640 to 800, tested at 800")
    max_size: int = _setting(1333, "longest side of images in pixels")
    flip: bool = _setting(True, "mirror images at random")

    extra: str = _setting("", "more settings of Detectron2, as 'KEY VALUE KEY VALUE'")
    tests: int = _setting(10, "tests and checkpoints over the run, evenly; the end is one")
    pictures: int = _setting(8, "test images drawn with boxes and predictions", free=True)
    gpus: int = _setting(1, "processes, a GPU each", free=True)
    seed: int = _setting(0, "of weights, order and crops; and of the subset")

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
