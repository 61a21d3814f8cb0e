"""The command line of `tools/run_detection.py`."""

from __future__ import annotations

import sys

from torch.multiprocessing.spawn import ProcessException

from detection.config import Config
from detection.experiments import BUDGETS, EXPERIMENTS, NOTES
from detection.schedule import BATCH, COCO_IMAGES, STEPS_1X
from detection.train import train
from keepbench.command import parse
from keepbench.leaving import exit_with_message
from keepbench.run import read_rows


def cost(config: Config) -> str:
    """Images that a run trains on, in words; its data taken for COCO's unless a subset is set."""
    images = config.subset or COCO_IMAGES
    passes = STEPS_1X * BATCH * config.schedule / COCO_IMAGES
    shown = config.iterations * config.batch_size or passes * images
    return f"{shown / 1000:,.1f}k images"


@exit_with_message()
def main(argv: list[str] | None = None) -> None:
    """Run one experiment and print its result: the AP after the last step."""
    name, config, arguments = parse(
        EXPERIMENTS,
        "Fine-tune a detector with Detectron2.",
        argv,
        budgets=BUDGETS,
        cost=cost,
        note=NOTES,
    )
    try:
        train(
            name, config, arguments.out, arguments.device,
            resume=arguments.resume, budget=arguments.budget,
        )  # fmt: skip
    except ProcessException as error:
        sys.exit(f"error: {error}")
    last = read_rows(arguments.out / "metrics.jsonl")[-1]
    print(
        f"{name}: box AP {last['test_AP']:.1f} (AP50 {last['test_AP50']:.1f}, "
        f"AP75 {last['test_AP75']:.1f}) after {last['iteration']} steps; "
        f"the run is in {arguments.out}"
    )
