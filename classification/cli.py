"""The command line of `tools/run_classification.py`."""

from __future__ import annotations

from classification.config import Config
from classification.experiments import BUDGETS, EXPERIMENTS
from classification.models import forward_flop
from classification.train import Trainer
from keepbench.command import parse, train_to_the_end
from keepbench.leaving import exit_with_message
from keepbench.run import read_rows

IMAGES = {"cifar10": 50_000, "images": 1_281_167, "digits": 1_437}


def cost(config: Config) -> float:
    """Floating-point operations of a run, training and maps.

    A training step is three forward passes and a full map about two; half resolution takes a
    quarter of the map, a first stage about a third. Stored maps are taken once in `cache` epochs,
    recycled ones for nothing. Maps that are chosen in training count as full ones, the most that
    they can cost.
    """
    forward = forward_flop(
        config.arch, config.image_size or (224 if config.dataset == "images" else 32)
    )
    maps = 0.0
    if config.keep:
        maps = config.keep.map.passes / max(1, config.keep.cache)
        maps *= 1 / 3 if config.early_head and config.keep.map.gradient else 1.0
    images = (config.subset or IMAGES[config.dataset]) * config.epochs
    return images * forward * (3 + maps)


@exit_with_message()
def main(argv: list[str] | None = None) -> None:
    """Run one experiment and print its result: the last epoch's accuracy, beside the best."""
    name, config, arguments = parse(
        EXPERIMENTS, "Train a classifier with KeepAugment.", argv, budgets=BUDGETS, cost=cost
    )
    if train_to_the_end(Trainer, name, config, arguments):
        rows = read_rows(arguments.out / "metrics.jsonl")
        accuracies = [row["test_accuracy"] for row in rows if "test_accuracy" in row]
        print(
            f"{name}: {accuracies[-1]:.2f} % of the test images right after the last epoch "
            f"({max(accuracies):.2f} % after the best); the run is in {arguments.out}"
        )
