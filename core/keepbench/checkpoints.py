"""A run's checkpoints: which is the newest that can be read, with each field of its kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from keepbench.files import parse_json
from keepbench.weights import check_finite, load_checkpoint

CHECKPOINTS = ("new.pt", "last.pt", "previous.pt")
"""Newest first: "new" is there only if a run was killed between two renames."""

DETECTRON = "last_checkpoint"  # in its place in a run of Detectron2: names the newest

_KINDS = {
    "epoch": int, "step": int, "sums": Tensor, "model": dict, "average": dict, "optimizer": dict,
    "ranks": list, "run": str, "metrics": str,
}  # fmt: skip


def load_state(path: Path) -> dict[str, Any]:
    """A run's checkpoint: its epoch and step are counts, its weights finite, its metrics rows.

    Raises:
        ValueError: It is none.
    """
    state = {"step": 0, **load_checkpoint(path)}
    try:
        _check_state(state)
    except ValueError as error:
        raise ValueError(f"{path} is no checkpoint of a run: {error}") from None
    return state


def _check_state(state: dict[str, Any]) -> None:
    if "epoch" not in state:
        raise ValueError("it holds no epoch")
    for name, kind in _KINDS.items():
        value = state.get(name, kind())
        if isinstance(value, bool) or not isinstance(value, kind):
            raise ValueError(f"its {name} is a {type(value).__name__}")
    if min(state["epoch"], state["step"]) < 0:
        raise ValueError(f"it is at epoch {state['epoch']}, step {state['step']}")
    for name in ("model", "average"):
        check_finite(state.get(name, {}))
    parse_json(state.get("run", "{}"))
    for row in parse_json(state.get("metrics", "[]"), list):
        if not isinstance(row, dict) or type(row.get("epoch")) is not int:
            raise ValueError("its metrics are no rows of epochs")


def newest_state(folder: Path) -> tuple[dict[str, Any] | None, Path | None, dict[Path, str]]:
    """The newest checkpoint in a folder that can be read.

    Returns:
        Its content and its path, None if there is no checkpoint at all; and why newer ones cannot
        be read, by path.

    Raises:
        ValueError: Checkpoints are there, but none can be read.
    """
    damaged: dict[Path, str] = {}
    for name in CHECKPOINTS:
        if not (folder / name).exists():
            continue
        try:
            return load_state(folder / name), folder / name, damaged
        except ValueError as error:
            damaged[folder / name] = str(error)
    if damaged:
        first = next(iter(damaged.values()))
        raise ValueError(f"no checkpoint in {folder} can be read ({first}); give another --out")
    return None, None, damaged
