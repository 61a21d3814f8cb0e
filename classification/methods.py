"""Methods as settings: cuts, mixes of labels, and what keeps in each stage."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

import keepaugment
from classification import comparisons
from classification.importance import MAPS, check_frame
from classification.models import create_model
from keepaugment import Saliency
from keepaugment.draws import Source
from keepbench import maps
from keepbench.files import file_at
from keepbench.maps import Gradient, Map
from keepbench.settings import Method, check_keep, check_lengths, one_of, setting
from keepbench.weights import load_weights, read_weights

Mixing = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Images (B, C, H, W) and labels (B,) to mixed images and class weights (B, K)."""


@dataclass(frozen=True, kw_only=True)
class Cut(Method):
    """A region-level augmentation of normalised images."""

    def check_image_size(self, image_size: tuple[int, int]) -> None:
        """Raise ValueError for settings that images (H, W) are too small for."""

    @abstractmethod
    def build(self, keep: keepaugment.Keep | None, generator: Source, large: bool) -> Any:
        """The cut: a callable with `mask`, as `keepaugment.Cutout`; it has `keep` for `rising`.

        Args:
            keep: makes it a Keep arm; always None where `keeps` is false.
            generator: where random numbers come from.
            large: the images are a tree's of large ones.
        """


@dataclass(frozen=True, kw_only=True)
class Cutout(Cut):
    """DeVries and Taylor, 2017, arXiv:1708.04552."""

    name = "cutout"
    title = "Cutout"
    needs = ("size", "p")
    size: int = setting(16, "side of the box; 0 = no box", range="[0, 4096]")
    p: float = setting(1.0, "probability of cutting an image", range="[0, 1]")

    def check_image_size(self, image_size: tuple[int, int]) -> None:  # noqa: D102
        check_lengths(image_size, **{"cut.size": self.size})

    def build(  # noqa: D102
        self, keep: keepaugment.Keep | None, generator: Source, large: bool
    ) -> Any:
        return keepaugment.Cutout(self.size, p=self.p, generator=generator, keep=keep)


@dataclass(frozen=True, kw_only=True)
class RandomErasing(Cut):
    """Zhong et al., arXiv:1708.04896."""

    name = "random_erasing"
    title = "RandomErasing"
    needs = ("p",)
    p: float = setting(1.0, "probability of cutting an image", range="[0, 1]")
    law: str = setting(
        "original",
        "whose: original = noise in 2-40% of the area, torchvision = zeros in 2-33%",
        choices=["original", "torchvision"],
    )

    def build(  # noqa: D102
        self, keep: keepaugment.Keep | None, generator: Source, large: bool
    ) -> Any:
        if keep:  # its boxes lie inside, so their area is its own
            keep = replace(keep, match_area=False)
        law: dict[str, Any] = {"fill": "random"}
        if self.law == "torchvision":
            law = {"scale": (0.02, 0.33), "ratio": (0.3, 3.3), "log_ratio": True}
        return keepaugment.RandomErasing(self.p, **law, generator=generator, keep=keep)


@dataclass(frozen=True, kw_only=True)
class GridMask(Cut):
    """Chen et al., 2020, arXiv:2001.04086, with its author's settings for the size of images."""

    name = "gridmask"
    title = "GridMask"
    keeps = False

    def build(  # noqa: D102
        self, keep: keepaugment.Keep | None, generator: Source, large: bool
    ) -> Any:
        if large:
            return comparisons.GridMask(
                (96, 223), 0.6, rotate=360, ramp_epochs=240, generator=generator
            )
        return comparisons.GridMask(generator=generator)


class Blend(NamedTuple):
    """The parts of a run that a mix is made of.

    Attributes:
        classes: how many.
        model: what is trained.
        generator: where random numbers come from.
        device: of the images.
        mean: of each channel, by which they are normalised.
        std: likewise.
        download: weights may be fetched.
        labels: what CutMix weights them by; of a mix that can weight them by "importance", the
            value of its own `labels`.
    """

    classes: int
    model: nn.Module
    generator: Source
    device: torch.device
    mean: Sequence[float]
    std: Sequence[float]
    download: bool
    labels: str = "area"


