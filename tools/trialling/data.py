"""The images that a trial is of, so that all its seeds are of the same ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from classification.config import Config
from classification.data import open_data
from evidence.catalogue import TREES
from keepbench.files import digest
from keepbench.trees import list_tree

DATA = "data"
"""The setting that names them; their digest's name in a plan."""


def _tree(config: Any) -> Path | None:
    """The tree of images of a config; None if its data are others, or not there."""
    place = Path(config.data).expanduser()
    return place if config.dataset in TREES and place.is_dir() else None


def digests_of_tree(config: Any) -> dict[str, str]:
    """A checksum of all images of a config's tree, by `DATA`; {} of other data, or broken ones.

    By names, sizes and labels, whatever a seed draws of them: no image is opened.
    """
    place = _tree(config)
    if place is None:
        return {}
    val = config.dataset == "images" and (place / "val").is_dir()
    try:
        trees = [list_tree(place / part) for part in ("train", "val" if val else "test")]
        return {DATA: digest(line for tree in trees for line in tree.contents())}
    except ValueError:  # what is wrong is said when they are read
        return {}


def digest_of_run(config: Any) -> str:
    """The checksum of its data that a run would have now; "" if they are no tree of its own."""
    if not isinstance(config, Config) or _tree(config) is None:
        return ""
    return digest(open_data(config, torch.device("cpu")).contents())
