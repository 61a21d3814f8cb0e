"""Inputs of the networks of runs, where the images come with a package: a strip for each arm."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from classification.config import Config
from evidence import naming
from evidence.folders import FinishedRun, Group
from keepbench.machine import find_device
from keepbench.processes import Processes
from keepbench.settings import flat
from previewing.images import as_uri
from previewing.runs import open_trainer, read_run
from replaying.page import coloured
from replaying.replay import CHECKPOINTS, batch_of_step, needs_weights

PACKAGED = ("digits",)
"""Data sets that need no folder."""
IMAGES, MOST = 10, 6  # on a strip, and strips on a page


@dataclass(frozen=True)
class Strip:
    """Training images side by side.

    Attributes:
        name: of the arm; "" for the stored images.
        picture: the images as a `data:` address.
        where: step, seed and data, in words.
    """

    name: str
    picture: str
    where: str


def _joined(images: Tensor) -> str:
    """Images (N, C, H, W) uint8 in a row."""
    return as_uri(torch.cat([*pad(images, (1, 1), value=255)], dim=-1))


def _strips(run: FinishedRun) -> list[Strip]:
    """The first images of a run's last epoch as they are stored, and as its network saw them."""
    read = read_run(run.record.folder)
    config, processes = read.config, Processes(find_device("cpu"))
    trainer = open_trainer(replace(config, eval_every=config.epochs), processes)
    batch, _ = batch_of_step(trainer, read, config.epochs - 1, 0, quiet_bar=True)
    with trainer.autocast():
        seen = trainer.augment(config.epochs - 1, 0, batch).inputs
    settings = flat(config)
    where = f"epoch {config.epochs}, seed {config.seed}, {', '.join(naming.place(settings))}"
    images = torch.stack([coloured(each, trainer.data) for each in seen[:IMAGES]])
    return [
        Strip("", _joined(batch.images[:IMAGES]), where),
        Strip(naming.arm(settings), _joined(images), where),
    ]


def _drawable(run: FinishedRun) -> bool:
    """Whether a run's images are at hand, and the weights that its maps need."""
    if run.task != "classification" or run.settings["dataset"] not in PACKAGED:
        return False
    weights = all((run.record.folder / name).is_file() for name in CHECKPOINTS)
    with suppress(ValueError):  # settings of another version, or of the user's own code
        return weights or not needs_weights(run.record.config(Config))
    return False


def strips(runs: Iterable[FinishedRun]) -> list[Strip]:
    """Strips of the first seed of each arm of one group, above them the images as stored."""
    found: list[Strip] = []
    groups: dict[Group, dict[str, FinishedRun]] = {}
    for run in sorted(runs, key=lambda run: run.record.seed):
        if _drawable(run):
            groups.setdefault(run.group, {}).setdefault(run.record.experiment, run)
    for run in [run for group in groups.values() for run in group.values()][:MOST]:
        try:
            stored, seen = _strips(run)
        except ValueError:  # other code or data than the run's; the page does without
            continue
        if (stored.picture, stored.where) not in [(each.picture, each.where) for each in found]:
            found.append(stored)
        found.append(seen)
    return found
