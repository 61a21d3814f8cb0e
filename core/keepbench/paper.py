"""Every figure that the paper prints, once, and the experiment that repeats it.

Gong, Wang, Li, Chandra and Liu, CVPR 2021, https://arxiv.org/abs/2011.11778: Tables 1-11, and what
the text says of Figures 2 and 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """One figure of the paper.

    Attributes:
        paper: as printed; "" where it stands only in a picture.
        experiment: that repeats it; "" if none does.
        metric: of it; "" is its task's headline figure.
    """

    paper: str
    experiment: str
    metric: str = ""

    @property
    def plain(self) -> str:
        """The paper's figure without its deviation."""
        return self.paper.partition("±")[0]

    @property
    def value(self) -> float | None:
        """The same as a number."""
        return float(self.plain) if self.plain else None


@dataclass(frozen=True)
class Block:
    """A part of a table that has its own column heads; a row is a name and its cells."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell | None, ...]], ...]


@dataclass(frozen=True)
class Table:
    """A table of accuracies."""

    number: str
    title: str
    task: str
    blocks: tuple[Block, ...]

    def cells(self) -> list[tuple[str, str, Cell]]:
        """Row name, column name and cell, of all that the paper has."""
        return [
            (name, column, cell)
            for block in self.blocks
            for name, cells in block.rows
            for column, cell in zip(block.columns, cells, strict=True)
            if cell is not None
        ]


@dataclass(frozen=True)
class Figure:
    """A curve of the paper over one setting.

    Attributes:
        number: with its part, as "3a".
        x: what is varied.
        points: its values, and the cell of each; the paper's figure where the text has it.
        baseline: of the dashed line, or None.
        train: whether training accuracy is drawn, too.
    """

    number: str
    title: str
    x: str
    points: tuple[tuple[float, Cell], ...]
    baseline: Cell | None = None
    train: bool = False


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


def _cell(column: str, method: str, figure: str) -> Cell | None:
    if figure == "-":
        return None
    pattern, _, metric = column.partition(" ")
    experiment = pattern.format(method) if "{}" in pattern else method.format(pattern)
    return Cell(figure if figure != "?" else "", experiment, metric)


def _block(columns: Mapping[str, str], rows: str) -> Block:
    """A block of a table.

    Args:
        columns: by head, the experiment with {} for a row's method, and the metric after a blank;
            or what stands in the place {} of a row's method.
        rows: lines "name | method | figures"; "-" is no cell, "?" one without a figure.
    """
    parts = [[part.strip() for part in line.split("|")] for line in rows.strip().splitlines()]
    cells = (
        (name, tuple(map(_cell, columns.values(), [method] * len(columns), figures.split())))
        for name, method, figures in parts
    )
    return Block(tuple(columns), tuple(cells))


_CIFAR = {
    "ResNet-18": "cifar10-resnet18-{}",
    "ResNet-110": "cifar10-resnet110-{}",
    "Wide ResNet-28-10": "cifar10-wrn28_10-{}",
    "Shake-Shake": "cifar10-shake_shake-{}",
    "PyramidNet+ShakeDrop": "cifar10-pyramidnet-{}",
}


def _accuracy_and_seconds(model: str) -> dict[str, str]:
    return {
        f"{model}: accuracy (%)": _CIFAR[model],
        f"{model}: seconds per epoch": f"{_CIFAR[model]} seconds",
    }


_TABLES = (
    Table("1", "Test accuracy (%) on CIFAR-10", "classification", (
        _block({name: _CIFAR[name] for name in [*_CIFAR][:3]}, """
            Cutout                           | cutout                 | 95.6±0.1 94.8±0.1 96.9±0.1
            KeepCutout                       | keep_cutout            | 96.1±0.1 95.5±0.1 97.3±0.1
            KeepCutout (low resolution)      | keep_cutout_low        | 96.2±0.1 95.5±0.1 97.3±0.1
            KeepCutout (early loss)          | keep_cutout_early      | 96.0±0.1 95.3±0.1 97.2±0.1
        """),
        _block({name: _CIFAR[name] for name in [*_CIFAR][2:]}, """
            AutoAugment                      | autoaugment            | 97.3±0.1 97.4±0.1 98.5
            KeepAutoAugment                  | keep_autoaugment       | 97.8±0.1 97.8±0.1 98.7±0.0
            KeepAutoAugment (low resolution) | keep_autoaugment_low   | 97.8±0.1 97.9±0.1 98.7±0.0
            KeepAutoAugment (early loss)     | keep_autoaugment_early | 97.8±0.1 97.7±0.1 98.6±0.0
        """),
    )),
    Table("2", "Test accuracy (%) of ResNet-18 on CIFAR-10 by Cutout's length", "classification", (
        _block({"Cutout": "cifar10-resnet18-{}", "KeepCutout": "cifar10-resnet18-keep_{}"}, """
            8  | cutout8  | 95.3±0.0 95.1±0.0
            12 | cutout12 | 95.4±0.0 95.5±0.0
            16 | cutout   | 95.6±0.0 96.1±0.0
            20 | cutout20 | 95.5±0.1 96.0±0.1
            24 | cutout24 | 94.9±0.1 95.6±0.1
        """),
    )),
    Table(
        "3", "Test accuracy (%) of Wide ResNet-28-10 on CIFAR-10 by magnitude", "classification", (
        _block({
            "AutoAugment": "cifar10-wrn28_10-{}", "KeepAutoAugment": "cifar10-wrn28_10-keep_{}",
        }, """
            6  | randaugment_m6  | 96.9±0.1 97.3±0.1
            12 | randaugment_m12 | 97.1±0.1 97.5±0.1
            18 | randaugment_m18 | 97.1±0.1 97.6±0.1
            24 | randaugment_m24 | 97.3±0.1 97.8±0.1
        """),
    )),
    Table(
        "4", "Comparison with other ways of mixing clean and augmented images on CIFAR-10",
        "classification", (
        _block(_accuracy_and_seconds("Wide ResNet-28-10"), """
            GridMask          | gridmask             | 97.5±0.1 92
            AugMix            | augmix               | 97.5±0.0 92
            Attentive CutMix  | attentive_cutmix     | 97.3±0.1 127
            KeepAutoAugment+L | keep_autoaugment_low | 97.8±0.1 111
        """),
        _block(_accuracy_and_seconds("Shake-Shake"), """
            GridMask          | gridmask             | 97.4±0.1 124
            AugMix            | augmix               | 97.5±0.0 124
            Attentive CutMix  | attentive_cutmix     | 97.4±0.1 166
            KeepAutoAugment+L | keep_autoaugment_low | 97.9±0.1 142
        """),
    )),
    Table("5", "Validation accuracy (%) on ImageNet", "classification", (
        _block({
            "ResNet-50 top-1": "imagenet-resnet50-{}",
            "ResNet-50 top-5": "imagenet-resnet50-{} test_top5",
            "ResNet-101 top-1": "imagenet-resnet101-{}",
            "ResNet-101 top-5": "imagenet-resnet101-{} test_top5",
        }, """
            Vanilla          | vanilla                | 76.3 92.9 77.4 93.6
            Dropout          | dropout                | 76.8 93.4 77.7 93.9
            DropPath         | droppath               | 77.1 93.5 - -
            Manifold Mixup   | manifold_mixup         | 77.5 93.8 - -
            Mixup            | mixup                  | 77.9 93.9 79.2 94.4
            DropBlock        | dropblock              | 78.3 94.1 79.0 94.3
            RandAugment      | randaugment            | 77.6 93.8 79.2 94.4
            Random Erasing   | random_erasing         | 77.3 93.3 79.6 94.7
            AutoAugment      | autoaugment            | 77.6 93.8 79.3 94.4
            KeepAutoAugment  | keep_autoaugment       | 78.0 93.9 79.7 94.6
            + low resolution | keep_autoaugment_low   | 78.1 93.9 79.7 94.6
            + early loss     | keep_autoaugment_early | 77.9 93.8 79.6 94.5
            CutMix           | cutmix                 | 78.6 94.0 79.9 94.6
            KeepCutMix       | keep_cutmix            | 79.0 94.4 80.3 95.1
            + low resolution | keep_cutmix_low        | 79.1 94.4 80.3 95.2
            + early loss     | keep_cutmix_early      | 79.0 94.3 80.2 95.1
        """),
    )),
    Table(
        "8", "Validation accuracy (%) on ImageNet of ResNet-50 after 360 epochs",
        "classification", (
        _block({"Top-1": "imagenet-resnet50-{}", "Top-5": "imagenet-resnet50-{} test_top5"}, """
            CutMix      | cutmix-360      | 78.72 94.15
            AutoAugment | autoaugment-360 | 77.63 93.85
        """),
    )),
    Table("9", "Test accuracy (%) on CIFAR-10 with few labels", "semisup_uda", (
        _block({
            "4000 labels": "cifar10-uda-{}-4000",
            "2500 labels, as printed": "cifar10-uda-{}-2500",
            "250 labels, as the erratum reads it": "cifar10-uda-{}-250",
        }, """
            UDA + RandAug     | randaugment      | 95.1±0.2 91.2±1.0 91.2±1.0
            UDA + KeepRandAug | keep_randaugment | 95.4±0.2 92.4±0.8 92.4±0.8
        """),
    )),
    Table("10", "Rank-1 accuracy and mAP (%) on Market-1501, ResNet-101", "reid", (
        _block({"Accuracy": "market-resnet101-{} rank1", "mAP": "market-resnet101-{}"}, """
            Standard Baseline | baseline         | 88.1±0.2 74.6±0.2
            + Bag of Tricks   | bag_of_tricks    | 94.5±0.1 87.1±0.0
            + Ours            | keep_erasing_low | 95.0±0.1 87.4±0.0
        """),
    )),
    Table("11", "Box AP (%) on COCO val2017, by the backbone's weights", "detection", (
        _block({
            "Detectron2; here torchvision's": "torchvision",
            "CutMix (not in the paper)": "cutmix",
            "Ours: KeepCutMix": "keepcutmix",
        }, """
            Faster R-CNN, ResNet50-C4   | coco-faster_rcnn_c4-r50-{}     | 38.4 ? 39.5
            Faster R-CNN, ResNet50-FPN  | coco-faster_rcnn_fpn-r50-{}    | 40.2 ? 40.7
            RetinaNet, ResNet50-FPN     | coco-retinanet-r50-{}-beta0.1  | 37.9 ? 39.1
            Faster R-CNN, ResNet101-C4  | coco-faster_rcnn_c4-r101-{}    | 41.1 ? 42.2
            Faster R-CNN, ResNet101-FPN | coco-faster_rcnn_fpn-r101-{}   | 42.0 ? 42.9
            RetinaNet, ResNet101-FPN    | coco-retinanet-r101-{}-beta0.1 | 39.9 ? 41.2
        """),
    )),
)  # fmt: skip
"""250 labels quote the column "2500" too (docs/errata.md); RetinaNet's loss is that of its printed
baseline."""

TABLES = {table.number: table for table in _TABLES}

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
"""Overheads are computed from the times; some that the paper prints differ (docs/errata.md)."""

TIMES = {
    model: {method: times[column] for _, method, times in table.rows if method}
    for table in COSTS.values()
    for column, model in enumerate(table.models)
}
"""The times of `COSTS` by model and method of `benchmark_cost`."""

LENGTHS = (8, 12, 16, 20, 24)
MAGNITUDES = (6, 12, 18, 24)
_WIDE = "cifar10-wrn28_10-"


def cutout(arch: str, length: int, keep: str = "") -> str:
    """The experiment with a length of Cutout's box; 16, the default, has no number."""
    return f"cifar10-{arch}-{keep}cutout{length if length != 16 else ''}"


