"""The data of a run: small images held whole, or a tree of large ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from classification.config import Config
from classification.image_trees import FolderData, load_folders
from keepbench.images import IMAGENET_MEAN, IMAGENET_STD, Batch
from keepbench.order import EpochBatches
from keepbench.small_images import TEST_BATCH, load_data


class Data(Protocol):
    """A training and a test set, wherever their images are.

    Attributes:
        classes: their names, by label.
        num_train: training images.
        channels: of an image.
        image_size: height and width of training images, in pixels.
        mean: of each channel in [0, 1], by which images are normalised.
        std: likewise.
    """

    @property
    def mean(self) -> tuple[float, ...]: ...  # noqa: D102

    @property
    def std(self) -> tuple[float, ...]: ...  # noqa: D102

    @property
    def classes(self) -> list[str]: ...  # noqa: D102

    @property
    def num_train(self) -> int: ...  # noqa: D102

    @property
    def channels(self) -> int: ...  # noqa: D102

    @property
    def image_size(self) -> tuple[int, int]: ...  # noqa: D102

    def train_batches(
        self, steps: EpochBatches, device: torch.device, workers: int
    ) -> Iterator[Batch]:
        """Batches of the training set in the order of `steps`."""

    def test_batches(
        self, device: torch.device, workers: int, rank: int, world_size: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's share of the test set: images (B, C, H, W) uint8 and labels (B,)."""


@dataclass(frozen=True)
class TreeData:
    """Images of any size in a tree, read by worker processes."""

    folders: FolderData
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    channels: int = 3

    @property
    def classes(self) -> list[str]:
        """Names of the classes, by label."""
        return self.folders.classes

    @property
    def num_train(self) -> int:
        """Training images."""
        return len(self.folders.train)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of training images, in pixels."""
        return self.folders.size, self.folders.size

    def train_batches(
        self, steps: EpochBatches, device: torch.device, workers: int
    ) -> Iterator[Batch]:
        """Batches of the training set in the order of `steps`, cropped and flipped."""
        batches = self.folders.train_batches(
            steps.epoch,
            steps.batch_size,
            seed=steps.seed,
            rank=steps.rank,
            world_size=steps.world_size,
            start=steps.start,
            workers=workers,
            pin_memory=device.type == "cuda",
        )
        for batch in batches:
            yield batch.to(device)

    def test_batches(
        self, device: torch.device, workers: int, rank: int, world_size: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's share of the test set."""
        batches = self.folders.val_batches(
            TEST_BATCH, rank=rank, world_size=world_size, workers=workers
        )
        for _, images, labels, _ in batches:
            yield images.to(device), labels.to(device)


def open_data(config: Config, device: torch.device) -> Data:
    """The data of a config, on the device if its images are small.

    Raises:
        ValueError: Data that cannot be used (see `load_data` and `classification.image_trees`).
    """
    if config.dataset == "images":
        folders = load_folders(
            config.data,
            size=config.image_size,
            test_size=config.test_size,
            unreadable=config.unreadable,  # type: ignore[arg-type]
            subset=config.subset,
            test_subset=config.test_subset,
            seed=config.seed,
        )
        return TreeData(folders)
    data = load_data(
        config.dataset,
        config.data,
        download=config.download,
        subset=config.subset,
        test_subset=config.test_subset,
        seed=config.seed,
    )
    return data.to(device)
