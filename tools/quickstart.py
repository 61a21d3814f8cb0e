"""See KeepAugment work in two minutes: plain Cutout against KeepCutout on scikit-learn's digits."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

signal.signal(signal.SIGINT, signal.SIG_DFL)  # while modules are imported: no traceback

import torch

from classification.experiments import EXPERIMENTS
from classification.methods import Cutout
from classification.train import Trainer, train
from keepaugment import allowed_regions, selective_cut
from keepbench.leaving import PREEMPTED, exit_with_message
from keepbench.processes import Processes
from keepbench.run import read_rows
from keepbench.small_images import load_data
from previewing.pictures import draw_panels, tint

CPU = torch.device("cpu")
FOLDER = Path("runs", "quickstart")
PLAIN, KEEP = "digits-resnet8-cutout", "digits-resnet8-keep_cutout_low_early"


def table(folders: dict[str, Path]) -> str:
    """Results of runs, a line each: accuracy, area cut, seconds for training and for the method."""
    lines = [f"{'':38s} {'test':>8s} {'area cut':>9s} {'training':>9s} {'map + boxes':>13s}"]
    for name, folder in folders.items():
        rows = read_rows(folder / "metrics.jsonl")
        seconds = sum(row["train_seconds"] for row in rows)
        extra = sum(row["map_seconds"] + row["boxes_seconds"] for row in rows)
        area = sum(row["changed_area"] for row in rows) / len(rows)
        lines.append(
            f"{name:38s} {rows[-1]['test_accuracy']:6.2f} % {100 * area:7.1f} % "
            f"{seconds:7.1f} s {extra:11.1f} s"
        )
    return "\n".join(lines)


def picture(trainer: Trainer, path: Path, rows: int = 5) -> None:
    """Draw the trained network's maps, the boxes they allow and cuts, for one digit per class."""
    cut, keep, data = trainer.config.cut, trainer.config.keep, load_data("digits", "")
    assert isinstance(cut, Cutout) and keep
    labels = data.test.labels
    chosen = torch.stack([(labels == label).nonzero()[0, 0] for label in range(rows)])
    images, labels = data.test.images[chosen], labels[chosen]
    saliency = trainer.maps.used(trainer.augment.inputs(images), labels)
    shown = images.float()
    allowed, _ = allowed_regions(saliency, shown, cut.size, side="low", tau=keep.tau, border="clip")
    cuts = [
        selective_cut(
            shown,
            saliency,
            size=cut.size,
            tau=tau,
            border="clip",
            fill=255 * data.mean[0],
            generator=torch.Generator().manual_seed(1),
        ).byte()
        for tau in (1.0, keep.tau)  # at tau 1 every box is allowed: plain Cutout
    ]
    columns = {
        "image": images,
        "importance": saliency,
        "Cutout": cuts[0],
        "centres Keep allows": tint(images, allowed),
        "KeepCutout": cuts[1],
    }
    names = [f"digit {data.test.classes[label]}" for label in labels.tolist()]
    draw_panels(columns, names).savefig(path, dpi=150)


@exit_with_message()
def main(argv: list[str] | None = None) -> None:
    """Run the quickstart; a second call goes on, or shows the same runs again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=FOLDER, help=f"folder (default {FOLDER})")
    folder = parser.parse_args(argv).out
    folders = {name: folder / name for name in (PLAIN, KEEP)}
    trained = []
    for name, place in folders.items():
        trainer = train(name, EXPERIMENTS[name].config, place, Processes(CPU), resume=True)
        if trainer is None:
            sys.exit(PREEMPTED)
        trained.append(trainer)
    path = folder / "keep_cutout.png"
    picture(trained[-1], path)
    print(f"\n{table(folders)}\n")
    print("Two short runs of one seed show that it works, not which is better.")
    print(f"Look at {path}: image, map, a plain cut, the allowed centres (green), a Keep cut.")
    print(
        "Next: .venv/bin/python tools/run_classification.py cifar10-resnet18-keep_cutout "
        "--data data --download"
    )


if __name__ == "__main__":
    main()
