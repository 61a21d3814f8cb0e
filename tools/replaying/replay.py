"""A training image exactly as the network saw it.

All choices follow from (seed, epoch, number of the image), so the batch that held the image is
augmented again by the run's own code. Where a map decided, it depends on the weights of that step.
These are made again by training from the nearest checkpoint before it, which on a CPU gives the
same bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from classification.augmentation import REGIONS, Augmentation, Augmented
from classification.config import Config
from classification.data import Data
from classification.train import Trainer
from keepbench.images import Batch, Normalise
from keepbench.loop import restore, train_epoch, train_steps
from keepbench.machine import commit, hardware, versions
from keepbench.order import EpochBatches
from keepbench.processes import Processes
from keepbench.weights import load_checkpoint
from previewing.runs import ClassificationRun, open_trainer

CHECKPOINTS = ("last.pt", "previous.pt")


@dataclass
class Replayed:
    """An image of a training step.

    Attributes:
        stored: (C, H, W) uint8, as it lies in the data set; of a tree of large images its crop.
        inputs: (C, H, W), what the network saw.
        target: its label, or class weights (K,).
        label: its class number.
        step: of the epoch, from 0.
        position: in this process's batch, from 0.
        data: the run's.
        stages: pictures (C, H, W) and maps (H, W) on the way, by title; images are normalised.
        how: what was done to get here, in sentences.
    """

    stored: Tensor
    inputs: Tensor
    target: Tensor
    label: int
    step: int
    position: int
    data: Data
    stages: dict[str, Tensor]
    how: list[str] = field(default_factory=list)

    def digest(self) -> str:
        """SHA-256 of the bytes of what the network saw, float32 row by row."""
        return hashlib.sha256(self.inputs.float().cpu().contiguous().numpy().tobytes()).hexdigest()


def needs_weights(config: Config) -> bool:
    """Whether a run's training images depend on its network, through its maps."""
    return config.keep is not None and config.keep.map.learned


def find_step(config: Config, num_images: int, epoch: int, index: int) -> int:
    """The step of an epoch, both from 0, whose batch holds an image.

    Raises:
        ValueError: No such epoch or image, or the image is in no step of this epoch.
    """
    if not 0 <= epoch < config.epochs:
        raise ValueError(f"--epoch must be in 1..{config.epochs} of this run, found {epoch + 1}")
    if not 0 <= index < num_images:
        raise ValueError(f"--index must be in 0..{num_images - 1}, found {index}")
    order = EpochBatches(
        num_images=num_images, batch_size=config.batch_size, seed=config.seed, epoch=epoch
    )
    for step, numbers in enumerate(order):
        if index in numbers:
            return step
    raise ValueError(f"image {index} is in no step of epoch {epoch + 1}: the last was too small")


def _nearest(
    folder: Path, others: list[Path], epoch: int, step: int
) -> tuple[Path, dict[str, Any]] | None:
    """The latest checkpoint that was taken before a step, from the run's folder or `others`.

    Raises:
        ValueError: One of `others` cannot be read, or is no checkpoint of such a run.
    """
    found = []
    for path in (*others, *(folder / name for name in CHECKPOINTS)):
        try:
            state = load_checkpoint(path)
            taken = (int(state["epoch"]), int(state["step"]))
        except (ValueError, KeyError, TypeError) as error:
            if path not in others:  # a damaged or missing one of the folder: the way is longer
                continue
            raise ValueError(f"{path} is no checkpoint of this run: {error}") from error
        if taken <= (epoch, step):
            found.append((taken, path, state))
    return max(found, key=lambda each: each[0])[1:] if found else None


def _prepare(
    trainer: Trainer, run: ClassificationRun, epoch: int, step: int, others: list[Path]
) -> list[str]:
    """Bring a fresh trainer to where its training towards a step begins; say how."""
    if not needs_weights(run.config):
        trainer.epoch, trainer.step = epoch, step
        return ["No map of the network decides here: the batch was augmented, nothing was trained."]
    found = _nearest(run.record.folder, others, epoch, step)
    if found is None:
        start = "from the seed's first weights, as no checkpoint from before that step was found"
    else:
        restore(trainer, found[1])
        inside = f" and {trainer.step} steps" if trainer.step else ""
        start = f"from {found[0].name}, taken after {trainer.epoch} epochs{inside}"
    steps = (epoch - trainer.epoch) * trainer.steps + step - trainer.step
    if not steps:
        return [f"The map is that of the weights in {found[0].name if found else 'the seed'}."]
    many = f"{steps} steps were" if steps > 1 else "one step was"
    return [f"The map needs the weights of that step: {many} trained again {start}."]


