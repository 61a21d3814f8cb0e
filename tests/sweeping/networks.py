"""The families of networks of timm and torchvision, and the smallest of each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

NUM_CLASSES = 10
SIZES = (32, 64)  # sides of images in pixels, tried before a network's own
OPTION = {"timm": "img_size", "torchvision": "image_size"}
"""What a network that takes one size alone is told it by, if it is told."""


class Family(NamedTuple):
    """Networks that one module of a library defines.

    Attributes:
        library: "timm" or "torchvision".
        name: the module's.
        members: names of networks.
    """

    library: str
    name: str
    members: tuple[str, ...]


def families() -> list[Family]:
    """Those of timm, without the tiny networks of its own tests, and torchvision's classifiers."""
    found = [
        Family("timm", name, tuple(timm.list_models(module=name, exclude_filters="test_*")))
        for name in timm.list_modules()
    ]
    models = torchvision.models
    modules: dict[str, list[str]] = {}
    for member in models.list_models(module=models):
        name = models.get_model_builder(member).__module__.rpartition(".")[2]
        modules.setdefault(name, []).append(member)
    found += [Family("torchvision", name, tuple(members)) for name, members in modules.items()]
    return [family for family in found if family.members]


def make(library: str, name: str, **options: Any) -> nn.Module:
    """A network with random weights for `NUM_CLASSES` classes, in training mode."""
    create = timm.create_model if library == "timm" else torchvision.models.get_model
    return create(name, num_classes=NUM_CLASSES, **options).train()


class _TooLarge(Exception):  # noqa: N818 - a signal, not an error
    pass


@contextmanager
def _at_most(number: float) -> Iterator[None]:
    """Stop making a network within, by `_TooLarge`, when it has more parameters."""
    total = 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal total
        total += 0 if parameter is None else parameter.numel()
        if total > number:
            raise _TooLarge

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _counted(library: str, name: str, fewest: float) -> nn.Module:
    """A network to count, without memory unless it computes as it is made (RegNet's widths)."""
    with _at_most(2 * fewest):  # twice, for some networks replace layers
        try:
            with torch.device("meta"):
                return make(library, name)
        except NotImplementedError:
            return make(library, name)


def smallest(family: Family) -> str:
    """The member with the fewest parameters, counted without memory for them where that can be."""
    best, fewest = family.members[0], math.inf
    if len(family.members) == 1:
        return best
    for name in family.members:
        try:
            network = _counted(family.library, name, fewest)
        except _TooLarge:
            continue
        number = sum(parameter.numel() for parameter in network.parameters())
        if number < fewest:
            best, fewest = name, number
    return best


def own_size(network: nn.Module) -> int:
    """Side of the images that a network was made for, in pixels."""
    return getattr(network, "default_cfg", {"input_size": (3, 224, 224)})["input_size"][1]


def logits_of(output: Tensor | Sequence[Tensor]) -> Tensor:
    """Logits (B, K) of what a network returns: itself, or its first part."""
    return output if isinstance(output, Tensor) else output[0]


def randomise(network: nn.Module, images: Tensor) -> Any:
    """Give each parameter some noise and BatchNorm statistics of its own; what a pass then gives.

    Many networks begin with zeros, in their last layer or at the end of each block, and their
    gradient would be zero or that of a part; and statistics of 0 and 1 would hide which mode ran.
    """
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
        return network(images)


def takes(network: nn.Module, size: int) -> bool:
    """Whether a network in evaluation takes images of a side, in pixels."""
    try:
        with torch.no_grad():
            network(torch.zeros(1, 3, size, size))
    except Exception:  # networks refuse sizes in many ways
        return False
    return True


def fitting(library: str, name: str) -> tuple[dict[str, int], int]:
    """The smallest side of images that a network takes, in pixels, and its options for it.

    Out of 32 and 64, first such that half of it is taken as well; 64 if that can be set; its own.

    Raises:
        ValueError: It takes none of them.
    """
    network = make(library, name).eval()
    taken = [size for size in SIZES if takes(network, size)]
    if taken:
        return {}, next((size for size in taken if takes(network, size // 2)), taken[0])
    options = {OPTION[library]: SIZES[-1]}
    try:
        if takes(make(library, name, **options).eval(), SIZES[-1]):
            return options, SIZES[-1]
    except Exception:  # networks refuse options in many ways
        pass
    if not takes(network, own := own_size(network)):
        raise ValueError(f"it takes no images of {SIZES} or {own} pixels")
    return {}, own
