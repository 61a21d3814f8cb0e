"""Which map is worth its price: `--saliency auto`.

A cheap map (KeepAugment, Gong et al., CVPR 2021, https://arxiv.org/abs/2011.11778, section 3.1) is
as good as the full one where it allows the same boxes. How far it does depends on the model, the
data, the early head's training and the epoch. So a run measures it on some of its own training
images after epochs 1, 2, 4, 8, ..., and takes the cheapest map that agrees well enough until the
next of them. The first epoch takes full maps: before it neither network nor head know anything.

Cost is counted in floating-point operations, so that a run chooses alike on every machine and in
every process; measured milliseconds stand beside it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from keepaugment import EarlyHead, GradientSaliency, RandomSaliency, Saliency, box_agreement
from keepaugment.early_stage import Flops, stages
from keepaugment.no_trace import Forward, no_trace

KINDS = {
    "full": (1.0, False),
    "low": (0.5, False),
    "early": (1.0, True),
    "low_early": (0.5, True),
}
"""Scale of the copy, and whether the early head gives the map."""

LEAST = 0.6
"""Agreement asked for if nothing else is said: halfway between noise and mirrored images, which
had 0.43 and 0.79 for cuts at tau 0.6 on CIFAR-10 (a resnet8 after 9 epochs on 5,120 images)."""

PART = 64  # of them at once

REPEATS = 3  # timed runs of each map

Row = dict[str, Any]


def gradient_maps(model: Forward, head: EarlyHead | None) -> dict[str, Saliency]:
    """The kinds of gradient map that a model can have, full ones first."""
    return {
        kind: GradientSaliency(model, scale, head if early else None)
        for kind, (scale, early) in KINDS.items()
        if head is not None or not early
    }


def _whole(saliency: Saliency, images: Tensor, labels: Tensor) -> Tensor:
    """Maps (B, H, W) of many images, in parts that fit in memory as a training step does."""
    parts = zip(images.split(PART), labels.split(PART), strict=True)
    return torch.cat([saliency(*part) for part in parts])


def _seconds(saliency: Saliency, images: Tensor, labels: Tensor) -> float:
    start = time.perf_counter()
    _whole(saliency, images, labels)
    if images.device.type != "cpu":
        torch.accelerator.synchronize(images.device)
    return time.perf_counter() - start


def _compared(
    name: str, reference: Tensor, found: Tensor, gflop: float, boxes: Mapping[str, Any]
) -> Row:
    """A row of `measure`, without milliseconds."""
    each = box_agreement(reference, found, **boxes)
    error = (each.std(correction=0) / len(each) ** 0.5).item()
    return {"map": name, "agreement": each.mean().item(), "error": error, "gflop": gflop}


def measure(
    maps: Mapping[str, Saliency], images: Tensor, labels: Tensor, boxes: Mapping[str, Any]
) -> list[Row]:
    """How far maps agree with the first of them, and what each costs: a row for each.

    Args:
        maps: by name.
        images: (B, C, H, W), as the model takes them.
        labels: (B,).
        boxes: that are compared, as `box_agreement` takes them.

    Returns:
        Rows with `map`, `agreement` (the mean, in [0, 1]), `error` (its standard error), `gflop`
        and `map_ms` of an image; one whose map cannot be taken has agreement 0 and `why`.
    """
    rows: dict[str, Row] = {}
    reference: Tensor | None = None
    for name, saliency in maps.items():
        try:
            with Flops() as counter:
                found = _whole(saliency, images, labels)
        except Exception as refused:  # models refuse sizes in many ways
            if reference is None:
                raise
            reason = str(refused) or type(refused).__name__
            rows[name] = {"map": name, "agreement": 0.0, "why": reason.splitlines()[0]}
            continue
        reference = found if reference is None else reference
        gflop = counter.total / 1e9 / len(images)
        rows[name] = _compared(name, reference, found, gflop, boxes)
    possible = [name for name, row in rows.items() if "why" not in row]
    turns = [[_seconds(maps[name], images, labels) for name in possible] for _ in range(REPEATS)]
    for name, times in zip(possible, zip(*turns, strict=True), strict=True):
        rows[name]["map_ms"] = 1000 * statistics.median(times) / len(images)
    return list(rows.values())


def step_gflop(model: Forward, images: Tensor) -> float:
    """Operations of a plain training step per image, in 10^9: three forward passes."""
    with no_trace(model, images.device), torch.no_grad(), Flops() as counter:
        model(images)
    return 3 * counter.total / 1e9 / len(images)


class Stored(NamedTuple):
    """Stored maps (B, H, W) of some images, and what they add to a step: 10^9 operations."""

    maps: Tensor
    gflop: float


def recycling_gflop(model: nn.Module, images: Tensor) -> float:
    """Operations that recycled maps add to a step per image, in 10^9: its first layer's backward.

    A layer's gradient for its input takes as many as its forward pass.
    """
    first = next((stage.share for stage in stages(model, images) if stage.share > 0), 0.0)
    return first * step_gflop(model, images) / 3


class AutoSaliency:
    """The kind of gradient map that is taken at present, full ones at first.

    Args:
        model: images to logits (B, K).
        head: its early head, or None.
    """

    def __init__(self, model: Forward, head: EarlyHead | None) -> None:
        self.maps = gradient_maps(model, head)
        self.kind = "full"

    def __call__(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Maps (B, H, W), as `GradientSaliency` gives them."""
        return self.maps[self.kind](images, labels)


