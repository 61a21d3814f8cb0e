"""The maps of a trained network, computed once for all training images."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from classification.models import check_arch, create_model
from keepaugment import GradientSaliency, TeacherSaliency
from keepaugment.stored import GivenMaps
from keepbench.files import digest, write_whole
from keepbench.images import Normalise
from keepbench.maps import Scene
from keepbench.progress import progress_bar, say
from keepbench.starting import classifier_of, find_weights, pretrained_config
from keepbench.weights import Weights, load_checkpoint, load_weights

BATCH = 64  # images at once


def load_teacher(arch: str, weights: Weights, channels: int) -> nn.Module:
    """A trained network with its own classifier.

    Raises:
        ValueError: The weights are another network's.
    """
    layer = classifier_of(create_model(arch, 2, in_chans=channels))
    own = weights.tensors.get(f"{layer}.weight")
    if own is None:
        raise ValueError(f"the teacher's weights have no classifier {layer} of {arch}")
    model = create_model(arch, len(own), in_chans=channels)
    try:
        load_weights(model, weights)
    except ValueError as error:
        raise ValueError(f"the teacher's weights are not of {arch}: {error}") from None
    return model


class StoredTeacher(GivenMaps):
    """A teacher's maps (N, S, S) uint8 that a file holds."""

    def __init__(self, maps: Tensor, image_size: tuple[int, int], device: torch.device) -> None:
        super().__init__(len(maps), image_size, size=maps.shape[1], device=device)
        self.maps.copy_(maps)


def teacher_maps(settings: Any, arch: str, source: str, scene: Scene) -> GivenMaps:
    """The maps of all training images: from the file of the settings if it is there, else computed.

    Args:
        settings: a `classification.importance.Teacher`.
        arch: the teacher.
        source: its weights, as `find_weights` takes them.
        scene: the run's data and device.

    Raises:
        ValueError: Weights that cannot be had or are another network's, or a file of other maps.
    """
    data, device = scene.data, scene.device
    check_arch(arch, download=scene.config.download)
    weights = find_weights(source, arch, download=scene.config.download)
    of = digest(_identity(arch, weights, settings.scale, data))
    path = Path(settings.file).expanduser() if settings.file else None
    if path and path.exists():
        state = load_checkpoint(path)
        if state.get("of") != of:
            raise ValueError(
                f"{path} holds maps of another teacher, other images or another scale; give "
                "another --keep.map.file, or remove it"
            )
        return StoredTeacher(state["maps"], tuple(state["image_size"]), device)
    model = load_teacher(arch, weights, data.channels).to(device).eval()
    known = pretrained_config(arch)
    fits = len(known.get("mean", ())) == data.channels
    colours = (known["mean"], known["std"]) if fits else (data.mean, data.std)
    found = TeacherSaliency(
        GradientSaliency(model, settings.scale),
        _batches(scene, Normalise(*colours), model),
        data.num_train,
        data.image_size,
        device=device,
    )
    if path:
        _write(path, {"maps": found.maps.cpu(), "image_size": tuple(found.image_size), "of": of})
        say(f"the teacher's maps are in {path}")
    return found


def _identity(arch: str, weights: Weights, scale: float, data: Any) -> Iterator[str | bytes]:
    """What tells one teacher's maps from another's."""
    yield f"{arch} {scale} {data.image_size}"
    for name, value in weights.tensors.items():
        yield name
        yield value.contiguous().view(torch.uint8).numpy().tobytes() if value.dim() else str(value)
    yield from data.contents()


def _batches(
    scene: Scene, inputs: Normalise, model: nn.Module
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Numbers, images and what the map explains of each: its label, or None for its own answer."""
    data, device = scene.data, scene.device
    classes = model.get_parameter(f"{classifier_of(model)}.weight").shape[0]
    total = -(-data.num_train // BATCH)
    with progress_bar(total=total, desc="the teacher's maps", leave=False, delay=2) as bar:
        for batch in data.whole_batches(device, scene.config.workers):
            parts = (batch.numbers, batch.images, batch.labels)
            for index, images, labels in zip(*(p.split(BATCH) for p in parts), strict=True):
                yield index, inputs(images), labels if classes == len(data.classes) else None
                bar.update()


def _write(path: Path, state: dict[str, Any]) -> None:
    """Write a file whole or not at all: runs side by side may write the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    own = path.with_name(f"{path.name}.{os.getpid()}")
    write_whole(own, lambda file: torch.save(state, file))
    os.replace(own, path)
