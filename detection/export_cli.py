"""The command line of `tools/export_backbone.py`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detection.export import DIFFERENT, NOT_COMPARED, WRITERS, export
from detection.sources import open_source


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Write the backbone of a ResNet-18 to 152 for Detectron2 and others.",
        epilog="The weights of a file are never unpickled into objects.",
    )
    parser.add_argument("checkpoint", type=Path, help="folder of a run, .pt, .pth or .safetensors")
    parser.add_argument("--to", choices=[*WRITERS], default="detectron2")
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    parser.add_argument("--verify", action="store_true", help="compare features on a photograph")
    parser.add_argument("--arch", default="", help="refuse any other network, e.g. resnet50")
    parser.add_argument(
        "--use", choices=["auto", "average", "model"], default="auto",
        help="the moving average of the weights, or these; auto takes the average if there is one",
    )  # fmt: skip
    for name, words in (("mean", "of its RGB images, in [0, 1]"), ("std", "that divided them")):
        parser.add_argument(
            f"--{name}", type=float, nargs=3, metavar=("R", "G", "B"),
            help=f"{words}; the run's own, or ImageNet's, if not given",
        )  # fmt: skip
    return parser.parse_args(argv)


def report(record: Mapping[str, Any]) -> list[str]:
    """Lines of the comparison: the largest difference in every stage."""
    lines = []
    for name, stages in record["differences"].items():
        parts = ", ".join(f"{stage} {value:.1e}" for stage, value in stages.items())
        lines.append(f"{name}: {parts}")
    return lines


def main(argv: list[str] | None = None) -> None:
    """Export a backbone; exit with 1 if its features differ by more than the tolerance."""
    arguments = _parse(argv)
    try:
        source = open_source(
            arguments.checkpoint, use=arguments.use, arch=arguments.arch,
            mean=arguments.mean, std=arguments.std,
        )  # fmt: skip
        record = export(source, arguments.to, arguments.out, compare=arguments.verify)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(
        f"{arguments.out}: ResNet-{record['depth']}, weights {record['source']['weights']!r} of "
        f"{record['source']['file']}; left out: {', '.join(record['left_out']) or 'nothing'}"
    )
    print("\n".join(report(record)), end="\n" if record["differences"] else "")
    if arguments.verify and not record["differences"]:
        print(NOT_COMPARED)
    if record["checked"] == DIFFERENT:
        sys.exit(f"error: {DIFFERENT} by more than {record['tolerance']}")
