"""Importance maps as settings, and Keep, the switch that asks for one."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

import keepaugment
from keepaugment import EarlyHead, GradientSaliency, Saliency
from keepaugment.draws import Source
from keepaugment.no_trace import Forward
from keepbench.settings import Kind, one_of, setting


@dataclass(frozen=True)
class Scene:
    """The parts of a run that maps are made of.

    Attributes:
        network: images to logits; may be compiled.
        noise: random numbers of the maps.
        head: the network's early head, or None.
        data: the training data, if the task's maps know them.
        config: the run's settings, likewise.
        device: of the images.
    """

    network: Forward
    noise: Source
    head: EarlyHead | None = None
    data: Any = None
    config: Any = None
    device: torch.device = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Map(Kind):
    """An importance map.

    A map is made of a source, which may be stored: `from_source(source(scene), noise)`.
    """

    control: ClassVar[bool] = False
    """It stands in place of a gradient's, to ask whether it is the gradient that helps."""
    gradient: ClassVar[bool] = False
    """Its source is the network's gradient, taken anew for each batch."""
    learned: ClassVar[bool] = True
    """It depends on what the run's network has learned."""

    @property
    def passes(self) -> float:
        """Its cost, in forward passes of an image."""
        return 0.0

    def check(self, config: Any) -> None:
        """Raise ValueError for a task's config that does not suit the map."""

    def check_image_size(self, image_size: tuple[int, int]) -> None:
        """Raise ValueError for settings that images (H, W) are too small for."""

    @abstractmethod
    def source(self, scene: Scene) -> Saliency:
        """The source of the map."""

    def from_source(self, source: Saliency, noise: Source) -> Saliency:
        """The map, made of its source or of the source's stored maps."""
        return source

    def build(self, scene: Scene) -> Saliency:
        """The map, computed anew for each batch."""
        return self.from_source(self.source(scene), scene.noise)


@dataclass(frozen=True, kw_only=True)
class Gradient(Map):
    """The network's gradient (section 3)."""

    name = "gradient"
    title = "gradient"
    gradient = True
    scale: float = setting(
        1.0,
        "scale of the images that maps are computed on; 0.5 = low resolution",
        range="(0, 1]",
    )

    @property
    def passes(self) -> float:  # noqa: D102
        return 2 * self.scale**2

    def check_image_size(self, image_size: tuple[int, int]) -> None:
        """Raise ValueError if a map of images (H, W) has a side of one pixel or none."""
        if round(min(image_size) * self.scale) < 2:
            size = "x".join(map(str, image_size))
            raise ValueError(
                f"scale must leave 2 pixels of a side of {size} images, found {self.scale}"
            )

    def source(self, scene: Scene) -> Saliency:  # noqa: D102
        return GradientSaliency(scene.network, self.scale, scene.head)


@dataclass(frozen=True, kw_only=True)
class Random(Map):
    """Control: noise."""

    name = "random"
    title = "random"
    control = True
    learned = False

    def source(self, scene: Scene) -> Saliency:  # noqa: D102
        return keepaugment.RandomSaliency(scene.noise)


@dataclass(frozen=True, kw_only=True)
class Shuffled(Gradient):
    """Control: another image's map."""

    name = "shuffled"
    title = "shuffled"
    control = True

    def from_source(self, source: Saliency, noise: Source) -> Saliency:  # noqa: D102
        return keepaugment.ShuffledSaliency(source, noise)


@dataclass(frozen=True, kw_only=True)
class Inverted(Gradient):
    """Control: the map upside down."""

    name = "inverted"
    title = "inverted"
    control = True

    def from_source(self, source: Saliency, noise: Source) -> Saliency:  # noqa: D102
        return keepaugment.InvertedSaliency(source)


@dataclass(frozen=True, kw_only=True)
class Centre(Map):
    """Control: a bell around the centre."""

    name = "centre"
    title = "centre"
    control = True
    learned = False

    def source(self, scene: Scene) -> Saliency:  # noqa: D102
        return keepaugment.CentreSaliency()


MAPS = (Map, Gradient, Random, Shuffled, Inverted, Centre)
"""The base class, and the kinds that every task has."""


@dataclass(frozen=True, kw_only=True)
class Keep(Kind):
    """The one difference between a Keep arm and its plain arm."""

    stage: ClassVar[str] = ""
    """The setting whose method keeps the important region."""
    map: Map = one_of(MAPS, "importance map, or a control", default=Gradient(), required=True)
    tau: float = setting(
        0.6, "importance quantile: cut at or below it, paste at or above", range="[0, 1]"
    )

    @property
    def ignores_map(self) -> bool:
        """Whether every region is allowed, whatever the map."""
        return False

    @abstractmethod
    def build(self, saliency: Saliency, generator: Source) -> Any:
        """The paste, or the `keep` of the library's methods.

        Args:
            saliency: the map.
            generator: where random numbers come from.
        """

    def check_image_size(self, image_size: tuple[int, int]) -> None:
        """Raise ValueError for settings that images (H, W) are too small for."""
        try:
            self.map.check_image_size(image_size)
        except ValueError as error:
            raise ValueError(f"keep.map.{error}") from None


def scales_of(keep: Keep | None) -> set[float]:
    """The scales of images that a run's maps are computed on."""
    return {keep.map.scale} if keep and isinstance(keep.map, Gradient) else set()


@dataclass(frozen=True, kw_only=True)
class KeepCut(Keep):
    """Selective-Cut: no important region is cut."""

    name = "cut"
    stage = "cut"

    def build(self, saliency: Saliency, generator: Source) -> keepaugment.Keep:  # noqa: D102
        return keepaugment.Keep(saliency, self.tau)


@dataclass(frozen=True, kw_only=True)
class KeepPaste(Keep):
    """Selective-Paste: an important region is pasted on the policy's image."""

    name = "paste"
    stage = "policy"
    size: int = setting(16, "side of the pasted region", range="[1, 4096]")

    @property
    def ignores_map(self) -> bool:  # noqa: D102
        return self.tau == 0

    def check_image_size(self, image_size: tuple[int, int]) -> None:  # noqa: D102
        super().check_image_size(image_size)
        most = min(image_size) - 1  # of a longer one nothing of the policy would be left
        if self.size > most:
            size = "x".join(map(str, image_size))
            raise ValueError(
                f"keep.size must be at most {most} for {size} images, found {self.size}"
            )

    def build(self, saliency: Saliency, generator: Source) -> keepaugment.KeepPaste:  # noqa: D102
        return keepaugment.KeepPaste(
            size=self.size, tau=self.tau, saliency=saliency, generator=generator
        )
