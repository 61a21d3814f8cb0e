"""Sets of small images, held whole as bytes on the device.

CIFAR-10 takes 180 MB that way, and no epoch waits for a loader.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.transforms.functional import pil_to_tensor

from keepbench.ground_truth import find_objects
from keepbench.images import CIFAR_MEAN, CIFAR_STD, Batch, read_or_error
from keepbench.order import EpochBatches, even_subset
from keepbench.progress import progress_bar
from keepbench.settings import nearest
from keepbench.trees import list_tree

DATASETS = ["cifar10", "cifar100", "digits", "folder"]
TEST_BATCH = 500


@dataclass(frozen=True)
class ImageSet:
    """Images (N, C, H, W) uint8 and labels (N,) int64, with the names of the classes.

    `objects` (N, S, S) uint8 is their ground truth (see `keepbench.ground_truth`), if it was read.
    """

    images: Tensor
    labels: Tensor
    classes: list[str]
    objects: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Tensor) -> ImageSet:
        """The images of these numbers."""
        objects = None if self.objects is None else self.objects[index]
        return ImageSet(self.images[index], self.labels[index], self.classes, objects)

    def split(self, subset: int, seed: int) -> tuple[ImageSet, ImageSet]:
        """A subset drawn evenly from the classes, and the rest."""
        chosen = torch.zeros(len(self), dtype=torch.bool)
        chosen[even_subset(self.labels.tolist(), subset, seed)] = True
        return self[chosen], self[~chosen]

    def contents(self) -> Iterator[bytes]:
        """The bytes of images, labels and ground truth, for a digest."""
        for tensor in (self.images, self.labels, self.objects):
            if tensor is not None:
                yield tensor.cpu().contiguous().numpy().tobytes()

    def to(self, device: torch.device) -> ImageSet:
        """The same set on another device."""
        objects = None if self.objects is None else self.objects.to(device)
        return ImageSet(self.images.to(device), self.labels.to(device), self.classes, objects)


@dataclass(frozen=True)
class StoredData:
    """Small images, held whole on the device."""

    train: ImageSet
    test: ImageSet
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def classes(self) -> list[str]:
        """Names of the classes, by label."""
        return self.train.classes

    @property
    def num_train(self) -> int:
        """Training images."""
        return len(self.train)

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return self.train.images.shape[1]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of training images, in pixels."""
        return self.train.images.shape[2], self.train.images.shape[3]

    @property
    def objects(self) -> Tensor | None:
        """Ground truth of the training images (N, S, S) uint8, if it was read."""
        return self.train.objects

    def contents(self) -> Iterator[str | bytes]:
        """All images, labels and ground truth, to tell whether they changed."""
        yield from self.classes
        yield from self.train.contents()
        yield from self.test.contents()

    def train_contents(self) -> Iterator[bytes]:
        """The same for the training set alone."""
        return self.train.contents()

    def to(self, device: torch.device) -> StoredData:
        """The same data on another device."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))

    def train_batches(
        self, steps: EpochBatches, device: torch.device, workers: int
    ) -> Iterator[Batch]:
        """Batches of the training set in the order of `steps`; `workers` has no work here."""
        batches = list(steps)
        order = torch.tensor([number for batch in batches for number in batch], device=device)
        for index in order.split([len(batch) for batch in batches]):  # one copy for the epoch
            yield Batch(index, self.train.images[index], self.train.labels[index])

    def whole_batches(
        self, device: torch.device, workers: int, rank: int, world_size: int
    ) -> Iterator[Batch]:
        """This process's share of the training set, in its order."""
        numbers = torch.arange(rank, self.num_train, world_size, device=device)
        for index in numbers.split(TEST_BATCH):
            yield Batch(index, self.train.images[index], self.train.labels[index])

    def test_batches(
        self, device: torch.device, workers: int, rank: int, world_size: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's share of the test set, in its order."""
        images, labels = self.test.images[rank::world_size], self.test.labels[rank::world_size]
        yield from zip(images.split(TEST_BATCH), labels.split(TEST_BATCH), strict=True)


def _stack(images: Iterable[Tensor], number: int) -> Tensor:
    """Images of one size as one tensor."""
    bar = progress_bar(images, total=number, desc="reading images", leave=False, delay=2)
    found = list(bar)
    sizes = {tuple(image.shape[1:]) for image in found}
    if len(sizes) != 1:
        raise ValueError(f"images of one size are needed, found {sorted(sizes)[:4]}")
    return torch.stack(found)


def _read(path: str) -> Tensor:
    """A picture, or a ValueError with the name of its file."""
    pixels = read_or_error(path)
    if isinstance(pixels, str):
        raise ValueError(f"cannot read {path} ({pixels}); repair or remove it")
    return pixels


def _folder(root: Path, part: str, subset: int, seed: int, objects: str = "") -> ImageSet:
    """A class-folder tree `root/part/<class>/*`."""
    tree = list_tree(root / part).subset(subset, seed)
    images = _stack(map(_read, tree.paths), len(tree.paths))
    found = find_objects(objects, tree, min(images.shape[2:]))
    return ImageSet(images, torch.tensor(tree.labels), tree.classes, found)


def _statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel, in [0, 1].

    Raises:
        ValueError: A channel is the same everywhere, so it cannot be normalised.
    """
    values = images.double() / 255
    constant = [n for n, deviation in enumerate(values.std((0, 2, 3))) if not deviation]
    if constant:
        raise ValueError(f"channels {constant} have one value in all training images")
    return tuple(values.mean((0, 2, 3)).tolist()), tuple(values.std((0, 2, 3)).tolist())


def _digits(subset: int, test_subset: int, seed: int) -> StoredData:
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
        chosen = index[even_subset(labels[index].tolist(), number, seed)]
        return ImageSet(images[chosen], labels[chosen], names)

    return StoredData(
        part(order[360:], subset), part(order[:360], test_subset), *_statistics(images[order[360:]])
    )


def load_data(
    dataset: str,
    root: str,
    *,
    download: bool = False,
    subset: int = 0,
    test_subset: int = 0,
    test_rest: bool = False,
    objects: str = "",
    seed: int = 0,
) -> StoredData:
    """Load a set of small images into memory.

    Args:
        dataset: "cifar10" or "cifar100" (the official archive in `root`, or a class-folder tree
            `root/{train,test}/<class>/*` of its images), "folder" (any such tree of images of one
            size) or "digits" (carried by scikit-learn; `root` is not used).
        root: the folder.
        download: fetch the official archive if it is not there.
        subset: as many training images, drawn evenly from the classes; 0 takes all.
        test_subset: likewise for testing.
        test_rest: test also on the training images outside the subset, after the others.
        objects: boxes or masks of a tree's training images, as `read_ground_truth` takes them.
        seed: of the draw of training images; that of test images is fixed.

    Raises:
        ValueError: An unknown dataset, no images where they should be, images of several sizes,
            a subset above the set's size, classes that differ between training and testing, or
            objects of what is no tree.
    """
    if dataset not in DATASETS:
        raise ValueError(f"no dataset {dataset!r}{nearest(dataset, DATASETS)}")
    if test_rest:
        whole = load_data(
            dataset, root, download=download, test_subset=test_subset, objects=objects
        )
        return _with_rest(whole, subset, seed, renewed=dataset not in ("cifar10", "digits"))
    place = Path(root).expanduser()
    official = {"cifar10": CIFAR10, "cifar100": CIFAR100}.get(dataset)
    is_tree = dataset != "digits" and (official is None or (place / "train").is_dir())
    if objects and not is_tree:
        raise ValueError(f"objects are known by their files, which {dataset} has none of here")
    if dataset == "digits":
        return _digits(subset, test_subset, seed)
    if is_tree:
        train = _folder(place, "train", subset, seed, objects)
        test = _folder(place, "test", test_subset, 0)
    else:
        assert official
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
    return StoredData(
        train, test, *((CIFAR_MEAN, CIFAR_STD) if known else _statistics(train.images))
    )


def _with_rest(whole: StoredData, subset: int, seed: int, *, renewed: bool) -> StoredData:
    """A subset to train on, all others to test on; `renewed` has the subset's mean and std."""
    train, rest = whole.train.split(subset, seed)
    images = torch.cat((whole.test.images, rest.images))
    test = ImageSet(images, torch.cat((whole.test.labels, rest.labels)), whole.classes)
    colours = _statistics(train.images) if renewed else (whole.mean, whole.std)
    return StoredData(train, test, *colours)


def _official(
    kind: Callable[..., Any], root: Path, train: bool, download: bool, choice: tuple[int, int]
) -> ImageSet:
    try:
        dataset = kind(str(root), train=train, download=download)
    except RuntimeError:
        raise ValueError(
            f"{root} holds neither the official archive nor train/<class>/ folders; "
            "give --data, or train with --download to fetch the archive"
        ) from None
    labels, (subset, seed) = list(dataset.targets), choice
    chosen = even_subset(labels, subset, seed)
    images = _stack((pil_to_tensor(dataset[index][0]) for index in chosen), len(chosen))
    return ImageSet(images, torch.tensor([labels[n] for n in chosen]), list(dataset.classes))
