"""Weights that a run begins with: a pretrained network with a new classifier."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from torch import nn

from keepbench.files import file_at
from keepbench.own_network import is_fetched
from keepbench.settings import nearest
from keepbench.weights import Weights, load_weights, plain_names, read_weights

TIMM = "timm"
WEIGHTS = (
    "initial weights under a new classifier: a file (state dict, safetensors, checkpoint), or "
    "timm's of --arch (timm) or of another name (timm:NAME)"
)
COLOURS = (
    "mean and std that images are normalised by: those of the data, or timm's of the network; "
    "auto = the network's with --weights, where timm has them"
)
"""Help of the settings `weights` and `colours`."""


def timm_name(source: str, arch: str) -> str:
    """The network of timm whose weights a setting names; "" if it names a file, or none.

    Args:
        source: the setting.
        arch: the network that they are for.
    """
    if source == TIMM:
        return arch
    return source.removeprefix(f"{TIMM}:") if source.startswith(f"{TIMM}:") else ""


def _timm_weights(name: str) -> Weights:
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
    if not (name := timm_name(source, arch)):
        return _file_weights(source)
    check_source(source, arch, download=download)
    return _timm_weights(name)


def _file_weights(source: str) -> Weights:
    if not file_at(source):
        raise ValueError(f"there is no file {source}; give --weights FILE, or timm with --download")
    return read_weights(Path(source).expanduser())


def check_source(source: str, arch: str, *, download: bool) -> None:
    """Raise ValueError for weights that cannot be had or read, before data are read; "" are none.

    Without `download` timm's are refused: its cache does not tell what it holds.
    """
    if name := timm_name(source, arch):
        if not timm.is_model_pretrained(name) and not is_fetched(name):
            near = nearest(name, timm.list_pretrained())
            raise ValueError(
                f"timm has no weights of {name}{near or '; give --weights FILE or timm:NAME'}"
            )
        if not download and not name.startswith("local-dir:"):
            raise ValueError(
                f"timm's {name}, in its cache or beyond, needs --download; or give --weights FILE"
            )
    elif source:
        _file_weights(source)


def pretrained_config(name: str) -> Mapping[str, Any]:
    """Mean, std and input_size that timm has of a network's weights; {} if none."""
    found = timm.models.get_pretrained_cfg(name) if timm.is_model_pretrained(name) else None
    return found.to_dict() if found else {}


def classifiers_of(model: nn.Module, num_classes: int) -> list[str]:
    """The names of the layers that give a model's logits, mostly one: as timm says, else the last.

    Raises:
        ValueError: No layer has an output for each class, or it is not clear which is the last.
    """
    known = getattr(model, "pretrained_cfg", None)
    named = known.get("classifier") if isinstance(known, Mapping) else None
    layers = dict(model.named_modules())
    if found := [n for n in ((named,) if isinstance(named, str) else named or ()) if n in layers]:
        return found
    outputs = {
        name: layer.weight.shape[0]
        for name, layer in layers.items()
        if isinstance(layer, (nn.Linear, nn.Conv2d))
    }
    fitting = [name for name, number in outputs.items() if number == num_classes]
    if not fitting:
        raise ValueError(
            f"{type(model).__name__} has no linear layer or convolution of {num_classes} outputs, "
            "so its classifier is not known"
        )
    linear = [name for name in fitting if isinstance(layers[name], nn.Linear)]
    if linear and fitting[-1] != linear[-1]:  # defined, but perhaps not called, behind it
        raise ValueError(
            f"the classifier of {type(model).__name__} is not known: {', '.join(fitting)} have "
            f"{num_classes} outputs each; define it last, or give the model "
            "pretrained_cfg = {'classifier': NAME}"
        )
    return fitting[-1:]


def _plain_classifiers(model: nn.Module, num_classes: int) -> tuple[str, ...]:
    """How the weights of a model's classifiers begin, without what a wrapper puts before all."""
    state = model.state_dict()
    prefix = next(iter(state)).removesuffix(next(iter(plain_names(state))))
    return tuple(f"{name.removeprefix(prefix)}." for name in classifiers_of(model, num_classes))


def classes_of(weights: Weights, model: nn.Module, num_classes: int) -> int:
    """How many classes weights are for; 0 if they have no classifier of the model's.

    Args:
        weights: of such a network.
        model: one, of any number of classes ...
        num_classes: ... which is this.
    """
    for first in _plain_classifiers(model, num_classes):
        for name, value in plain_names(weights.tensors).items():
            if name.startswith(first) and value.ndim > 1:
                return len(value)
    return 0


def begin_from(model: nn.Module, weights: Weights, num_classes: int) -> None:
    """Put weights into a model, all but those of its classifier, which is new.

    Raises:
        ValueError: They are another network's, or of another number of channels.
    """
    heads = _plain_classifiers(model, num_classes)
    own, given = plain_names(model.state_dict()), plain_names(weights.tensors)
    rest = {name: value for name, value in given.items() if not name.startswith(heads)}
    new = {name: value for name, value in own.items() if name.startswith(heads)}
    try:
        load_weights(model, Weights("", {**rest, **new}))
    except ValueError as error:
        raise ValueError(
            f"the weights are not this network's: {error}; is --arch the network that they were "
            "trained in, for images of as many channels?"
        ) from None


def first_layers(model: nn.Module, last: str) -> tuple[list[nn.Parameter], list[nn.Module]]:
    """The first part of a model, up to and with a layer or stage, in the order of its names.

    Args:
        model: whose part it is.
        last: the name of a layer or stage that it has.

    Returns:
        The part's parameters, those of an unfinished block's own among them, and the modules that
        lie in it with all of their layers.
    """
    modules = dict(model.named_modules())
    end = max(n for n, name in enumerate(modules) if f"{name}.".startswith(f"{last}."))
    first = [*modules.values()][: end + 1]
    parameters = [p for module in first for p in module.parameters(recurse=False)]
    known = {*first}
    return parameters, [module for module in first if {*module.modules()} <= known]
