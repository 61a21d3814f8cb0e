"""The network whose map is shown: by name, from a run, from a file of weights, or one's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from timm.data import ImageNetInfo, resolve_data_config
from torch import Tensor, nn

from classification.models import MODELS, SMALL, create_model, find_model
from keepaugment import GradientSaliency, Saliency
from keepbench.images import CIFAR_MEAN, CIFAR_STD, IMAGENET_MEAN, IMAGENET_STD, Normalise
from keepbench.maps import scales_of
from keepbench.own_network import is_function, make_network
from keepbench.processes import Processes
from keepbench.weights import load_weights, read_weights
from previewing.runs import read_run, run_folder, trained

RANDOM = (
    "The network's weights are RANDOM. Its map says nothing about what matters in an image; the "
    "page only shows how the methods work."
)


class Network(NamedTuple):
    """A network, and what it expects of images.

    Attributes:
        logits: images (B, C, H, W), normalised, to logits (B, K).
        saliency: the map that KeepAugment would use.
        mean: of each of the C channels in [0, 1], by which images are normalised.
        std: likewise.
        size: side of its images, in pixels.
        about: what it is, in words.
        names: of classes by label, or empty.
        warning: what must be known, or empty.
    """

    logits: Callable[[Tensor], Tensor]
    saliency: Saliency
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int
    about: str
    names: list[str]
    warning: str = ""

    def inputs(self, pixels: Tensor) -> Tensor:
        """The network's inputs of images (B, 3, H, W) uint8, in grey if it has one channel."""
        images = pixels.float() / 255
        if len(self.mean) == 1:
            images = images.mean(1, keepdim=True)
        return Normalise(self.mean, self.std).images(images)

    def name(self, label: int, classes: int) -> str:
        """One of so many classes, in words if the names are theirs."""
        return self.names[label] if len(self.names) == classes else f"class {label}"


def _imagenet() -> list[str]:
    """ImageNet's 1000 classes in words."""
    info = ImageNetInfo()
    return [info.index_to_description(number) for number in range(1000)]


def _made(model: nn.Module, scale: float, about: str, warning: str = "", **known: Any) -> Network:
    """A network from a module; what is not known of its images is looked up with timm."""
    config = resolve_data_config({}, model=model)
    values: dict[str, Any] = {
        "mean": config["mean"],
        "std": config["std"],
        "size": config["input_size"][-1],
        "names": [],
    }
    if getattr(model, "num_classes", 0) == 1000:
        values["names"] = _imagenet()
    return Network(
        model, GradientSaliency(model, scale), about=about, warning=warning, **(values | known)
    )


_CIFAR = {"mean": CIFAR_MEAN, "std": CIFAR_STD, "size": 32}


def _named(name: str, scale: float, pretrained: bool, device: torch.device) -> Network:
    """A model of ours, which has no pretrained weights, or of timm."""
    if name in SMALL:
        if pretrained:
            raise ValueError(f"{name} has no pretrained weights; give a run's folder")
        model = create_model(name, 10).to(device)
        return _made(model, scale, f"{name} of classification.models", RANDOM, **_CIFAR)
    if not pretrained and ":" in name:
        raise ValueError(f"{name} lies elsewhere; --pretrained allows to fetch it")
    if not timm.is_model(name) and ":" not in name:
        create_model(name, 1000)  # raises, with the nearest names
    try:
        model = timm.create_model(name, pretrained=pretrained).to(device)
    except Exception as error:  # no network, no such weights, a broken download: many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{name} cannot be had: {reason}") from error
    weights = "with pretrained weights" if pretrained else "with random weights"
    about, known = f"timm's {name} {weights}", {} if pretrained else {"names": list[str]()}
    return _made(model, scale, about, "" if pretrained else RANDOM, **known)


def _from_file(
    path: Path, arch: str | None, scale: float, pretrained: bool, device: torch.device
) -> Network:
    """A file of weights, whose first convolution and last layer tell channels and classes."""
    if not arch:
        raise ValueError(f"{path} is a file of weights: say of which model with --arch NAME")
    weights = read_weights(path)
    layers = [value.shape for value in weights.tensors.values() if value.ndim in (2, 4)]
    if not layers:
        raise ValueError(f"{path} holds no layer")
    channels = next((shape[1] for shape in layers if len(shape) == 4), 3)
    model = create_model(arch, layers[-1][0], in_chans=channels, download=pretrained)
    try:
        load_weights(model, weights)
    except ValueError as error:
        fitting = find_model(weights.tensors, arch)
        advice = f"; they are those of --arch {fitting}" if fitting else ""
        raise ValueError(f"the weights in {path} do not fit {arch}: {error}{advice}") from None
    known: dict[str, Any] = dict(_CIFAR) if arch in MODELS else {}
    if channels == 1:
        known |= {"mean": (0.5,), "std": (0.5,)}
    return _made(model.to(device), scale, f"{arch} with the {weights} in {path.name}", **known)


def _from_run(place: Path, data: str | None, device: torch.device) -> Network:
    """A run of ours, with the map it trains with, or would."""
    run = read_run(place, data)
    trainer = trained(run, Processes(device), place if place.is_file() else None)
    config = run.config
    (scale,) = scales_of(config.keep) or {1.0}
    head = ", early head" if config.early_head else ""
    kind = f" (trained weights; map at scale {scale:g}{head})"
    return Network(
        trainer.model,
        GradientSaliency(trainer.model, scale, trainer.head),
        trainer.data.mean,
        trainer.data.std,
        config.test_size or trainer.data.image_size[0],
        f"{config.arch} of run {run.record.experiment} after {trainer.epoch} epochs{kind}",
        trainer.data.classes,
        RANDOM if not trainer.epoch else "",
    )


def _from_function(name: str, scale: float, device: torch.device) -> Network:
    """One's own, taken to know ImageNet's colours, and its classes if there are as many."""
    model = make_network(name)
    about = f"{type(model).__name__} of {name}, taken to know ImageNet's classes and colours"
    known: dict[str, Any] = {
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "size": 224,
        "names": _imagenet(),
    }
    return _made(model.eval().to(device), scale, about, **known)


def load_network(
    name: str,
    *,
    arch: str | None = None,
    pretrained: bool = False,
    scale: float = 1.0,
    data: str | None = None,
    device: torch.device,
) -> Network:
    """Load the network to look at.

    Args:
        name: a model of classification.models or timm, a run's folder or a checkpoint in one, a
            file of weights, or MODULE:FUNCTION or FILE.py:FUNCTION, which returns a module.
        arch: the model that a state dict belongs to.
        pretrained: fetch timm's weights, or the description of a hub's network for a file's.
        scale: of the copy that the map is taken of; a run has its own.
        data: folder of a run's data set, in place of the one it was run with.
        device: to compute on.

    Raises:
        ValueError: No such model, weights that do not fit, nothing to read.
    """
    torch.manual_seed(0)  # random weights are the same each time
    path = Path(name)
    if path.exists() and run_folder(path):
        return _from_run(path, data, device)
    if path.is_file():
        return _from_file(path, arch, scale, pretrained, device)
    if path.is_dir() or path.suffix in (".pt", ".pth", ".safetensors"):
        raise ValueError(f"{path} is no run's folder and no file of weights")
    if is_function(name):
        return _from_function(name, scale, device)
    return _named(name, scale, pretrained, device)
