"""The page of a replayed training image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from classification.data import Data
from previewing.images import as_uri, heat
from previewing.pages import render
from previewing.runs import ClassificationRun
from replaying.replay import Replayed


def coloured(images: Tensor, data: Data) -> Tensor:
    """A normalised image (C, H, W) as (C, H, W) uint8."""
    mean, std = (
        torch.tensor(v, device=images.device)[:, None, None] for v in (data.mean, data.std)
    )
    return (255 * (images.float() * std + mean)).round().clamp(0, 255).byte()


def _panel(title: str, pixels: Tensor) -> dict[str, Any]:
    return {
        "title": title,
        "picture": as_uri(pixels),
        "height": pixels.shape[1],
        "width": pixels.shape[2],
    }


def in_words(target: Tensor, names: list[str]) -> str:
    """A label, or class weights, as text."""
    if target.ndim == 0:
        return names[int(target)]
    weights = {names[n]: round(float(target[n]), 4) for n in target.nonzero().flatten().tolist()}
    return ", ".join(f"{name} {weight:g}" for name, weight in weights.items())


def replay_facts(image: Replayed, run: ClassificationRun, names: list[str]) -> dict[str, str]:
    """Facts of a replayed image, by name."""
    return {
        "class": names[image.label],
        "target": in_words(image.target, names),
        "place": f"step {image.step + 1} of the epoch, image {image.position + 1} of the batch",
        "seed": str(run.config.seed),
        "SHA-256": image.digest(),
    }


def replay_page(image: Replayed, run: ClassificationRun, data: Data, epoch: int, index: int) -> str:
    """The page of a replayed training image."""
    panels = [_panel("stored" if not run.config.image_size else "its crop", image.stored)]
    for title, stage in image.stages.items():
        panels.append(_panel(title, heat(stage) if stage.ndim == 2 else coloured(stage, data)))
    panels.append(_panel("what the network saw", coloured(image.inputs, data)))
    return render(
        "replay.html",
        Path(__file__).parent / "templates",
        index=index,
        epoch=epoch,
        experiment=run.record.experiment,
        label=data.classes[image.label],
        small=max(image.inputs.shape[1:]) <= 64,
        panels=panels,
        facts=replay_facts(image, run, data.classes),
        how=image.how,
    )
