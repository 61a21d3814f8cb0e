"""Affinity and diversity of augmentations, plain and Keep, to choose a magnitude before training.

Gontijo-Lopes, Smullin, Cubuk and Dyer, 2020, https://arxiv.org/abs/2002.08973, reference [12] of
the paper. Affinity: the accuracy, on augmented validation images, of a model that was trained on
clean ones, minus its accuracy on clean validation images. 0 is no shift; below it the augmented
images look less like the clean ones to the model. Diversity: the final training loss with an
augmentation, relative to that without.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from classification.augmentation import Augmentation
from classification.config import Config
from classification.methods import Cutout, Keep, KeepCut, KeepPaste
from classification.train import Trainer
from keepaugment import SampleDraws
from keepbench.accuracy import label_ranks
from keepbench.clock import Clock
from keepbench.images import Batch
from keepbench.maps import Gradient, Scene
from keepbench.policies import AutoAugment, RandAugment
from keepbench.settings import changed, flat, named
from previewing.runs import ClassificationRun, read_run


class Method(NamedTuple):
    """An augmentation with a strength.

    Attributes:
        strength: the name of the setting that is varied.
        stages: of `Config`, by name.
        keep: of its Keep arm.
    """

    strength: str
    stages: dict[str, Any]
    keep: Keep


METHODS = {
    "cutout": Method("cut.size", {"cut": Cutout()}, KeepCut()),
    **{
        f"{policy.name}{also}": Method(
            "policy.magnitude", {"policy": policy, "cut": cut}, KeepPaste()
        )
        for also, cut in (("", None), ("+cutout", Cutout()))
        for policy in (RandAugment(), AutoAugment())
    },
}


@dataclass(frozen=True)
class Row:
    """A strength of a method, plain or Keep.

    Attributes:
        strength: of the method.
        keep: whether it is the Keep arm.
        accuracy: on the augmented images, in %.
        affinity: that minus the clean accuracy, in percentage points.
        error: standard error of the affinity over the images, likewise.
        changed: share of the pixels that were cut.
        diversity: the final training loss relative to the clean run's, if a run of it was given.
    """

    strength: int
    keep: bool
    accuracy: float
    affinity: float
    error: float
    changed: float
    diversity: float | None = None


def make_arms(
    config: Config, law: Method, strengths: list[int], **settings: Any
) -> Iterator[Config]:
    """The settings of every strength, plain then Keep; crops, flips and colours are off.

    Args:
        config: of a run.
        law: the augmentation.
        strengths: of it.
        **settings: by name, of the augmentation and its Keep; those that it does not have are left.
    """
    plain = replace(config, padding=0, flip=False, jitter=False, policy=None, cut=None, mix=None,
                    keep=None)  # fmt: skip
    keep = replace(plain, **law.stages, keep=law.keep)
    keep = changed(keep, {n: value for n, value in settings.items() if n in flat(keep)})
    for strength in strengths:
        plain = changed(replace(keep, keep=None), {law.strength: strength})
        yield plain
        yield replace(plain, keep=keep.keep)


def augmentation_of(config: Config) -> tuple[Any, ...]:
    """The methods of a run, however its maps are computed."""
    keep = config.keep and replace(config.keep, cache=0, map=type(config.keep.map)())
    return config.policy, config.cut, config.mix, keep


@torch.no_grad()
def right_answers(
    trainer: Trainer, config: Config | None, seed: int, limit: int = 0
) -> tuple[Tensor, float]:
    """Which test images a model knows after an augmentation, once for each (the definition).

    Args:
        trainer: holds the model and the data.
        config: of the augmentation; None is none.
        seed: of the augmentation's random numbers; an image gets the same in every arm.
        limit: look at as many images only; 0 is all.

    Returns:
        (N,) bool, and the mean share of the pixels that were cut.
    """
    device, seen, changed = trainer.device, 0, 0.0
    draws = SampleDraws(seed)
    augment = None
    if config is not None:
        kind = config.keep.map if config.keep else Gradient()
        saliency = kind.build(Scene(trainer.model, draws, trainer.head))
        augment = Augmentation(
            config, trainer.data, trainer.model, saliency, None, (draws, draws, draws), device,
            Clock(device),
        )  # fmt: skip
    right = []
    trainer.tested.eval()
    for pixels, labels in trainer.data.test_batches(device, trainer.config.workers, 0, 1):
        if limit:
            pixels, labels = pixels[: limit - seen], labels[: limit - seen]
        index = torch.arange(seen, seen + len(labels), device=device)
        if augment is None:
            inputs = trainer.augment.inputs(pixels)
        else:
            batch = augment(0, 0, Batch(index, pixels, labels))
            inputs, changed = batch.inputs, changed + float(batch.changed) * len(labels)
        right.append(label_ranks(trainer.tested(inputs).float(), labels) == 0)
        seen += len(labels)
        if limit and seen >= limit:
            break
    trainer.tested.train()
    if not seen:
        raise ValueError("there are no test images to measure on")
    return torch.cat(right).cpu(), changed / seen


def measure(trainer: Trainer, arms: list[Config], law: Method, seed: int, limit: int) -> list[Row]:
    """Affinity of every arm, on the test images of the trainer's data."""
    clean, _ = right_answers(trainer, None, seed, limit)
    rows = []
    for arm in tqdm(arms, desc="affinity", unit="arm", disable=None):
        right, changed = right_answers(trainer, arm, seed, limit)
        shift = 100 * (right.double() - clean.double())
        rows.append(
            Row(
                strength=flat(arm)[law.strength],
                keep=bool(arm.keep),
                accuracy=100 * right.double().mean().item(),
                affinity=shift.mean().item(),
                error=shift.std(correction=0).item() / math.sqrt(len(shift)),
                changed=changed,
            )
        )
    return rows


