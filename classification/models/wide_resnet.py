"""Wide residual networks (https://arxiv.org/abs/1605.07146)."""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from classification.models.layers import (
    blocks_per_stage,
    chain,
    conv1x1,
    conv3x3,
    head,
    init_he,
    stages,
)


class WideBlock(nn.Module):
    """BN-ReLU-conv, BN-ReLU-dropout-conv, plus the input.

    Where the number of channels or the image size changes, the input takes part through a 1x1
    convolution (no BN) of its BN-ReLU.
    """

    def __init__(self, in_chans: int, out_chans: int, stride: int, *, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_chans)
        self.conv1 = conv3x3(in_chans, out_chans, stride)
        self.bn2 = nn.BatchNorm2d(out_chans)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = conv3x3(out_chans, out_chans)
        keeps_shape = stride == 1 and in_chans == out_chans
        self.shortcut = None if keeps_shape else conv1x1(in_chans, out_chans, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_chans, H, W) to (B, out_chans, ceil(H / stride), ceil(W / stride))."""
        active = F.relu(self.bn1(x))
        out = F.relu(self.bn2(self.conv1(active)))
        out = self.conv2(self.dropout(out))
        return out + (x if self.shortcut is None else self.shortcut(active))


def wide_resnet(
    depth: int, widen: int, num_classes: int, *, in_chans: int = 3, dropout: float = 0.0
) -> nn.Sequential:
    """WRN-`depth`-`widen`: three stages of 16, 32 and 64 times `widen` channels.

    The model maps images (B, in_chans, H, W) to logits (B, num_classes). Convolutions are
    He-normal by fan-out, BatchNorm starts at 1 and 0, the linear bias at 0.

    Args:
        depth: layers with weights as the paper counts them, 6n + 4.
        widen: factor of the channels.
        num_classes: logits.
        in_chans: channels of the images.
        dropout: probability of zeroing a feature between a block's two convolutions.
    """
    num_blocks = blocks_per_stage(depth, per_block=2, rest=4)
    chans = [16, 16 * widen, 32 * widen, 64 * widen]
    return init_he(
        chain(
            conv1=conv3x3(in_chans, 16),
            **stages(partial(WideBlock, dropout=dropout), chans, [num_blocks] * 3),
            bn=nn.BatchNorm2d(chans[-1]),
            relu=nn.ReLU(),
            **head(chans[-1], num_classes),
        )
    )
