"""A classification run's folder, read back: its settings, its trainer, its checkpoints."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from classification.config import Config
from classification.data import open_data
from classification.train import Trainer
from keepbench.processes import Processes
from keepbench.weights import load_checkpoint


class RunRecord(NamedTuple):
    """A run's folder and what its `run.json` says.

    Attributes:
        folder: of the run.
        about: all of `run.json`.
        config: its settings.
    """

    folder: Path
    about: dict[str, Any]
    config: Config


def run_folder(place: Path) -> Path | None:
    """The run's folder that `place` is, or is a checkpoint in; None if it is neither."""
    folder = place if place.is_dir() else place.parent
    return folder if (folder / "run.json").is_file() else None


def read_run(place: Path, data: str | None = None) -> RunRecord:
    """Read a run's folder, or the one that a checkpoint lies in; `data` moves its data set.

    Raises:
        ValueError: No run is there, or it is no run of classification.
    """
    folder = run_folder(place)
    if folder is None:
        raise ValueError(f"{place} is no run's folder: there is no run.json")
    try:
        about = json.loads((folder / "run.json").read_text())
        settings = about["settings"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'run.json'} is damaged ({error})") from None
    unknown = set(settings) - {field.name for field in fields(Config)}
    if unknown:
        raise ValueError(
            f"{folder} is no run of tools/run_classification.py as it now is: "
            f"unknown settings {sorted(unknown)[:5]}"
        )
    config = Config(**settings)
    return RunRecord(folder, about, replace(config, data=data) if data else config)


def open_trainer(config: Config, processes: Processes) -> Trainer:
    """A fresh trainer of a run, on its data.

    Raises:
        ValueError: The data cannot be found.
    """
    try:
        data = open_data(config, processes.device)
    except ValueError as error:
        raise ValueError(f"{error} (--data names the folder of the run's data set)") from error
    return Trainer(config, data, processes)


def trained(run: RunRecord, processes: Processes, checkpoint: Path | None = None) -> Trainer:
    """A run's trainer as it was saved, from a checkpoint or the run's last."""
    trainer = open_trainer(run.config, processes)
    trainer.load_state(load_checkpoint(checkpoint or run.folder / "last.pt"))
    return trainer
