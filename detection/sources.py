"""Read a classifier's weights from our own runs, from torchvision and from timm."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from detection.names import depth_of, is_left_out
from keepbench.images import CIFAR_MEAN, CIFAR_STD, IMAGENET_MEAN, IMAGENET_STD
from keepbench.run import RunRecord
from keepbench.weights import load_checkpoint

Triple = Sequence[float]

AVERAGED = ("average", "ema", "state_dict_ema", "model_ema")
TRAINED = ("model", "state_dict")
_PREFIXES = ("module.", "_orig_mod.", "model.")  # of DataParallel, of torch.compile, of a wrapper
_STATISTICS: dict[str, tuple[Triple, Triple]] = {
    "images": (IMAGENET_MEAN, IMAGENET_STD),
    "cifar10": (CIFAR_MEAN, CIFAR_STD),
}


@dataclass(frozen=True)
class Source:
    """A classifier's weights, and where they come from.

    Attributes:
        weights: by torchvision's names, classifier included.
        depth: of the residual network.
        mean: of the RGB images that it was trained on, in [0, 1], which it was given less.
        std: that they were then divided by.
        record: the file, its checksum, the weights taken, and the run they are of, if one of ours.
    """

    weights: dict[str, Tensor]
    depth: int
    mean: Triple
    std: Triple
    record: dict[str, Any] = field(default_factory=dict)


def sha256(path: Path) -> str:
    """The checksum of a file, in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _is_weights(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(each, Tensor) for each in value.values())
    )


def pick_weights(content: Mapping[str, Any], use: str = "auto") -> tuple[str, dict[str, Tensor]]:
    """The weights of a checkpoint's content, and their key in it ("" if it is they).

    Args:
        content: of the file.
        use: "average" takes the moving average, "model" the trained weights, "auto" the average if
            there is one, since it is what is tested.

    Raises:
        ValueError: There are none.
    """
    keys = {"average": AVERAGED, "model": TRAINED, "auto": AVERAGED + TRAINED}[use]
    for key in keys:
        if _is_weights(content.get(key)):
            return key, plain_names(content[key])
    if use != "average" and _is_weights(content):
        return "", plain_names(content)
    raise ValueError(
        f"no weights for {use!r} in it: looked for {', '.join(keys)}, "
        f"found {', '.join(map(str, list(content)[:8]))}"
    )


def plain_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by the model's own names, without what wrappers put before them."""
    stripped: dict[str, Tensor] = {}
    for name, value in weights.items():
        plain = name
        while plain.startswith(_PREFIXES):
            plain = plain[plain.index(".") + 1 :]
        if plain in stripped:
            raise ValueError(f"two weights are called {plain} once wrappers' prefixes are off")
        stripped[plain] = value
    return stripped


def _read(path: Path) -> Mapping[str, Any]:
    """The content of a checkpoint; tensors, numbers and text only."""
    if not path.is_file():
        raise ValueError(f"no checkpoint {path}")
    if path.suffix != ".safetensors":
        return load_checkpoint(path)
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise ValueError(f"{path} needs the package safetensors") from None
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


def _about(path: Path) -> dict[str, Any]:
    """What `run.json` beside a checkpoint says of the run; {} if it is none of ours."""
    folder = path.parent
    return vars(RunRecord.read(folder)) if (folder / "run.json").exists() else {}


def _statistics(run: Mapping[str, Any], mean: Triple | None, std: Triple | None) -> list[Triple]:
    """The mean and standard deviation that images were normalised by."""
    if (mean is None) != (std is None):
        raise ValueError("give both --mean and --std, or neither")
    if mean is not None and std is not None:
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError(f"--mean and --std take three numbers in [0, 1], found {mean}, {std}")
        return [mean, std]
    dataset = run["settings"].get("dataset", "unknown data") if run else "images"
    if dataset not in _STATISTICS:
        raise ValueError(
            f"a run on {dataset} has no fixed mean and standard deviation; give --mean and --std"
        )
    return list(_STATISTICS[dataset])


def _check_arch(arch: str, depth: int) -> None:
    """Raise ValueError unless a name, timm's tags included, is the plain ResNet of this depth."""
    if arch and arch.partition(".")[0] != f"resnet{depth}":
        raise ValueError(f"the weights are those of resnet{depth}, not of {arch}")


def open_source(
    path: Path,
    *,
    use: str = "auto",
    arch: str = "",
    mean: Triple | None = None,
    std: Triple | None = None,
) -> Source:
    """Read a checkpoint: a run's folder, or a file of torch.save or safetensors.

    Args:
        path: the folder or file.
        use: which weights of it, as in `pick_weights`.
        arch: the network's name, if it is to be checked; a run of ours knows its own. timm's
            resnetblur50 and resnetaa50 have the very weights of resnet50, and only the name tells.
        mean: of RGB in [0, 1], if not ImageNet's or the run's own.
        std: likewise.

    Raises:
        ValueError: It cannot be read, or is no plain ResNet-18, 34, 50, 101 or 152.
    """
    file = path / "last.pt" if path.is_dir() else path
    try:
        key, weights = pick_weights(_read(file), use)
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
