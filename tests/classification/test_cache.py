"""Stored maps in training runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torchvision.transforms.functional import to_pil_image

from classification.config import Config
from classification.data import open_data
from classification.methods import CutMix, Cutout, KeepCut, KeepMix, KeepPaste, RandomErasing
from classification.train import Trainer, train
from keepaugment import CachedSaliency, GradientSaliency
from keepbench.images import Batch
from keepbench.loop import train_epoch
from keepbench.maps import Gradient, Inverted, Random, Shuffled
from keepbench.order import EpochBatches
from keepbench.policies import RandAugment
from keepbench.run import read_rows
from keepbench.views import draw_view, show
from runs import CPU, assert_resumes, rows_of

STORED = Config(
    dataset="digits", arch="resnet8", subset=60, test_subset=30, epochs=4, batch_size=25,
    cut=Cutout(), keep=KeepCut(cache=4),
)  # fmt: skip


def cache_of(trainer: Trainer) -> CachedSaliency:
    """What stores its maps."""
    assert isinstance(trainer.maps.stored, CachedSaliency)
    return trainer.maps.stored


def maps_computed(trainer: Trainer) -> list[bool]:
    """Whether each of the next epochs, until the last, computed maps of its batches."""
    cache = cache_of(trainer)
    calls: list[int] = []
    compute = cache.saliency
    cache.saliency = lambda x, y: (calls.append(len(x)), compute(x, y))[1]
    computed = []
    while trainer.epoch < trainer.config.epochs:
        calls.clear()
        train_epoch(trainer)
        computed.append(bool(calls))
    return computed


def test_maps_are_computed_in_some_epochs() -> None:
    trainer = Trainer(STORED, open_data(STORED, CPU.device), CPU)
    assert maps_computed(trainer) == [True, True, True, False]


def test_the_agreement_is_logged(tmp_path: Path) -> None:
    train("a", STORED, tmp_path / "stored", CPU)
    agreements = [row["cache_agreement"] for row in read_rows(tmp_path / "stored/metrics.jsonl")]
    assert len(agreements) == 4 and all(0.0 < value <= 1.0 for value in agreements)
    train("a", replace(STORED, keep=KeepCut()), tmp_path / "fresh", CPU)
    assert not any("cache_agreement" in row for row in rows_of(tmp_path / "fresh"))


def test_storing_changes_nothing_where_maps_are_fresh(tmp_path: Path) -> None:
    """With a refresh in every epoch the run is the one without a store."""
    for name, every in (("stored", 1), ("fresh", 0)):
        train("a", replace(STORED, keep=KeepCut(cache=every), epochs=2), tmp_path / name, CPU)
    stored = [{**row} for row in rows_of(tmp_path / "stored")]
    assert all(row.pop("cache_agreement") > 0.43 for row in stored)  # of chance
    assert stored == rows_of(tmp_path / "fresh")


@pytest.mark.parametrize(
    "change",
    [
        {"early_head": "layer1", "keep": KeepCut(map=Gradient(scale=0.5), cache=4), "bf16": True},
        {"cut": None, "mix": CutMix(), "keep": KeepMix(map=Inverted(), cache=4)},
        {"policy": RandAugment(), "keep": KeepPaste(map=Shuffled(), cache=4)},
        {"cut": RandomErasing()},
    ],
)
def test_a_run_goes_on_with_its_maps(change: dict, tmp_path: Path) -> None:
    """Stopped in its last epoch, which reads what the others have stored."""
    config = replace(STORED, **change)
    data = open_data(config, CPU.device)
    rows = assert_resumes(lambda: Trainer(config, data, CPU), 10, tmp_path)
    assert len(rows) == 4 and all(0 < row["cache_agreement"] <= 1 for row in rows)


def test_a_stored_map_of_the_trainer_lies_where_its_image_does() -> None:
    """The map of an image is its brightness, so in every view it must be so again."""
    data = open_data(replace(STORED, subset=0), CPU.device)
    trainer = Trainer(replace(STORED, subset=0), data, CPU)
    cache = cache_of(trainer)
    cache.saliency = lambda images, labels: images[:, 0] - images[:, 0].amin((1, 2), keepdim=True)
    index = torch.arange(0, 200)
    images = data.train.images[index]
    for epoch in (0, 1, 2, 4, 3):  # further views fill in what the first did not show
        trainer.augment(epoch, 0, Batch(index, images, data.train.labels[index]))
    assert cache.view is not None
    stored, shown = cache(images.float()), show(images, cache.view, 4)[:, 0].float()
    coarse = torch.nn.functional.avg_pool2d(shown, 2).repeat_interleave(2, 1)
    a, b = (each.flatten(1) for each in (stored, coarse.repeat_interleave(2, 2)))
    similar = torch.nn.functional.cosine_similarity(a, b)
    assert similar.mean() > 0.97
    assert torch.nn.functional.cosine_similarity(a, b.roll(1, 0)).mean() < 0.9


@pytest.fixture
def large(tmp_path: Path) -> Config:
    """A run on a tree of images of many sizes, each of soft grey patches on black."""
    generator = torch.Generator().manual_seed(0)
    for number in range(16):
        folder = tmp_path / "large" / ("train" if number < 12 else "val") / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        grey = torch.rand(1, 1, 4, 4, generator=generator) * 255
        size = 40 + 4 * number, 80 - 2 * number
        image = torch.nn.functional.interpolate(grey, size, mode="bilinear")[0].round().byte()
        to_pil_image(image.expand(3, -1, -1).contiguous()).save(folder / f"{number}.png")
    return replace(
        STORED, dataset="images", data=str(tmp_path / "large"), image_size=32, subset=0,
        test_subset=0, batch_size=6, workers=0, keep=KeepCut(cache=20),
    )  # fmt: skip


def test_a_stored_map_follows_crops_of_large_images(large: Config) -> None:
    """The map of an image is its brightness, so in every crop it must be so again."""
    data = open_data(large, CPU.device)
    trainer = Trainer(large, data, CPU)
    cache = cache_of(trainer)
    assert cache.maps.shape == (12, 16, 16)
    cache.saliency = lambda images, labels: images[:, 0] * data.std[0] + data.mean[0]

    def crops(epoch: int) -> Batch:
        order = EpochBatches(num_images=12, batch_size=12, epoch=epoch)
        samples = next(iter(data.train_batches(order, CPU.device, 0)))
        trainer.augment(epoch, 0, samples)
        return samples

    for epoch in (0, 1, 2, 4, 8, 16):
        crops(epoch)
    samples = crops(17)
    stored = cache(samples.images.float())
    seen = stored > 0
    assert seen.float().mean() > 0.9
    similar = [
        torch.corrcoef(torch.stack([a[processes], b[processes].float()]))[0, 1].item()
        for a, b, processes in zip(stored, samples.images[:, 0], seen, strict=True)
    ]
    assert min(similar) > 0.8 and sum(similar) / 12 > 0.93


def test_a_run_on_large_images_goes_on_with_its_maps(large: Config, tmp_path: Path) -> None:
    config = replace(large, cut=None, mix=CutMix(), keep=KeepMix(cache=4))
    data = open_data(config, CPU.device)
    assert_resumes(lambda: Trainer(config, data, CPU), 7, tmp_path)


def test_a_view_is_drawn_and_shown_apart() -> None:
    images = torch.randint(1, 256, (50, 3, 7, 5), dtype=torch.uint8)
    view = draw_view(50, CPU.device, padding=2, generator=torch.Generator().manual_seed(0))
    assert view.top.min() == view.left.min() == -2 and view.top.max() == view.left.max() == 2
    shown = show(images, view, 2)
    for image, seen, top, left, mirrored in zip(images, shown, *view, strict=True):
        padded = torch.nn.functional.pad(image, [2] * 4)[:, 2 + top : 9 + top, 2 + left : 7 + left]
        assert torch.equal(seen, padded.flip(2) if mirrored else padded)


def test_the_boxes_that_are_compared() -> None:
    """The method's own, or of half the length where these have a random size."""
    assert KeepCut().boxes(STORED, 64) == {"size": 16, "side": "low", "tau": 0.6}
    assert KeepCut().boxes(replace(STORED, cut=Cutout(size=8)), 32)["size"] == 8
    assert KeepCut().boxes(replace(STORED, cut=RandomErasing()), 40)["size"] == 20
    both = replace(STORED, mix=CutMix())
    assert KeepMix(tau=0.5).boxes(both, 40) == {"size": 20, "side": "low", "tau": 0.5}
    assert KeepPaste(size=9).boxes(STORED, 32) == {"size": 9, "side": "high", "tau": 0.6}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"keep": KeepCut(map=Random(), cache=4)},
            r"keep.cache=4 has no map to store \(keep.map=random\)",
        ),
        ({"policy": RandAugment()}, "not what randaugment does .* keep=cut needs --keep.cache 0"),
    ],
)
def test_what_cannot_be_stored_is_named(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(STORED, **change)


def test_pictures_are_drawn_of_fresh_maps() -> None:
    trainer = Trainer(STORED, open_data(STORED, CPU.device), CPU)
    assert isinstance(trainer.maps.gradient, GradientSaliency)
