from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from semisup_uda.config import Config, KeepPaste
from semisup_uda.data import choose_labelled, open_images, split_record

CPU = torch.device("cpu")
LABELS = [0, 1, 1, 1, 2, 0, 2, 1, 0, 2]
CLASSES = ["a", "b", "c"]


def write(path: Path, size: tuple[int, int] = (32, 32)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (9, 90, 200)).save(path)


@pytest.fixture
def config(tree: Path) -> Config:
    return Config(dataset="folder", data=str(tree), labels=6, split="balanced", arch="resnet8")


def test_the_first_in_file_order() -> None:
    assert choose_labelled(LABELS, CLASSES, 6, split="first") == [0, 1, 2, 3, 4, 5]
    assert choose_labelled(LABELS, CLASSES, 6, split="first", seed=9) == [0, 1, 2, 3, 4, 5]


@given(st.integers(3, 10), st.integers(0, 2**31 - 1))
def test_a_balanced_split_is_even(number: int, seed: int) -> None:
    chosen = choose_labelled(LABELS, CLASSES, number, split="balanced", seed=seed)
    assert len(set(chosen)) == number and chosen == sorted(chosen)
    counts = [sum(LABELS[index] == label for index in chosen) for label in range(3)]
    most = [LABELS.count(label) for label in range(3)]
    assert all(c >= min(number // 3, m) for c, m in zip(counts, most, strict=True))


def test_a_balanced_split_follows_the_seed() -> None:
    draws = [choose_labelled(LABELS * 9, CLASSES, 9, split="balanced", seed=s) for s in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize(
    ("labels", "number", "message"),
    [
        (LABELS, 11, "11 labels were asked for, the training set has 10"),
        (LABELS, 2, "2 labels are fewer than the 3 classes"),
        (LABELS, 4, "first 4 images in file order hold none of c; take --split balanced"),
        ([0, 1, 1, 0], 3, "there are no training images of c"),
    ],
)
def test_labelled_sets_that_cannot_be(labels: list[int], number: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose_labelled(labels, CLASSES, number, split="first")


def test_the_whole_training_set_is_unlabelled(config: Config) -> None:
    images = open_images(config, CPU)
    assert torch.equal(images.unlabelled, images.data.train.images)
    assert len(images.labelled) == 6 and len(images.unlabelled) == 24
    assert images.data.train.labels[images.labelled].bincount().tolist() == [2, 2, 2]
    few = open_images(replace(config, unlabelled="labelled"), CPU)
    assert torch.equal(few.unlabelled, few.data.train.images[few.labelled])
    assert few.hidden is not None and few.hidden.bincount().tolist() == [2, 2, 2]


def test_unlabelled_images_from_a_folder(config: Config, tmp_path: Path) -> None:
    for name in ("x/1.png", "x/y/2.png", "3.png"):
        write(tmp_path / "more" / name)
    images = open_images(replace(config, unlabelled=str(tmp_path / "more")), CPU)
    assert images.unlabelled.shape == (3, 3, 32, 32) and images.hidden is None
    assert images.unlabelled[0, :, 0, 0].tolist() == [9, 90, 200]


def test_unlabelled_images_that_cannot_be_used(config: Config, tmp_path: Path) -> None:
    folder = tmp_path / "more"
    config = replace(config, unlabelled=str(folder))
    with pytest.raises(ValueError, match="no images in .*more"):
        open_images(config, CPU)
    write(folder / "1.png", (32, 40))
    with pytest.raises(ValueError, match=r"1.png has \(3, 40, 32\) channels, rows and columns"):
        open_images(config, CPU)
    (folder / "1.png").write_text("no image")
    with pytest.raises(ValueError, match="cannot read .*1.png"):
        open_images(config, CPU)


def test_a_class_without_images_is_refused(config: Config, tree: Path) -> None:
    (tree / "train" / "violet").mkdir()
    with pytest.raises(ValueError, match="violet"):
        open_images(config, CPU)


def test_a_record_says_which_images_are_labelled(config: Config) -> None:
    images = open_images(config, CPU)
    record = split_record(config, images)
    assert record["images"] == images.labelled.tolist() and len(record["images"]) == 6
    assert sorted(record["labels"]) == [0, 0, 1, 1, 2, 2]
    other = split_record(config, open_images(replace(config, seed=4), CPU))
    assert other["images"] != record["images"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keep": KeepPaste(), "method": "supervised"}, "nothing to keep from"),
        ({"keep": KeepPaste(), "policy": None}, "nothing to keep from"),
        ({"keep": KeepPaste(), "weight": 0.0}, r"nothing to keep from \(weight=0.0\)"),
        ({"keep": KeepPaste(), "confidence": 1.0}, r"nothing to keep from \(confidence=1.0\)"),
    ],
)
def test_settings_that_cannot_be(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**change)
