"""The command line of `tools/run_semisup_uda.py`."""

from __future__ import annotations

from classification.models import forward_flop
from keepbench.command import parse, train_to_the_end
from keepbench.leaving import exit_with_message
from keepbench.run import read_rows
from semisup_uda.config import Config
from semisup_uda.experiments import BUDGETS, EXPERIMENTS
from semisup_uda.train import Trainer

NOTE = """\
Table 9's baselines, 95.1 and 91.2, are those that FixMatch's paper gives for UDA at 4000 and 250
labels; nobody published 2500 on CIFAR-10. So its column "2500 labels" is almost surely one of 250:
both are here, and both quote it. (paper: test accuracy in %, cost: of one run)
"""


def cost(config: Config) -> float:
    """Floating-point operations of a run, training and maps.

    A training step is three forward passes of all views, and a full map about two of the clean
    ones; half resolution takes a quarter of the map.
    """
    unlabelled = 0 if config.method == "supervised" else config.ratio * config.batch_size
    passes = 3.0 * (config.batch_size + 2 * unlabelled)
    if config.keep:
        passes += unlabelled * config.keep.map.passes
    return passes * config.total_steps * forward_flop(config.arch, 32)


@exit_with_message()
def main(argv: list[str] | None = None) -> None:
    """Run one experiment and print its result: the last test, with the averaged weights."""
    name, config, arguments = parse(
        EXPERIMENTS,
        "Train a classifier with few labels.",
        argv,
        budgets=BUDGETS,
        cost=cost,
        note=NOTE,
    )
    if train_to_the_end(Trainer, name, config, arguments):
        rows = read_rows(arguments.out / "metrics.jsonl")
        accuracies = [row["test_accuracy"] for row in rows]
        print(
            f"{name}: {accuracies[-1]:.2f} % of the test images right at the last test "
            f"({max(accuracies):.2f} % at the best) with {config.labels} labels; "
            f"the run is in {arguments.out}"
        )
