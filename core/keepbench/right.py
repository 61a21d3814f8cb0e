"""Each test item's result in a run, as text beside its metrics.

A bit for each test image that is right, or a number for each query, such as its average precision.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from keepbench.files import write_text
from keepbench.processes import Processes

NAME = "right.json"
ITEMS = "items.json"


def write_right(folder: Path, right: Tensor, epoch: int) -> None:
    """Store right (N,) bool, in the order of the test set, as it is after an epoch."""
    bits = base64.b64encode(np.packbits(right.numpy()).tobytes()).decode()
    about = {"epoch": epoch, "images": len(right), "right": int(right.sum()), "bits": bits}
    write_text(folder / NAME, json.dumps(about) + "\n")


def read_right(folder: Path) -> Tensor:
    """Read the file of `write_right`: (N,) bool.

    Raises:
        ValueError: The file is missing or damaged.
    """
    path = folder / NAME
    try:
        about = json.loads(path.read_text())
        packed = np.frombuffer(base64.b64decode(about["bits"], validate=True), dtype=np.uint8)
        right = torch.from_numpy(np.unpackbits(packed, count=about["images"])).bool()
        if len(packed) != (len(right) + 7) // 8 or int(right.sum()) != about["right"]:
            raise ValueError("its bits are not as many as it says")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    return right


def write_items(folder: Path, values: Tensor, epoch: int) -> None:
    """Store numbers (N,) in [0, 1] of the test items, in their order, after an epoch."""
    numbers = values.double().cpu().numpy()
    packed = base64.b64encode(numbers.astype("<f8").tobytes()).decode()
    about = {"epoch": epoch, "items": len(numbers), "mean": numbers.mean(), "values": packed}
    write_text(folder / ITEMS, json.dumps(about) + "\n")


def read_items(folder: Path) -> Tensor:
    """Read the file of `write_items`: (N,) float64.

    Raises:
        ValueError: The file is missing or damaged.
    """
    path = folder / ITEMS
    try:
        about = json.loads(path.read_text())
        packed = base64.b64decode(about["values"], validate=True)
        values = torch.from_numpy(np.frombuffer(packed, dtype="<f8").copy())
        if len(values) != about["items"] or abs(float(values.mean()) - about["mean"]) > 1e-12:
            raise ValueError("its numbers are not those that it says")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    return values


def write_shares(folder: Path, right: Tensor, epoch: int, processes: Processes) -> None:
    """Store right of which each process has its share; all of them must call."""
    parts = processes.gathered(right.cpu())
    if processes.first:
        write_right(folder, joined(parts), epoch)


def joined(parts: Sequence[Tensor]) -> Tensor:
    """The parts of processes that took every so manieth item each, in the items' order."""
    whole = parts[0].new_empty(sum(map(len, parts)))
    for rank, part in enumerate(parts):
        whole[rank :: len(parts)] = part
    return whole


def is_recorded(folder: Path) -> bool:
    """Whether a run's folder says what each item got."""
    return any((folder / name).is_file() for name in (NAME, ITEMS))


def recorded(folder: Path) -> Tensor:
    """What each item of a run got: right or not, or a figure of its own."""
    return read_right(folder) if (folder / NAME).is_file() else read_items(folder)


def mean_of_items(folder: Path) -> float:
    """The mean over a run's items, in %.

    Raises:
        ValueError: Their file cannot be read, has none, or some are no numbers in [0, 1].
    """
    mean = 100 * float(recorded(folder).double().mean())
    if not 0 <= mean <= 100:  # nor is NaN
        path = folder / (NAME if (folder / NAME).is_file() else ITEMS)
        raise ValueError(f"{path}: it has no items, or some that are no numbers in [0, 1]")
    return mean