@dataclass(frozen=True, kw_only=True)
class Mix(Method):
    """A label-mixing augmentation of normalised images."""

    keeps = False
    pixels_of_one: ClassVar[bool] = False
    """Each pixel is one image's."""

    @abstractmethod
    def build(self, keep: keepaugment.Keep | None, blend: Blend) -> list[Mixing]:
        """The mixes, of which one is drawn for each batch.

        Args:
            keep: makes it a Keep arm; always None where `keeps` is false.
            blend: what it is made of.
        """


def _alpha() -> Any:
    return setting(1.0, "lambda is drawn from Beta(alpha, alpha)", range="(0, 1000]")


@dataclass(frozen=True, kw_only=True)
class CutMix(Mix):
    """Yun et al., ICCV 2019, arXiv:1905.04899."""

    name = "cutmix"
    title = "CutMix"
    needs = ("p",)
    keeps = True
    pixels_of_one = True
    alpha: float = _alpha()
    p: float = setting(1.0, "probability of mixing a batch", range="[0, 1]")

    def build(self, keep: keepaugment.Keep | None, blend: Blend) -> list[Mixing]:  # noqa: D102
        return [
            keepaugment.CutMix(
                blend.classes, self.alpha, p=self.p, generator=blend.generator, keep=keep,
                labels=blend.labels,  # type: ignore[arg-type]
            )
        ]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Mixup(Mix):
    """Zhang et al., 2017, arXiv:1710.09412."""

    name = "mixup"
    title = "mixup"
    alpha: float = _alpha()

    def build(self, keep: keepaugment.Keep | None, blend: Blend) -> list[Mixing]:  # noqa: D102
        return [comparisons.Mixup(blend.classes, self.alpha, generator=blend.generator)]


@dataclass(frozen=True, kw_only=True)
class MixupOrCutMix(CutMix):
    """Mixup, or CutMix with alpha 1, by a coin for each batch: torchvision's and timm's recipes."""

    name = "mixup_or_cutmix"
    title = "mixup or CutMix"
    pixels_of_one = False

    def build(self, keep: keepaugment.Keep | None, blend: Blend) -> list[Mixing]:  # noqa: D102
        mixup = Mixup(alpha=self.alpha).build(None, blend)
        return [*mixup, *CutMix(p=self.p).build(keep, blend)]


@dataclass(frozen=True, kw_only=True)
class ManifoldMixup(Mix):
    """Verma et al., 2018, arXiv:1806.05236."""

    name = "manifold_mixup"
    title = "manifold mixup"
    alpha: float = _alpha()

    def build(self, keep: keepaugment.Keep | None, blend: Blend) -> list[Mixing]:  # noqa: D102
        return [
            comparisons.ManifoldMixup(
                blend.model, ("layer1", "layer2"), blend.classes, self.alpha,
                generator=blend.generator,
            )
        ]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class AttentiveCutMix(Mix):
    """Walawalkar et al., 2020, arXiv:2003.13048."""

    name = "attentive_cutmix"
    title = "Attentive CutMix"
    pixels_of_one = True
    attention: str = setting(
        "pretrained",
        "the network that says where to look: pretrained, random, or a state dict's file",
        files=file_at,
    )

    def network(self, download: bool) -> nn.Module | str:
        """The network that says where to look, or its name in timm.

        Raises:
            ValueError: Its weights cannot be had.
        """
        if self.attention == "pretrained":
            if download:
                return "resnet50"
            raise ValueError(
                "Attentive CutMix needs a network trained on ImageNet: --download fetches timm's "
                "resnet50, or give --mix.attention FILE with its state dict"
            )
        network = create_model("resnet50", 1000)
        if self.attention != "random":
            load_weights(network, read_weights(Path(self.attention)))
        return network

    def build(self, keep: keepaugment.Keep | None, blend: Blend) -> list[Mixing]:  # noqa: D102
        network = self.network(blend.download)
        if isinstance(network, nn.Module):
            network = network.to(blend.device)
        attention = comparisons.attention_of(
            network, mean=blend.mean, std=blend.std, device=blend.device
        )
        return [comparisons.AttentiveCutMix(attention, blend.classes, generator=blend.generator)]


