"""Dropout and stochastic depth by timm's own options (Table 5).

Dropout before the classifier (Srivastava et al., 2014) with keep probability 0.7, stochastic depth
(Huang et al., 2016, https://arxiv.org/abs/1603.09382) with 0.9, as DropBlock's paper compares them.
"""

from __future__ import annotations

import math

from timm.layers import DropPath
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

REGULARISERS: dict[str, dict[str, float]] = {
    "none": {},
    "dropout": {"drop_rate": 0.3},
    "droppath": {"drop_path_rate": 0.1},
}


def regularisers(method: str) -> dict[str, float]:
    """Options of `timm.create_model` for a method by its name: "none", "dropout" or "droppath".

    timm's drop path rate grows linearly from 0 in the first block to the option in the last.
    """
    if method not in REGULARISERS:
        raise ValueError(f"method must be one of {', '.join(REGULARISERS)}, found {method!r}")
    return dict(REGULARISERS[method])


def check_regularised(model: nn.Module, options: dict[str, float]) -> None:
    """Raise ValueError unless a model made with `options` of `regularisers` shows their rates.

    Some models take an option and leave it unused.
    """
    modules = list(model.modules())
    found = {
        "drop_rate": [m.p for m in modules if isinstance(m, _DropoutNd)]
        + [getattr(model, "drop_rate", 0.0)],
        "drop_path_rate": [m.drop_prob for m in modules if isinstance(m, DropPath)],
    }
    for option, value in options.items():
        largest = max((rate or 0.0 for rate in found[option]), default=0.0)
        if not math.isclose(largest, value, rel_tol=1e-6):
            raise ValueError(
                f"{type(model).__name__} was to have {option}={value}, found {largest}"
            )
