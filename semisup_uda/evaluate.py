"""The one evaluation: of a run in progress, and of a finished one by its folder.

python -m semisup_uda.evaluate runs/NAME/seed-0 [--device cpu]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor, nn

from classification.models import create_model
from keepbench.accuracy import EvaluationSums, label_ranks
from keepbench.images import Normalise
from keepbench.leaving import exit_with_message
from keepbench.machine import find_device
from keepbench.processes import Processes
from keepbench.run import RunRecord
from keepbench.small_images import StoredData
from keepbench.weights import load_weights, read_weights
from semisup_uda.config import Config
from semisup_uda.data import open_data


def make_model(config: Config, data: StoredData, device: torch.device) -> nn.Module:
    """The classifier of a config on the device, freshly initialised by its seed."""
    torch.manual_seed(config.seed)
    model = create_model(
        config.arch, len(data.classes), in_chans=data.channels, download=config.download
    )
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    return model.to(device).to(memory_format=layout)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    data: StoredData,
    processes: Processes,
    config: Config,
    right: list[Tensor] | None = None,
) -> dict[str, float]:
    """Evaluate a model on the whole test set.

    Args:
        model: to logits (B, K); left in the mode it was in.
        data: whose test images are used; on the device.
        processes: this process; all of a run must call, and each gets the same numbers.
        config: for how to compute (bf16, channels_last).
        right: gets which of this process's images are right, (n,) bool.

    Returns:
        "test_loss", "test_accuracy" and "test_top5" in %, "test_ece" in [0, 1].
    """
    sums, training = EvaluationSums.zeros(len(data.classes), processes.device), model.training
    inputs = Normalise(data.mean, data.std, channels_last=config.channels_last)
    model.eval()
    for pixels, labels in data.test_batches(
        processes.device, 0, processes.rank, processes.world_size
    ):
        with torch.autocast(processes.device.type, torch.bfloat16, enabled=config.bf16):
            logits = model(inputs(pixels))
        sums.update(logits.float(), labels)
        if right is not None:
            right.append(label_ranks(logits.float(), labels) == 0)
    model.train(training)
    return {f"test_{name}": value for name, value in sums.result().items()}


def evaluate_run(folder: Path, device: torch.device) -> dict[str, float]:
    """Evaluate the last checkpoint in a run's folder: the average if it has one, else the model.

    Raises:
        ValueError: No run or checkpoint there, or data that cannot be used.
    """
    config = RunRecord.read(folder).config(Config)
    data = open_data(config, device)
    model = make_model(config, data, device)
    load_weights(model, read_weights(folder / "last.pt"))
    return evaluate(model, data, Processes(device), config)


def main(argv: list[str] | None = None) -> None:
    """Print a run's figures on the test set, one JSON line."""
    parser = argparse.ArgumentParser(description="Evaluate a semi-supervised run.")
    parser.add_argument("folder", type=Path, help="of the run")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps; auto takes a GPU")
    arguments = parser.parse_args(argv)
    with exit_with_message():
        print(json.dumps(evaluate_run(arguments.folder, find_device(arguments.device))))


if __name__ == "__main__":
    main()
