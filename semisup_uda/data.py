"""Which images have a label and which have none, all on the device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from classification.models import colours_of
from keepbench.images import read_image
from keepbench.order import even_subset
from keepbench.progress import progress_bar
from keepbench.small_images import StoredData, load_data
from keepbench.trees import list_below
from semisup_uda.config import Config


@dataclass(frozen=True)
class Images:
    """The images of a run.

    Attributes:
        data: the whole training set, and the test set.
        labelled: (N,) int64, numbers of the training images whose label is used.
        unlabelled: (M, C, H, W) uint8.
        hidden: (M,) int64, labels that are only compared with; None if nobody knows them.
    """

    data: StoredData
    labelled: Tensor
    unlabelled: Tensor
    hidden: Tensor | None

    def contents(self) -> Iterator[str | bytes]:
        """The data's contents, to tell whether they changed."""
        yield from self.data.contents()
        yield str(self.labelled.tolist())
        yield self.unlabelled.cpu().contiguous().numpy().tobytes()


def choose_labelled(
    labels: list[int], classes: list[str], number: int, *, split: str, seed: int = 0
) -> list[int]:
    """Numbers of the images that keep their label, ascending.

    Args:
        labels: of the whole training set, in file order.
        classes: names, by label.
        number: how many.
        split: "first" in file order (UDA's), or "balanced": drawn at random, evenly from the
            classes (FixMatch's).
        seed: of that draw.

    Raises:
        ValueError: More labels than images, fewer than classes, or a class without any.
    """
    if number > len(labels):
        raise ValueError(f"{number} labels were asked for, the training set has {len(labels)}")
    if number < len(classes):
        raise ValueError(
            f"{number} labels are fewer than the {len(classes)} classes; give at least one each"
        )
    empty = [name for label, name in enumerate(classes) if label not in set(labels)]
    if empty:
        raise ValueError(f"there are no training images of {', '.join(empty[:8])}")
    chosen = list(range(number))
    if split == "balanced":
        chosen = even_subset(labels, number, seed)
    have = {labels[index] for index in chosen}
    missing = [name for label, name in enumerate(classes) if label not in have]
    if missing:
        raise ValueError(
            f"the first {number} images in file order hold none of {', '.join(missing[:8])}; "
            "take --split balanced, as for any tree sorted by class"
        )
    return chosen


def read_unlabelled(folder: Path, shape: tuple[int, ...]) -> Tensor:
    """All image files below a folder, in the order of their paths: (M, C, H, W) uint8.

    Raises:
        ValueError: No images, one that cannot be read, or one whose shape is not `shape` (C, H, W).
    """
    paths = list_below(folder)
    images = []
    for path in progress_bar(paths, desc="reading images", leave=False, delay=2):
        try:
            image = read_image(path)
        except Exception as error:  # damaged files make Pillow's decoders raise almost anything
            raise ValueError(f"cannot read {path} ({type(error).__name__}: {error})") from error
        if image.shape != shape:
            raise ValueError(
                f"{path} has {tuple(image.shape)} channels, rows and columns, the labelled images "
                f"{tuple(shape)}; unlabelled images must be of the same size"
            )
        images.append(image)
    return torch.stack(images)


def open_data(config: Config, device: torch.device) -> StoredData:
    """The whole training set and the test set of a config, on the device.

    Raises:
        ValueError: Data that cannot be used (see `keepbench.small_images.load_data`).
    """
    data = load_data(
        config.dataset,
        config.data,
        download=config.download,
        subset=config.subset,
        test_subset=config.test_subset,
        seed=config.seed,
    ).to(device)
    return replace(data, **colours_of(config.colours, config.weights, config.arch, data.channels))


def open_images(config: Config, device: torch.device) -> Images:
    """The images of a config on the device.

    Raises:
        ValueError: Data that cannot be used (see `keepbench.small_images.load_data` and above).
    """
    folder = Path(config.unlabelled).expanduser()
    own = config.unlabelled not in ("train", "labelled")
    if own and not folder.is_dir():  # said before all else is read
        raise ValueError(f"no images in {folder}: there is no such folder")
    data = open_data(config, device)
    chosen = choose_labelled(
        data.train.labels.tolist(),
        data.classes,
        config.labels,
        split=config.split,
        seed=config.seed,
    )
    labelled = torch.tensor(chosen, device=device)
    if config.unlabelled == "train":
        return Images(data, labelled, data.train.images, data.train.labels)
    if config.unlabelled == "labelled":
        return Images(data, labelled, data.train.images[labelled], data.train.labels[labelled])
    images = read_unlabelled(folder, tuple(data.train.images.shape[1:]))
    return Images(data, labelled, images.to(device), None)


def split_record(config: Config, images: Images) -> dict[str, Any]:
    """The contents of `split.json` on a run's images."""
    labels = images.data.train.labels[images.labelled].tolist()
    return {
        "split": config.split,
        "seed": config.seed,
        "training_images": images.data.num_train,
        "unlabelled_images": len(images.unlabelled),
        "classes": images.data.classes,
        "images": images.labelled.tolist(),
        "labels": labels,
    }
