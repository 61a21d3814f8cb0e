"""Which test images a run has right: a bit for each, as text beside its metrics."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from keepbench.files import write_text

NAME = "right.json"


def write_right(folder: Path, right: Tensor, epoch: int) -> None:
    """Store right (N,) bool, in the order of the test set, as it is after an epoch."""
    bits = base64.b64encode(np.packbits(right.numpy()).tobytes()).decode()
    about = {"epoch": epoch, "images": len(right), "right": int(right.sum()), "bits": bits}
    write_text(folder / NAME, json.dumps(about) + "\n")


def read_right(folder: Path) -> Tensor:
    """What `write_right` stored: (N,) bool.

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