def _conditions(run: ClassificationRun, processes: Processes) -> list[str]:
    """Differences from the run, so that bits may differ; none if all is known to be equal."""
    now = {
        "commit": commit(Path(__file__).parent) or "unknown",
        "hardware": hardware(processes.device),
        **versions(),
    }
    then = {"commit": run.record.commit, "hardware": run.record.hardware}
    then |= run.record.versions
    differing = [
        f"{name} was {then[name]}, is {now.get(name)}"
        for name in then
        if then[name] != now.get(name)
    ]
    lines = [f"Not as in the run: {'; '.join(differing)}."] if differing else []
    if processes.device.type != "cpu" and needs_weights(run.config):
        lines.append("A GPU does not promise the same bits twice; a map may differ in its last.")
    lines.append(
        f"Replayed as {processes.world_size} process{'es' if processes.world_size > 1 else ''}; "
        "a run of several is replayed under torchrun with as many."
    )
    return lines


def _train_until(trainer: Trainer, epoch: int, step: int, hide_bar: bool | None) -> None:
    """Train to where a step begins, both from 0."""
    todo = (epoch - trainer.epoch) * trainer.steps + step - trainer.step
    with tqdm(total=todo, desc="training again", unit="step", disable=hide_bar) as bar:
        while trainer.epoch < epoch:
            train_epoch(trainer, bar.update)
        if trainer.step < step:
            train_steps(trainer, bar.update, stop=lambda: trainer.step == step)


def batch_of_step(
    trainer: Trainer,
    run: ClassificationRun,
    epoch: int,
    step: int,
    checkpoints: Sequence[Path] = (),
    quiet_bar: bool | None = None,
) -> tuple[Batch, list[str]]:
    """Bring a run's fresh trainer to a step, both from 0: its batch, and how it got there.

    Raises:
        ValueError: One of the checkpoints cannot be used.
    """
    how = _prepare(trainer, run, epoch, step, list(checkpoints))
    _train_until(trainer, epoch, step, quiet_bar)
    return next(iter(trainer.batches())), how


LOOKS = {
    "view": ("pixels", "after crop and flip"),
    "policy": ("augmented", "after the policy"),
    "colour": ("inputs", "before regions change"),
    "cut": ("mask", "where it was cut"),
    "mix": ("mask", "where it was mixed"),
}
"""After which stage of the augmentation one looks at which field, and what it is called."""


def _looked_at(augment: Augmentation, epoch: int, step: int, batch: Batch) -> tuple[
    Augmented, dict[str, Tensor]
]:  # fmt: skip
    """A batch as the network sees it, and what was on its way, by title."""
    notes: dict[str, Tensor] = {}

    def listen(stage: str, seen: Augmented) -> None:
        if stage in REGIONS and augment.map.last is not None:
            notes["map"] = augment.map.last
        name, title = LOOKS.get(stage, ("", ""))
        if name and (value := getattr(seen, name)) is not None:
            # AugMix's own mixtures are bytes that are not rounded.
            notes[title] = value.byte() if stage == "policy" else value

    return augment(epoch, step, batch, listen), notes


def _pictures(notes: dict[str, Tensor], position: int, data: Data) -> dict[str, Tensor]:
    """Notes on one image, each once; bytes become normalised images."""
    normalise = Normalise(data.mean, data.std)
    pictures: dict[str, Tensor] = {}
    for title, tensor in notes.items():
        one = tensor[position : position + 1]
        images = normalise(one) if one.dtype == torch.uint8 else one
        picture = images[0, 0] if images.dtype == torch.bool else images[0]
        if not any(torch.equal(picture, seen) for seen in pictures.values()):
            pictures[title] = picture
    return pictures


def replay(
    run: ClassificationRun,
    epoch: int,
    index: int,
    processes: Processes,
    *,
    checkpoints: list[Path] | None = None,
    quiet_bar: bool | None = None,
) -> Replayed | None:
    """Augment a training image again as in an epoch of a run.

    Args:
        run: as read from its folder.
        epoch: from 1, as in `metrics.jsonl`.
        index: the image's number in the training set.
        processes: this process; a run of several needs as many.
        checkpoints: of the run, further ones than those in its folder, such as copies that were
            kept of `last.pt`.
        quiet_bar: hide the bar of steps trained again; None hides it off a terminal.

    Returns:
        The image, or None if another process has it.

    Raises:
        ValueError: No such epoch or image, or checkpoints that cannot be used.
    """
    trainer = open_trainer(replace(run.config, eval_every=run.config.epochs), processes)
    step = find_step(run.config, trainer.data.num_train, epoch - 1, index)
    batch, how = batch_of_step(trainer, run, epoch - 1, step, checkpoints or [], quiet_bar)
    with trainer.autocast():
        augmented, notes = _looked_at(trainer.augment, epoch - 1, step, batch)
    places = (batch.numbers == index).nonzero()
    if not len(places):
        assert processes.world_size > 1, f"image {index} is not in step {step}"
        return None
    position = int(places[0, 0])
    return Replayed(
        stored=batch.images[position],
        inputs=augmented.inputs[position],
        target=augmented.targets[position],
        label=int(batch.labels[position]),
        step=step,
        position=position,
        data=trainer.data,
        stages=_pictures(notes, position, trainer.data),
        how=how + _conditions(run, processes),
    )
