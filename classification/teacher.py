"""The maps of a trained network, computed once for all training images."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from classification.models import check_arch, create_model, pretrained
from keepaugment import GradientSaliency
from keepaugment.stored import GivenMaps
from keepbench.files import digest, write_whole
from keepbench.images import Normalise
from keepbench.maps import Scene
from keepbench.own_network import source_files
from keepbench.processes import Processes
from keepbench.progress import progress_bar, say
from keepbench.starting import classes_of, find_weights
from keepbench.weights import Weights, load_checkpoint, load_weights

BATCH = 64  # images at once
RANDOM = "random"
"""In place of weights: a network that has learned nothing, to try without any at hand."""


def load_teacher(arch: str, weights: Weights, channels: int) -> tuple[nn.Module, int]:
    """A trained network with its own classifier, and its number of classes.

    Raises:
        ValueError: The weights are another network's.
    """
    classes = classes_of(weights, create_model(arch, 2, in_chans=channels), 2)
    if not classes:
        raise ValueError(f"the teacher's weights have no classifier of {arch}")
    model = create_model(arch, classes, in_chans=channels)
    try:
        load_weights(model, weights)
    except ValueError as error:
        raise ValueError(f"the teacher's weights are not of {arch}: {error}") from None
    return model, classes


def _random_weights(arch: str, classes: int, channels: int) -> Weights:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return Weights("", create_model(arch, classes, in_chans=channels).state_dict())


class TeacherMaps(GivenMaps):
    """A run's maps of a teacher; zero until it is prepared or goes on from a checkpoint.

    Args:
        arch: the teacher.
        source: its weights, as `find_weights` takes them, or "random".
        scale: of the images that maps are computed on.
        folder: where maps are kept for further runs; "" is nowhere.
        scene: the run's data, settings and device.
    """

    def __init__(self, arch: str, source: str, scale: float, folder: str, scene: Scene) -> None:
        data = scene.data
        super().__init__(data.num_train, data.image_size, device=scene.device)
        self.arch, self.source, self.scale, self.folder = arch, source, scale, folder
        self.scene = scene

    def prepare(self, processes: Processes) -> None:
        """Take the maps of the folder, or compute them, a share in each process; all must call.

        Raises:
            ValueError: Weights that cannot be had or are another network's.
        """
        data, download = self.scene.data, self.scene.config.download
        check_arch(self.arch, download=download)
        if self.source == RANDOM:
            weights = _random_weights(self.arch, len(data.classes), data.channels)
        else:
            weights = find_weights(self.source, self.arch, download=download)
        inputs = self._inputs()
        path = None
        if self.folder:
            path = Path(self.folder).expanduser() / f"{digest(self._identity(weights, inputs))}.pt"
            path.parent.mkdir(parents=True, exist_ok=True)
            known = self._read_file(path)
            everywhere = all(processes.gathered(known is not None))
            if known is not None and everywhere:
                self.maps.copy_(known)
                return
        model, classes = load_teacher(self.arch, weights, data.channels)
        saliency = GradientSaliency(model.to(self.scene.device).eval(), self.scale)
        self.fill(saliency, self._batches(inputs, classes == len(data.classes), processes))
        self.merge()
        if path and processes.first:
            self._write(path)

    def _inputs(self) -> Normalise:
        """Normalisation of the teacher's inputs: by timm's mean and std for it, else the data's.

        The run's own weights see the colours that the run gives them.
        """
        data, config = self.scene.data, self.scene.config
        own = (self.source, self.arch) == (config.weights, config.arch)
        known = {} if own else pretrained(self.source, self.arch)
        fits = len(known.get("mean") or ()) == data.channels
        return Normalise(*((known["mean"], known["std"]) if fits else (data.mean, data.std)))

    def _identity(self, weights: Weights, inputs: Normalise) -> Iterator[str | bytes]:
        """All that the maps depend on, for a digest."""
        data = self.scene.data
        yield f"{self.arch} {self.scale} {data.image_size} {[*inputs.mean]} {[*inputs.std]}"
        yield from (file.read_bytes() for file in source_files(self.arch))
        for name, value in sorted(weights.tensors.items()):
            yield name
            yield value.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        yield from data.classes
        yield from data.train_contents()

    def _read_file(self, path: Path) -> Tensor | None:
        """The maps that a file holds; None if it is not there or damaged."""
        if not path.exists():
            return None
        try:
            maps = load_checkpoint(path).get("maps")
        except ValueError as error:
            say(f"{error}; its maps are computed anew")
            return None
        if not isinstance(maps, Tensor) or (maps.shape, maps.dtype) != (
            self.maps.shape, self.maps.dtype,
        ):  # fmt: skip
            say(f"{path} holds no maps of these images; they are computed anew")
            return None
        return maps

    def _batches(
        self, inputs: Normalise, labelled: bool, processes: Processes
    ) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Numbers, images and what the map explains: labels, or None for the teacher's answer."""
        scene, rank, number = self.scene, processes.rank, processes.world_size
        share = len(range(rank, scene.data.num_train, number))
        batches = scene.data.whole_batches(scene.device, scene.config.workers, rank, number)
        with progress_bar(
            total=share,
            desc="the teacher's maps",
            unit="image",
            leave=False,
            delay=2,
            hide=rank > 0,
        ) as bar:
            for batch in batches:
                parts = (batch.numbers, batch.images, batch.labels)
                for index, images, labels in zip(*(p.split(BATCH) for p in parts), strict=True):
                    yield index, inputs(images), labels if labelled else None
                    bar.update(len(index))

    def _write(self, path: Path) -> None:
        """Write the maps whole or not at all, as `save` does: runs side by side write the same."""
        beside = path.with_name(f"{path.name}.{platform.node()}.{os.getpid()}")
        state = {"maps": self.maps.cpu(), "image_size": tuple(self.image_size)}
        write_whole(beside, lambda file: torch.save(state, file))
        os.replace(beside, path)
        say(f"the teacher's maps are in {path}")
