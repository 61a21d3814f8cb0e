"""Pyramidal residual networks with ShakeDrop.

PyramidNet: https://arxiv.org/abs/1610.02915. ShakeDrop: https://arxiv.org/abs/1802.02375.
"""

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
    pad_channels,
    two_way_scale,
)


class ShakeDrop(nn.Module):
    """Disturb a residual branch: with probability `p_drop` an image's branch is scaled at random.

    In training each image draws its own gate. Where it is dropped, the value is multiplied by
    alpha ~ U(-1, 1) and the gradient by beta ~ U(0, 1); elsewhere both pass unchanged. In eval
    mode everything is multiplied by 1 - p_drop, the mean of the forward scale. Draws come from the
    device's global generator as in `nn.Dropout`.

    The gate is per image as in the TensorFlow code of AutoAugment; fast-autoaugment's PyTorch port
    draws one gate per batch.
    """

    def __init__(self, p_drop: float) -> None:
        super().__init__()
        if not 0 <= p_drop <= 1:
            raise ValueError(f"p_drop {p_drop} is not a probability")
        self.p_drop = p_drop

    def extra_repr(self) -> str:
        """The drop probability, for `print`."""
        return f"p_drop={self.p_drop:.4g}"

    def forward(self, x: Tensor) -> Tensor:
        """Scale `x` (B, C, H, W) image by image: (B, C, H, W)."""
        if not self.training:
            return x * (1 - self.p_drop)
        gate, alpha, beta = torch.rand(3, len(x), 1, 1, 1, device=x.device).unbind()
        dropped = gate < self.p_drop
        return two_way_scale(
            x,
            forward=torch.where(dropped, 2 * alpha - 1, 1.0),
            backward=torch.where(dropped, beta, 1.0),
        )


class PyramidBlock(nn.Module):
    """BN, then 1x1, 3x3 and 1x1 convolutions with BN, ReLU between them; ShakeDrop; plus the input.

    The output has 4 * `width` channels. The input takes part through 2x2 average pooling at
    stride 2 and with zeros for the channels it lacks.
    """

    def __init__(self, in_chans: int, width: int, stride: int, *, p_drop: float) -> None:
        super().__init__()
        self.stride = stride
        self.branch = chain(
            bn1=nn.BatchNorm2d(in_chans),
            conv1=conv1x1(in_chans, width),
            bn2=nn.BatchNorm2d(width),
            relu2=nn.ReLU(),
            conv2=conv3x3(width, width, stride),
            bn3=nn.BatchNorm2d(width),
            relu3=nn.ReLU(),
            conv3=conv1x1(width, 4 * width),
            bn4=nn.BatchNorm2d(4 * width),
            drop=ShakeDrop(p_drop),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_chans, H, W) to (B, 4 * width, ceil(H / stride), ceil(W / stride))."""
        out = self.branch(x)
        if (
            self.stride > 1
        ):  # ceil_mode: odd sizes end in a narrower window, as the convolution's do
            x = F.avg_pool2d(x, self.stride, ceil_mode=True)
        return out + pad_channels(x, out.shape[1])


def pyramidnet(
    depth: int, alpha: int, num_classes: int, *, in_chans: int = 3, p_drop: float = 0.5
) -> nn.Sequential:
    """PyramidNet-`depth` of bottlenecks that widen from 16 by `alpha`, with ShakeDrop.

    Block l of L has width round(16 + alpha * l / L), four times as many output channels and drop
    probability p_drop * l / L. The model maps images (B, in_chans, H, W) to logits
    (B, num_classes). Convolutions are He-normal by fan-out, BatchNorm starts at 1 and 0, the
    linear bias at 0.

    Args:
        depth: layers with weights, 9n + 2.
        alpha: how much wider the last block is than the stem.
        num_classes: logits.
        in_chans: channels of the images.
        p_drop: drop probability of the last block; 0 gives a plain PyramidNet.
    """
    num_blocks = blocks_per_stage(depth, per_block=3, rest=2)
    total = 3 * num_blocks
    chans, index = 16, 0
    layers: dict[str, nn.Module] = {}
    for stage in (1, 2, 3):
        blocks = []
        for i in range(num_blocks):
            index += 1
            width = round(16 + alpha * index / total)
            stride = 2 if stage > 1 and i == 0 else 1
            blocks.append(PyramidBlock(chans, width, stride, p_drop=p_drop * index / total))
            chans = 4 * width
        layers[f"layer{stage}"] = nn.Sequential(*blocks)
    return init_he(
        chain(
            conv1=conv3x3(in_chans, 16),
            bn1=nn.BatchNorm2d(16),
            **layers,
            bn=nn.BatchNorm2d(chans),
            relu=nn.ReLU(),
            **head(chans, num_classes),
        )
    )
