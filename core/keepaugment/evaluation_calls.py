"""Functional layers called as in training run as in evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode


def _with_operators(places: dict[Callable[..., Any], int]) -> dict[Callable[..., Any], int]:
    """Places also by operators, such as torch.ops.aten.dropout, as models from torch.export call.

    Known beforehand, for Dynamo cannot trace how their names are taken apart.
    """
    found = dict(places)
    for func, place in places.items():  # torch's own after torch.nn.functional's of that name
        packet = getattr(torch.ops.aten, func.__name__, None)
        if packet is not None:
            found |= dict.fromkeys(
                [packet, *(getattr(packet, n) for n in packet.overloads())], place
            )
    return found


# Where functional layers take `training` or a dropout probability when it comes by position, as it
# does under torch.compile and from torch's own names; eager calls of torch.nn.functional reach the
# mode with everything by keyword.
_POSITION = _with_operators({
    F.scaled_dot_product_attention: 4,
    **dict.fromkeys((F.batch_norm, F.instance_norm), 5),
    **dict.fromkeys((torch.batch_norm, torch.instance_norm, torch.native_batch_norm), 5),
    **dict.fromkeys((F.rrelu, torch.rrelu, torch.rrelu_), 3),
    **dict.fromkeys((F.dropout, F.dropout1d, F.dropout2d, F.dropout3d), 2),
    **dict.fromkeys((F.alpha_dropout, F.feature_alpha_dropout), 2),
    **dict.fromkeys((torch.dropout, torch.alpha_dropout, torch.feature_dropout), 2),
    **dict.fromkeys((torch.dropout_, torch.alpha_dropout_, torch.feature_dropout_), 2),
    **dict.fromkeys((torch.feature_alpha_dropout, torch.feature_alpha_dropout_), 2),
    torch.native_dropout: 2,
})  # fmt: skip
# Where those that normalise take the mean to use instead of the batch's.
_MEAN = _with_operators({
    **dict.fromkeys((F.batch_norm, F.instance_norm), 1),
    **dict.fromkeys((torch.batch_norm, torch.instance_norm, torch.native_batch_norm), 3),
})  # fmt: skip
_DROPOUT_P = _POSITION[F.scaled_dot_product_attention]  # a probability; the others are flags
_FLAGS = ("training", "train", "use_input_stats")


class EvaluationCalls(TorchFunctionMode):
    """Every functional layer called as in training runs as in evaluation.

    Args:
        before_call: called before a function of torch with it, its arguments and its keywords,
            unless that is being compiled.
    """

    def __init__(self, before_call: Callable[[Any, tuple, dict[str, Any]], None]) -> None:
        super().__init__()
        self.before_call = before_call

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not torch.compiler.is_compiling():
            self.before_call(func, args, kwargs)
        if func in _MEAN:
            place = _MEAN[func]
            mean = args[place] if len(args) > place else kwargs.get("running_mean")
            if mean is None:  # no statistics to use instead of the batch's
                return func(*args, **kwargs)
        for flag in _FLAGS:
            if kwargs.get(flag):
                kwargs = {**kwargs, flag: False}
        if kwargs.get("dropout_p"):
            kwargs = {**kwargs, "dropout_p": 0.0}
        if func in _POSITION and len(args) > _POSITION[func]:
            position = _POSITION[func]
            off = 0.0 if position == _DROPOUT_P else False
            args = (*args[:position], off, *args[position + 1 :])
        return func(*args, **kwargs)
