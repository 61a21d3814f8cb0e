"""Views of one frame, whichever package crops, changes and normalises."""

from __future__ import annotations

import copy
import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small import labels, network, rand
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from keepaugment import CentreSaliency, KeepPaste
from keepaugment.adapters import KeepLoader, KeepMixup, TwoViews

SIDE = 16
PIXELS = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)  # (H, W, C)
KINDS = {"PIL": Image.fromarray(PIXELS), "tensor": F.to_image(PIXELS), "array": PIXELS}
Part = Callable[..., Any]


def identity(image: Any) -> Any:
    return image


def of_torchvision() -> dict[str, Part]:
    return {
        "geometric": v2.Compose([v2.RandomCrop(SIDE), v2.RandomHorizontalFlip()]),
        "policy": v2.RandomInvert(1.0),
        "noise": v2.RandAugment(),
        "normalise": v2.ToImage(),
        "smaller": v2.RandomCrop(SIDE // 2),
    }


def of_timm() -> dict[str, Part]:
    from timm.data import auto_augment, transforms

    return {
        "geometric": transforms.RandomCropOrPad(SIDE),
        "policy": auto_augment.AugmentOp("Invert", prob=1.0),
        "noise": auto_augment.rand_augment_transform("rand-m9-mstd0.5", {}),
        "normalise": transforms.MaybePILToTensor(),
        "smaller": transforms.CenterCropOrPad(SIDE // 2),
    }


def of_albumentations() -> dict[str, Part]:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else it asks for a newer version
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        A = pytest.importorskip("albumentations", reason="albumentations is not installed")
        from albumentations.pytorch import ToTensorV2
    return {
        "geometric": A.Compose([A.RandomCrop(SIDE, SIDE), A.HorizontalFlip()]),
        "policy": A.InvertImg(p=1.0),
        "noise": A.GaussNoise(p=1.0),
        "normalise": ToTensorV2(),
        "smaller": A.RandomCrop(SIDE // 2, SIDE // 2),
    }


PACKAGES = {"torchvision": of_torchvision, "timm": of_timm, "albumentations": of_albumentations}
each_package = pytest.mark.parametrize("package", PACKAGES)


def parts(package: str) -> dict[str, Part]:
    return PACKAGES[package]()


def places(view: Tensor) -> list[tuple[int, int]]:
    """Where in the image a view is cut out, as it is or flipped."""
    windows = torch.from_numpy(PIXELS).unfold(0, SIDE, 1).unfold(1, SIDE, 1)  # (P, Q, C, h, w)
    same = (windows == view).flatten(2).all(2) | (windows == view.flip(2)).flatten(2).all(2)
    return [tuple(place) for place in same.nonzero().tolist()]


# One frame


@pytest.mark.parametrize("normalise", PACKAGES)
@pytest.mark.parametrize("policy", PACKAGES)
@pytest.mark.parametrize("geometric", PACKAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_colour_policy_leaves_every_pixel_in_its_place(
    kind: str, geometric: str, policy: str, normalise: str
) -> None:
    """Inverted bytes and the bytes themselves are 255 together, at each pixel of a random crop."""
    transform = TwoViews(
        parts(geometric)["geometric"], parts(policy)["policy"], parts(normalise)["normalise"]
    )
    clean, augmented = transform(KINDS[kind])
    assert clean.shape == (3, SIDE, SIDE) and clean.dtype == torch.uint8
    assert (clean.int() + augmented.int() == 255).all()
    assert len(places(clean)) == 1


@each_package
def test_without_a_policy_the_views_are_equal(package: str) -> None:
    of = parts(package)
    clean, augmented = TwoViews(of["geometric"], identity, of["normalise"])(KINDS["PIL"])
    assert torch.equal(clean, augmented)


@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_that_writes_into_its_image_does_not_change_the_clean_view(kind: str) -> None:
    def black(image: Any) -> Any:
        if kind == "tensor":
            return image.zero_()
        image.paste(0, (0, 0, *image.size))  # a PIL image for an array, too
        return image

    clean, augmented = TwoViews(identity, black, v2.ToImage())(copy.deepcopy(KINDS[kind]))
    assert torch.equal(clean, KINDS["tensor"]) and not augmented.any()


def test_parts_that_return_one_buffer_give_images_of_their_own() -> None:
    buffer = torch.zeros(3, 2, 2)

    def normalise(image: Tensor) -> Tensor:
        return buffer.copy_(image)

    transform = TwoViews(identity, lambda image: image + 1, normalise)
    found = [transform(torch.full((3, 2, 2), value)) for value in (0.0, 5.0)]
    assert [view.unique().tolist() for pair in found for view in pair] == [[0], [1], [5], [6]]


@each_package
def test_what_is_pasted_are_the_clean_view_s_pixels(package: str) -> None:
    of = parts(package)
    transform = TwoViews(of["geometric"], of["policy"], of["normalise"])
    clean, augmented = (
        torch.stack(views).float() for views in zip(*[transform(KINDS["PIL"])] * 4, strict=True)
    )
    pasted = KeepPaste(size=6, saliency=CentreSaliency())(clean, augmented, labels(4))
    from_clean = (pasted == clean).all(1)  # no byte is its own inverse
    assert from_clean.flatten(1).sum(1).tolist() == [36] * 4
    assert torch.equal(pasted, torch.where(from_clean[:, None], clean, augmented))


def test_grey_images_keep_their_one_channel() -> None:
    grey = Image.fromarray(PIXELS[:, :, 0])
    for package in PACKAGES:
        of = parts(package)
        clean, augmented = TwoViews(of["geometric"], of["policy"], v2.ToImage())(grey)
        assert clean.shape == (1, SIDE, SIDE) and (clean.int() + augmented.int() == 255).all()


# What is refused


@each_package
@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_that_changes_the_size(package: str, kind: str) -> None:
    transform = TwoViews(identity, parts(package)["smaller"], v2.ToImage())
    with pytest.raises(ValueError, match=r"found \(3, 64, 64\) uint8 before it and \(3, 8, 8\)"):
        transform(KINDS[kind])


@pytest.mark.parametrize(
    ("policy", "found"),
    [
        (v2.Grayscale(), r"\(1, 64, 64\) uint8"),
        (v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32)]), r"\(3, 64, 64\) float32"),
        (v2.Resize(SIDE), r"\(3, 16, 16\) uint8"),
    ],
)
def test_a_policy_that_changes_channels_or_type(policy: Part, found: str) -> None:
    """Even if `normalise` would make both alike again."""
    normalise = v2.Compose([v2.ToImage(), v2.RGB(), v2.Resize([8, 8]), v2.ToDtype(torch.float32)])
    with pytest.raises(ValueError, match=f"before it and {found} behind"):
        TwoViews(identity, policy, normalise)(KINDS["PIL"])


def test_a_policy_that_normalises_already() -> None:
    of = parts("albumentations")
    import albumentations as A

    with pytest.raises(ValueError, match="uint8 before it and .* float32 behind"):
        TwoViews(of["geometric"], A.Normalize(), of["normalise"])(KINDS["PIL"])


def test_a_normalise_that_gives_no_tensor() -> None:
    with pytest.raises(ValueError, match="found Image of shape .*; add v2.ToImage"):
        TwoViews(identity, identity, identity)(KINDS["PIL"])
    with pytest.raises(ValueError, match="found ndarray of shape .64, 64, 3."):
        TwoViews(identity, identity, np.asarray)(KINDS["PIL"])


def test_a_policy_s_name_or_a_list_is_no_transform() -> None:
    with pytest.raises(ValueError, match="policy must be a transform, found str"):
        TwoViews(identity, "rand-m9-mstd0.5", identity)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="geometric must be a transform, found list"):
        TwoViews([identity], identity, identity)  # type: ignore[arg-type]


