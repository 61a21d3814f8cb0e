"""Weights that a run begins with: a pretrained network with a new classifier."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn

from keepbench.files import file_at
from keepbench.weights import Weights, load_weights, read_weights

TIMM = "timm"


def timm_weights(name: str, *, download: bool) -> Weights:
    """The weights of timm's network of a name.

    Raises:
        ValueError: They cannot be had, or `download` is off: timm's cache does not tell what it
            holds.
    """
    if not download:
        raise ValueError(
            f"timm's {name}, in its cache or beyond, needs --download; or give --weights FILE"
        )
    try:
        return Weights("", timm.create_model(name, pretrained=True).state_dict())
    except Exception as error:  # huggingface_hub raises many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"timm's {name} cannot be had ({reason}); give --weights FILE") from None


def find_weights(source: str, arch: str, *, download: bool) -> Weights:
    """The weights that a setting names: a file's, "timm" for those of `arch`, or "timm:NAME".

    Raises:
        ValueError: They cannot be had.
    """
    if source == TIMM or source.startswith(f"{TIMM}:"):
        return timm_weights(source.removeprefix(TIMM).removeprefix(":") or arch, download=download)
    return read_weights(Path(source).expanduser())


def check_source(source: str, arch: str) -> None:
    """Raise ValueError for weights that are nowhere, before data are read."""
    if source == TIMM and not timm.is_model(arch):
        raise ValueError(f"timm has no weights of {arch}; give --weights FILE or timm:NAME")
    if source and not source.startswith(TIMM) and not file_at(source):
        raise ValueError(f"there is no file {source}; give --weights FILE, or timm with --download")


def pretrained_config(arch: str) -> Mapping[str, Any]:
    """What timm says of its weights of a network, as mean, std and input_size; {} if nothing."""
    found = timm.models.get_pretrained_cfg(arch) if timm.is_model(arch) else None
    return found.to_dict() if found else {}


def classifier_of(model: nn.Module) -> str:
    """The name of the layer that gives a model's logits: as timm says, else the last linear one.

    Raises:
        ValueError: There is none.
    """
    named = getattr(model, "pretrained_cfg", {}).get("classifier")
    layers = dict(model.named_modules())
    if isinstance(named, str) and named in layers:
        return named
    linear = [name for name, layer in layers.items() if isinstance(layer, nn.Linear)]
    if not linear:
        raise ValueError(f"{type(model).__name__} has no linear layer that could be its classifier")
    return linear[-1]


def _outside(weights: Mapping[str, Tensor], layer: str) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if not name.startswith(f"{layer}.")}


def begin_from(model: nn.Module, weights: Weights) -> None:
    """Put weights into a model, all but those of its classifier, which is new.

    Raises:
        ValueError: They are another network's, or of another number of channels.
    """
    layer = classifier_of(model)
    own = {n: v for n, v in model.state_dict().items() if n.startswith(f"{layer}.")}
    try:
        load_weights(model, Weights("", {**_outside(weights.tensors, layer), **own}))
    except ValueError as error:
        raise ValueError(
            f"the weights are not this network's: {error}; is --arch the network that they were "
            "trained in?"
        ) from None


def frozen_modules(model: nn.Module, last: str) -> list[nn.Module]:
    """The layers of a model up to and with one, in the order in which it names them.

    Args:
        model: whose layers they are.
        last: the name of a layer or stage.
    """
    layers = [(n, layer) for n, layer in model.named_modules() if n and not [*layer.children()]]
    inside = [place for place, (n, _) in enumerate(layers) if n == last or n.startswith(f"{last}.")]
    return [layer for _, layer in layers[: max(inside) + 1]] if inside else []
