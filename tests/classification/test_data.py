from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from keepbench.images import Normalise, read_image
from keepbench.small_images import load_data
from keepbench.views import draw_view, show


def test_digits_are_real_and_split() -> None:
    data = load_data("digits", "")
    assert data.train.images.shape == (1437, 1, 32, 32)
    assert data.test.images.shape == (360, 1, 32, 32)
    assert data.train.images.dtype == torch.uint8
    images = Normalise(data.mean, data.std)(data.train.images)
    assert abs(images.mean().item()) < 1e-3
    assert abs(images.std().item() - 1) < 1e-3


def test_a_class_folder_tree(tree: Path) -> None:
    data = load_data("folder", str(tree))
    assert data.train.classes == ["blue", "green", "red"]
    assert len(data.train) == 24 and len(data.test) == 12
    brightest = data.train.images.float().mean((2, 3)).argmax(1)
    assert torch.equal(brightest, torch.tensor([2, 1, 0])[data.train.labels])


def test_a_subset_is_even_and_its_seed_is_kept(tree: Path) -> None:
    first, again, other = (load_data("folder", str(tree), subset=7, seed=s) for s in (0, 0, 1))
    assert len(first.train) == 7
    assert sorted(first.train.labels.bincount().tolist()) == [2, 2, 3]
    assert torch.equal(first.train.images, again.train.images)
    assert not torch.equal(first.train.images, other.train.images)
    assert len(first.test) == 12


def test_a_subset_reads_itself_alone(tree: Path) -> None:
    chosen = load_data("folder", str(tree), subset=6, test_subset=3)
    kept = {image.numpy().tobytes() for image in (*chosen.train.images, *chosen.test.images)}
    for path in tree.glob("*/*/*"):
        if read_image(path).numpy().tobytes() not in kept:
            path.write_bytes(b"no image")
    again = load_data("folder", str(tree), subset=6, test_subset=3)
    assert torch.equal(again.train.images, chosen.train.images)
    with pytest.raises(ValueError, match="cannot read"):
        load_data("folder", str(tree))


@pytest.mark.parametrize("dataset", ["folder", "digits"])
def test_the_rest_of_a_subset_is_tested_on_after_the_test_images(dataset: str, tree: Path) -> None:
    plain, rest = (
        load_data(dataset, str(tree), subset=7, seed=1, test_rest=r) for r in (False, True)
    )
    whole = load_data(dataset, str(tree))
    assert torch.equal(rest.train.images, plain.train.images)
    assert torch.equal(rest.test.images[: len(whole.test)], whole.test.images)
    assert len(rest.test) == len(whole.test) + len(whole.train) - 7
    parts = torch.cat((rest.train.images, rest.test.images))
    assert parts.long().sum() == whole.train.images.long().sum() + whole.test.images.long().sum()
    assert (rest.mean, rest.std) == (plain.mean, plain.std)


def test_bad_data_is_named(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no dataset 'cifar1'; did you mean cifar10"):
        load_data("cifar1", str(tree))
    with pytest.raises(ValueError, match="subset of 25 images was asked for, the set has 24"):
        load_data("folder", str(tree), subset=25)
    with pytest.raises(ValueError, match="there is no folder"):
        load_data("folder", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="--download to fetch"):
        load_data("cifar10", str(tmp_path / "nowhere"))
    Image.new("RGB", (16, 16)).save(tree / "train" / "red" / "small.png")
    with pytest.raises(ValueError, match="images of one size are needed"):
        load_data("folder", str(tree))
    (tree / "train" / "red" / "small.png").unlink()
    (tree / "test" / "red").rename(tree / "test" / "pink")
    with pytest.raises(ValueError, match=r"different classes: \['pink', 'red'\]"):
        load_data("folder", str(tree))


def test_every_crop_and_mirror_is_a_view_of_the_padded_image() -> None:
    image = torch.arange(1, 26).view(1, 1, 5, 5)
    padded = torch.nn.functional.pad(image, [2] * 4)[0, 0]
    views = {}
    for flipped in (False, True):
        for top in range(5):
            for left in range(5):
                view = padded[top : top + 5, left : left + 5]
                key = tuple((view.flip(1) if flipped else view).flatten().tolist())
                views[key] = (flipped, top, left)
    assert len(views) == 50
    view = draw_view(
        5000, torch.device("cpu"), padding=2, generator=torch.Generator().manual_seed(0)
    )
    images = show(image.expand(5000, -1, -1, -1), view, 2)
    found = [views[tuple(view.flatten().tolist())] for view in images]
    counts = torch.tensor([found.count(place) for place in views.values()])
    assert ((counts - 100) ** 2 / 100).sum() < 85.4  # chi-square, 49 degrees of freedom, p = 0.001


def test_no_crop_and_no_flip_change_nothing() -> None:
    images = torch.randint(0, 256, (4, 3, 7, 5), dtype=torch.uint8)
    view = draw_view(4, torch.device("cpu"), padding=0, flip=False)
    assert torch.equal(show(images, view, 0), images)
