"""A layer of a model by its name."""

from __future__ import annotations

from torch import nn


def find_layer(model: nn.Module, layer: str) -> nn.Module:
    """The module called `layer` in `model.named_modules()`.

    Raises:
        ValueError: There is none; the message names the model's own layers.
    """
    layers = dict(model.named_modules())
    if not layer or layer not in layers:
        names = ", ".join(name for name, _ in model.named_children())
        raise ValueError(f"no layer {layer!r} in {type(model).__name__}; it has {names}")
    return layers[layer]
