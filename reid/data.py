"""A listing as images in memory, and the batches of an epoch, by torchreid's own parts.

Images are read once and kept as bytes, scaled as Bag of Tricks does (Pillow, bilinear): those to
train on on the device (1.27 GB for Market-1501 at 256 x 128), those to test on in the host's memory
(1.9 GB, shared out among the processes). Crop, flip and erasing are done on the batch.
"""

from __future__ import annotations

import io
import itertools
import random
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from torchvision.transforms import Compose, InterpolationMode, PILToTensor, Resize
from tqdm import tqdm

from keepbench.order import mixed_seed
from keepbench.processes import Processes
from reid.config import Config
from reid.files import Photo, people
from reid.market import Listing, list_market
from reid.torchreid_import import torchreid
from reid.toy import write_toy

READ_BATCH = 256
_names = itertools.count()  # torchreid keeps its datasets by names that must be new


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


def _pixels(dataset: Any, config: Config, processes: Processes, *, share: bool) -> Tensor:
    """The images of a torchreid dataset in its order, or this process's share of them."""
    numbers = range(
        processes.rank if share else 0, len(dataset), processes.world_size if share else 1
    )
    loader = DataLoader(Subset(dataset, numbers), READ_BATCH, num_workers=config.workers)
    bar = tqdm(loader, desc="reading images", leave=False, delay=2, disable=None)
    pixels = torch.empty(len(numbers), 3, config.height, config.width, dtype=torch.uint8)
    # an empty share has one empty part and no batch
    for place, batch in zip(pixels.split(READ_BATCH), bar, strict=False):
        place.copy_(batch["img"])
    return pixels


def make_manager(listing: Listing, labels: dict[int, int], config: Config) -> Any:
    """Make torchreid's data manager of a listing, with its sampler and images as bytes.

    Args:
        listing: what to train and test on.
        labels: the class of each person to train on.
        config: sizes of images and batches.

    Raises:
        ValueError: Fewer people than a batch has, or no torchreid.
    """
    if len(labels) < config.num_ids:
        raise ValueError(
            f"a batch of {config.num_ids} identities needs as many to train on, found "
            f"{len(labels)}; lower --num-ids"
        )
    reid, name = torchreid(), f"listing-{next(_names)}"
    # torchvision's own default, said because Bag of Tricks' figures depend on it
    size = (config.height, config.width)
    to_bytes = Compose([Resize(size, InterpolationMode.BILINEAR), PILToTensor()])
    train = [(str(p.path), labels[p.person], p.camera - 1) for p in listing.train]
    tests = ([(str(p.path), p.person, p.camera - 1) for p in part]
             for part in (listing.query, listing.gallery))  # fmt: skip
    lists = (train, *tests)

    def dataset(*, mode: str, **_: Any) -> Any:
        return reid.data.ImageDataset(*lists, transform=to_bytes, mode=mode, verbose=False)

    reid.data.register_image_dataset(name, dataset)
    with redirect_stdout(io.StringIO()):  # it tells of transforms that are not used
        return reid.data.ImageDataManager(
            sources=name,
            height=config.height,
            width=config.width,
            transforms=[],
            use_gpu=False,
            batch_size_train=config.batch_size,
            num_instances=config.num_instances,
            train_sampler="RandomIdentitySampler",
            workers=config.workers,
        )


def make_data(listing: Listing, config: Config, processes: Processes) -> Data:
    """Read a listing's images into memory."""
    labels = {person: number for number, person in enumerate(people(listing.train))}
    manager = make_manager(listing, labels, config)
    (tests,) = manager.test_loader.values()

    def shown(part: str, photos: list[Photo]) -> Shown:
        return Shown(
            _pixels(tests[part].dataset, config, processes, share=True),
            torch.tensor([photo.person for photo in photos]),
            torch.tensor([photo.camera for photo in photos]),
            photos,
        )

    loader = manager.train_loader
    return Data(
        _pixels(loader.dataset, config, processes, share=False).to(processes.device),
        torch.tensor([labels[p.person] for p in listing.train], device=processes.device),
        manager.num_train_pids,
        loader.sampler,
        shown("query", listing.query),
        shown("gallery", listing.gallery),
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
