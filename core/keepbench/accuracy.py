"""Accuracy of a classifier's logits, calibration, and robustness to occlusion.

K = classes. Nothing here waits for the device before `EvaluationSums.result`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from keepaugment import Cutout
from keepaugment.checks import check_images, check_labels
from keepaugment.draws import Source

BINS = 15  # as in Guo et al., 2017


def _check_scores(scores: Tensor, labels: Tensor) -> None:
    if scores.ndim != 2 or not scores.is_floating_point():
        raise ValueError(
            f"logits must be floating point (B, K), found {scores.dtype} of {tuple(scores.shape)}"
        )
    check_labels(labels, len(scores), scores.shape[1])


def label_ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """Count the classes ahead of the label in scores (B, K): (B,) int64, 0 where it is first.

    Equal scores go to the lower class, on any device, and NaN is ahead of everything: logits of a
    diverged model are never right.
    """
    _check_scores(scores, labels)
    own = scores.gather(1, labels.long()[:, None])
    later = torch.arange(scores.shape[1], device=scores.device) >= labels[:, None]
    return (~(scores < own) & ~((scores == own) & later)).sum(1)


def _gaps(probabilities: Tensor, right: Tensor, bins: int) -> Tensor:
    """Sum of (right - confidence) over the images in each bin of confidence: (bins,) float64."""
    confidence = probabilities.amax(1)
    edges = torch.linspace(0, 1, bins + 1, device=confidence.device)
    index = torch.bucketize(confidence, edges[1:-1])  # the n-th bin is (n / bins, (n + 1) / bins]
    inside = index[:, None] == torch.arange(bins, device=index.device)
    # A masked sum instead of index_add_, whose order of addition changes on a GPU.
    return torch.where(inside, (right - confidence.double())[:, None], 0.0).sum(0)


def occluded(images: Tensor, share: float, generator: Source = None) -> Tensor:
    """Set one square of a share of each image's area to 0, at a uniformly random place.

    Accuracy on images occluded by 0.1, 0.25 and 0.5 tells how much a model depends on any one part.

    Args:
        images: (B, C, H, W), normalised, so that 0 is the mean colour.
        share: of the area, in [0, 1]; the square's side is rounded to whole pixels.
        generator: where random numbers come from.

    Returns:
        (B, C, H, W): new images.
    """
    check_images(images)
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"share must be a share of the image's area in [0, 1], found {share}")
    height, width = images.shape[2:]
    side = round(math.sqrt(share * height * width))
    if side > min(height, width):
        raise ValueError(
            f"a square of {share} of the area, {side} pixels a side, does not fit in images of "
            f"{(height, width)}"
        )
    return Cutout(side, border="inside", fill=0.0, generator=generator)(images)


@dataclass
class EvaluationSums:
    """Sums over the images of a test set, which add up over batches and over processes.

    `EvaluationSums.zeros(num_classes, device)`, `update` per batch, `result` once.

    Attributes:
        num_classes: K.
        count: images.
        loss: cross-entropy, in nats.
        right: images whose label has the largest logit.
        right5: images whose label is among the five largest.
        gaps: (bins,), per bin of confidence, right minus confidence.
    """

    num_classes: int
    count: Tensor
    loss: Tensor
    right: Tensor
    right5: Tensor
    gaps: Tensor

    @classmethod
    def zeros(
        cls, num_classes: int, device: torch.device | str, *, bins: int = BINS
    ) -> EvaluationSums:
        """Sums over no images, in float64 on `device`, with `bins` for the calibration error."""
        if bins < 1:
            raise ValueError(f"bins must be at least 1, found {bins}")
        shapes = {"count": (), "loss": (), "right": (), "right5": (), "gaps": (bins,)}
        sums = {
            name: torch.zeros(shape, dtype=torch.float64, device=device)
            for name, shape in shapes.items()
        }
        return cls(num_classes, **sums)

    @torch.no_grad()
    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits (B, K) and labels (B,)."""
        if logits.ndim != 2 or logits.shape[1] != self.num_classes:
            raise ValueError(
                f"logits must be (B, {self.num_classes}), found shape {tuple(logits.shape)}"
            )
        ranks = label_ranks(logits, labels)
        logits = logits.float()
        self.count += len(labels)
        self.loss += F.cross_entropy(logits, labels.long(), reduction="none").double().sum()
        self.right += (ranks == 0).sum()
        self.right5 += (ranks < 5).sum()
        self.gaps += _gaps(logits.softmax(1), (ranks == 0).double(), len(self.gaps))

    def result(self) -> dict[str, float]:
        """Means over all images, of all processes if torch.distributed is initialised.

        The sums stay as they are, and every process gets the same numbers; all must call.

        Returns:
            "loss", "accuracy" in %, "top5" in % if there are five classes or more, and "ece", the
            expected calibration error in [0, 1].

        Raises:
            ValueError: There were no images.
        """
        numbers = torch.stack((self.count, self.loss, self.right, self.right5))
        sums = torch.cat((numbers, self.gaps))
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        count, loss, right, right5, *gaps = sums.tolist()
        if count == 0:
            raise ValueError("no images to evaluate on; is the test set empty?")
        means = {"loss": loss / count, "accuracy": 100 * right / count}
        if self.num_classes >= 5:
            means["top5"] = 100 * right5 / count
        return means | {"ece": sum(map(abs, gaps)) / count}
