"""The maps of a training run: what computes them, what stores them, and how good they are."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from classification.auto_map import (
    AutoSaliency,
    Choice,
    Stored,
    choice_due,
    choose,
    recycling_gflop,
)
from classification.caching import PROBE, agreement, stored_maps
from classification.config import Config
from classification.data import Data, sample
from classification.importance import Auto, Recycled
from classification.teacher import TeacherMaps
from keepaugment import CachedSaliency, EarlyHead, GradientSaliency, RecycledSaliency
from keepaugment.draws import Source
from keepaugment.no_trace import Forward
from keepaugment.stored import StoredMaps
from keepbench.images import Normalise
from keepbench.maps import Gradient, Scene
from keepbench.processes import Processes
from keepbench.training import Row


def _recycled(config: Config, scene: Scene) -> RecycledSaliency | None:
    """A store of a run's own gradients where the map is chosen, to say how good they are."""
    with suppress(ValueError):
        Recycled().check(config)
        return Recycled().source(scene)
    return None


class Maps:
    """The maps of a run.

    Args:
        config: its settings.
        data: what it trains on.
        network: what maps are taken of; may be compiled.
        head: its early head, or None.
        generator: random numbers of the maps.
        device: that it trains on.

    Attributes:
        used: what the method asks for a map.
        gradient: what stored maps are compared with.
        stored: what stores maps, or None.
        recycled: what stores the steps' own gradients, or None.
        chosen: the kind of map that the run takes at present, if it chooses; or None.
    """

    def __init__(
        self,
        config: Config,
        data: Data,
        network: Forward,
        head: EarlyHead | None,
        generator: Source,
        device: torch.device,
    ) -> None:
        self.config = config
        self.data = data
        self.device = device
        scene = Scene(network, generator, head, data, config, device)
        kind, every = (config.keep.map, config.keep.cache) if config.keep else (Gradient(), 0)
        source = kind.source(scene)
        self.chosen = source if isinstance(source, AutoSaliency) else None
        self.recycled = source if isinstance(source, RecycledSaliency) else None
        self.stored: StoredMaps | None = source if isinstance(source, StoredMaps) else None
        self.gradient = GradientSaliency(network) if self.stored else source
        if every:
            self.stored = CachedSaliency(
                source, data.num_train, data.image_size, every=every, device=device
            )
        elif self.chosen:
            self.stored = self.recycled = _recycled(config, scene)
        self.used = kind.from_source(source if self.chosen else self.stored or source, generator)

    def prepare(self, processes: Processes) -> None:
        """Compute what is stored before training; all processes must call."""
        if isinstance(self.stored, TeacherMaps):
            self.stored.prepare(processes)

    def merge(self) -> None:
        """Give every process the maps that the others stored; all of them must call."""
        if self.stored:
            self.stored.merge()

    def after_epoch(
        self,
        epochs: int,
        model: nn.Module,
        head: EarlyHead | None,
        inputs: Normalise,
        processes: Processes,
    ) -> Row:
        """Merge what was stored, see how good it is, and choose anew if it is due.

        Args:
            epochs: done so far.
            model: uncompiled.
            head: its early head, or None.
            inputs: what the model sees of images (B, C, H, W) uint8.
            processes: this one among those of the run.
        """
        self.merge()
        row: Row = {}
        if self.chosen:
            row["map"] = self.chosen.kind
            if choice_due(epochs):
                choice = None
                if processes.first:  # BatchNorm's statistics differ among processes
                    choice = self._choice(model, head, inputs)
                choice = processes.shared(choice)
                self.chosen.kind = choice.kind
                row["map_agreement"] = {row["map"]: row["agreement"] for row in choice.rows}
        elif self.stored:
            some = sample(self.data, self.device, seed=self.config.seed, number=PROBE)
            images = inputs(some.images)
            boxes = self._boxes(images.shape[2])
            row["cache_agreement"] = agreement(boxes, self.stored, self.gradient, images, some)
        return row

    def _boxes(self, length: int) -> dict[str, Any]:
        """The boxes of images of `length` pixels that tell maps apart."""
        assert self.config.keep
        return self.config.keep.boxes(self.config, length)

    def _choice(self, model: nn.Module, head: EarlyHead | None, inputs: Normalise) -> Choice:
        """The kind of map for the epochs to come, said with its reasons."""
        some = sample(self.data, self.device, seed=self.config.seed)
        images, stored = inputs(some.images), {}
        if self.recycled:
            maps = stored_maps(self.recycled, some)
            stored["recycled"] = Stored(maps, recycling_gflop(model, images[:1]))
        assert self.config.keep and isinstance(self.config.keep.map, Auto)
        choice = choose(
            model, head, images, some.labels,
            boxes=self._boxes(images.shape[2]), min_agreement=self.config.keep.map.agreement,
            stored=stored,
        )  # fmt: skip
        for line in choice.table():
            tqdm.write(line)
        return choice

    def state_dict(self) -> dict[str, Any]:
        """The maps and the choice, for the run's checkpoint."""
        return {
            "cache": self.stored.state_dict() if self.stored else {},
            "map": self.chosen.kind if self.chosen else "",
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the maps and the choice of a checkpoint."""
        if self.stored and state["cache"]:  # auto of earlier versions stored none
            self.stored.load_state_dict(state["cache"])
        if self.chosen:
            if state["map"] not in self.chosen.maps:
                raise ValueError(f"its map {state['map']!r} is none of {[*self.chosen.maps]}")
            self.chosen.kind = state["map"]
