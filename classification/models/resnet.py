"""Residual networks for 32x32 images (https://arxiv.org/abs/1512.03385).

`cifar_resnet` is the paper's own family for CIFAR (section 4.2), `resnet18` the wider network of
https://github.com/kuangliu/pytorch-cifar, which Cutout and many after it use.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    pad_channels,
    stages,
)


class PadShortcut(nn.Module):
    """Option A: every `stride`-th pixel, new channels zero; no parameters."""

    def __init__(self, out_chans: int, stride: int) -> None:
        super().__init__()
        self.out_chans = out_chans
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, out_chans, ceil(H / stride), ceil(W / stride))."""
        return pad_channels(x[:, :, :: self.stride, :: self.stride], self.out_chans)


class BasicBlock(nn.Module):
    """relu(shortcut(x) + BN(conv(relu(BN(conv(x)))))); `shortcut` counts where the shape changes.

    Args:
        in_chans: channels of the input.
        out_chans: channels of the output.
        stride: of the first convolution and of the shortcut.
        shortcut: "A" for subsampling and zero channels, "B" for a 1x1 convolution and BN.
    """

    def __init__(self, in_chans: int, out_chans: int, stride: int, *, shortcut: str) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_chans, out_chans, stride)
        self.bn1 = nn.BatchNorm2d(out_chans)
        self.conv2 = conv3x3(out_chans, out_chans)
        self.bn2 = nn.BatchNorm2d(out_chans)
        self.shortcut: nn.Module
        if stride == 1 and in_chans == out_chans:
            self.shortcut = nn.Identity()
        elif shortcut == "A":
            self.shortcut = PadShortcut(out_chans, stride)
        else:
            self.shortcut = chain(
                conv=conv1x1(in_chans, out_chans, stride), bn=nn.BatchNorm2d(out_chans)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_chans, H, W) to (B, out_chans, ceil(H / stride), ceil(W / stride))."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


def resnet(
    num_blocks: Sequence[int],
    widths: Sequence[int],
    num_classes: int,
    *,
    in_chans: int = 3,
    shortcut: str = "A",
) -> nn.Sequential:
    """A stage of `num_blocks[i]` basic blocks with `widths[i]` channels for each i.

    The model maps images (B, in_chans, H, W) to logits (B, num_classes). Its weights are
    PyTorch's defaults.
    """
    if shortcut not in ("A", "B"):
        raise ValueError(f'shortcut {shortcut!r} is neither "A" nor "B"')
    return chain(
        conv1=conv3x3(in_chans, widths[0]),
        bn1=nn.BatchNorm2d(widths[0]),
        relu=nn.ReLU(),
        **stages(partial(BasicBlock, shortcut=shortcut), [widths[0], *widths], num_blocks),
        **head(widths[-1], num_classes),
    )


def cifar_resnet(
    depth: int, num_classes: int, *, in_chans: int = 3, shortcut: str = "A"
) -> nn.Sequential:
    """He's CIFAR ResNet of `depth` = 6n + 2 layers: three stages of 16, 32 and 64 channels.

    The model maps images (B, in_chans, H, W) to logits (B, num_classes). Convolutions are
    He-normal by fan-out, the linear bias 0, as in https://github.com/facebookarchive/fb.resnet.torch.

    Args:
        depth: layers with weights, 6n + 2.
        num_classes: logits.
        in_chans: channels of the images.
        shortcut: "A" (the paper's for CIFAR) or "B", where the number of channels changes.
    """
    num_blocks = blocks_per_stage(depth, per_block=2, rest=2)
    return init_he(
        resnet([num_blocks] * 3, (16, 32, 64), num_classes, in_chans=in_chans, shortcut=shortcut)
    )


def resnet18(num_classes: int, *, in_chans: int = 3) -> nn.Sequential:
    """ResNet-18 as by kuangliu: 3x3 stem, no pooling, stages of 64 to 512 channels, option B.

    The model maps images (B, in_chans, H, W) to logits (B, num_classes). Its weights are
    PyTorch's defaults.
    """
    return resnet((2,) * 4, (64, 128, 256, 512), num_classes, in_chans=in_chans, shortcut="B")