def randaugment(magnitude: int, keep: str = "") -> str:
    """The experiment with a magnitude of RandAugment, of 30."""
    return f"{_WIDE}{keep}randaugment_m{magnitude}"


def keep20(tau: float) -> str:
    """The experiment of Figure 3a with a tau."""
    return f"{_WIDE}keep_cutout20_tau{tau}"


def paste8(tau: float) -> str:
    """The experiment of Figure 3b with a tau."""
    return f"{_WIDE}keep_randaugment_m15_paste8_tau{tau}"


_PRINTED = {
    (cell.experiment, cell.metric): cell.plain for table in _TABLES for _, _, cell in table.cells()
} | {(paste8(0.0), ""): "97.3"}  # section 3, below Algorithm 1


def figure_of(experiment: str, metric: str = "") -> str:
    """The paper's figure of an experiment, without its deviation; "" if it prints none."""
    return _PRINTED.get((experiment, metric), "")


def _points(experiments: Mapping[float, str]) -> tuple[tuple[float, Cell], ...]:
    return tuple((float(x), Cell(figure_of(name), name)) for x, name in experiments.items())


_FIGURES = (
    Figure(
        "2a", "Cutout's length, Wide ResNet-28-10 on CIFAR-10", "length of the box, pixels",
        _points({n: cutout("wrn28_10", n) for n in (0, 4, *LENGTHS)}), train=True,
    ),
    Figure(
        "2b", "RandAugment's magnitude, Wide ResNet-28-10 on CIFAR-10", "magnitude, of 30",
        _points({m: randaugment(m) for m in range(3, 25, 3)}), train=True,
    ),
    Figure(
        "3a", "KeepCutout's tau at length 20", "tau",
        _points({tau: keep20(tau) for tau in (0.2, 0.4, 0.6, 0.8)}),
        baseline=Cell("", cutout("wrn28_10", 20)),
    ),
    Figure(
        "3b", "KeepRandAugment's tau at magnitude 15, paste length 8", "tau",
        _points({tau: paste8(tau) for tau in (0.0, 0.2, 0.4, 0.6, 0.8)}),
        baseline=Cell("", randaugment(15)),
    ),
)  # fmt: skip

FIGURES = {figure.number: figure for figure in _FIGURES}


def tables_of(experiment: str) -> str:
    """The tables and figures that an experiment repeats a part of, as "1, 2a"; "" if none."""
    cells = {table.number: [cell for _, _, cell in table.cells()] for table in _TABLES}
    for each in _FIGURES:
        cells[each.number] = [cell for _, cell in each.points]
        cells[each.number] += [each.baseline] if each.baseline else []
    places = [n for n, found in cells.items() if experiment in {c.experiment for c in found}]
    return ", ".join(places)
