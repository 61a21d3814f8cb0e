"""Where does a vision transformer look? Its last block's attention as a map, forward pass alone.

As in DINO (Caron et al., 2021, https://arxiv.org/abs/2104.14294, section 4.2.2): the class token's
attention to the patches, the mean over heads. For the models of timm
(https://github.com/huggingface/pytorch-image-models, `timm.models.vision_transformer`).
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from keepaugment.checks import check_images
from keepaugment.no_trace import innermost, no_trace

_UNKNOWN = ("rope", "rel_pos_bias", "shared_rel_pos_bias")  # change q and k, or their product


def _last_attention(model: nn.Module) -> Any:
    """The last self-attention of a transformer whose weights follow from its `qkv` alone."""
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(getattr(module, "qkv", None), nn.Module)
        and hasattr(module, "num_heads")
        and hasattr(module, "scale")
    ]
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if not found or patch is None:
        raise ValueError(
            f"{type(model).__name__} is no transformer that attention maps are known for: it needs "
            "patch_embed.patch_size and attention with qkv, num_heads and scale, as timm's ViTs "
            "have; take GradientSaliency"
        )
    name, module = found[-1]
    table = getattr(module, "relative_position_bias_table", None)
    if table is not None or set(_UNKNOWN) & set(inspect.signature(module.forward).parameters):
        raise ValueError(
            f"{name} of {type(model).__name__} adds positions to its attention, which is not "
            "supported; take GradientSaliency"
        )
    return module


def _weights(attention: Any, qkv: Tensor, rows: slice) -> Tensor:
    """Attention (B, heads, rows, N) of the tokens `rows`, recomputed from `qkv` (B, N, 3 A).

    Fused kernels never write it out.
    """
    q, k, _ = qkv.unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    q = getattr(attention, "q_norm", nn.Identity())(q[:, :, rows])
    k = getattr(attention, "k_norm", nn.Identity())(k)
    return (attention.scale * q.float() @ k.float().mT).softmax(-1)


class AttentionSaliency:
    """The attention of a timm ViT's last block, for any method that takes a map.

    The class token's attention to each patch, the mean over heads; where the model pools its
    patches instead, their mean attention. It costs one forward pass, no backward pass, and does not
    depend on the labels. The model computes as in evaluation and is left as it was.

        keep = KeepCutout(saliency=AttentionSaliency(timm.create_model("vit_small_patch16_224")))

    Args:
        model: a transformer with `patch_embed` and attention modules with `qkv`, `num_heads` and
            `scale`; it may be compiled or wrapped in DistributedDataParallel.

    Raises:
        ValueError: Another model, or attention with rotary or relative positions.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = innermost(model)
        self.attention = _last_attention(self.model)

    def _qkv(self, images: Tensor) -> Tensor:
        """Queries, keys and values (B, N, 3 A) of the last block."""
        outputs: list[Tensor] = []
        hook = self.attention.qkv.register_forward_hook(
            lambda module, args, output: outputs.append(output)
        )
        try:
            with no_trace(self.model, images.device), torch.no_grad():
                self.model(images.clone())  # which it may write to
        finally:
            hook.remove()
        return outputs[-1]

    def __call__(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map images (B, C, H, W) to saliency (B, H, W) float32, not negative.

        Raises:
            ValueError: Integer images, or tokens that are not the images' patches.
        """
        check_images(images)
        if not len(images):
            return images.new_zeros(0, *images.shape[2:], dtype=torch.float32)
        model: Any = self.model
        prefix = int(getattr(model, "num_prefix_tokens", 1))
        pooled = prefix == 0 or getattr(model, "global_pool", "token") != "token"
        rows = slice(prefix, None) if pooled else slice(0, 1)
        qkv = self._qkv(images)
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            patches = _weights(self.attention, qkv, rows).mean((1, 2))[:, prefix:]
        sides = zip(images.shape[2:], model.patch_embed.patch_size, strict=True)
        grid = [side // patch for side, patch in sides]
        if patches.shape[1] != grid[0] * grid[1]:
            raise ValueError(
                f"{patches.shape[1]} patches are not the {grid[0]} x {grid[1]} of images of "
                f"{tuple(images.shape[2:])}; does the model drop or merge some?"
            )
        small = patches.view(-1, 1, *grid)
        return F.interpolate(small, images.shape[2:], mode="nearest")[:, 0]