def final_loss(run: ClassificationRun) -> float:
    """A run's training loss in its last epoch.

    Raises:
        ValueError: The run has not got there.
    """
    last: dict[str, Any] = run.record.rows[-1] if run.record.rows else {}
    done, epochs = last.get("epoch", 0), run.config.epochs
    if done != epochs or not isinstance(last.get("train_loss"), float):
        raise ValueError(f"{run.record.folder} has trained {done} of its {epochs} epochs")
    return last["train_loss"]


def with_diversity(
    rows: list[Row], arms: list[Config], clean: ClassificationRun, folders: list[Path]
) -> tuple[list[Row], list[str]]:
    """Rows with the diversity of the runs that trained with them, and notes on runs left out.

    A run belongs to an arm if its augmentation is the arm's, apart from crop and flip, and it has
    the clean run's network and epochs. Several seeds are averaged.
    """

    def budget(config: Config) -> tuple[str, int, str]:
        return config.arch, config.epochs, config.dataset

    reference = final_loss(clean)
    losses: dict[int, list[float]] = {}
    notes = []
    for folder in folders:
        run = read_run(folder)
        wanted = augmentation_of(run.config)
        places = [n for n, arm in enumerate(arms) if augmentation_of(arm) == wanted]
        if not places or budget(run.config) != budget(clean.config):
            why = "its augmentation is none of these" if not places else "another network or budget"
            notes.append(f"{folder} was left out: {why}.")
            continue
        losses.setdefault(places[0], []).append(final_loss(run))
    known = {place: sum(values) / len(values) / reference for place, values in losses.items()}
    return [replace(row, diversity=known.get(n)) for n, row in enumerate(rows)], notes


def trained_on(config: Config) -> str:
    """A warning if a run was not trained on clean images, as the definition of affinity asks."""
    stages = {"policy": config.policy, "cut": config.cut, "mix": config.mix}
    what = ", ".join(f"{name}={named(each)}" for name, each in stages.items() if each)
    if not what:
        return ""
    return (
        f"The model was trained with {what}: affinity is defined for one trained on clean images."
    )
