"""Stored maps in training runs."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from classification.caching import compared_boxes, make_cache, probe
from classification.config import Config
from classification.data import TreeData, draw_view, open_data, show
from classification.folders import load_folders
from classification.processes import Processes
from classification.train import Trainer, train
from keepaugment import CentreSaliency, GradientSaliency
from keepaugment.runs import Run, read_rows

CPU = Processes(torch.device("cpu"))
ROOT = Path(__file__).parents[2]
STORED = Config(
    dataset="digits", arch="resnet8", subset=60, test_subset=30, epochs=4, batch_size=25,
    cut="cutout", keep="cut", cache=4,
)  # fmt: skip


def rows_of(folder: Path) -> list[dict[str, float]]:
    """A run's metrics without what a clock measured."""
    rows = read_rows(folder / "metrics.jsonl")
    return [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in rows]


def maps_computed(trainer: Trainer) -> list[bool]:
    """Whether each of the next epochs, until the last, computed maps of its batches."""
    assert trainer.cache is not None
    calls: list[int] = []
    compute = trainer.cache.saliency
    trainer.cache.saliency = lambda x, y: (calls.append(len(x)), compute(x, y))[1]
    computed = []
    while trainer.epoch < trainer.config.epochs:
        calls.clear()
        trainer.train_epoch()
        computed.append(calls != [trainer.config.subset])  # the probe alone
    return computed


def test_maps_are_computed_in_some_epochs() -> None:
    trainer = Trainer(STORED, open_data(STORED, CPU.device), CPU)
    assert maps_computed(trainer) == [True, True, True, False]


def test_the_agreement_is_logged(tmp_path: Path) -> None:
    train("a", STORED, tmp_path / "stored", CPU)
    agreements = [row["cache_agreement"] for row in read_rows(tmp_path / "stored/metrics.jsonl")]
    assert len(agreements) == 4 and all(0.0 < value <= 1.0 for value in agreements)
    train("a", replace(STORED, cache=0), tmp_path / "fresh", CPU)
    assert not any("cache_agreement" in row for row in rows_of(tmp_path / "fresh"))


def test_storing_changes_nothing_where_maps_are_fresh(tmp_path: Path) -> None:
    """With a refresh in every epoch the run is the one without a store."""
    for name, every in (("stored", 1), ("fresh", 0)):
        train("a", replace(STORED, cache=every, epochs=2), tmp_path / name, CPU)
    stored = [{**row} for row in rows_of(tmp_path / "stored")]
    assert all(row.pop("cache_agreement") > 0.43 for row in stored)  # of chance
    assert stored == rows_of(tmp_path / "fresh")


