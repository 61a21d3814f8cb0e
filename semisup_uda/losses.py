"""The losses of UDA and FixMatch on a batch of logits. B = images, K = classes.

UDA: Xie et al., 2019, https://arxiv.org/abs/1904.12848; the reference is its code,
github.com/google-research/uda, image/main.py. FixMatch: Sohn et al., 2020,
https://arxiv.org/abs/2001.07685.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SCALE = 5.0  # of the exponential schedules of training signal annealing


class Consistency(NamedTuple):
    """The loss of unlabelled images, and what it was made of.

    Attributes:
        loss: a number, the mean over the whole batch; masked images count 0.
        mask: (B,) bool, images confident enough to be learned from.
        guess: (B,) int64, the class of each clean view.
    """

    loss: Tensor
    mask: Tensor
    guess: Tensor


def _confidence(clean: Tensor) -> tuple[Tensor, Tensor]:
    """The largest probability of each image and its class, without a gradient."""
    confidence, guess = clean.detach().softmax(1).max(1)
    return confidence, guess


def uda_loss(
    clean: Tensor, strong: Tensor, *, temperature: float, confidence: float
) -> Consistency:
    """KL(sharpened prediction on the clean view || prediction on the strong view).

    The target has no gradient. The temperature sharpens it alone, not the mask: images count whose
    unsharpened largest probability is above `confidence`.

    Args:
        clean: logits (B, K) of the clean views.
        strong: logits (B, K) of the strong views of the same images.
        temperature: below 1 sharpens.
        confidence: in [0, 1].
    """
    top, guess = _confidence(clean)
    mask = top > confidence
    target = (clean.detach() / temperature).log_softmax(1)
    divergence = F.kl_div(strong.log_softmax(1), target, reduction="none", log_target=True).sum(1)
    return Consistency((divergence * mask).mean(), mask, guess)


def fixmatch_loss(clean: Tensor, strong: Tensor, *, confidence: float) -> Consistency:
    """Cross-entropy of the strong view for the clean view's class, from `confidence` on.

    Arguments as in `uda_loss`.
    """
    top, guess = _confidence(clean)
    mask = top >= confidence
    loss = F.cross_entropy(strong, guess, reduction="none")
    return Consistency((loss * mask).mean(), mask, guess)


def tsa_threshold(schedule: str, progress: float, num_classes: int) -> float:
    """The probability of its label above which a labelled image is left out (UDA, section 3.2).

    Args:
        schedule: "linear", "log" (releases early), "exp" (releases late), or "" for 1: none is.
        progress: share of the steps that are done, in [0, 1].
        num_classes: K; the threshold rises from 1 / K to 1.
    """
    if not schedule:
        return 1.0
    share = {
        "linear": progress,
        "log": 1.0 - math.exp(-SCALE * progress),
        "exp": math.exp(SCALE * (progress - 1.0)),
    }[schedule]
    return share * (1.0 - 1.0 / num_classes) + 1.0 / num_classes


def supervised_losses(logits: Tensor, labels: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each image, 0 if its label's probability is above `threshold`.

    The loss of a batch is their sum over the number that counts, or over 1 if none does.

    Args:
        logits: (B, K).
        labels: (B,).
        threshold: of training signal annealing; 1 keeps all.

    Returns:
        Losses (B,) and whether each image counts (B,) bool.
    """
    losses = F.cross_entropy(logits, labels, reduction="none")
    with torch.no_grad():
        right = logits.softmax(1).gather(1, labels[:, None])[:, 0]
        counts = ~(right > threshold)  # NaN counts, so that a diverged model is noticed
    return torch.where(counts, losses, 0.0), counts
