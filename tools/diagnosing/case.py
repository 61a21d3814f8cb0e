"""A model with images for it, ready to be examined."""

from __future__ import annotations

import argparse
import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classification.auto_map import Stored, gradient_maps, recycling_gflop
from diagnosing.checks import reason_of
from diagnosing.subject import Subject, predicted, read_images
from keepaugment import (
    AttentionSaliency,
    EarlyHead,
    KeepCutout,
    RecycledSaliency,
    Saliency,
    SampleDraws,
    early_stage,
)
from keepaugment.early_stage import Stage
from keepaugment.no_trace import Forward
from keepbench.machine import find_device


class Case(NamedTuple):
    """The model and loop that are examined.

    Attributes:
        subject: what makes the model.
        model: in training mode.
        logits: images to logits by it.
        images: (B, C, H, W).
        labels: (B,), its own predictions.
        classes: K.
        stage: of the early head; None without one.
        head: on it, never trained.
        kinds: every map that the model can have.
    """

    subject: Subject
    model: nn.Module
    logits: Forward
    images: Tensor
    labels: Tensor
    classes: int
    stage: Stage | None
    head: EarlyHead | None
    kinds: dict[str, Saliency]


def _early(
    model: nn.Module, images: Tensor, classes: int
) -> tuple[Stage, EarlyHead] | tuple[None, None]:
    """An early head where it fits best, if the model has a place for one."""
    try:
        stage = early_stage(model, images[:1])
        return stage, EarlyHead(model, stage.name, classes, num_features=stage.num_features)
    except ValueError:
        return None, None


def possible_maps(
    model: nn.Module, logits: Forward, head: EarlyHead | None, images: Tensor, labels: Tensor
) -> dict[str, Saliency]:
    """Every kind of map that the model can have."""
    wanted = dict(gradient_maps(logits, head))
    try:
        wanted["attention"] = AttentionSaliency(model)
    except ValueError:
        pass  # no transformer that is known
    kinds = {}
    for kind, saliency in wanted.items():
        try:
            saliency(images, labels)
        except Exception as error:  # models refuse sizes in many ways; the table says which
            if kind == "full":
                raise ValueError(f"no map can be taken of the model: {reason_of(error)}") from error
            continue
        kinds[kind] = saliency
    return kinds


def recycled_maps(case: Case, box: int, visits: int = 4) -> dict[str, Stored]:
    """Maps that some training steps leave, without learning; none if the model cannot be copied."""
    number, size = len(case.images), (case.images.shape[2], case.images.shape[3])
    device = case.images.device
    index, draws = torch.arange(number, device=device), SampleDraws(0)
    recycled = RecycledSaliency(number, size, device=device)
    keep = KeepCutout(size=box, saliency=recycled, generator=draws)
    try:
        logits = case.subject.logits(copy.deepcopy(case.model))
        for visit in range(visits):
            draws.at(visit, index)
            recycled.at(index)
            inputs = keep(case.images).requires_grad_()
            F.cross_entropy(logits(inputs).float(), case.labels).backward()
            recycled.take(inputs)
    except Exception:  # the user's model may refuse to be copied, or this use, in many ways
        return {}
    recycled.at(index)
    gflop = recycling_gflop(case.model, case.images[:1])
    return {"recycled": Stored(recycled(case.images), gflop)}


def prepare_case(words: argparse.Namespace) -> Case:
    """Make the model of a command line, and read the images.

    Raises:
        ValueError: A model or images that cannot be used.
    """
    subject = Subject(
        words.model, words.classes, words.channels, words.output, words.weights, words.download
    )
    device, size = find_device(words.device), words.size or subject.usual_size
    images = read_images(words.images, size, words.channels, words.batch_size).to(device)
    if len(images) < 2:
        raise ValueError(f"two images are needed, found {len(images)}; see --batch-size, --images")
    model = subject.make().to(device)
    logits = subject.logits(model)
    labels, classes = predicted(logits, images)
    stage, head = _early(model, images, classes)
    kinds = possible_maps(model, logits, head, images, labels)
    return Case(subject, model, logits, images, labels, classes, stage, head, kinds)
