"""Settings of several kinds, as small as a test needs them."""

from __future__ import annotations

from dataclasses import dataclass

from keepbench.own_network import source_files
from keepbench.settings import Kind, check, one_of, setting


@dataclass(frozen=True, kw_only=True)
class Map(Kind):
    pass


@dataclass(frozen=True, kw_only=True)
class Gradient(Map):
    name = "gradient"
    scale: float = setting(1.0, "scale of maps", range="(0, 1]")


@dataclass(frozen=True, kw_only=True)
class Shuffled(Gradient):
    name = "shuffled"


@dataclass(frozen=True, kw_only=True)
class Random(Map):
    name = "random"


@dataclass(frozen=True, kw_only=True)
class Keep(Kind):
    map: Map = one_of(
        (Map, Gradient, Shuffled, Random), "the map", default=Gradient(scale=0.5), required=True
    )
    tau: float = setting(0.6, "share that may be cut", range="[0, 1]")


@dataclass(frozen=True, kw_only=True)
class KeepCut(Keep):
    name = "cut"
    match_area: bool = setting(False, "match the area")


@dataclass(frozen=True, kw_only=True)
class KeepPaste(Keep):
    name = "paste"
    size: int = setting(16, "side pasted", range="[1, 64]")


@dataclass(frozen=True, kw_only=True)
class Cut(Kind):
    pass


@dataclass(frozen=True, kw_only=True)
class Cutout(Cut):
    name = "cutout"
    size: int = setting(16, "side of the box", range="[0, 64]")
    p: float = setting(1.0, "probability", range="[0, 1]")


@dataclass(frozen=True, kw_only=True)
class Erasing(Cut):
    name = "erasing"
    p: float = setting(0.5, "probability", range="[0, 1]")
    law: str = setting("own", "whose", choices=["own", "other"])


CUTS = (Cut, Cutout, Erasing)
KEEPS = (Keep, KeepCut, KeepPaste)


@dataclass(frozen=True, kw_only=True)
class Config:
    arch: str = setting("small", "the network", files=source_files)
    epochs: int = setting(3, "passes, 50% of them warm", range="[1, 100]")
    lr: float = setting(0.1, "learning rate", range="(0, 1]")
    flip: bool = setting(True, "mirror images")
    cut: Cut | None = one_of(CUTS, "what is cut")
    keep: Keep | None = one_of(KEEPS, "what is kept")
    workers: int = setting(4, "processes", range="[0, 8]", may_change=True)
    order: str = setting("first", "of images", choices=["first", "last"])
    seed: int = setting(0, "seed", range="[0, 9]", role="neutral")
    note: str = setting("", "anything")

    def __post_init__(self) -> None:
        check(self)


OWN = """
from dataclasses import dataclass
from keepbench.settings import setting
from kinds import Cut, Map

@dataclass(frozen=True, kw_only=True)
class Stripe(Cut):
    width: int = setting(2, "of a stripe", range="[1, 9]")
    size: float = setting(0.5, "share of the image", range="[0, 1]")
    law: str = setting("any", "whose")

@dataclass(frozen=True, kw_only=True)
class Depth(Map):
    power: float = setting(1.0, "of the depth", range="[0, 4]")

class Undecorated(Cut):
    width: int = setting(2, "of a stripe")

@dataclass(frozen=True, kw_only=True)
class Bare(Cut):
    width: int = 2

@dataclass(frozen=True, kw_only=True)
class Pair(Cut):
    sides: tuple = setting((2, 3), "of a box")

@dataclass(frozen=True, kw_only=True)
class Idle(Cut):
    needs = ("width",)

class Begun(Cut):
    def __init__(self, width): pass

@dataclass(frozen=True, kw_only=True)
class Lost(Cut):
    def __post_init__(self): raise KeyError("lost")
"""
"""A file of a user's own classes."""
