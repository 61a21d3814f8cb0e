"""The losses of Bag of Tricks, of features (B, D) float32 and labels (B,).

Identity: cross-entropy with label smoothing. Triplet: Hermans et al., 2017, arXiv:1703.07737.
Centre: Wen et al., ECCV 2016.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from reid.config import Config
from reid.torchreid_import import torchreid

Loss = Callable[[Tensor, Tensor], Tensor]


def triplet_loss(features: Tensor, labels: Tensor, *, margin: float = 0.3) -> Tensor:
    """Batch-hard triplet loss on Euclidean distances, without normalisation.

    Each image is pushed to be nearer to its farthest image of the same person than to its nearest
    of another, by `margin`. Equal to torchreid's `TripletLoss`, which loops over images.
    """
    square = features.square().sum(1)
    distances = square[:, None] + square - 2 * features @ features.T
    distances = distances.clamp(min=1e-12).sqrt()
    same = labels[:, None] == labels
    farthest = distances.masked_fill(~same, -torch.inf).max(1).values
    nearest = distances.masked_fill(same, torch.inf).min(1).values
    return (farthest - nearest + margin).clamp(min=0).mean()


class CentreLoss(nn.Module):
    """The squared distance to a learnt centre of each person.

    Args:
        num_classes: people.
        width: number of features, D.
    """

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(num_classes, width))

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Mean squared distance of features to the centres of their labels."""
        squares = (features - self.centres[labels]).square().sum(1)
        return squares.clamp(1e-12, 1e12).mean()


def make_losses(config: Config, num_classes: int, device: torch.device) -> tuple[Loss, Loss]:
    """The identity loss of logits and the triplet loss of features, ours or torchreid's."""
    if config.losses == "batched":
        return (
            lambda logits, labels: F.cross_entropy(
                logits, labels, label_smoothing=config.smoothing
            ),
            lambda features, labels: triplet_loss(features, labels, margin=config.margin),
        )
    theirs = torchreid().losses
    identity = theirs.CrossEntropyLoss(
        num_classes, eps=config.smoothing, use_gpu=device.type == "cuda"
    )
    return identity, theirs.TripletLoss(config.margin)


def gathered(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The features and labels of all processes, with a gradient for this process's own.

    A loss of them has to be multiplied by the number of processes, over which
    DistributedDataParallel averages gradients.
    """
    if not dist.is_initialized():
        return features, labels
    size = dist.get_world_size()
    everyone = [torch.empty_like(features) for _ in range(size)]
    known = [torch.empty_like(labels) for _ in range(size)]
    dist.all_gather(everyone, features.detach().contiguous())
    dist.all_gather(known, labels)
    everyone[dist.get_rank()] = features
    return torch.cat(everyone), torch.cat(known)
