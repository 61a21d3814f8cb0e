"""The paper's Tables 1-11 and Figures 2 and 3: its figures, and the experiments that repeat them.

Gong, Wang, Li, Chandra and Liu, CVPR 2021, https://arxiv.org/abs/2011.11778.
"""

from __future__ import annotations

import re
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
    def value(self) -> float | None:
        """The paper's figure without its deviation."""
        found = re.match(r"[\d.]+", self.paper)
        return float(found.group()) if found else None


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


KEEPS = ("", "_low", "_early")


def _arms(prefix: str, name: str) -> list[str]:
    return [f"{prefix}-{name}", *(f"{prefix}-keep_{name}{way}" for way in KEEPS)]


def _rows(names: list[str], figures: list[str], experiments: list[list[str]]) -> tuple:
    """Rows of headline figures: `figures` has a line of words per row."""
    return tuple(
        (name, tuple(Cell(f, e) for f, e in zip(line.split(), found, strict=True)))
        for name, line, found in zip(names, figures, experiments, strict=True)
    )


def _keep_rows(name: str, shown: str, models: list[str], figures: list[str]) -> tuple:
    rows = [shown, f"Keep{shown}", f"Keep{shown} (low resolution)", f"Keep{shown} (early loss)"]
    by_model = [_arms(f"cifar10-{model}", name) for model in models]
    return _rows(rows, figures, [list(row) for row in zip(*by_model, strict=True)])


TABLE_1 = Table(
    "1", "Test accuracy (%) on CIFAR-10", "classification",
    (
        Block(
            ("ResNet-18", "ResNet-110", "Wide ResNet-28-10"),
            _keep_rows(
                "cutout", "Cutout", ["resnet18", "resnet110", "wrn28_10"],
                ["95.6±0.1 94.8±0.1 96.9±0.1", "96.1±0.1 95.5±0.1 97.3±0.1",
                 "96.2±0.1 95.5±0.1 97.3±0.1", "96.0±0.1 95.3±0.1 97.2±0.1"],
            ),
        ),
        Block(
            ("Wide ResNet-28-10", "Shake-Shake", "PyramidNet+ShakeDrop"),
            _keep_rows(
                "autoaugment", "AutoAugment", ["wrn28_10", "shake_shake", "pyramidnet"],
                ["97.3±0.1 97.4±0.1 98.5", "97.8±0.1 97.8±0.1 98.7±0.0",
                 "97.8±0.1 97.9±0.1 98.7±0.0", "97.8±0.1 97.7±0.1 98.6±0.0"],
            ),
        ),
    ),
)  # fmt: skip

LENGTHS = (8, 12, 16, 20, 24)


def cutout(arch: str, length: int, keep: str = "") -> str:
    """The experiment with a length of Cutout's box; 16, the default, has no number."""
    return f"cifar10-{arch}-{keep}cutout{length if length != 16 else ''}"


TABLE_2 = Table(
    "2", "Test accuracy (%) of ResNet-18 on CIFAR-10 by Cutout's length", "classification",
    (
        Block(
            ("Cutout", "KeepCutout"),
            _rows(
                [str(length) for length in LENGTHS],
                ["95.3±0.0 95.1±0.0", "95.4±0.0 95.5±0.0", "95.6±0.0 96.1±0.0",
                 "95.5±0.1 96.0±0.1", "94.9±0.1 95.6±0.1"],
                [[cutout("resnet18", n, keep) for keep in ("", "keep_")] for n in LENGTHS],
            ),
        ),
    ),
)  # fmt: skip

MAGNITUDES = (6, 12, 18, 24)
RAND = "cifar10-wrn28_10-{}randaugment_m{}"

TABLE_3 = Table(
    "3", "Test accuracy (%) of Wide ResNet-28-10 on CIFAR-10 by magnitude", "classification",
    (
        Block(
            ("AutoAugment", "KeepAutoAugment"),
            _rows(
                [str(m) for m in MAGNITUDES],
                ["96.9±0.1 97.3±0.1", "97.1±0.1 97.5±0.1", "97.1±0.1 97.6±0.1",
                 "97.3±0.1 97.8±0.1"],
                [[RAND.format("", m), RAND.format("keep_", m)] for m in MAGNITUDES],
            ),
        ),
    ),
)  # fmt: skip

