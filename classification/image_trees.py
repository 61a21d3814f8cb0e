"""Class-folder trees of images of any size, such as ImageNet: decoded and cropped by workers.

Workers (other processes) read, crop, scale and flip on bytes, the part that needs each image's own
size. Everything later (jitter, policies, normalisation, cutting) is done on the batch, on the
device. The recipe is that of the CutMix code (github.com/clovaai/CutMix-PyTorch, train.py): a
random crop of 8 to 100 % of the area and a flip to train; to test, the middle 224 pixels after the
shorter side is scaled to 256, or to another length.

An image's crop and flip follow from (seed, epoch, number of the image) alone, so batches do not
depend on the number of workers or processes, and an epoch can be resumed in its middle.
"""

from __future__ import annotations

import warnings
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2.functional import horizontal_flip

from keepbench.ground_truth import find_objects
from keepbench.images import IMAGENET_MEAN, IMAGENET_STD, Batch, read_or_error
from keepbench.leaving import ignore_ctrl_c
from keepbench.order import EpochBatches, check_split, mixed_seed
from keepbench.small_images import TEST_BATCH
from keepbench.trees import ImageTree, list_tree

CROP_SCALE = (0.08, 1.0)  # range of a training crop's share of the image's area


Unreadable = Literal["refuse", "skip"]

Frame = tuple[float, ...]
"""A crop's top, left, height and width as shares of its image's, and 1 if it is mirrored."""

Crop = tuple[Tensor, Frame]  # (3, S, S) uint8, and where it lies


class _RandomCrop:
    """A random crop of 8 to 100 % of the area, scaled to (3, S, S), and flip; on uint8.

    Scaled bilinearly or, half of the time, bicubically if `bicubic`.
    """

    def __init__(self, size: int, bicubic: bool = False) -> None:
        modes = (InterpolationMode.BILINEAR, InterpolationMode.BICUBIC)[: 1 + bicubic]
        self.crops = [v2.RandomResizedCrop(size, CROP_SCALE, interpolation=m) for m in modes]

    def __call__(self, pixels: Tensor) -> Crop:
        height, width = pixels.shape[1:]
        box = self.crops[0].make_params([pixels])
        chosen = int(torch.rand(1) * len(self.crops)) if len(self.crops) > 1 else 0
        crop = self.crops[chosen].transform(pixels, box)
        mirrored = bool(torch.rand(1) < 0.5)
        frame = box["top"] / height, box["left"] / width, box["height"] / height
        return (
            horizontal_flip(crop) if mirrored else crop,
            (*frame, box["width"] / width, float(mirrored)),
        )


class _MiddleCrop:
    """The middle (3, S, S) of a scaled image: shorter side 256 / 224 S or given; on uint8."""

    def __init__(self, size: int, resize_to: int = 0, bicubic: bool = False) -> None:
        mode = InterpolationMode.BICUBIC if bicubic else InterpolationMode.BILINEAR
        resize = v2.Resize(resize_to or round(size * 256 / 224), interpolation=mode)
        self.middle = v2.Compose([resize, v2.CenterCrop(size)])

    def __call__(self, pixels: Tensor) -> Crop:
        return self.middle(pixels), ()


class _Whole:
    """The whole image, scaled to (3, S, S) whatever its shape; on uint8."""

    def __init__(self, size: int) -> None:
        self.resize = v2.Resize((size, size))

    def __call__(self, pixels: Tensor) -> Crop:
        return self.resize(pixels), ()


class _Example(NamedTuple):
    number: int
    crop: Crop | None  # None if no file could be read
    label: int
    failures: dict[str, str]  # what is wrong, by file


class _Reader(Dataset[_Example]):
    """Reads and transforms images in the workers; what to do about failures is decided outside."""

    def __init__(
        self,
        tree: ImageTree,
        transform: Callable[[Tensor], Crop],
        *,
        seed: int = 0,
        epoch: int = 0,
        stand_in: bool = False,
    ) -> None:
        self.tree = tree
        self.transform = transform
        self.seed, self.epoch = seed, epoch
        self.stand_in = stand_in  # read the next image of the class for one that is unreadable

    def _candidates(self, index: int) -> Sequence[int]:
        """The image, then those after it in its class, round to the one before it."""
        if not self.stand_in:
            return [index]
        targets = self.tree.labels  # sorted: a tree is listed class by class
        first = bisect_left(targets, targets[index])
        stop = bisect_right(targets, targets[index])
        return [*range(index, stop), *range(first, index)]

    def __getitem__(self, index: int) -> _Example:
        failures: dict[str, str] = {}
        for candidate in self._candidates(index):
            path = self.tree.paths[candidate]
            pixels = read_or_error(path)
            if isinstance(pixels, Tensor):
                crop = self._transformed(pixels, index)
                return _Example(index, crop, self.tree.labels[index], failures)
            failures[path] = pixels
        return _Example(index, None, self.tree.labels[index], failures)

    def _transformed(self, pixels: Tensor, index: int) -> Crop:
        # torchvision draws from torch's global generator. The fork takes 6 us, reading 900 or more.
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed: without workers that would reseed the training's GPUs too.
            torch.default_generator.manual_seed(mixed_seed(self.seed, self.epoch, index))
            return self.transform(pixels)


