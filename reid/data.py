"""A listing as images in memory, and the batches of an epoch, by torchreid's sampler.

Images are read once and kept as bytes, scaled as Bag of Tricks does (Pillow, bilinear): those to
train on on the device (1.27 GB for Market-1501 at 256 x 128), those to test on in the host's memory
(1.9 GB, shared out among the processes). Crop, flip and erasing are done on the batch.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import InterpolationMode, Resize
from torchvision.transforms.functional import pil_to_tensor
from tqdm import tqdm

from keepbench.images import open_image
from keepbench.leaving import ignore_ctrl_c
from keepbench.order import mixed_seed
from keepbench.processes import Processes
from reid.config import Config
from reid.files import Photo, people
from reid.market import Listing, list_market
from reid.torchreid_import import torchreid
from reid.toy import write_toy

READ_BATCH = 256


@dataclass(frozen=True)
class Shown:
    """Images to test on: who they are, and the pixels of this process's share.

    Attributes:
        pixels: (n, 3, H, W) uint8, images rank, rank + world_size, ... of all N.
        people: (N,) int64.
        cameras: (N,) int64.
        photos: their files.
    """

    pixels: Tensor
    people: Tensor
    cameras: Tensor
    photos: list[Photo]


@dataclass(frozen=True)
class Data:
    """Everything that a run trains and tests on.

    Attributes:
        images: (N, 3, H, W) uint8, on the device.
        labels: (N,) int64, the numbers of the people from 0.
        num_classes: people.
        sampler: torchreid's, of P identities with K images each.
        query: images to find others of.
        gallery: images to find them in.
        listing: the files, and what was found odd.
    """

    images: Tensor
    labels: Tensor
    num_classes: int
    sampler: Any
    query: Shown
    gallery: Shown
    listing: Listing

    def batches(self, seed: int, epoch: int, batch_size: int) -> Tensor:
        """The numbers of the images in each step of an epoch: (steps, batch_size) int64.

        They follow from (seed, epoch). Epochs differ a little in length: the sampler ends when
        fewer than P people have images left.
        """
        with _seeded(mixed_seed(seed, epoch)):
            order = [int(number) for number in self.sampler]
        return torch.tensor(order).view(-1, batch_size)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Python's and NumPy's global generators, from which torchreid draws, at `seed` within."""
    before, numpy_before = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(numpy_before)


class _Files(Dataset[Tensor]):
    """Image files as (3, h, w) uint8, scaled by torchvision's default, as Bag of Tricks does."""

    def __init__(self, photos: list[Photo], size: tuple[int, int]) -> None:
        self.photos, self.resize = photos, Resize(size, InterpolationMode.BILINEAR)

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> Tensor:
        return pil_to_tensor(self.resize(open_image(self.photos[index].path)))


def _pixels(photos: list[Photo], config: Config) -> Tensor:
    """The pixels (n, 3, h, w) uint8 of image files."""
    files = _Files(photos, (config.height, config.width))
    loader = DataLoader(files, READ_BATCH, num_workers=config.workers, worker_init_fn=ignore_ctrl_c)
    bar = tqdm(loader, desc="reading images", leave=False, delay=2, disable=None)
    pixels = torch.empty(len(photos), 3, config.height, config.width, dtype=torch.uint8)
    # without photos there is one empty part and no batch
    for place, batch in zip(pixels.split(READ_BATCH), bar, strict=False):
        place.copy_(batch)
    return pixels


def make_data(listing: Listing, config: Config, processes: Processes) -> Data:
    """Read a listing's images into memory.

    Raises:
        ValueError: Fewer people than a batch has, or no torchreid.
    """
    numbers = {person: number for number, person in enumerate(people(listing.train))}
    if len(numbers) < config.num_ids:
        raise ValueError(
            f"a batch of {config.num_ids} identities needs as many to train on, found "
            f"{len(numbers)}; lower --num-ids"
        )
    labels = [numbers[photo.person] for photo in listing.train]
    sampler = torchreid().data.sampler.RandomIdentitySampler(
        [(str(photo.path), label) for photo, label in zip(listing.train, labels, strict=True)],
        config.batch_size,
        config.num_instances,
    )

    def shown(photos: list[Photo]) -> Shown:
        return Shown(
            _pixels(photos[processes.rank :: processes.world_size], config),
            torch.tensor([photo.person for photo in photos]),
            torch.tensor([photo.camera for photo in photos]),
            photos,
        )

    return Data(
        _pixels(listing.train, config).to(processes.device),
        torch.tensor(labels, device=processes.device),
        len(numbers),
        sampler,
        shown(listing.query),
        shown(listing.gallery),
        listing,
    )


def open_data(config: Config, processes: Processes) -> Data:
    """The data of a config; drawn pedestrians are drawn if they are not there.

    Raises:
        ValueError: Data that cannot be used (see `reid.market.list_market`).
    """
    if config.dataset == "toy":
        write_toy(Path(config.data).expanduser())
    listing = list_market(
        config.data,
        split_seed=config.split_seed,
        subset=config.subset,
        test_subset=config.test_subset,
        skip_bad=config.bad_files == "skip",
        workers=config.workers,
    )
    if config.dataset == "toy":
        listing = replace(listing, why_not="the pedestrians are drawn")
    return make_data(listing, config, processes)
