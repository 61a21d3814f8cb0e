"""The command line of `tools/run_classification.py`."""

from __future__ import annotations

import sys

from classification.experiments import EXPERIMENTS
from classification.train import train
from keepaugment.runs import find_device, parse, read_rows


def main(argv: list[str] | None = None) -> None:
    """Run one experiment and print its result: the last epoch's accuracy, beside the best."""
    name, config, arguments = parse(EXPERIMENTS, "Train a classifier with KeepAugment.", argv)
    try:
        train(name, config, arguments.out, find_device(arguments.device), resume=arguments.resume)
    except (ValueError, FloatingPointError) as error:
        sys.exit(f"error: {error}")
    rows = read_rows(arguments.out / "metrics.jsonl")
    accuracies = [row["test_accuracy"] for row in rows if "test_accuracy" in row]
    print(
        f"{name}: {accuracies[-1]:.2f} % of the test images right after the last epoch "
        f"({max(accuracies):.2f} % after the best); the run is in {arguments.out}"
    )
