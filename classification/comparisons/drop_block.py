"""DropBlock in residual networks (Ghiasi et al., 2018, https://arxiv.org/abs/1810.12890).

As in the published code (tensorflow/tpu, models/official/resnet), which timm's `drop_block_rate`
differs from in block size, rate, place and schedule.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import DropBlock2d, drop_block2d

from keepaugment.early_head import find_layer


class _DropBlock(DropBlock2d):
    """torchvision's DropBlock with the rate it shall reach at the end of training."""

    def __init__(self, final_p: float, block_size: int) -> None:
        super().__init__(final_p, block_size)
        self.final_p = final_p

    def forward(self, input: Tensor) -> Tensor:
        """Drop blocks of (B, C, H, W) in training; largest odd ones where `block_size` is too big.

        The mask is made in float32: torchvision counts what is kept in the mask's precision, and
        half precision overflows.
        """
        if not self.training or self.p == 0.0:
            return input
        side = min(self.block_size, *input.shape[2:])
        ones = torch.ones_like(input, dtype=torch.float32)
        return input * drop_block2d(ones, self.p, side - 1 + side % 2).to(input.dtype)


def _drop_output(drop: _DropBlock, module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return drop(output)


def _add_to_block(block: nn.Module, p: float, block_size: int) -> None:
    layers = {name: getattr(block, name, None) for name in ("bn1", "bn2", "bn3", "downsample")}
    if layers["bn1"] is None or not hasattr(block, "downsample"):
        raise ValueError(
            "a block must have bn1, bn2 and downsample, as those of torchvision's and timm's "
            f"ResNets, found {type(block).__name__}"
        )
    # Dropping before the ReLU is dropping after it: the mask is not negative.
    for name, layer in layers.items():
        drop = _DropBlock(p, block_size)
        if layer is not None:
            block.add_module(f"dropblock_{name}", drop)
            layer.register_forward_hook(partial(_drop_output, drop))
        elif name == "downsample":
            block.downsample = drop


def _drop_blocks(model: nn.Module) -> list[_DropBlock]:
    return [module for module in model.modules() if isinstance(module, _DropBlock)]


def add_dropblock(
    model: nn.Module,
    layers: Sequence[str] = ("layer3", "layer4"),
    *,
    keep_prob: float = 0.9,
    block_size: int = 7,
) -> None:
    """Put DropBlock after every convolution and on every skip of a ResNet's stages, in place.

    The state dict stays as it was. The last of `layers` drops 1 - keep_prob, each one before it a
    quarter of the next; `set_drop_block` lets the rates grow in training. The paper also smooths
    labels by 0.1 and trains ResNet-50 for 270 epochs.

    Convert the model by `convert_sync_batchnorm` before, not after, which would lose the hooks. A
    new rate makes torch.compile compile anew: set it seldom there. Random numbers are torch's own.

    Args:
        model: of torchvision or timm, with ReLU.
        layers: stages of residual blocks, in their order.
        keep_prob: of a feature in the last stage at the end of training, in [0, 1].
        block_size: side of a block in pixels of the feature map.

    Raises:
        ValueError: A bad setting, no such stage, other blocks than a ResNet's, or a second call.
    """
    if not 0.0 <= keep_prob <= 1.0 or block_size < 1:
        raise ValueError(
            f"keep_prob must be in [0, 1] and block_size positive, found {keep_prob}, {block_size}"
        )
    if _drop_blocks(model):
        raise ValueError(f"{type(model).__name__} has DropBlock already")
    stages = [find_layer(model, layer) for layer in layers]
    for later, stage in enumerate(reversed(stages)):
        for block in stage.children():
            _add_to_block(block, (1.0 - keep_prob) / 4**later, block_size)


def set_drop_block(model: nn.Module, share_of_training: float) -> None:
    """Let the keep probability fall linearly from 1, at share 0 of all training steps, to its end.

    Args:
        model: of `add_dropblock`; it may be wrapped.
        share_of_training: in [0, 1]. Without a call the rates are those of the end.

    Raises:
        ValueError: A share outside [0, 1], or a model without DropBlock.
    """
    if not 0.0 <= share_of_training <= 1.0:
        raise ValueError(f"share_of_training must be in [0, 1], found {share_of_training}")
    blocks = _drop_blocks(model)
    if not blocks:
        raise ValueError(f"{type(model).__name__} has no DropBlock; call add_dropblock before")
    for block in blocks:
        block.p = block.final_p * share_of_training