# In workers


@pytest.fixture
def same(tmp_path: Path) -> Path:
    """A folder of twelve equal images."""
    (tmp_path / "images" / "one").mkdir(parents=True)
    for number in range(12):
        KINDS["PIL"].save(tmp_path / "images" / "one" / f"{number}.png")
    return tmp_path / "images"


def loaded(data: Dataset, context: str = "fork", epochs: int = 2) -> Tensor:
    """Clean and augmented views (N, 2, C, h, w) of all epochs, from two workers."""
    loader = DataLoader(data, batch_size=3, num_workers=2, multiprocessing_context=context)
    return torch.cat([torch.stack(views, 1) for _ in range(epochs) for views, _ in loader])


def noisy(folder: Path, package: str) -> ImageFolder:
    of = parts(package)
    return ImageFolder(folder, TwoViews(of["geometric"], of["noise"], of["normalise"]))


def apart(found: Tensor) -> int:
    return len(found.flatten(1).unique(dim=0))


@each_package
def test_workers_and_epochs_draw_apart(package: str, same: Path) -> None:
    found = loaded(noisy(same, package))
    assert apart(found[:, 0]) >= 22  # of 24 crops at 49 x 49 places, two may be one
    assert apart(found) == 24


@pytest.mark.slow
def test_spawned_workers_draw_apart(same: Path) -> None:
    data = ConcatDataset([noisy(same, package) for package in PACKAGES])
    for found in loaded(data, "spawn", 1).split(12):
        assert apart(found[:, 0]) >= 11 and apart(found) == 12