class _Batch(NamedTuple):
    numbers: Tensor  # (B,) int64
    images: Tensor  # (B, 3, S, S) uint8
    labels: Tensor  # (B,) int64
    frames: Tensor  # (B, 5), or (B, 0) of test images
    missing: int  # images of the batch that could not be read, and have no stand-in
    failures: dict[str, str]


def _collate(examples: Sequence[_Example]) -> _Batch:
    crops = [example.crop for example in examples if example.crop is not None]
    read = [example for example in examples if example.crop is not None]
    images = [pixels for pixels, _ in crops]
    failures = {path: error for example in examples for path, error in example.failures.items()}
    return _Batch(
        torch.tensor([example.number for example in read], dtype=torch.int64),
        torch.stack(images).contiguous() if images else torch.empty(0, 3, 0, 0, dtype=torch.uint8),
        torch.tensor([example.label for example in read], dtype=torch.int64),
        torch.tensor([frame for _, frame in crops], dtype=torch.float32),
        len(examples) - len(images),
        failures,
    )


class Batches:
    """An epoch, or the rest of one: iterate for numbers, images (B, 3, S, S), labels and frames.

    `len` is the number of steps. Made by `TreeData`.
    """

    def __init__(
        self, loader: DataLoader[Any], data: TreeData, device: torch.device, *, whole: bool
    ) -> None:
        self.loader = loader
        self.data = data
        self.device = device
        self.whole = whole  # every batch has all its images, if need be by stand-ins

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.loader:
            if batch.failures:
                self.data.report(batch.failures, "replaced" if self.whole else "left out")
            if batch.missing and self.whole:
                raise ValueError(
                    f"a class has no readable image to stand in for {_listed(batch.failures)}"
                )
            if len(batch.labels):
                found = Batch(batch.numbers, batch.images, batch.labels, batch.frames)
                yield found.to(self.device)


def _listed(failures: dict[str, str], most: int = 8) -> str:
    """Files and what is wrong with them, for a message."""
    lines = [f"{path} ({error})" for path, error in failures.items()]
    return "; ".join(lines[:most]) + (f"; and {len(lines) - most} more" if lines[most:] else "")