CUTS = (Cut, Cutout, RandomErasing, GridMask)
MIXES = (Mix, CutMix, Mixup, MixupOrCutMix, ManifoldMixup, AttentiveCutMix)


@dataclass(frozen=True, kw_only=True)
class Keep(maps.Keep):
    """A Keep arm, whose maps may be stored."""

    map: Map = one_of(MAPS, "importance map, or a control", default=Gradient(), required=True)
    cache: int = setting(
        0, "epochs between refreshes of stored maps; 0 = none stored", range="[0, 1e6]"
    )

    def check_in(self, config: Any) -> None:
        """Raise ValueError for a config in which it has nothing to keep, or its map no place."""
        stages = [kind.stage for kind in KEEPS[1:]]
        if self.stage not in stages:
            raise ValueError(
                f"keep={self.name} must have a stage, {' or '.join(stages)}, found {self.stage!r}"
            )
        method = getattr(config, self.stage)
        used = {self.stage: method is not None and method.keeps}
        if method is not None:
            used |= {f"{self.stage}.{name}": getattr(method, name) > 0 for name in method.needs}
        check_keep(config, **used)
        if self.cache and not self.map.gradient:
            raise ValueError(
                f"keep.cache={self.cache} has no map to store (keep.map={self.map.name})"
            )
        if self.cache:
            check_frame(config, "--keep.cache 0")
        self.map.check(config)

    def boxes(self, config: Any, length: int) -> dict[str, Any]:
        """Boxes inside images of `length` pixels that tell maps apart, for `box_agreement`.

        Where the method's boxes have a random size, these have half the length.
        """
        return {"size": length // 2, "side": "low", "tau": self.tau}


@dataclass(frozen=True, kw_only=True)
class KeepCut(Keep, maps.KeepCut):
    """Selective-Cut of the cut (section 3)."""

    match_area: bool = setting(False, "keep the plain method's cut-area distribution")
    p: float = setting(1.0, "probability that an image's region obeys the map", range="[0, 1]")
    rising: bool = setting(
        False,
        "tau goes on a line from keep.tau in the first epoch to 1, the plain method, in the last",
    )

    def check_in(self, config: Any) -> None:  # noqa: D102
        super().check_in(config)
        if not self.obeyed:
            raise ValueError(
                f"keep.p={self.p} keeps nothing: no image's region obeys the map; that is the "
                "plain method, without --keep"
            )

    @property
    def obeyed(self) -> bool:
        """Whether the map decides anything."""
        return self.p > 0

    def build(self, saliency: Saliency, generator: Source) -> keepaugment.Keep:  # noqa: D102
        return keepaugment.Keep(saliency, self.tau, self.match_area, self.p)

    def tau_in(self, epoch: int, epochs: int) -> float:
        """Tau in an epoch, from 0, of so many."""
        if not self.rising or epochs == 1:
            return self.tau
        return self.tau + (1.0 - self.tau) * epoch / (epochs - 1)

    def boxes(self, config: Any, length: int) -> dict[str, Any]:  # noqa: D102
        size = getattr(config.cut, "size", length // 2)
        return super().boxes(config, length) | {"size": size}


@dataclass(frozen=True, kw_only=True)
class KeepMix(KeepCut):
    """Selective-Cut of the mix: CutMix replaces no important region (section 4.2)."""

    name = "mix"
    stage = "mix"
    labels: str = setting(
        "area", "what labels are weighted by: pixels, or the importance that can be seen",
        choices=["area", "importance"],
    )  # fmt: skip

    @property
    def obeyed(self) -> bool:  # noqa: D102
        return super().obeyed or self.labels == "importance"

    def boxes(self, config: Any, length: int) -> dict[str, Any]:  # noqa: D102
        return Keep.boxes(self, config, length)


@dataclass(frozen=True, kw_only=True)
class KeepPaste(Keep, maps.KeepPaste):
    """Selective-Paste on the policy's images (section 3)."""

    def boxes(self, config: Any, length: int) -> dict[str, Any]:  # noqa: D102
        return {"size": self.size, "side": "high", "tau": self.tau}


KEEPS = (Keep, KeepCut, KeepPaste, KeepMix)
