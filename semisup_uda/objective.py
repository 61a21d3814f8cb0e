"""The objective of a step, and its figures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from keepbench.processes import Processes
from semisup_uda.config import Config
from semisup_uda.losses import (
    Consistency,
    fixmatch_loss,
    supervised_losses,
    tsa_threshold,
    uda_loss,
)

SUMS = (
    "loss",
    "supervised",
    "counted",
    "unsupervised",
    "masked",
    "right",
    "right_masked",
    "pasted",
)
"""Names of the sums over the steps of an epoch: each a mean over its batch."""


def _supervised(
    config: Config, logits: Tensor, labels: Tensor, progress: float, processes: Processes
) -> tuple[Tensor, Tensor]:
    """The mean loss of the labelled images that count, and the share that does.

    The count is that of all processes, so that their gradients average to one process's.
    """
    threshold = tsa_threshold(config.tsa, progress, logits.shape[1])
    losses, counts = supervised_losses(logits, labels, threshold)
    if not config.tsa:
        return losses.mean(), torch.ones_like(losses[0]).detach()
    count = processes.total(counts.sum().float()).clamp(min=1) / processes.world_size
    return losses.sum() / count, counts.float().mean()


def _consistency(config: Config, clean: Tensor, strong: Tensor) -> Consistency:
    if config.method == "fixmatch":
        return fixmatch_loss(clean, strong, confidence=config.confidence)
    return uda_loss(clean, strong, temperature=config.temperature, confidence=config.confidence)


def step_losses(
    config: Config,
    logits: Tensor,
    labels: Tensor,
    hidden: Tensor | None,
    progress: float,
    processes: Processes,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a step, and values for `SUMS`.

    Args:
        config: the run's settings.
        logits: of the labelled views, then the clean, then the strong ones, if there are any.
        labels: of the labelled.
        hidden: of the unlabelled, only to be compared with; None if nobody knows them.
        progress: share of the run's steps that are done.
        processes: this process; all of them must call.
    """
    own, other = logits[: len(labels)], logits[len(labels) :]
    total, counted = _supervised(config, own, labels, progress, processes)
    found = {"supervised": total, "counted": counted}
    if len(other):
        each = _consistency(config, *other.chunk(2))
        total = total + config.weight * each.loss
        found |= {"unsupervised": each.loss, "masked": each.mask.float().mean()}
        if hidden is not None:
            right = each.guess == hidden
            found["right"] = right.float().mean()
            found["right_masked"] = (right & each.mask).float().mean()
    return total, found | {"loss": total}


def training_figures(
    config: Config, means: dict[str, float], *, known: bool, threshold: float
) -> dict[str, Any]:
    """A row's training figures, without those that would mean nothing.

    Args:
        config: the run's settings.
        means: of `SUMS` over an epoch.
        known: whether the unlabelled images' labels are.
        threshold: of training signal annealing, at the epoch's end.

    Returns:
        Losses; "mask_rate", "tsa_share" and "pasted_area", shares in [0, 1];
        "pseudo_label_accuracy" of all unlabelled images and "masked_accuracy" of those that
        counted, in %.
    """
    row = {"train_loss": means["loss"], "supervised_loss": means["supervised"]}
    if config.tsa:
        row |= {"tsa_threshold": threshold, "tsa_share": means["counted"]}
    if config.method == "supervised":
        return row
    row |= {"unsupervised_loss": means["unsupervised"], "mask_rate": means["masked"]}
    if known:
        row["pseudo_label_accuracy"] = 100 * means["right"]
        if means["masked"]:
            row["masked_accuracy"] = 100 * means["right_masked"] / means["masked"]
    if config.keep:
        row["pasted_area"] = means["pasted"]
    return row
