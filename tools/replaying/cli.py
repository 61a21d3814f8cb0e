"""The command line of `tools/replay.py`."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from keepbench.leaving import exit_with_message
from keepbench.processes import Processes, join_processes
from previewing.pages import write
from previewing.runs import read_run
from replaying.page import replay_facts, replay_page
from replaying.replay import replay


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Show a training image exactly as the network saw it.",
        epilog="example: replay.py runs/cifar10-resnet18-keep_cutout/seed-0 "
        "--epoch 37 --index 4711",
    )
    add = parser.add_argument
    add("run", type=Path, help="folder of a classification run")
    add("--epoch", type=int, required=True, help="from 1, as in metrics.jsonl")
    add("--index", type=int, required=True, help="number of the image in the training set")
    add("--step-weights", type=Path, nargs="+", default=[], metavar="FILE",
        help="further checkpoints of the run to start from")  # fmt: skip
    add("--data", help="folder of the data set, in place of the one it was run with")
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps; auto takes a GPU")
    add("--out", type=Path, default=Path("replay.html"), help="the page")
    add("--tensor", type=Path, help="write what the network saw to this .npy file")
    return parser.parse_args(argv)


def _replay(arguments: argparse.Namespace, processes: Processes) -> None:
    run = read_run(arguments.run, arguments.data)
    epoch, index = arguments.epoch, arguments.index
    image = replay(run, epoch, index, processes, checkpoints=arguments.step_weights)
    if image is None:
        return
    print(*image.how, sep="\n")
    for name, value in replay_facts(image, run, image.data.classes).items():
        print(f"{name}: {value}")
    if arguments.tensor:
        np.save(arguments.tensor, image.inputs.float().cpu().numpy())
    page = replay_page(image, run, image.data, epoch, index)
    write(arguments.out, page, f"image {index} of epoch {epoch}")


def main(argv: list[str] | None = None) -> None:
    """Write the page."""
    arguments = _arguments(argv)
    with exit_with_message(), join_processes(arguments.device) as processes:
        _replay(arguments, processes)