RIVALS = {
    "GridMask": "gridmask",
    "AugMix": "augmix",
    "Attentive CutMix": "attentive_cutmix",
    "KeepAutoAugment+L": "keep_autoaugment_low",
}


def _table4_block(shown: str, arch: str, figures: list[str]) -> Block:
    rows = []
    for (name, method), line in zip(RIVALS.items(), figures, strict=True):
        accuracy, seconds = line.split()
        experiment = f"cifar10-{arch}-{method}"
        rows.append((name, (Cell(accuracy, experiment), Cell(seconds, experiment, "seconds"))))
    return Block((f"{shown}: accuracy (%)", f"{shown}: seconds per epoch"), tuple(rows))


TABLE_4 = Table(
    "4", "Comparison with other ways of mixing clean and augmented images on CIFAR-10",
    "classification",
    (
        _table4_block("Wide ResNet-28-10", "wrn28_10",
                      ["97.5±0.1 92", "97.5±0.0 92", "97.3±0.1 127", "97.8±0.1 111"]),
        _table4_block("Shake-Shake", "shake_shake",
                      ["97.4±0.1 124", "97.5±0.0 124", "97.4±0.1 166", "97.9±0.1 142"]),
    ),
)  # fmt: skip

IMAGENET = """
Vanilla           | vanilla                | 76.3 92.9 77.4 93.6
Dropout           | dropout                | 76.8 93.4 77.7 93.9
DropPath          | droppath               | 77.1 93.5
Manifold Mixup    | manifold_mixup         | 77.5 93.8
Mixup             | mixup                  | 77.9 93.9 79.2 94.4
DropBlock         | dropblock              | 78.3 94.1 79.0 94.3
RandAugment       | randaugment            | 77.6 93.8 79.2 94.4
Random Erasing    | random_erasing         | 77.3 93.3 79.6 94.7
AutoAugment       | autoaugment            | 77.6 93.8 79.3 94.4
KeepAutoAugment   | keep_autoaugment       | 78.0 93.9 79.7 94.6
+ low resolution  | keep_autoaugment_low   | 78.1 93.9 79.7 94.6
+ early loss      | keep_autoaugment_early | 77.9 93.8 79.6 94.5
CutMix            | cutmix                 | 78.6 94.0 79.9 94.6
KeepCutMix        | keep_cutmix            | 79.0 94.4 80.3 95.1
+ low resolution  | keep_cutmix_low        | 79.1 94.4 80.3 95.2
+ early loss      | keep_cutmix_early      | 79.0 94.3 80.2 95.1
"""
TOPS = ("", "test_top5")


def _imagenet_row(line: str) -> tuple[str, tuple[Cell | None, ...]]:
    name, method, words = (part.strip() for part in line.split("|"))
    places = [(arch, metric) for arch in ("resnet50", "resnet101") for metric in TOPS]
    cells: list[Cell | None] = [None] * len(places)
    for number, figure in enumerate(words.split()):
        arch, metric = places[number]
        cells[number] = Cell(figure, f"imagenet-{arch}-{method}", metric)
    return name, tuple(cells)


TABLE_5 = Table(
    "5", "Validation accuracy (%) on ImageNet", "classification",
    (
        Block(
            ("ResNet-50 top-1", "ResNet-50 top-5", "ResNet-101 top-1", "ResNet-101 top-5"),
            tuple(_imagenet_row(line) for line in IMAGENET.strip().splitlines()),
        ),
    ),
)  # fmt: skip


def _longer(name: str, method: str, figures: str) -> tuple[str, tuple[Cell, ...]]:
    experiment = f"imagenet-resnet50-{method}-360"
    cells = (Cell(f, experiment, m) for f, m in zip(figures.split(), TOPS, strict=True))
    return name, tuple(cells)


TABLE_8 = Table(
    "8", "Validation accuracy (%) on ImageNet of ResNet-50 after 360 epochs", "classification",
    (
        Block(
            ("Top-1", "Top-5"),
            (
                _longer("CutMix", "cutmix", "78.72 94.15"),
                _longer("AutoAugment", "autoaugment", "77.63 93.85"),
            ),
        ),
    ),
)  # fmt: skip
