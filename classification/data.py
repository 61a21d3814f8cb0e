"""The data of a run: small images held whole, or a tree of large ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from classification.config import Config
from classification.image_trees import TreeData, load_folders
from classification.models import colours_of
from keepbench.images import Batch
from keepbench.order import EpochBatches
from keepbench.small_images import StoredData, load_data

SAMPLE = 256
"""Training images on which maps are compared."""


class Data(Protocol):
    """A training and a test set, wherever their images are.

    Attributes:
        classes: their names, by label.
        num_train: training images.
        channels: of an image.
        objects: ground truth of training images (N, S, S) uint8, or None.
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
    def objects(self) -> Tensor | None: ...  # noqa: D102

    @property
    def image_size(self) -> tuple[int, int]: ...  # noqa: D102

    def train_batches(
        self, steps: EpochBatches, device: torch.device, workers: int
    ) -> Iterable[Batch]:
        """Batches of the training set in the order of `steps`."""

    def whole_batches(
        self, device: torch.device, workers: int, rank: int, world_size: int
    ) -> Iterable[Batch]:
        """This process's share of the training set, each image whole: scaled to `image_size`."""

    def contents(self) -> Iterator[str | bytes]:
        """The data's contents, to tell whether they changed."""

    def train_contents(self) -> Iterator[str | bytes]:
        """The same for the training set alone."""

    def test_batches(
        self, device: torch.device, workers: int, rank: int, world_size: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's share of the test set: images (B, C, H, W) uint8 and labels (B,)."""


def open_data(config: Config, device: torch.device) -> Data:
    """The data of a config, on the device if its images are small.

    Raises:
        ValueError: Data that cannot be used (see `load_data` and `classification.image_trees`).
    """
    data: TreeData | StoredData
    if config.dataset == "images":
        data = load_folders(
            config.data,
            size=config.image_size,
            test_size=config.test_size,
            test_resize=config.test_resize,
            bicubic=config.interpolation == "random",
            unreadable=config.unreadable,  # type: ignore[arg-type]
            subset=config.subset,
            test_subset=config.test_subset,
            objects=config.objects,
            seed=config.seed,
        )
    else:
        data = load_data(
            config.dataset,
            config.data,
            download=config.download,
            subset=config.subset,
            test_subset=config.test_subset,
            test_rest=config.test_rest,
            objects=config.objects,
            seed=config.seed,
        ).to(device)
    return replace(data, **colours_of(config.colours, config.weights, config.arch, data.channels))


def sample(data: Data, device: torch.device, *, seed: int = 0, number: int = SAMPLE) -> Batch:
    """Some training images, the same whenever they are asked for and in every process."""
    order = EpochBatches(
        num_images=data.num_train,
        batch_size=min(number, data.num_train),
        seed=seed,
        epoch=-1,  # crops that no epoch trains on
    )
    return next(iter(data.train_batches(order, device, 0)))
