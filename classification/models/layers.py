"""Pieces that the residual networks for 32x32 images share.

B = batch, C = channels, H, W = image, K = classes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


def chain(**children: nn.Module) -> nn.Sequential:
    """Modules applied one after the other, each an attribute under its keyword."""
    return nn.Sequential(OrderedDict(children))


def conv3x3(in_chans: int, out_chans: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution without bias: (B, in_chans, H, W) to (B, out_chans, H', W').

    H' = ceil(H / stride) and W' likewise.
    """
    return nn.Conv2d(in_chans, out_chans, 3, stride=stride, padding=1, bias=False)


def conv1x1(in_chans: int, out_chans: int, stride: int = 1) -> nn.Conv2d:
    """A 1x1 convolution without bias, of the same output size as `conv3x3`."""
    return nn.Conv2d(in_chans, out_chans, 1, stride=stride, bias=False)


def stages(
    block: Callable[[int, int, int], nn.Module],
    chans: Sequence[int],
    num_blocks: Sequence[int],
) -> dict[str, nn.Module]:
    """Stages `layer1`, `layer2`, ...; every one but the first halves the image in its first block.

    Args:
        block: makes one block from (input channels, output channels, stride).
        chans: channels before the first stage, then those of each stage.
        num_blocks: blocks of each stage.
    """
    made: dict[str, nn.Module] = {}
    for i, ((before, after), count) in enumerate(zip(pairwise(chans), num_blocks, strict=True)):
        first = block(before, after, 2 if i else 1)
        made[f"layer{i + 1}"] = nn.Sequential(
            first, *(block(after, after, 1) for _ in range(count - 1))
        )
    return made


def head(chans: int, num_classes: int) -> dict[str, nn.Module]:
    """Mean over all pixels, then a linear layer: features (B, C, H, W) to logits (B, K)."""
    return {
        "pool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "fc": nn.Linear(chans, num_classes),
    }


def pad_channels(x: Tensor, chans: int) -> Tensor:
    """Append channels of zeros to `x` (B, C, H, W) until there are `chans`."""
    return F.pad(x, (0, 0, 0, 0, 0, chans - x.shape[1]))


def two_way_scale(x: Tensor, *, forward: Tensor, backward: Tensor) -> Tensor:
    """`x * forward`, whose gradient is that of `x * backward`.

    Args:
        x: (B, C, H, W).
        forward: scale of the value, broadcast against `x`; no gradient flows to it.
        backward: scale of the gradient, likewise.
    """
    forward, backward = forward.to(x.dtype), backward.to(x.dtype)
    return x * backward + (x * (forward - backward)).detach()


def init_he(model: nn.Sequential) -> nn.Sequential:
    """Draw convolutions from N(0, sqrt(2 / (k * k * out_chans))), zero linear biases; in place.

    BatchNorm starts at weight 1 and bias 0 by itself; linear weights keep PyTorch's default.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
    return model


def blocks_per_stage(depth: int, *, per_block: int, rest: int) -> int:
    """Blocks n of each of three stages, where `depth` = 3 * per_block * n + rest."""
    num_blocks, left = divmod(depth - rest, 3 * per_block)
    if left or num_blocks < 1:
        raise ValueError(f"depth {depth} is not {3 * per_block}n + {rest} for any n >= 1")
    return num_blocks
