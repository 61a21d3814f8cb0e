"""Importance maps of classification as settings, beside those of `keepbench.maps`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keepaugment
from classification.auto_map import LEAST, AutoSaliency
from classification.caching import OracleSaliency
from classification.models import check_arch, check_weights
from classification.teacher import RANDOM, TeacherMaps
from keepaugment import RecycledSaliency, Saliency
from keepaugment.draws import Source
from keepbench.files import file_at
from keepbench.maps import MAPS as COMMON
from keepbench.maps import Gradient, Map, Scene
from keepbench.own_network import source_files
from keepbench.settings import setting


def check_frame(config: Any, cure: str) -> None:
    """Raise ValueError if maps are stored of images that a policy changes; `cure` does not."""
    if config.policy and config.keep.stage != "policy":
        raise ValueError(
            f"stored maps follow crop and flip, not what {config.policy.name} does to an image; "
            f"keep={config.keep.name} needs {cure} there"
        )


@dataclass(frozen=True, kw_only=True)
class Auto(Map):
    """The cheapest gradient map that agrees with full ones, chosen in training."""

    name = "auto"
    title = "chosen"
    agreement: float = setting(
        LEAST, "box agreement with full maps that is asked for", range="[0, 1]"
    )

    @property
    def passes(self) -> float:  # noqa: D102
        return 2.0  # the most that it can cost

    def source(self, scene: Scene) -> Saliency:  # noqa: D102
        return AutoSaliency(scene.network, scene.head)


@dataclass(frozen=True, kw_only=True)
class Recycled(Map):
    """Stored gradients of the run's own earlier steps."""

    name = "recycled"
    title = "recycled"

    def check(self, config: Any) -> None:  # noqa: D102
        if config.mix and not config.mix.pixels_of_one:
            raise ValueError(
                f"{config.mix.name} shows two images in one pixel, so the gradient there is no "
                "image's own; keep.map=recycled needs another mix"
            )
        check_frame(config, "another --keep.map")

    def source(self, scene: Scene) -> RecycledSaliency:  # noqa: D102
        return RecycledSaliency(scene.data.num_train, scene.data.image_size, device=scene.device)


@dataclass(frozen=True, kw_only=True)
class Oracle(Map):
    """The ground truth of --objects, boxes or masks."""

    name = "oracle"
    title = "oracle"
    learned = False

    def check(self, config: Any) -> None:  # noqa: D102
        if not config.objects:
            raise ValueError(f"keep.map={self.name} needs --objects, boxes or masks")
        check_frame(config, "another --keep.map")

    def source(self, scene: Scene) -> Saliency:  # noqa: D102
        return OracleSaliency(scene.data.objects, scene.data.image_size, scene.device)


@dataclass(frozen=True, kw_only=True)
class InvertedOracle(Oracle):
    """The ground truth upside down."""

    name = "inverted_oracle"
    title = "inverted oracle"

    def from_source(self, source: Saliency, noise: Source) -> Saliency:  # noqa: D102
        return keepaugment.InvertedSaliency(source)


@dataclass(frozen=True, kw_only=True)
class Teacher(Map):
    """Maps that a trained network gives once, before training: stored, and free in every step.

    A teacher of as many classes as the data explains each image's label, another its own answer.
    """

    name = "teacher"
    title = "teacher's"
    learned = False
    network: str = setting("", "the teacher, as --arch; '' = --arch", files=source_files)
    weights: str = setting(
        "", "its weights, as --weights, or random; '' = --weights", files=file_at
    )
    scale: float = setting(1.0, "scale of the images that its maps are computed on", range="(0, 1]")
    folder: str = setting(
        "",
        "folder where its maps are kept for further runs, a file for each teacher and each set of "
        "images; '' = computed in each run",
        may_change=True,
    )

    def asked(self, config: Any) -> tuple[str, str]:
        """Network and weights."""
        return self.network or config.arch, self.weights or config.weights

    def check(self, config: Any) -> None:  # noqa: D102
        if not self.asked(config)[1]:
            raise ValueError(
                "keep.map=teacher needs a trained network: give --keep.map.weights, or --weights"
            )
        check_frame(config, "another --keep.map")

    def check_image_size(self, image_size: tuple[int, int]) -> None:  # noqa: D102
        Gradient(scale=self.scale).check_image_size(image_size)

    def check_teacher(self, config: Any) -> None:
        """Raise ValueError for a teacher or a folder that is not there, before data are read."""
        arch, weights = self.asked(config)
        folder = Path(self.folder).expanduser()
        if self.folder and folder.exists() and not folder.is_dir():
            raise ValueError(f"keep.map.folder={self.folder} is no folder")
        check_arch(arch, download=config.download)
        if weights != RANDOM:
            check_weights(weights, arch, download=config.download)

    def source(self, scene: Scene) -> Saliency:  # noqa: D102
        return TeacherMaps(*self.asked(scene.config), self.scale, self.folder, scene)


MAPS = (*COMMON, Auto, Recycled, Oracle, InvertedOracle, Teacher)
"""The base class, and the kinds of classification."""
