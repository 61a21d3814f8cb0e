"""Detectron2's `.pkl` of weights: written and read as plain arrays only.

A pickle runs code when it is loaded, and Detectron2's checkpointer loads any. A file is therefore
read here first, by an unpickler that knows arrays and nothing else.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from keepbench.weights import check_finite

AUTHOR = "keepaugment-benchmark"
_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("collections", "OrderedDict"),
    *(
        (f"numpy.{core}.{module}", name)
        for core in ("core", "_core")  # NumPy 2 renamed its parts
        for module, name in (("multiarray", "_reconstruct"), ("numeric", "_frombuffer"))
    ),
}


class _PlainUnpickler(pickle.Unpickler):
    """Makes arrays, and the containers and numbers that pickle itself knows."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise ValueError(f"it asks for {module}.{name}, which is not an array")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def read_pickle(path: Path) -> dict[str, Tensor]:
    """The weights in a `.pkl` of Detectron2's form, `{"model": {name: array}, ...}`.

    Raises:
        ValueError: The file asks for anything but arrays (nothing is run), is damaged, or is of
            another form.
    """
    if not path.is_file():
        raise ValueError(f"no file {path}")
    try:
        # latin1 as in Detectron2: files of Python 2 hold their arrays' bytes as text
        content = _PlainUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except Exception as error:  # a damaged pickle fails in many ways
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path} is no file of plain arrays: {reason}; export the backbone anew with "
            "tools/export_backbone.py"
        ) from None
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict) or "__author__" not in content:
        raise ValueError(f"{path} has no weights of Detectron2's form, with model and __author__")
    for name, array in model.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
            raise ValueError(f"{name!r} in {path} is no array of floating-point numbers")
    weights = {name: torch.from_numpy(np.array(array)) for name, array in model.items()}
    try:
        check_finite(weights)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return weights


def write_pickle(path: Path, weights: dict[str, Tensor]) -> None:
    """Write weights by the names of Detectron2's ResNet, for its own checkpointer.

    The same ResNet is `backbone`, `backbone.bottom_up` under a feature pyramid, and in a C4
    detector its last stage is `roi_heads.res5`. `matching_heuristics` asks the checkpointer to find
    these places: a weight goes where its whole name ends the name there.
    """
    arrays = {name: value.detach().float().cpu().numpy() for name, value in weights.items()}
    content = {"model": arrays, "__author__": AUTHOR, "matching_heuristics": True}
    path.write_bytes(pickle.dumps(content, protocol=4))
