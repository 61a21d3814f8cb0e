"""Recycled maps in training runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from classification.config import Config
from classification.data import open_data
from classification.importance import Auto, Recycled
from classification.methods import CutMix, Cutout, KeepCut, KeepMix, KeepPaste, Mixup, RandomErasing
from classification.train import Trainer
from keepbench.images import Batch
from keepbench.loop import train_epoch
from keepbench.maps import Gradient, Inverted
from keepbench.policies import AutoAugment, RandAugment
from keepbench.views import show
from runs import CPU, assert_resumes, epochs, same

RECYCLED = Config(
    dataset="digits", arch="resnet8", subset=60, test_subset=30, epochs=3, batch_size=25,
    cut=Cutout(), keep=KeepCut(map=Recycled()),
)  # fmt: skip


def make(**change: Any) -> Trainer:
    config = replace(RECYCLED, **change)
    return Trainer(config, open_data(config, CPU.device), CPU)


@pytest.mark.parametrize(
    "change",
    [
        {"bf16": True, "channels_last": True, "nonfinite": "skip"},
        {"cut": RandomErasing(), "keep": KeepMix(map=Recycled()), "mix": CutMix(), "clip": 1.0},
        {"policy": RandAugment(), "keep": KeepPaste(map=Recycled()), "early_head": "layer1"},
    ],
)
def test_a_run_goes_on_with_its_maps(change: dict[str, Any], tmp_path: Path) -> None:
    rows = assert_resumes(lambda: make(**change), 7, tmp_path)
    assert all(0 < row["cache_agreement"] <= 1 for row in rows)


@pytest.mark.parametrize("change", [{"keep": KeepCut}, {"keep": KeepMix, "mix": CutMix()}])
def test_a_gradient_that_goes_on_to_the_images_changes_no_step(change: dict[str, Any]) -> None:
    """With tau 1 every box is allowed, so the arm is the plain method, to the bit."""
    kept = make(**change | {"keep": change["keep"](map=Recycled(), tau=1.0)})
    plain = make(**change | {"keep": None})
    for one, other in zip(epochs(kept), epochs(plain), strict=True):
        one.pop("cache_agreement")
        assert one == other
    assert same(kept.model.state_dict(), plain.model.state_dict())
    assert kept.maps.recycled is not None and kept.maps.recycled.maps.any((1, 2)).all()


def test_no_other_map_is_asked_for_in_a_step() -> None:
    trainer = make()
    trainer.maps.gradient = None  # type: ignore[assignment]
    batch = next(iter(trainer.batches()))
    trainer.train_step(batch)
    assert trainer.maps.recycled is not None
    seen = trainer.maps.recycled.maps.any((1, 2))
    assert seen.nonzero()[:, 0].tolist() == batch.numbers.sort().values.tolist()


def test_a_skipped_step_stores_no_map(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make(nonfinite="skip")
    monkeypatch.setattr(Trainer, "_finite_gradients", lambda self: False)
    found = trainer.train_step(next(iter(trainer.batches())))
    assert [found.pop("skipped").item(), *map(float, found.values())] == [1, 0, 0, 0, 0]
    assert trainer.maps.recycled is not None and not trainer.maps.recycled.maps.any()


def test_a_recycled_map_lies_where_its_image_does() -> None:
    """The gradient is the image's brightness, so in every view the map must be so again."""
    trainer = make(subset=0, cut=Cutout(p=1e-9))  # no image is cut
    recycled, data = trainer.maps.recycled, trainer.data
    assert recycled is not None
    index = torch.arange(200)
    images = data.train.images[index]  # type: ignore[attr-defined]
    for epoch in range(6):
        batch = Batch(index, images, data.train.labels[index])  # type: ignore[attr-defined]
        inputs = trainer.augment(epoch, 0, batch).inputs
        assert recycled.view is not None
        shown = show(images, recycled.view, 4)[:, :1].float()
        stored = recycled(inputs)
        inputs.requires_grad_().grad = shown.expand_as(inputs).clone()
        recycled.take(inputs)
    coarse = torch.nn.functional.avg_pool2d(shown, 2).repeat_interleave(2, 2)
    a, b = (each.flatten(1) for each in (stored, coarse.repeat_interleave(2, 3)))
    similar = torch.nn.functional.cosine_similarity(a, b)
    assert similar.mean() > 0.95
    assert torch.nn.functional.cosine_similarity(a, b.roll(1, 0)).mean() < 0.9


def test_a_run_that_chooses_says_how_good_recycled_maps_were() -> None:
    auto = KeepCut(map=Auto())
    trainer = make(keep=auto)
    assert {"recycled", "low", "random"} <= train_epoch(trainer)["map_agreement"].keys()
    trainer.maps.load_state_dict({"cache": {}, "map": "low"})  # of an earlier version
    assert trainer.maps.chosen is not None and trainer.maps.chosen.kind == "low"
    moved = make(keep=auto, policy=RandAugment())
    assert moved.maps.recycled is None and "recycled" not in train_epoch(moved)["map_agreement"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keep": KeepCut(map=Recycled(), cache=2)}, "keep.cache=2 has no map to store"),
        ({"mix": Mixup()}, "mixup shows two images in one pixel"),
        ({"policy": RandAugment()}, "what randaugment does .* needs another --keep.map there"),
    ],
)
def test_what_cannot_be_right_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(RECYCLED, **change)


@pytest.mark.parametrize(
    "change",
    [
        {"keep": None},
        {"keep": KeepCut(map=Gradient(scale=0.5)), "early_head": "layer1", "ema": 0.9},
        {"keep": KeepCut(map=Auto())},
        {"keep": KeepCut(map=Inverted()), "cut": RandomErasing()},
        {"cut": None, "mix": CutMix(), "keep": KeepMix(cache=2)},
        {"policy": AutoAugment(), "keep": KeepPaste()},
    ],
)
def test_every_arm_goes_on_in_bfloat16_with_channels_last(
    change: dict[str, Any], tmp_path: Path
) -> None:
    assert_resumes(lambda: make(**change, bf16=True, channels_last=True, epochs=2), 4, tmp_path)
