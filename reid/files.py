"""Image files in Market-1501's layout (Zheng et al., ICCV 2015): who is where, by file name.

`0002_c1s1_000451_03.jpg` is person 2, seen by camera 1. Person -1 is junk, a bad detection that
counts neither as right nor as wrong; person 0 is a distractor of the gallery.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from keepbench.images import read_or_error
from keepbench.trees import list_here

PARTS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
JUNK, DISTRACTOR = -1, 0
_NAME = re.compile(r"(-1|\d+)_c(\d+)\D.*")
_NAMED = 8  # files that a message names


class Photo(NamedTuple):
    """An image file.

    Attributes:
        path: the file.
        person: number of the identity.
        camera: number of the camera, from 1.
    """

    path: Path
    person: int
    camera: int


def people(photos: Iterable[Photo]) -> dict[int, list[Photo]]:
    """Images by person, in order of their numbers."""
    found: dict[int, list[Photo]] = defaultdict(list)
    for photo in photos:
        found[photo.person].append(photo)
    return dict(sorted(found.items()))


def cameras(photos: Iterable[Photo]) -> set[int]:
    """The cameras that took the images."""
    return {photo.camera for photo in photos}


def named(files: Sequence[str]) -> str:
    """The first of the names, and how many more there are, for a message."""
    more = f" and {len(files) - _NAMED} more" if len(files) > _NAMED else ""
    return ", ".join(files[:_NAMED]) + more


class Names(NamedTuple):
    """The files of a folder.

    Attributes:
        photos: images by name.
        wrong: names of images outside the pattern.
        left_out: how many other entries there are, by what they are.
    """

    photos: list[Photo]
    wrong: list[str]
    left_out: Counter[str]


def read_names(folder: Path) -> Names:
    """The images of a folder by name; what is none, such as the archive's Thumbs.db, is counted."""
    paths, left_out = list_here(folder)
    found = Names([], [], left_out)
    for path in paths:
        match = _NAME.fullmatch(path.name)
        if match:
            found.photos.append(Photo(path, int(match[1]), int(match[2])))
        else:
            found.wrong.append(path.name)
    return found


def _fault(photo: Photo) -> str:
    read = read_or_error(str(photo.path))
    return read if isinstance(read, str) else ""


def readable(photos: list[Photo], workers: int) -> tuple[list[Photo], list[str]]:
    """The images that can be decoded, and the names of the files that cannot."""
    with ThreadPoolExecutor(max(1, workers)) as pool:
        faults = list(pool.map(_fault, photos, chunksize=64))
    whole = [photo for photo, fault in zip(photos, faults, strict=True) if not fault]
    broken = [
        f"{photo.path.name} ({fault})" for photo, fault in zip(photos, faults, strict=True) if fault
    ]
    return whole, broken


def find_root(folder: Path) -> Path:
    """The folder that holds bounding_box_train: the one given, or the archive's inside it.

    Raises:
        ValueError: There is none, or `query` without `bounding_box_test` or the reverse.
    """
    inside = [folder, folder / "Market-1501-v15.09.15", folder / "market1501"]
    for root in inside:
        if (root / PARTS["train"]).is_dir():
            there = [part for part in ("query", "gallery") if (root / PARTS[part]).is_dir()]
            if len(there) == 1:
                missing = ({"query", "gallery"} - set(there)).pop()
                raise ValueError(f"{root} has {PARTS[there[0]]} but no {PARTS[missing]}")
            return root
    found = sorted(p.name for p in folder.iterdir())[:_NAMED] if folder.is_dir() else "no folder"
    raise ValueError(
        f"{folder} holds no {PARTS['train']} (found: {found}); give --data the folder of "
        "Market-1501, or try a toy- experiment, which needs no dataset"
    )