@pytest.mark.parametrize(
    "change",
    [
        {"early_head": "layer1", "scale": 0.5, "bf16": True},
        {"cut": "", "mix": "cutmix", "keep": "mix", "saliency": "inverted"},
        {"policy": "randaugment", "keep": "paste", "saliency": "shuffled"},
        {"cut": "random_erasing"},
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(change: dict, tmp_path: Path) -> None:
    config = replace(STORED, **change)
    whole = train("a", config, tmp_path / "whole", CPU)
    part = Trainer(config, whole.data, CPU)
    run = Run(tmp_path / "part", "a", config, CPU.device, resume=False)
    run.load()
    for _ in range(3):  # the next epoch reads what these have stored
        row = part.train_epoch()
        run.log(**row)
    run.save(part.state())
    run.close()
    resumed = train("a", config, tmp_path / "part", CPU, resume=True)
    assert rows_of(tmp_path / "part") == rows_of(tmp_path / "whole")
    assert whole.cache is not None and resumed.cache is not None
    assert torch.equal(whole.cache.maps, resumed.cache.maps)


def test_a_stored_map_of_the_trainer_lies_where_its_image_does() -> None:
    """The map of an image is its brightness, so in every view it must be so again."""
    data = open_data(replace(STORED, subset=0), CPU.device)
    trainer = Trainer(replace(STORED, subset=0), data, CPU)
    cache = trainer.cache
    assert cache is not None
    cache.saliency = lambda images, labels: images[:, 0] - images[:, 0].amin((1, 2), keepdim=True)
    index = torch.arange(0, 200)
    images, labels = data.train.images[index], data.train.labels[index]
    trainer.augment(0, 0, index, images, labels)
    for epoch in (1, 2, 4):  # further views fill in what the first did not show
        trainer.augment(epoch, 0, index, images, labels)
    trainer.augment(3, 0, index, images, labels)
    assert cache.view is not None
    stored, shown = cache(images.float()), show(images, cache.view, 4)[:, 0].float()
    coarse = torch.nn.functional.avg_pool2d(shown, 2).repeat_interleave(2, 1)
    a, b = (each.flatten(1) for each in (stored, coarse.repeat_interleave(2, 2)))
    similar = torch.nn.functional.cosine_similarity(a, b)
    assert similar.mean() > 0.97
    assert torch.nn.functional.cosine_similarity(a, b.roll(1, 0)).mean() < 0.9


def test_a_view_is_drawn_and_shown_apart() -> None:
    images = torch.randint(1, 256, (50, 3, 7, 5), dtype=torch.uint8)
    view = draw_view(50, CPU.device, padding=2, generator=torch.Generator().manual_seed(0))
    assert view.top.min() == view.left.min() == -2 and view.top.max() == view.left.max() == 2
    shown = show(images, view, 2)
    for image, seen, top, left, mirrored in zip(images, shown, *view, strict=True):
        padded = torch.nn.functional.pad(image, [2] * 4)[:, 2 + top : 9 + top, 2 + left : 7 + left]
        assert torch.equal(seen, padded.flip(2) if mirrored else padded)


def test_the_boxes_that_are_compared() -> None:
    assert compared_boxes(STORED, 32) == {"size": 16, "side": "low", "tau": 0.6}
    assert compared_boxes(replace(STORED, size=8), 32)["size"] == 8
    mixed = replace(STORED, cut="", mix="cutmix", keep="mix", tau=0.5)
    assert compared_boxes(mixed, 40) == {"size": 20, "side": "low", "tau": 0.5}
    pasted = replace(STORED, policy="randaugment", keep="paste", paste_size=9)
    assert compared_boxes(pasted, 32) == {"size": 9, "side": "high", "tau": 0.6}


def test_the_probe_is_spread_over_the_set() -> None:
    data = open_data(replace(STORED, subset=0), CPU.device)
    numbers = probe(data)
    assert len(numbers) == 64 and numbers[0] == 0 and numbers[-1] > 0.95 * 1437
    assert probe(open_data(STORED, CPU.device)).tolist() == list(range(60))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cache": -1}, "cache must be 0 or"),
        ({"keep": ""}, "has no map to store"),
        ({"saliency": "random"}, "has no map to store"),
        ({"policy": "randaugment"}, "not what randaugment does .* keep=cut needs --cache 0"),
        ({"dataset": "images", "image_size": 64}, "crops of a tree of large images"),
    ],
)
def test_what_cannot_be_stored_is_named(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(STORED, **change)


def test_a_tree_of_large_images_is_refused(tree: Path) -> None:
    (tree / "test").rename(tree / "val")
    data = TreeData(load_folders(str(tree), size=32))
    with pytest.raises(ValueError, match="--cache.* need small images"):
        make_cache(STORED, data, CentreSaliency(), CPU.device)
    assert make_cache(replace(STORED, cache=0), data, CentreSaliency(), CPU.device) is None


def test_pictures_are_drawn_of_fresh_maps() -> None:
    trainer = Trainer(STORED, open_data(STORED, CPU.device), CPU)
    assert isinstance(trainer.saliency, GradientSaliency)


def test_two_processes_store_as_one(tree: Path, tmp_path: Path) -> None:
    """Without a step of learning the maps of all 24 images are the same, whoever computes them."""
    maps = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        done = subprocess.run(
            [
                sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
                str(processes), str(ROOT / "tools/run_classification.py"),
                "cifar10-resnet18-keep_cutout_cached", "--dataset", "folder", "--data", str(tree),
                "--arch", "convnext_atto", "--epochs", "1", "--batch-size", "10", "--lr", "0",
                "--scale", "1", "--device", "cpu", "--out", str(out),
            ],
            capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        maps.append(torch.load(out / "last.pt")["cache"]["maps"])
    assert (maps[0].flatten(1).amax(1) == 255).all()
    assert (maps[0].int() - maps[1].int()).abs().max() <= 1