@dataclass(frozen=True)
class TreeData:
    """A training and a test tree of the same classes, read by worker processes.

    Attributes:
        train: the training tree.
        val: the test tree.
        size: S, the side of the images that the network sees, in pixels.
        test_size: the same for testing; 0 is S.
        test_resize: shorter side of test images before their middle is taken; 0 is 256 / 224 of it.
        bicubic: scale half of the training crops and all test images bicubically, not bilinearly.
        unreadable: "refuse" raises ValueError when a file cannot be read; "skip" warns once per
            file, trains on the next readable image of its class instead, and tests without it.
        unreadable_files: what "skip" has met in this process so far: file to error.
        objects: ground truth of the training images (N, S, S) uint8, if it was read.
    """

    train: ImageTree
    val: ImageTree
    size: int = 224
    unreadable: Unreadable = "refuse"
    test_size: int = 0
    test_resize: int = 0
    bicubic: bool = False
    unreadable_files: dict[str, str] = field(default_factory=dict)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    channels: int = 3
    objects: Tensor | None = None

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1 pixel, found {self.size}")
        if self.unreadable not in ("refuse", "skip"):
            raise ValueError(f"unreadable must be 'refuse' or 'skip', found {self.unreadable!r}")
        if self.train.classes != self.val.classes:
            differing = sorted(set(self.train.classes) ^ set(self.val.classes))
            raise ValueError(f"training and testing have different classes: {differing[:8]}")

    @property
    def classes(self) -> list[str]:
        """Names of the classes, by label."""
        return self.train.classes

    @property
    def num_train(self) -> int:
        """Training images."""
        return len(self.train.paths)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of training images, in pixels."""
        return self.size, self.size

    def contents(self) -> Iterator[str | bytes]:
        """Names, sizes and labels of all files, to tell whether they changed."""
        yield from self.classes
        yield from self.train.contents()
        yield from self.val.contents()
        if self.objects is not None:
            yield self.objects.cpu().numpy().tobytes()

    def train_contents(self) -> Iterator[str | bytes]:
        """The same for the training images alone, and all their bytes."""
        yield from self.train.contents()
        for path in self.train.paths:
            with suppress(OSError):  # said when the image is read
                yield Path(path).read_bytes()

    def train_batches(self, steps: EpochBatches, device: torch.device, workers: int) -> Batches:
        """Batches of the training images in the order of `steps`, cropped and flipped.

        torch's global random numbers are neither used nor moved.

        Args:
            steps: of an epoch, for one of several processes.
            device: of the batches.
            workers: processes that read; 0 reads in this one.

        Raises:
            ValueError: While iterating, a file that cannot be read ("refuse"), or a class without
                any that can ("skip").
        """
        crop, skip = _RandomCrop(self.size, self.bicubic), self.unreadable == "skip"
        reader = _Reader(self.train, crop, seed=steps.seed, epoch=steps.epoch, stand_in=skip)
        return Batches(_loader(reader, steps, workers, device), self, device, whole=True)

    def whole_batches(
        self, device: torch.device, workers: int, rank: int, world_size: int
    ) -> Batches:
        """The training images in the tree's order, each whole and in one process only.

        Of an unreadable one, as in training, the next of its class ("skip").
        """
        own = range(rank, self.num_train, world_size)
        steps = BatchSampler(own, TEST_BATCH, drop_last=False)
        reader = _Reader(self.train, _Whole(self.size), stand_in=self.unreadable == "skip")
        return Batches(_loader(reader, steps, workers, device), self, device, whole=True)

    def test_batches(
        self, device: torch.device, workers: int, rank: int, world_size: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels of the test set in the tree's order; each is in one process only."""
        check_split(TEST_BATCH, rank, world_size)
        own = range(rank, len(self.val.paths), world_size)
        steps = BatchSampler(own, TEST_BATCH, drop_last=False)
        crop = _MiddleCrop(self.test_size or self.size, self.test_resize, self.bicubic)
        reader = _Reader(self.val, crop)
        for batch in Batches(_loader(reader, steps, workers, device), self, device, whole=False):
            yield batch.images, batch.labels

    def report(self, failures: dict[str, str], fate: str) -> None:
        """Refuse unreadable files, or warn of those not met before and note them."""
        if self.unreadable == "refuse":
            raise ValueError(
                f"cannot read {_listed(failures)}; repair or remove them, "
                "or choose --unreadable skip"
            )
        for path, error in failures.items():
            if path not in self.unreadable_files:
                self.unreadable_files[path] = error
                warnings.warn(f"cannot read {path}, it is {fate}: {error}", stacklevel=3)


def _loader(reader: _Reader, steps: Any, workers: int, device: torch.device) -> DataLoader[Any]:
    return DataLoader(
        reader,
        batch_sampler=steps,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # else every epoch would take a global random number
        worker_init_fn=ignore_ctrl_c,
    )


def load_folders(
    root: str | Path,
    *,
    size: int = 224,
    unreadable: Unreadable = "refuse",
    test_size: int = 0,
    test_resize: int = 0,
    bicubic: bool = False,
    subset: int = 0,
    test_subset: int = 0,
    objects: str = "",
    seed: int = 0,
) -> TreeData:
    """List a tree `root/train/<class>/*` and `root/val/<class>/*`, or `test` in place of `val`.

    No image is read yet, but for `objects`, boxes or masks as `read_ground_truth` takes them.
    Arguments are as in `TreeData`; `subset` takes as many training images
    only, drawn by `seed` evenly from the classes, `test_subset` likewise test images, always the
    same; 0 takes all.

    Raises:
        ValueError: A part of the tree is missing or has a class without images, the classes of the
            parts differ, or a setting is out of range.
    """
    place = Path(root).expanduser()
    part = "val" if (place / "val").is_dir() else "test"
    for folder in (place / "train", place / part):
        if not folder.is_dir():
            raise ValueError(
                f"there is no folder {folder}; give the one that holds train/<class>/ and "
                "val/<class>/ or test/<class>/"
            )
    if (place / part / "val_annotations.txt").is_file():
        raise ValueError(
            f"{place / part} is not sorted by class; move its images into a folder for each class "
            "by val_annotations.txt"
        )
    train = list_tree(place / "train").subset(subset, seed)
    val = list_tree(place / part).subset(test_subset, 0)
    found = find_objects(objects, train, size)
    return TreeData(train, val, size, unreadable, test_size, test_resize, bicubic, objects=found)
