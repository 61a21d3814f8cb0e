"""Shake-Shake networks (https://arxiv.org/abs/1705.07485)."""

from __future__ import annotations

import torch
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
    two_way_scale,
)


class ShakeShake(nn.Module):
    """A random blend of two branches, another one for the gradient ("Shake-Shake-Image").

    In training the value is alpha * a + (1 - alpha) * b and the gradient that of
    beta * a + (1 - beta) * b, with alpha and beta drawn from U(0, 1) for each image and each call,
    from the device's global generator as in `nn.Dropout`. In eval mode both are 1/2.
    """

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Blend `a` and `b`, both (B, C, H, W): (B, C, H, W)."""
        if not self.training:
            return (a + b) / 2
        alpha, beta = torch.rand(2, len(a), 1, 1, 1, device=a.device).unbind()
        return b + two_way_scale(a - b, forward=alpha, backward=beta)


class ShiftedShortcut(nn.Module):
    """BN of two strided 1x1 convolutions side by side, the second of the input shifted a pixel.

    At stride 2 the two paths see different pixels, (0, 0) and (1, 1) of each 2x2 square, as in
    https://github.com/kakaobrain/fast-autoaugment; the paper's own code shifts the other way.
    """

    def __init__(self, in_chans: int, out_chans: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv1x1(in_chans, out_chans // 2, stride)
        self.conv2 = conv1x1(in_chans, out_chans // 2, stride)
        self.bn = nn.BatchNorm2d(out_chans)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_chans, H, W) to (B, out_chans, ceil(H / stride), ceil(W / stride))."""
        shifted = F.pad(x, (-1, 1, -1, 1))  # up and left; the last row and column become zero
        return self.bn(torch.cat((self.conv1(x), self.conv2(shifted)), dim=1))


class ShakeBlock(nn.Module):
    """The input plus a shaken blend of two branches, each ReLU-conv-BN-ReLU-conv-BN."""

    def __init__(self, in_chans: int, out_chans: int, stride: int) -> None:
        super().__init__()
        self.branch1 = self._branch(in_chans, out_chans, stride)
        self.branch2 = self._branch(in_chans, out_chans, stride)
        self.shake = ShakeShake()
        keeps_shape = stride == 1 and in_chans == out_chans
        self.shortcut = None if keeps_shape else ShiftedShortcut(in_chans, out_chans, stride)

    @staticmethod
    def _branch(in_chans: int, out_chans: int, stride: int) -> nn.Sequential:
        return chain(
            conv1=conv3x3(in_chans, out_chans, stride),
            bn1=nn.BatchNorm2d(out_chans),
            relu=nn.ReLU(),
            conv2=conv3x3(out_chans, out_chans),
            bn2=nn.BatchNorm2d(out_chans),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_chans, H, W) to (B, out_chans, ceil(H / stride), ceil(W / stride))."""
        active = F.relu(x)  # the first layer of both branches and of the shortcut
        out = self.shake(self.branch1(active), self.branch2(active))
        return out + (x if self.shortcut is None else self.shortcut(active))


def shake_shake(depth: int, width: int, num_classes: int, *, in_chans: int = 3) -> nn.Sequential:
    """Shake-Shake `depth` 2x`width`d: three stages of 1, 2 and 4 times `width` channels.

    The model maps images (B, in_chans, H, W) to logits (B, num_classes). Its stem is a convolution
    and BN. Convolutions are He-normal by fan-out, BatchNorm starts at 1 and 0, the linear bias
    at 0, as in https://github.com/xgastaldi/shake-shake.

    Args:
        depth: layers with weights, one branch counted, 6n + 2.
        width: channels of the first stage, an even number.
        num_classes: logits.
        in_chans: channels of the images.
    """
    if width % 2:
        raise ValueError(f"width {width} is odd; the shortcut needs two equal halves")
    num_blocks = blocks_per_stage(depth, per_block=2, rest=2)
    return init_he(
        chain(
            conv1=conv3x3(in_chans, 16),
            bn1=nn.BatchNorm2d(16),
            **stages(ShakeBlock, [16, width, 2 * width, 4 * width], [num_blocks] * 3),
            relu=nn.ReLU(),
            **head(4 * width, num_classes),
        )
    )
