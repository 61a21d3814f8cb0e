"""The paper's claims, as differences between experiments that the same seeds can settle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from keepbench.paper import (
    LENGTHS,
    MAGNITUDES,
    TABLES,
    cutout,
    figure_of,
    keep20,
    paste8,
    randaugment,
)


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of experiments' figures, positive where the claim holds.

    Attributes:
        label: what is compared.
        weights: (experiment, weight) pairs.
        metric: "" is the task's headline figure.
        no_drop: the claim is only that there is no drop.
        claimed: the paper's value; None if it prints none.
    """

    label: str
    weights: tuple[tuple[str, float], ...]
    metric: str = ""
    no_drop: bool = False
    claimed: float | None = None


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper, or of the controls.

    Attributes:
        where: table or figure, as "Table 1".
        task: of its experiments.
        text: the claim.
        contrasts: what it rests on.
    """

    where: str
    task: str
    text: str
    contrasts: tuple[Contrast, ...]


def contrast(
    label: str, weights: Iterable[tuple[str, float]], metric: str = "", *, no_drop: bool = False
) -> Contrast:
    """A contrast, with the paper's own value where it prints all of its figures."""
    pairs = tuple(weights)
    figures = [figure_of(name, metric) for name, _ in pairs]
    claimed = None
    if all(figures):
        total = sum(w * float(f) for (_, w), f in zip(pairs, figures, strict=True))
        claimed = round(total, 4)
    return Contrast(label, pairs, metric, no_drop, claimed)


def gain(better: str, worse: str, metric: str = "", *, label: str = "") -> Contrast:
    """How much better one experiment is than another."""
    return contrast(label or f"{better} above {worse}", [(better, 1.0), (worse, -1.0)], metric)


def same(cheap: str, full: str) -> Contrast:
    """That an approximation is no worse than what it approximates."""
    return contrast(f"{cheap} against {full}", [(cheap, 1.0), (full, -1.0)], no_drop=True)


def slope(label: str, arms: Mapping[int, tuple[str, str]]) -> Contrast:
    """The least-squares slope over x of the gain of the first arm above the second."""
    mean = sum(arms) / len(arms)
    spread = sum((x - mean) ** 2 for x in arms)
    weights = []
    for x, (keep, plain) in arms.items():
        weights += [(keep, (x - mean) / spread), (plain, -(x - mean) / spread)]
    return contrast(label, [pair for pair in weights if pair[1]])


CUTS = [f"cifar10-{arch}-{{}}cutout" for arch in ("resnet18", "resnet110", "wrn28_10")]
AUTOS = [f"cifar10-{arch}-{{}}autoaugment" for arch in ("wrn28_10", "shake_shake", "pyramidnet")]
LARGE = [
    f"imagenet-{arch}-{{}}{method}"
    for method in ("autoaugment", "cutmix")
    for arch in ("resnet50", "resnet101")
]


def _gains(patterns: list[str]) -> tuple[Contrast, ...]:
    return tuple(gain(pattern.format("keep_"), pattern.format("")) for pattern in patterns)


def _cheap(patterns: list[str], way: str) -> tuple[Contrast, ...]:
    return tuple(same(p.format("keep_") + way, p.format("keep_")) for p in patterns)