@dataclass(frozen=True)
class Choice:
    """The map that a run takes from now on, and the table that it was chosen from.

    Attributes:
        kind: one of `KINDS`.
        min_agreement: the agreement that was asked for.
        rows: as `measure` gives them, with `cost` in plain steps.
    """

    kind: str
    min_agreement: float
    rows: list[Row]

    def table(self) -> Iterator[str]:
        """Lines: each map's cost and agreement, the cheapest first."""
        head = f"{'map':10s} {'step':>7s} {'map_ms':>8s}"
        yield f"{head}  agreement, of {self.min_agreement} asked for"
        for row in self.rows:
            if "why" in row:
                yield f"{row['map']:10s} {'-':>7s} {'-':>8s}  not possible: {row['why']}"
                continue
            ms = f"{row['map_ms']:8.3f}" if "map_ms" in row else f"{'-':>8s}"
            yield (
                f"{row['map']:10s} {row['cost']:6.3f}x {ms}  "
                f"{row['agreement']:.3f} ± {row['error']:.3f}"
                + ("  <- taken" if row["map"] == self.kind else "")
            )


def choice_due(epochs: int) -> bool:
    """Whether to choose anew after so many epochs: 1, 2, 4, 8, ..."""
    return epochs > 0 and epochs & (epochs - 1) == 0


def choose(
    model: Forward,
    head: EarlyHead | None,
    images: Tensor,
    labels: Tensor,
    *,
    boxes: Mapping[str, Any],
    min_agreement: float = LEAST,
    others: Mapping[str, Saliency] | None = None,
    stored: Mapping[str, Stored] | None = None,
) -> Choice:
    """Take the cheapest map whose boxes agree with full maps' as far as is asked for.

    Two more rows tell what an agreement means: full maps of the mirrored images, so how steady full
    maps are, and noise.

    Args:
        model: images to logits; left as it was.
        head: its early head, which trains beside it, or None.
        images: training images (B, C, H, W), as the model takes them.
        labels: (B,).
        boxes: the method's own, as `classification.caching.compared_boxes` gives them.
        min_agreement: agreement asked for, in [0, 1]; 1 takes full maps.
        others: more maps to measure, by name, that are not chosen from.
        stored: likewise maps of the images that training left.

    Raises:
        ValueError: An agreement that is none.
    """
    if not 0.0 <= min_agreement <= 1.0:
        raise ValueError(f"the agreement asked for must be in [0, 1], found {min_agreement}")
    maps = gradient_maps(model, head)

    def mirrored(images: Tensor, labels: Tensor | None) -> Tensor:
        return maps["full"](images.flip(3), labels).flip(2)

    noise = RandomSaliency(torch.Generator().manual_seed(0))
    controls: dict[str, Saliency] = {"mirrored": mirrored, "random": noise}
    rows = measure({**maps, **(others or {}), **controls}, images, labels, boxes)
    if stored:
        reference = _whole(maps["full"], images, labels)
        rows += [_compared(name, reference, *each, boxes) for name, each in stored.items()]
    step = step_gflop(model, images[:PART])
    for row in rows:
        row["cost"] = 1 + row.get("gflop", float("inf")) / step
    rows.sort(key=lambda row: (row["map"] not in maps, row["cost"]))
    kind = next(
        row["map"] for row in rows if row["agreement"] >= min_agreement and row["map"] in maps
    )
    return Choice(kind, min_agreement, rows)
