"""A classification run's folder, read back: its settings, its trainer, its checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from classification.config import Config
from classification.data import open_data
from classification.train import Trainer
from keepbench.loop import restore
from keepbench.processes import Processes
from keepbench.run import RunRecord
from keepbench.weights import load_checkpoint


class ClassificationRun(NamedTuple):
    """A run of classification.

    Attributes:
        record: its folder's.
        config: its settings.
    """

    record: RunRecord
    config: Config


def run_folder(place: Path) -> Path | None:
    """The run's folder that `place` is, or is a checkpoint in; None if it is neither."""
    folder = place if place.is_dir() else place.parent
    return folder if (folder / "run.json").is_file() else None


def read_run(place: Path, data: str | None = None) -> ClassificationRun:
    """Read a run's folder, or the one that a checkpoint lies in; `data` moves its data set.

    Raises:
        ValueError: No run is there, or it is no run of classification.
    """
    record = RunRecord.read(run_folder(place) or place)
    config = record.config(Config)
    return ClassificationRun(record, replace(config, data=data) if data else config)


def open_trainer(config: Config, processes: Processes) -> Trainer:
    """A fresh trainer of a run, on its data.

    Raises:
        ValueError: The data cannot be found.
    """
    config = replace(config, download=False)  # it may be somebody else's
    try:
        data = open_data(config, processes.device)
    except ValueError as error:
        raise ValueError(f"{error} (--data names the folder of the run's data set)") from error
    return Trainer(config, data, processes)


def trained(
    run: ClassificationRun, processes: Processes, checkpoint: Path | None = None
) -> Trainer:
    """A run's trainer as it was saved, from a checkpoint or the run's last."""
    trainer = open_trainer(run.config, processes)
    restore(trainer, load_checkpoint(checkpoint or run.record.folder / "last.pt"))
    return trainer
