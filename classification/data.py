"""Sets of small images, held whole as bytes on the device; crop and flip on a batch.

CIFAR-10 takes 180 MB that way, and no epoch waits for a loader.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.datasets import CIFAR10, CIFAR100, ImageFolder
from torchvision.transforms.functional import pil_to_tensor
from tqdm import tqdm

from keepaugment.draws import Source, uniform
from keepaugment.runs import nearest

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


@dataclass(frozen=True)
class ImageSet:
    """Images (N, C, H, W) uint8 and labels (N,) int64, with the names of the classes."""

    images: Tensor
    labels: Tensor
    classes: list[str]

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> ImageSet:
        """The same set on another device."""
        return ImageSet(self.images.to(device), self.labels.to(device), self.classes)


@dataclass(frozen=True)
class Data:
    """A training set, a test set, and the mean and deviation of each channel in [0, 1]."""

    train: ImageSet
    test: ImageSet
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalise(self, images: Tensor) -> Tensor:
        """Turn bytes (B, C, H, W) into numbers with mean 0 and deviation 1 over the set."""
        mean = torch.tensor(self.mean, device=images.device)[:, None, None]
        std = torch.tensor(self.std, device=images.device)[:, None, None]
        return (images.float() / 255 - mean) / std


def _choice(labels: list[int], number: int, seed: int) -> list[int]:
    """Numbers of `number` images drawn at random, every class equally often as far as it goes."""
    if not 0 <= number <= len(labels):
        raise ValueError(f"a subset of {number} images was asked for, the set has {len(labels)}")
    if number == 0:
        return list(range(len(labels)))
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator).tolist()
    seen: dict[int, int] = {}
    ranked: list[tuple[int, int, int]] = []
    for index in order:  # the n-th image of every class before the n+1-st of any
        seen[labels[index]] = seen.get(labels[index], 0) + 1
        ranked.append((seen[labels[index]], len(ranked), index))
    return sorted(index for _, _, index in sorted(ranked)[:number])


def _load(dataset: Any, labels: list[int], subset: int, seed: int) -> ImageSet:
    """Read images of one size into memory."""
    chosen = _choice(labels, subset, seed)
    pictures = tqdm(chosen, desc="reading images", leave=False, disable=None, delay=2)
    images = [pil_to_tensor(dataset[index][0]) for index in pictures]
    sizes = {tuple(image.shape[1:]) for image in images}
    if len(sizes) != 1:
        raise ValueError(f"images of one size are needed, found {sorted(sizes)[:4]}")
    numbers = torch.tensor([labels[index] for index in chosen])
    return ImageSet(torch.stack(images), numbers, list(dataset.classes))


def _folder(root: Path, part: str, subset: int, seed: int) -> ImageSet:
    """A class-folder tree `root/part/<class>/*`."""
    try:
        tree = ImageFolder(str(root / part))
    except FileNotFoundError as error:
        raise ValueError(f"no images of classes in {root / part}: {error}") from None
    return _load(tree, tree.targets, subset, seed)


def _statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    values = images.double() / 255
    return tuple(values.mean((0, 2, 3)).tolist()), tuple(values.std((0, 2, 3)).tolist())


def _digits(subset: int, test_subset: int, seed: int) -> Data:
    """The 1,797 handwritten digits of scikit-learn, enlarged from 8 to 32 pixels; 360 for testing.

    Alpaydin and Kaynak, 1998: the test part of UCI's Optical Recognition of Handwritten Digits.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = torch.from_numpy(digits.images).float()[:, None] * (255 / 16)
    images = F.interpolate(small, 32, mode="bilinear", align_corners=False).round().byte()
    labels = torch.from_numpy(digits.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    names = [str(name) for name in digits.target_names]

    def part(index: Tensor, number: int) -> ImageSet:
        chosen = index[_choice(labels[index].tolist(), number, seed)]
        return ImageSet(images[chosen], labels[chosen], names)

    return Data(
        part(order[360:], subset), part(order[:360], test_subset), *_statistics(images[order[360:]])
    )


def load_data(
    dataset: str,
    root: str,
    *,
    download: bool = False,
    subset: int = 0,
    test_subset: int = 0,
    seed: int = 0,
) -> Data:
    """Load a set of images into memory.

    Args:
        dataset: "cifar10" or "cifar100" (the official archive in `root`, or a class-folder tree
            `root/{train,test}/<class>/*` of its images), "folder" (any such tree of images of one
            size) or "digits" (carried by scikit-learn; `root` is not used).
        root: the folder.
        download: fetch the official archive if it is not there.
        subset: as many training images, drawn evenly from the classes; 0 takes all.
        test_subset: likewise for testing.
        seed: of these draws.

    Raises:
        ValueError: An unknown dataset, no images where they should be, images of several sizes,
            a subset above the set's size, or classes that differ between training and testing.
    """
    if dataset not in DATASETS:
        raise ValueError(f"no dataset {dataset!r}{nearest(dataset, DATASETS)}")
    if dataset == "digits":
        return _digits(subset, test_subset, seed)
    place = Path(root).expanduser()
    official = {"cifar10": CIFAR10, "cifar100": CIFAR100}.get(dataset)
    if official is None or (place / "train").is_dir():
        train, test = _folder(place, "train", subset, seed), _folder(place, "test", test_subset, 0)
    else:
        train, test = (
            _official(official, place, flag, download, number)
            for flag, number in ((True, (subset, seed)), (False, (test_subset, 0)))
        )
    if train.classes != test.classes:
        differing = sorted(set(train.classes) ^ set(test.classes))
        raise ValueError(f"training and testing have different classes: {differing[:8]}")
    if train.images.shape[1:] != test.images.shape[1:]:
        raise ValueError("training and test images differ in size")
    known = dataset == "cifar10"
    return Data(train, test, *((CIFAR_MEAN, CIFAR_STD) if known else _statistics(train.images)))


DATASETS = ["cifar10", "cifar100", "digits", "folder"]


def _official(
    kind: Callable[..., Any], root: Path, train: bool, download: bool, choice: tuple[int, int]
) -> ImageSet:
    try:
        dataset = kind(str(root), train=train, download=download)
    except RuntimeError:
        raise ValueError(
            f"{root} holds neither the official archive nor train/<class>/ folders; "
            "give --data, or --download to fetch the archive"
        ) from None
    return _load(dataset, list(dataset.targets), *choice)


def crop_flip(
    images: Tensor, *, padding: int = 4, flip: bool = True, generator: Source = None
) -> Tensor:
    """Pad with black, crop at a random place to the old size, mirror half of the images.

    Args:
        images: (B, C, H, W), any type.
        padding: pixels on every side, 0 for no crop.
        flip: mirror each image left to right with probability one half.
        generator: where random numbers come from.

    Returns:
        (B, C, H, W): new images.
    """
    height, width = images.shape[2:]
    u = uniform(generator, (len(images), 3), images.device)
    offset = (u[:, :2] * (2 * padding + 1)).long()
    rows = offset[:, :1] + torch.arange(height, device=images.device)
    columns = offset[:, 1:] + torch.arange(width, device=images.device)
    mirrored = (u[:, 2:] < 0.5) & flip
    columns = torch.where(mirrored, columns.flip(1), columns)
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    padded = F.pad(images, [padding] * 4)
    return padded[batch, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()