def _classification() -> list[tuple[str, str, tuple[Contrast, ...]]]:
    by_length = {n: (cutout("resnet18", n, "keep_"), cutout("resnet18", n)) for n in LENGTHS}
    by_magnitude = {m: (randaugment(m, "keep_"), randaugment(m)) for m in MAGNITUDES}
    archs = ("wrn28_10", "shake_shake")
    rivals = ("gridmask", "augmix", "attentive_cutmix")
    wide = {n: cutout("wrn28_10", n) for n in LENGTHS}
    return [
        ("Table 1", "KeepCutout improves on Cutout", _gains(CUTS)),
        ("Table 1", "KeepAutoAugment improves on AutoAugment", _gains(AUTOS)),
        ("Table 1", "Low resolution does not lead to any drop", _cheap(CUTS + AUTOS, "_low")),
        ("Table 1", "Early loss does not lead to any drop", _cheap(CUTS + AUTOS, "_early")),
        ("Table 2", "KeepCutout improves on Cutout from length 12 on",
         tuple(gain(*by_length[n]) for n in LENGTHS[1:])),
        ("Table 2", "At length 8 plain Cutout is better",
         (gain(*reversed(by_length[8])),)),
        ("Table 2", "The gain grows with the length",
         (slope("points per pixel of length", by_length),)),
        ("Table 3", "KeepAutoAugment is better at every magnitude",
         tuple(gain(*pair) for pair in by_magnitude.values())),
        ("Table 3", "The gain grows with the magnitude",
         (slope("points per step of magnitude", by_magnitude),)),
        ("Table 4", "KeepAutoAugment at low resolution is better than each rival",
         tuple(gain(f"cifar10-{a}-keep_autoaugment_low", f"cifar10-{a}-{r}")
               for a in archs for r in rivals)),
        ("Table 5", "KeepAutoAugment improves on AutoAugment", _gains(LARGE[:2])),
        ("Table 5", "KeepCutMix improves on CutMix", _gains(LARGE[2:])),
        ("Table 5", "Low resolution does not hurt", _cheap(LARGE, "_low")),
        ("Table 5", "Early loss does not hurt", _cheap(LARGE, "_early")),
        ("Table 8", "Keep in 300 epochs is better than its baseline in 360",
         tuple(gain(f"imagenet-resnet50-keep_{m}", f"imagenet-resnet50-{m}-360")
               for m in ("cutmix", "autoaugment"))),
        ("Figure 2", "Test accuracy degenerates with Cutout longer than 16",
         (gain(wide[16], wide[20]), gain(wide[16], wide[24]))),
        ("Figure 2", "Test accuracy degenerates with RandAugment beyond magnitude 12",
         tuple(gain(randaugment(12), randaugment(m)) for m in (18, 24))),
        ("Figure 3", "KeepCutout improves on Cutout where tau is at most 0.6",
         tuple(gain(keep20(tau), wide[20]) for tau in (0.2, 0.4, 0.6))),
        ("Figure 3", "Accuracy drops sharply at tau 0.8 (KeepCutout)",
         (gain(keep20(0.6), keep20(0.8)),)),
        ("Figure 3", "KeepRandAugment improves on RandAugment at tau 0.6 and 0.8",
         tuple(gain(paste8(tau), randaugment(15)) for tau in (0.6, 0.8))),
        ("Figure 3", "tau 0, which ignores the map, is worse than tau 0.6",
         (gain(paste8(0.6), paste8(0.0)),
          gain(randaugment(24, "keep_"), randaugment(24, "keep_") + "-tau0"))),
    ]  # fmt: skip


def _row(table: str, number: int) -> list[str]:
    """The experiments of a row of a table with one block."""
    (block,) = TABLES[table].blocks
    return [cell.experiment for cell in block.rows[number][1] if cell]


def _others() -> list[Claim]:
    labels = [gain(keep, plain) for plain, keep in zip(_row("9", 0), _row("9", 1), strict=True)]
    ours, tricks = _row("10", 2)[0], _row("10", 1)[0]
    people = [gain(ours, tricks, metric) for metric in ("rank1", "")]
    names = [_row("11", number) for number in range(6)]
    return [
        Claim("Table 9", "semisup_uda", "KeepRandAugment improves on RandAugment", tuple(labels)),
        Claim("Table 10", "reid", "Keep-erasing improves on Bag of Tricks", tuple(people)),
        Claim("Table 11", "detection", "A KeepCutMix backbone improves on the usual one",
              tuple(gain(keep, usual) for usual, _, keep in names)),
        Claim("Table 11", "detection",
              "Not in the paper: it also improves on a CutMix backbone",
              tuple(gain(keep, mixed) for _, mixed, keep in names)),
    ]  # fmt: skip


CLAIMS = [
    *(Claim(where, "classification", text, found) for where, text, found in _classification()),
    *_others(),
]
"""The paper's claims on accuracy, in its order."""
