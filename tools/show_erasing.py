"""Show what Random Erasing hides of boxes, plain and with the boxes as importance.

python tools/show_erasing.py --data data/coco_small    # counts over the training set
python tools/show_erasing.py --picture docs/pictures/erasing.png
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from sklearn.datasets import load_sample_images
from torch import Tensor

from detection.config import Config
from detection.data import Split, open_split
from detection.detectron import its_warnings
from detection.erasing import draw_region, hidden_shares, make_erasing
from detection.settings import make_cfg, random_backbone
from detection.train import register
from keepbench.progress import progress_bar

ARMS = {"plain": False, "keep": True}
BOXES = (
    ((62, 28, 372, 420), (330, 265, 575, 427), (546, 134, 640, 427)),  # temple, bush, tree
    ((168, 84, 446, 360), (287, 374, 470, 427)),  # both flowers
)
"""Left, top, right and bottom of what scikit-learn's two photographs show, in pixels."""


def mapped_records(split: Split, passes: int) -> Iterator[dict[str, Any]]:
    """The training images of a set as Detectron2's mapper gives them, each several times."""
    from detectron2.data import DatasetMapper, get_detection_dataset_dicts

    config = Config(backbone="none")
    cfg = make_cfg(
        config, random_backbone(config.depth), split.boxes.parent, images=split.with_boxes,
        classes=len(split.classes), device="cpu",
    )  # fmt: skip
    split.write()
    register(cfg.DATASETS.TRAIN[0], split)
    mapper = DatasetMapper(cfg, is_train=True)
    records = get_detection_dataset_dicts(cfg.DATASETS.TRAIN)
    for record in progress_bar(records * passes, unit="image"):
        yield mapper(record)


def count(records: Iterator[dict[str, Any]], share: float) -> Iterator[str]:
    """Lines of a table: what each arm hides, of the boxes of the same images."""
    shares: dict[str, list[Tensor]] = {arm: [] for arm in ARMS}
    areas: dict[str, list[Tensor]] = {arm: [] for arm in ARMS}
    for record in records:
        boxes = record["instances"].gt_boxes.tensor
        for arm, keep in ARMS.items():
            region = draw_region(make_erasing(keep, share), record["image"], boxes)
            shares[arm].append(hidden_shares(boxes, region))
            areas[arm].append(region.float().mean())
    titles = ["erasing", "images", "erased", "mean erased area", "boxes"]
    titles += [f"lose more than {share:.0%}", "most that one loses"]
    yield f"| {' | '.join(titles)} |"
    yield "|---|---|---|---|---|---|---|"
    for arm in ARMS:
        hidden, area = torch.cat(shares[arm]), torch.stack(areas[arm])
        lost = int((hidden > share).sum())
        cells = [
            f"{len(area):,}", f"{(area > 0).float().mean():.1%}", f"{area[area > 0].mean():.1%}",
            f"{len(hidden):,}", f"{lost:,} ({lost / len(hidden):.1%})", f"{hidden.max():.1%}",
        ]  # fmt: skip
        yield f"| {arm} | {' | '.join(cells)} |"


def draw(share: float, columns: int = 3) -> Figure:
    """Both photographs with their boxes: each arm's first regions, a box in red that loses more."""
    figure = Figure(figsize=(4 * columns, 11), layout="constrained")
    axes = figure.subplots(4, columns)
    for row, (arm, photograph) in enumerate((arm, n) for n in range(2) for arm in ARMS):
        torch.manual_seed(0)
        image = torch.tensor(load_sample_images().images[photograph]).permute(2, 0, 1)
        boxes = torch.tensor(BOXES[photograph]).float()
        for axis in axes[row]:
            region = draw_region(make_erasing(ARMS[arm], share, p=1.0), image, boxes)
            axis.imshow(torch.where(region, 128, image).permute(1, 2, 0))
            axis.set(xticks=[], yticks=[], title=f"{arm} erasing")
            for box, hidden in zip(boxes.tolist(), hidden_shares(boxes, region), strict=True):
                colour = "red" if hidden > share else "lime"
                side = (box[2] - box[0], box[3] - box[1])
                axis.add_patch(Rectangle(box[:2], *side, fill=False, edgecolor=colour, lw=2))
                axis.text(
                    *box[:2], f"{hidden:.0%}", color="white", backgroundcolor="black", va="top"
                )
    return figure


def main(argv: list[str] | None = None) -> None:
    """Count, draw, or both."""
    parser = argparse.ArgumentParser(description="Show what Random Erasing hides of boxes.")
    add = parser.add_argument
    add("--data", type=Path, help="folder in COCO format whose training set is counted")
    add("--passes", type=int, default=2, help="over it (default 2)")
    add("--share", type=float, default=0.3, help="that a box may lose (default 0.3)")
    add("--picture", type=Path, help="draw scikit-learn's photographs into this file")
    words = parser.parse_args(argv)
    if not (words.data or words.picture):
        parser.error("give --data, --picture or both")
    if words.data:
        names = Config()
        places = words.data / names.train_boxes, words.data / names.train_images
        try:
            with tempfile.TemporaryDirectory() as folder, its_warnings():
                split = open_split(*places, Path(folder, "train.json"), bad_boxes="clip")
                print("\n".join(count(mapped_records(split, words.passes), words.share)))
        except (ValueError, OSError) as error:
            sys.exit(f"error: {error}")
    if words.picture:
        draw(words.share).savefig(words.picture, dpi=80)


if __name__ == "__main__":
    main()
