"""Which weights a file holds: one answer for every task and tool.

Files hold tensors, numbers and text only; code in them is never run. Where a file has averaged
weights beside the trained ones, the average is taken: it is what a run tests.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

Use = Literal["auto", "average", "model"]

AVERAGED = ("average", "ema", "state_dict_ema", "model_ema")
TRAINED = ("model", "state_dict", "model_state_dict")
_PREFIXES = ("module.", "_orig_mod.", "model.")  # DataParallel's, torch.compile's, a wrapper's
_COUNTER = "n_averaged"  # of torch's AveragedModel


class Weights(NamedTuple):
    """A network's state dict, and where in its file it stood.

    Attributes:
        key: in the file, as "average" or "model"; "" if the file is a state dict.
        tensors: by the network's own names.
    """

    key: str
    tensors: dict[str, Tensor]

    def __str__(self) -> str:
        kind = "averaged" if self.key in AVERAGED else "trained"
        return f"{kind} weights" + (f" ({self.key!r})" if self.key else "")


def _check_sums(path: Path) -> None:
    """Raise ValueError if a file in a zip archive, as torch.save writes, fails its checksum."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise ValueError(f"the checksum of {damaged} in it is wrong")


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of plain tensors, numbers and text onto the CPU.

    Raises:
        ValueError: The file is damaged, or holds other objects (which are not loaded).
    """
    try:
        _check_sums(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"there is no checkpoint {path}") from None
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"checkpoint {path} cannot be read: {reason}") from error


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise ValueError(f"{path} needs the package safetensors") from None
    try:
        return load_file(path)
    except FileNotFoundError:
        raise ValueError(f"there is no checkpoint {path}") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"checkpoint {path} cannot be read: {error}") from None


def plain_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by the network's own names, without what wrappers put before them.

    Raises:
        ValueError: Two weights have the same name then.
    """
    plain: dict[str, Tensor] = {}
    for name, value in weights.items():
        while name.startswith(_PREFIXES):
            name = name.partition(".")[2]
        if name in plain:
            raise ValueError(f"two weights are called {name} once wrappers' prefixes are off")
        plain[name] = value
    return plain


def _is_weights(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(each, Tensor) for each in value.values())
    )


def pick_weights(content: Any, use: Use = "auto") -> Weights:
    """The weights of a checkpoint's content, by the names that it gives them.

    Args:
        content: of the file.
        use: "average" takes the moving average, "model" the trained weights, "auto" the average if
            there is one.

    Raises:
        ValueError: There are none.
    """
    keys = {"average": AVERAGED, "model": TRAINED, "auto": AVERAGED + TRAINED}[use]
    held = content if isinstance(content, Mapping) else {}
    for key in keys:
        if _is_weights(held.get(key)):
            return Weights(key, {k: v for k, v in held[key].items() if k != _COUNTER})
    if use != "average" and _is_weights(held):
        return Weights("", dict(held))
    found = ", ".join(map(str, list(held)[:8])) or type(content).__name__
    raise ValueError(f"no weights for {use!r} in it: looked for {', '.join(keys)}, found {found}")


def read_weights(path: Path, use: Use = "auto") -> Weights:
    """The weights in a file of torch.save or safetensors, by the network's own names.

    Args:
        path: a state dict, or a checkpoint that holds one.
        use: as in `pick_weights`.

    Raises:
        ValueError: The file cannot be read, or holds no weights.
    """
    content = (_load_safetensors if path.suffix == ".safetensors" else load_checkpoint)(path)
    try:
        key, tensors = pick_weights(content, use)
        return Weights(key, plain_names(tensors))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def load_weights(model: nn.Module, weights: Weights) -> None:
    """Put weights into a model, whose own names may begin as a wrapper's do.

    Raises:
        ValueError: They are not the model's, with the first names and shapes that differ.
    """
    own = model.state_dict()
    plain = plain_names(own)
    places = dict(zip(plain, own, strict=True))
    missing = sorted(plain.keys() - weights.tensors.keys())
    strange = sorted(weights.tensors.keys() - plain.keys())
    shapes = [
        f"{name} {tuple(weights.tensors[name].shape)}, not {tuple(value.shape)}"
        for name, value in plain.items()
        if name in weights.tensors and weights.tensors[name].shape != value.shape
    ]
    if missing or strange or shapes:
        raise ValueError(
            f"{len(missing)} weights are missing {missing[:3]}, {len(strange)} have no place "
            f"{strange[:3]}, {len(shapes)} have another shape {shapes[:3]}"
        )
    model.load_state_dict({places[name]: value for name, value in weights.tensors.items()})
