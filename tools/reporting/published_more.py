"""The rest of the paper: Tables 9-11, the costs of Tables 6 and 7, and Figures 2 and 3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reporting.published import (
    LENGTHS,
    RAND,
    TABLE_1,
    TABLE_2,
    TABLE_3,
    TABLE_4,
    TABLE_5,
    TABLE_8,
    Block,
    Cell,
    Figure,
    Table,
    cutout,
)

UDA = "cifar10-uda-{}randaugment-{}"
FEW_LABELS = ("4000", "2500", "250")


def _few(name: str, keep: str, figures: str) -> tuple[str, tuple[Cell, ...]]:
    cells = zip(figures.split(), FEW_LABELS, strict=True)
    return name, tuple(Cell(figure, UDA.format(keep, labels)) for figure, labels in cells)


TABLE_9 = Table(
    "9", "Test accuracy (%) on CIFAR-10 with few labels", "semisup_uda",
    (
        Block(
            ("4000 labels", "2500 labels, as printed", "250 labels, as the erratum reads it"),
            (
                _few("UDA + RandAug", "", "95.1±0.2 91.2±1.0 91.2±1.0"),
                _few("UDA + KeepRandAug", "keep_", "95.4±0.2 92.4±0.8 92.4±0.8"),
            ),
        ),
    ),
)  # fmt: skip


PEOPLE = "market-resnet101"


def _market(name: str, experiment: str, rank1: str, mean: str) -> tuple[str, tuple[Cell, ...]]:
    return name, (Cell(rank1, experiment, "rank1"), Cell(mean, experiment))


TABLE_10 = Table(
    "10", "Rank-1 accuracy and mAP (%) on Market-1501, ResNet-101", "reid",
    (
        Block(
            ("Accuracy", "mAP"),
            (
                _market("Standard Baseline", f"{PEOPLE}-baseline", "88.1±0.2", "74.6±0.2"),
                _market("+ Bag of Tricks", f"{PEOPLE}-bag_of_tricks", "94.5±0.1", "87.1±0.0"),
                _market("+ Ours", f"{PEOPLE}-keep_erasing_low", "95.0±0.1", "87.4±0.0"),
            ),
        ),
    ),
)  # fmt: skip

DETECTORS = {
    "coco-faster_rcnn_c4-r50-{}": ("Faster R-CNN, ResNet50-C4", "38.4", "39.5"),
    "coco-faster_rcnn_fpn-r50-{}": ("Faster R-CNN, ResNet50-FPN", "40.2", "40.7"),
    "coco-retinanet-r50-{}-beta0.1": ("RetinaNet, ResNet50-FPN", "37.9", "39.1"),
    "coco-faster_rcnn_c4-r101-{}": ("Faster R-CNN, ResNet101-C4", "41.1", "42.2"),
    "coco-faster_rcnn_fpn-r101-{}": ("Faster R-CNN, ResNet101-FPN", "42.0", "42.9"),
    "coco-retinanet-r101-{}-beta0.1": ("RetinaNet, ResNet101-FPN", "39.9", "41.2"),
}
"""Experiments with a place for the backbone. RetinaNet's loss is that of its printed baseline."""


def _detector(pattern: str, name: str, zoo: str, ours: str) -> tuple[str, tuple[Cell, ...]]:
    figures = {"torchvision": zoo, "cutmix": "", "keepcutmix": ours}
    return name, tuple(Cell(f, pattern.format(b)) for b, f in figures.items())


TABLE_11 = Table(
    "11", "Box AP (%) on COCO val2017, by the backbone's weights", "detection",
    (
        Block(
            ("Detectron2; here torchvision's", "CutMix (not in the paper)", "Ours: KeepCutMix"),
            tuple(_detector(pattern, *row) for pattern, row in DETECTORS.items()),
        ),
    ),
)  # fmt: skip

TABLES = {
    table.number: table
    for table in (
        TABLE_1, TABLE_2, TABLE_3, TABLE_4, TABLE_5, TABLE_8, TABLE_9, TABLE_10, TABLE_11,
    )
}  # fmt: skip


@dataclass(frozen=True)
class Costs:
    """A table of training times per epoch.

    Attributes:
        unit: of the times.
        models: as `benchmark_cost` names them, and as the paper does.
        rows: name, method of `benchmark_cost` ("" if it has none), and the times.
    """

    number: str
    title: str
    unit: str
    models: dict[str, str]
    rows: tuple[tuple[str, str, tuple[float, ...]], ...]


COSTS = {
    "6": Costs(
        "6", "Training time per epoch on CIFAR-10, batch 128, one TITAN X", "s",
        {"resnet18": "R-18", "resnet110": "R-110", "wrn28_10": "Wide ResNet"},
        (
            ("Cutout", "plain", (19, 28, 92)),
            ("KeepCutout", "full", (38, 54, 185)),
            ("+ low resolution", "low", (24, 35, 111)),
            ("+ early loss", "early", (23, 34, 104)),
        ),
    ),
    "7": Costs(
        "7", "Training time per epoch on ImageNet, batch 384, eight TITAN X", "min",
        {"resnet50": "ResNet-50", "resnet101": "ResNet-101"},
        (
            ("CutMix", "plain", (41.5, 68.6)),
            ("KeepCutMix + low resolution", "low", (49.8, 83.5)),
            ("KeepCutMix + early loss", "early", (49.1, 82.7)),
            ("AutoAugment", "", (41.1, 68.2)),
            ("KeepAutoAugment + low resolution", "", (49.5, 83.2)),
            ("KeepAutoAugment + early loss", "", (48.9, 82.4)),
        ),
    ),
}  # fmt: skip


def _points(names: Mapping[Any, str], known: Mapping[Any, str]) -> tuple[tuple[float, Cell], ...]:
    return tuple((float(x), Cell(known.get(x, ""), name)) for x, name in names.items())


def _rand_points() -> tuple[tuple[float, Cell], ...]:
    known = {6: "96.9", 12: "97.1", 18: "97.1", 24: "97.3"}  # Table 3
    return _points({m: RAND.format("", m) for m in range(3, 25, 3)}, known)


def keep20(tau: float) -> str:
    """The experiment of Figure 3a with a tau."""
    return f"cifar10-wrn28_10-keep_cutout20_tau{tau}"


def paste8(tau: float) -> str:
    """The experiment of Figure 3b with a tau."""
    return f"cifar10-wrn28_10-keep_randaugment_m15_paste8_tau{tau}"


FIGURES = {
    figure.number: figure
    for figure in (
        Figure(
            "2a", "Cutout's length, Wide ResNet-28-10 on CIFAR-10", "length of the box, pixels",
            _points({n: cutout("wrn28_10", n) for n in (0, 4, *LENGTHS)}, {16: "96.9"}),
            train=True,
        ),
        Figure(
            "2b", "RandAugment's magnitude, Wide ResNet-28-10 on CIFAR-10", "magnitude, of 30",
            _rand_points(), train=True,
        ),
        Figure(
            "3a", "KeepCutout's tau at length 20", "tau",
            _points({tau: keep20(tau) for tau in (0.2, 0.4, 0.6, 0.8)}, {}),
            baseline=Cell("", cutout("wrn28_10", 20)),
        ),
        Figure(
            "3b", "KeepRandAugment's tau at magnitude 15, paste length 8", "tau",
            _points({tau: paste8(tau) for tau in (0.0, 0.2, 0.4, 0.6, 0.8)}, {0.0: "97.3"}),
            baseline=Cell("", RAND.format("", 15)),
        ),
    )
}  # fmt: skip
