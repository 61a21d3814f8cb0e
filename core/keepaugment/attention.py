"""Where does a vision transformer look? Its last block's attention as a map, forward pass alone.

As in DINO (Caron et al., 2021, https://arxiv.org/abs/2104.14294, section 4.2.2): the class token's
attention to the patches, the mean over heads. For the models of timm
(https://github.com/huggingface/pytorch-image-models, `timm.models.vision_transformer`).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from keepaugment.checks import check_images, check_no_transform
from keepaugment.no_trace import innermost, no_trace
from keepaugment.saliency import check_whole

_ARGUMENTS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale")


class _LastAttention(TorchFunctionMode):
    """Notes what a model's last self-attention among all tokens of its images was given.

    Positions, rotary or added, and normalisations are in it.
    """

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch
        self.given: dict[str, Any] | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            given = {**dict(zip(_ARGUMENTS, args, strict=False)), **kwargs}
            query, key = given["query"], given["key"]
            if query.ndim == 4 and query.shape == key.shape and len(query) == self.batch:
                self.given = given
        return func(*args, **kwargs)


def _weights(given: dict[str, Any], rows: slice) -> Tensor:
    """Attention (B, heads, rows, N) of the tokens `rows`, which fused kernels never write out."""
    query, key, bias = given["query"][:, :, rows], given["key"], given.get("attn_mask")
    scale = query.shape[-1] ** -0.5 if given.get("scale") is None else given["scale"]
    products = scale * query.float() @ key.float().mT
    if bias is not None:
        bias = torch.where(bias, 0.0, -torch.inf) if bias.dtype == torch.bool else bias.float()
        products = products + bias.expand(*products.shape[:2], key.shape[2], -1)[:, :, rows]
    return products.softmax(-1)


class AttentionSaliency:
    """The attention of a timm ViT's last block, for any method that takes a map.

    The class token's attention to each patch, the mean over heads; where the model pools its
    patches instead, their mean attention. It costs one forward pass, no backward pass, and does not
    depend on the targets. The model computes as in evaluation and is left as it was.

        keep = KeepCutout(saliency=AttentionSaliency(timm.create_model("vit_small_patch16_224")))

    Args:
        model: a transformer with `patch_embed.patch_size` whose blocks attend by torch's
            `scaled_dot_product_attention`, with positions of any kind; it may be compiled or
            wrapped in DistributedDataParallel.

    Raises:
        ValueError: Another model.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = innermost(model)
        if getattr(getattr(self.model, "patch_embed", None), "patch_size", None) is None:
            raise ValueError(
                f"{type(self.model).__name__} is no transformer that attention maps are known for: "
                "it needs patch_embed.patch_size, as timm's ViTs have; take GradientSaliency"
            )

    def _attention(self, images: Tensor) -> dict[str, Any]:
        """The inputs of the last block's attention."""
        check_no_transform()
        check_whole(self.model)
        latest = _LastAttention(len(images))
        with no_trace(self.model, images.device), torch.no_grad(), latest:
            self.model(images.clone())  # which it may write to
        if latest.given is None:
            raise ValueError(
                f"in {type(self.model).__name__} no scaled_dot_product_attention was seen among "
                "all tokens of an image; take GradientSaliency"
            )
        return latest.given

    def __call__(self, images: Tensor, targets: Any = None) -> Tensor:
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
        given = self._attention(images)
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            patches = _weights(given, rows).mean((1, 2))[:, prefix:]
        sides = zip(images.shape[2:], model.patch_embed.patch_size, strict=True)
        grid = [side // patch for side, patch in sides]
        if patches.shape[1] != grid[0] * grid[1]:
            raise ValueError(
                f"{patches.shape[1]} patches are not the {grid[0]} x {grid[1]} of images of "
                f"{tuple(images.shape[2:])}; does the model drop or merge some?"
            )
        small = patches.view(-1, 1, *grid)
        return F.interpolate(small, images.shape[2:], mode="nearest")[:, 0]
