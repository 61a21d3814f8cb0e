"""The maps of a training run: what computes them, what stores them, and how good they are."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
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
    sample,
)
from classification.caching import (
    PROBE,
    OracleSaliency,
    agreement,
    compared_boxes,
    stored_maps,
)
from classification.config import Config
from classification.data import Data
from keepaugment import CachedSaliency, EarlyHead, GradientSaliency, RecycledSaliency, Saliency
from keepaugment.draws import Source
from keepaugment.no_trace import Forward
from keepbench.images import Normalise
from keepbench.loop import Row
from keepbench.methods import make_saliency
from keepbench.processes import Processes
from keepbench.settings import ORACLES


def _recycles(config: Config) -> bool:
    """Whether a run stores its own steps' gradients: `auto` only to say how good they are."""
    if config.saliency == "auto":
        with suppress(ValueError):
            replace(config, saliency="recycled")
            return True
    return config.saliency == "recycled"


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
        fresh: the map of the run's method, computed anew each time.
        used: what the method asks for a map.
        cached: what stores fresh maps for other epochs, or None.
        recycled: what stores the steps' own gradients, or None.
        oracle: the objects of the images, if they serve as maps; or None.
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
        self.gradient: Saliency = GradientSaliency(network, config.scale, head)
        self.chosen: AutoSaliency | None = None
        self.cached: CachedSaliency | None = None
        self.recycled: RecycledSaliency | None = None
        self.oracle: OracleSaliency | None = None
        number, size = data.num_train, data.image_size
        if config.saliency == "auto":
            self.gradient = self.chosen = AutoSaliency(network, head)
        if config.saliency == "recycled":
            self.gradient = GradientSaliency(network)
        if _recycles(config):
            self.recycled = RecycledSaliency(number, size, device=device)
        if config.keep and config.saliency in ORACLES:
            assert data.objects is not None
            self.oracle = OracleSaliency(data.objects, size, device)
        if config.cache:
            self.cached = CachedSaliency(
                self.gradient, number, size, every=config.cache, device=device
            )
        self.fresh = make_saliency(config.saliency, self.oracle or self.gradient, generator)
        stored = None if self.chosen else self.stored
        self.used = make_saliency(config.saliency, stored or self.gradient, generator)

    @property
    def stored(self) -> CachedSaliency | RecycledSaliency | OracleSaliency | None:
        """What stores maps."""
        return self.cached or self.recycled or self.oracle

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
            row["cache_agreement"] = agreement(
                self.config, self.stored, self.gradient, inputs(some.images), some
            )
        return row

    def _choice(self, model: nn.Module, head: EarlyHead | None, inputs: Normalise) -> Choice:
        """The kind of map for the epochs to come, said with its reasons."""
        some = sample(self.data, self.device, seed=self.config.seed)
        images, stored = inputs(some.images), {}
        if self.recycled:
            maps = stored_maps(self.recycled, some)
            stored["recycled"] = Stored(maps, recycling_gflop(model, images[:1]))
        boxes = compared_boxes(self.config, images.shape[2])
        choice = choose(
            model, head, images, some.labels,
            boxes=boxes, min_agreement=self.config.agreement, stored=stored,
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
