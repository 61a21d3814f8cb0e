"""Floating-point operations (FLOP) of a forward pass, by module and operator, counted by fvcore."""

from __future__ import annotations

import math
import warnings
from typing import Any

from torch import Tensor, nn

from keepaugment.no_trace import no_trace

with warnings.catch_warnings():  # fvcore compiles its focal loss when it is imported
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated")
    from fvcore.nn import FlopCountAnalysis, flop_count_table
    from fvcore.nn.jit_handles import get_shape


def _attention(inputs: list[Any], outputs: list[Any]) -> float:
    """Operations of `scaled_dot_product_attention`, unknown to fvcore: two products of matrices."""
    (*batch, queries, width), (*_, keys, _), (*_, values) = map(get_shape, inputs[:3])
    return math.prod(batch) * queries * keys * (width + values)


def _analysis(model: nn.Module, images: Tensor) -> FlopCountAnalysis:
    """Fvcore's counts, taken; the model is as it was."""
    counts = FlopCountAnalysis(model, images)
    counts.set_op_handle("aten::scaled_dot_product_attention", _attention)
    counts.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    with no_trace(model, images.device):
        counts.total()
    return counts


def forward_flop(model: nn.Module, image: Tensor) -> float:
    """Operations on an image (1, C, H, W): a multiplication and an addition are two.

    That is torch's rule; fvcore counts them as one. It counts normalisation and pooling, too, which
    torch's counter leaves out.
    """
    return 2.0 * _analysis(model, image).total()


def flop_table(model: nn.Module, image: Tensor, depth: int = 1) -> str:
    """Lines with the parameters and operations of each module and operator.

    Args:
        model: from images, in any mode.
        image: (1, C, H, W).
        depth: of modules in modules.
    """
    counts = _analysis(model, image)
    shares = [f"{name} {n / counts.total():.1%}" for name, n in counts.by_operator().most_common()]
    return (
        f"fvcore's counts for an image {tuple(image.shape[1:])}; a multiplication and an addition "
        f"are one\n{flop_count_table(counts, max_depth=depth)}\nby operator: {', '.join(shares)}"
    )