def test_a_seed_of_torch_gives_the_draws_of_workers_again(same: Path) -> None:
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        found.append(loaded(noisy(same, "albumentations"), epochs=1))
    assert torch.equal(*found)


def test_transforms_of_albumentations_decide_apart_in_a_worker(same: Path) -> None:
    """Its own seeding gives each the same numbers: both would flip, or none."""
    of = parts("albumentations")
    import albumentations as A

    flips = A.Compose([A.HorizontalFlip(), A.VerticalFlip()])
    policy = A.SomeOf([A.InvertImg(p=0.5)], n=1, p=1.0)
    data = ImageFolder(same, TwoViews(flips, policy, of["normalise"]))
    clean, augmented = loaded(data).unbind(1)
    image = F.to_image(PIXELS)
    flipped = [image, image.flip(1), image.flip(2), image.flip(1, 2)]
    which = [[torch.equal(view, each) for each in flipped].index(True) for view in clean]
    inverted = (clean != augmented).flatten(1).any(1).tolist()
    assert set(which) == {0, 1, 2, 3}
    assert len(set(zip(which, inverted, strict=True))) > 4  # nor does the policy as the flips do


@each_package
def test_a_copy_does_the_same(package: str) -> None:
    of = parts(package)
    transform = TwoViews(identity, of["policy"], of["normalise"])
    for copied in (pickle.loads(pickle.dumps(transform)), copy.deepcopy(transform)):
        for view, expected in zip(copied(PIXELS), transform(PIXELS), strict=True):
            assert torch.equal(view, expected)
    assert repr(transform).startswith("TwoViews(<function identity")


# timm's own transform, data set and loader


def test_timm_s_transform_in_three_parts() -> None:
    from timm.data import create_transform

    options = {"is_training": True, "auto_augment": "rand-m9-mstd0.5", "separate": True}
    transform = TwoViews(*create_transform(32, **options))
    views = [transform(KINDS["PIL"]) for _ in range(20)]  # timm's leaves some as they are
    clean, augmented = views[0]
    assert clean.shape == augmented.shape == (3, 32, 32) and clean.dtype == torch.float32
    assert not all(torch.equal(clean, augmented) for clean, augmented in views)


def test_both_views_in_timm_s_mixup() -> None:
    views = [rand(4, 3, SIDE, SIDE), rand(4, 3, SIDE, SIDE, seed=1)]
    paste = KeepPaste(network(), size=6)
    keep = KeepMixup(lambda images, labels: paste(*images, labels), 5, label_smoothing=0.0)
    images, targets = keep(views, labels(4))
    from_clean = (images == views[0]).all(1)
    assert from_clean.flatten(1).sum(1).tolist() == [36] * 4
    assert torch.equal(targets.argmax(1), labels(4))
    keep.mixup_enabled = False
    assert keep(views, labels(4))[0] is views[1]
    with pytest.raises(ValueError, match=r"labels must be \(4,\)"):
        keep(views, labels(3))


def test_the_splits_of_timm_s_own_loader(same: Path) -> None:
    """`train.py --aug-splits 2` stacks all clean views before all augmented ones."""
    from timm.data import AugMixDataset, create_loader

    loader = create_loader(
        AugMixDataset(ImageFolder(same), num_splits=2), input_size=(3, 32, 32),
        batch_size=4, is_training=True, num_workers=0, num_aug_splits=2, device=torch.device("cpu"),
        auto_augment="rand-m9-mstd0.5",
    )  # fmt: skip
    paste, seen = KeepPaste(network(), size=12), []

    def step(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        clean, augmented = images.chunk(2)
        labels = labels.chunk(2)[0]
        seen.append((clean, augmented, paste(clean, augmented, labels)))
        return seen[-1][2], labels

    batches = list(KeepLoader(loader, KeepMixup(step, 5)))
    for (images, targets), (clean, augmented, pasted) in zip(batches, seen, strict=True):
        assert images is pasted and targets.shape == (4, 5)
        assert not torch.equal(clean, augmented)
        assert ((pasted == clean).all(1).flatten(1).sum(1) >= 144).all()
