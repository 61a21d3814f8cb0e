"""From a run's config to Detectron2's: the model zoo's file and what differs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from detection.config import Config
from detection.detectron import zoo_config
from detection.export import DIFFERENT
from detection.names import check_shapes
from detection.pickles import read_pickle
from detection.schedule import make_schedule
from detection.sources import read_json, sha256
from keepbench.images import IMAGENET_MEAN, IMAGENET_STD, check_colours

NONE = "none"


@dataclass(frozen=True)
class Backbone:
    """An exported backbone.

    Attributes:
        path: its file of weights; None if they are random.
        weights: by the names of Detectron2's ResNet.
        settings: what Detectron2's config needs for them.
        checked: what its export proved, in words.
    """

    path: Path | None
    weights: Mapping[str, Tensor]
    settings: Mapping[str, Any]
    checked: str


def random_backbone(depth: int) -> Backbone:
    """Random weights, with what the model zoo's configs "scratch" set.

    Frozen statistics of random weights normalise nothing, so nothing is frozen and GroupNorm
    stands in the ResNet and the pyramid (He et al., arXiv:1811.08883).
    """
    model = {
        "PIXEL_MEAN": [255 * value for value in IMAGENET_MEAN],
        "PIXEL_STD": [255 * value for value in IMAGENET_STD],
        "RESNETS": {"DEPTH": depth, "NORM": "GN", "STRIDE_IN_1X1": False},
        "BACKBONE": {"FREEZE_AT": 0},
        "FPN": {"NORM": "GN"},
    }
    settings = {"MODEL": model, "INPUT": {"FORMAT": "RGB"}}
    return Backbone(None, {}, settings, "random weights")


def open_backbone(config: Config) -> Backbone:
    """Read the backbone of a config with its YAML, and check both.

    Raises:
        ValueError: It is missing or no file of plain arrays, its weights or its YAML are of another
            depth, or its JSON tells of other files or of a failed check.
    """
    if config.backbone == NONE:
        return random_backbone(config.depth)
    if not config.backbone:
        raise ValueError("give --backbone FILE.pkl, of tools/export_backbone.py, or none")
    path = Path(config.backbone).expanduser()
    if path.suffix != ".pkl":
        raise ValueError(f"a backbone is a .pkl of tools/export_backbone.py, found {path}")
    if not path.is_file():
        raise ValueError(
            f"no backbone {path}; make it by python tools/export_backbone.py CHECKPOINT "
            f"--to detectron2 --out {path} --verify, or give --backbone none"
        )
    weights = read_pickle(path)
    beside, record = path.with_suffix(".yaml"), path.with_suffix(".json")
    if not beside.is_file():
        raise ValueError(f"no {beside}: the settings of {path} are missing; export it anew")
    try:
        settings = yaml.safe_load(beside.read_bytes())
        depth = settings["MODEL"]["RESNETS"]["DEPTH"]
    except (KeyError, TypeError, RecursionError, yaml.YAMLError):
        raise ValueError(f"{beside} has no MODEL.RESNETS.DEPTH; export {path} anew") from None
    if depth != config.depth:
        raise ValueError(f"{path} holds a ResNet-{depth}, the run wants {config.depth}")
    check_shapes({name: tuple(value.shape) for name, value in weights.items()}, depth)
    return Backbone(path, weights, settings, _checked(path, record))


def _checked(path: Path, record: Path) -> str:
    """The check that an export's JSON records."""
    if not record.is_file():
        return "nothing: no JSON beside it"
    about = read_json(record)
    for file, name in ((path, "sha256"), (path.with_suffix(".yaml"), "settings_sha256")):
        if about.get(name) != sha256(file):
            raise ValueError(f"{record} tells of another file than {file}; export it anew")
    if about.get("checked") == DIFFERENT:
        raise ValueError(f"{record} says that {DIFFERENT} from those of the source")
    return str(about.get("checked", "nothing: its JSON says nothing"))


def make_cfg(
    config: Config, backbone: Backbone, folder: Path, *, images: int, classes: int, device: str
) -> Any:
    """Detectron2's config of a run: a CfgNode.

    Args:
        config: the run's settings.
        backbone: its weights and what they need.
        folder: the run's.
        images: with boxes, in the training set.
        classes: how many.
        device: for Detectron2, "cuda" or "cpu".
    """
    cfg = zoo_config(config.detector, config.depth)
    try:
        cfg.merge_from_other_cfg(type(cfg)(backbone.settings))
    except (AssertionError, KeyError, ValueError) as error:
        name = backbone.path.with_suffix(".yaml") if backbone.path else "a random backbone"
        raise ValueError(f"{name} is not for Detectron2: {error}") from None
    cfg.MODEL.WEIGHTS = str(backbone.path or "")
    cfg.MODEL.DEVICE = device
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.RETINANET.NUM_CLASSES = classes
    cfg.MODEL.RETINANET.SMOOTH_L1_LOSS_BETA = config.smooth_l1_beta
    plan = make_schedule(
        images=images, batch_size=config.batch_size, zoo_lr=cfg.SOLVER.BASE_LR,
        schedule=config.schedule, iterations=config.iterations, lr=config.lr,
    )  # fmt: skip
    cfg.SOLVER.IMS_PER_BATCH = config.batch_size
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS = plan.iterations, plan.drops
    cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.BASE_LR = plan.warmup, plan.lr
    cfg.TEST.EVAL_PERIOD = cfg.SOLVER.CHECKPOINT_PERIOD = max(1, plan.iterations // config.tests)
    if config.min_size:
        cfg.INPUT.MIN_SIZE_TRAIN = (config.min_size,)
        cfg.INPUT.MIN_SIZE_TEST = config.min_size
    cfg.INPUT.MAX_SIZE_TRAIN = cfg.INPUT.MAX_SIZE_TEST = config.max_size
    cfg.INPUT.RANDOM_FLIP = "horizontal" if config.flip else "none"
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("coco_run_train",), ("coco_run_test",)
    cfg.DATALOADER.NUM_WORKERS = config.workers
    cfg.OUTPUT_DIR, cfg.SEED = str(folder), config.seed
    try:
        cfg.merge_from_list(config.extra.split())
    except (AssertionError, KeyError, ValueError) as error:
        raise ValueError(f"extra={config.extra!r} is not for Detectron2: {error}") from None
    check_colours(*([v / 255 for v in cfg.MODEL[name]] for name in ("PIXEL_MEAN", "PIXEL_STD")))
    if min(cfg.MODEL.PIXEL_STD) < 1:
        raise ValueError(
            f"PIXEL_STD {[*cfg.MODEL.PIXEL_STD]} is of images in [0, 1], Detectron2's are bytes; "
            "multiply it and PIXEL_MEAN by 255"
        )
    if (cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR) != (str(backbone.path or ""), str(folder)):
        raise ValueError(f"extra={config.extra!r}: give weights by --backbone, the folder by --out")
    return cfg
