"""Detectron2's checkpointer, which reads files by our loaders alone.

Its own opens any pickle, and whatever file the text in `last_checkpoint` names; both run code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from detection.detectron import require
from detection.pickles import AUTHOR
from keepbench.checkpoints import DETECTRON
from keepbench.files import parse_json
from keepbench.identity import Identity
from keepbench.weights import load_checkpoint, load_weights, pick_weights


def last_checkpoint(folder: Path) -> Path | None:
    """The checkpoint in a run's folder that it goes on from; None if there is none yet.

    Raises:
        ValueError: Detectron2's `last_checkpoint` names anything but a model_*.pth of the folder.
    """
    pointer = folder / DETECTRON
    if not pointer.is_file():
        return None
    name = pointer.read_text(errors="replace").strip()
    if not re.fullmatch(r"model_\w+\.pth", name, re.ASCII) or (folder / name).is_symlink():
        raise ValueError(f"{pointer} names {name[:80]!r}, which is no model_*.pth of this folder")
    if not (folder / name).is_file():
        raise ValueError(f"{pointer} names {name}, which is not there; give another --out")
    return folder / name


def check_last(folder: Path, identity: Identity) -> None:
    """Raise ValueError if a run cannot go on from the last checkpoint in a folder, if there is one.

    It must be a checkpoint of that run, and the file that `last_checkpoint` names.
    """
    path = last_checkpoint(folder)
    content = load_checkpoint(path) if path else {}
    if "run" in content:
        identity.compare(parse_json(content["run"]), str(path))


def make_checkpointer(
    model: Any,
    folder: str = "",
    backbone: Mapping[str, Tensor] | None = None,
    identity: Identity | None = None,
    **parts: Any,
) -> Any:
    """A DetectionCheckpointer that opens no pickle.

    Args:
        model: the detector.
        folder: the run's.
        backbone: what stands for the content of a `.pkl`, which has been read before.
        identity: of the run, which its checkpoints hold.
        parts: what else is saved and loaded.
    """
    require()
    from detectron2.checkpoint import DetectionCheckpointer

    class Checkpointer(DetectionCheckpointer):
        def save(self, name: str, **more: Any) -> None:
            if identity:
                more["run"] = json.dumps(identity.settings)
            super().save(name, **more)

        def get_checkpoint_file(self) -> str:
            return str(last_checkpoint(Path(self.save_dir)) or "")

        def _load_file(self, filename: str) -> dict[str, Any]:
            if backbone is not None and filename.endswith(".pkl"):
                arrays = dict(backbone)
                return {"model": arrays, "__author__": AUTHOR, "matching_heuristics": True}
            content = load_checkpoint(Path(filename))
            missing = sorted({"model", *self.checkpointables} - content.keys())
            if missing:
                raise ValueError(f"{filename} holds no {' and no '.join(missing)}")
            try:  # Detectron2 itself passes over what does not fit
                load_weights(self.model, pick_weights(content, "model"))
            except ValueError as error:
                raise ValueError(f"{filename}: {error}") from None
            return content

        def load(self, path: str, *arguments: Any, **options: Any) -> Any:
            try:
                return super().load(path, *arguments, **options)
            except (AssertionError, AttributeError, KeyError, TypeError) as error:
                raise ValueError(f"checkpoint {path} cannot be loaded: {error!r}") from error

    return Checkpointer(model, folder, **parts)
