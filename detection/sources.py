"""Read a classifier's weights from our own runs, from torchvision and from timm."""

from __future__ import annotations

import hashlib
import json
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from detection.names import depth_of, is_left_out
from keepbench.images import CIFAR_MEAN, CIFAR_STD, IMAGENET_MEAN, IMAGENET_STD, check_colours
from keepbench.run import RunRecord
from keepbench.weights import Use, read_weights

Triple = Sequence[float]

_STATISTICS: dict[str, tuple[Triple, Triple]] = {
    "images": (IMAGENET_MEAN, IMAGENET_STD),
    "cifar10": (CIFAR_MEAN, CIFAR_STD),
}


@dataclass(frozen=True)
class Source:
    """A classifier's weights, and where they come from.

    Attributes:
        weights: by torchvision's names, classifier included.
        depth: 18 to 152.
        mean: per channel, in [0, 1]; subtracted from the input.
        std: per channel; divides the input after that.
        record: the file, its checksum, the weights taken, and the run they are of, if one of ours.
    """

    weights: dict[str, Tensor]
    depth: int
    mean: Triple
    std: Triple
    record: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a mean or a deviation of bytes, which no comparison of features would notice."""
        check_colours(self.mean, self.std)


def sha256(path: Path) -> str:
    """The checksum of a file, in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """An object of JSON from a file.

    Raises:
        ValueError: The file is damaged or holds something else.
    """
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error!r}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no object but {reprlib.repr(content)}")
    return content


def _about(path: Path) -> dict[str, Any]:
    """The contents of `run.json` beside a checkpoint; {} if it is none of ours."""
    folder = path.parent
    return vars(RunRecord.read(folder)) if (folder / "run.json").exists() else {}


def _statistics(run: Mapping[str, Any], mean: Triple | None, std: Triple | None) -> list[Triple]:
    """The mean and standard deviation that images were normalised by."""
    if (mean is None) != (std is None):
        raise ValueError("give both --mean and --std, or neither")
    if mean is not None and std is not None:
        if len(mean) != 3 or len(std) != 3:
            raise ValueError(f"--mean and --std take three numbers, found {mean}, {std}")
        return [mean, std]
    dataset = run["settings"].get("dataset", "unknown data") if run else "images"
    if not isinstance(dataset, str) or dataset not in _STATISTICS:
        raise ValueError(
            f"a run on {dataset} has no fixed mean and standard deviation; give --mean and --std"
        )
    return list(_STATISTICS[dataset])


def _check_arch(arch: str, depth: int) -> None:
    """Raise ValueError unless a name, timm's tags included, is the plain ResNet of this depth."""
    if arch and str(arch).partition(".")[0] != f"resnet{depth}":
        raise ValueError(f"the weights are those of resnet{depth}, not of {arch}")


def open_source(
    path: Path,
    *,
    use: Use = "auto",
    arch: str = "",
    mean: Triple | None = None,
    std: Triple | None = None,
) -> Source:
    """Read a checkpoint: a run's folder, or a file of torch.save or safetensors.

    Args:
        path: the folder or file.
        use: which weights of it, as in `keepbench.weights`.
        arch: the network's name, if it is to be checked; a run of ours knows its own. timm's
            resnetblur50 and resnetaa50 have the very weights of resnet50, and only the name tells.
        mean: per channel, in [0, 1]; ImageNet's or the run's own if not given.
        std: likewise.

    Raises:
        ValueError: It cannot be read, or is no plain ResNet-18, 34, 50, 101 or 152.
    """
    file = path / "last.pt" if path.is_dir() else path
    key, weights, _ = read_weights(file, use)
    try:
        depth = depth_of([name for name in weights if not is_left_out(name)])
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    run = _about(file)
    arch = arch or (run["settings"].get("arch", "") if run else "")
    _check_arch(arch, depth)
    mean, std = _statistics(run, mean, std)
    record: dict[str, Any] = {"file": file.name, "sha256": sha256(file), "weights": key or "all"}
    record |= {name: run[name] for name in ("experiment", "budget", "commit") if name in run}
    return Source(weights, depth, mean, std, record | {"arch": arch or f"resnet{depth}"})
