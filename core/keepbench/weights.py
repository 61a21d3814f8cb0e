"""Which weights a file holds: one answer for every task and tool.

Files hold tensors, numbers and text only; code in them is never run. Where a file has averaged
weights beside the trained ones, the average is taken: it is what a run tests.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

Use = Literal["auto", "average", "model"]

AVERAGED = ("average", "ema", "state_dict_ema", "model_ema")
TRAINED = ("model", "state_dict", "model_state_dict")
_PREFIXES = ("module.", "_orig_mod.", "model.")  # DataParallel's, torch.compile's, a wrapper's
_FOLDER = 0x10  # among a zip entry's attributes
_COUNTER = "n_averaged"  # of torch's AveragedModel


class Weights(NamedTuple):
    """A network's state dict, and where in its file it stood.

    Attributes:
        key: in the file, as "average" or "model"; "" if the file is a state dict.
        tensors: by the network's own names.
        prefix: that a wrapper had put before these.
    """

    key: str
    tensors: dict[str, Tensor]
    prefix: str = ""

    def __str__(self) -> str:
        kind = "averaged" if self.key in AVERAGED else "trained"
        where = f" ({self.key!r})" if self.key else ""
        return f"{kind} weights{where}" + (f" without {self.prefix!r}" if self.prefix else "")


def _check_sums(path: Path) -> None:
    """Raise ValueError if a file in a zip archive, as torch.save writes, fails its checksum.

    One that is marked as a folder is damaged, too: torch would leave its memory as it found it.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            folders = [each.filename for each in archive.infolist() if each.external_attr & _FOLDER]
        if damaged:
            raise ValueError(f"the checksum of {damaged} in it is wrong")
        if folders:
            raise ValueError(f"{folders[0]} in it is marked as a folder")


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of plain tensors, numbers and text onto the CPU.

    Raises:
        ValueError: The file is damaged, holds other objects (which are not loaded), or no dict.
    """
    if not path.is_file():  # a pipe would be waited for
        raise ValueError(f"there is no checkpoint {path}")
    try:
        _check_sums(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:  # whose words say how to run the code
        raise ValueError(
            f"checkpoint {path} cannot be read: it is no file of torch.save, is damaged, or holds "
            "more than tensors, numbers and text, such as a whole model; give a state dict"
        ) from error
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"checkpoint {path} cannot be read: {reason}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no checkpoint: it holds a {type(content).__name__}, no dict")
    return content


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise ValueError(f"{path} needs the package safetensors") from None
    if not path.is_file():
        raise ValueError(f"there is no checkpoint {path}")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"checkpoint {path} cannot be read: {error}") from None


def plain_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by the network's own names: prefixes that wrappers put before *every* name go."""
    plain = {name: value for name, value in weights.items() if name != _COUNTER}
    for prefix in _PREFIXES:
        if plain and all(isinstance(n, str) and n.startswith(prefix) for n in plain):
            return plain_names({n.removeprefix(prefix): value for n, value in plain.items()})
    return plain


def _is_weights(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())
    )


def pick_weights(content: Any, use: Use = "auto") -> Weights:
    """The weights in a checkpoint's content.

    Args:
        content: what the file holds.
        use: "average" takes the moving average, "model" the trained weights, "auto" the average if
            there is one.

    Raises:
        ValueError: There are none, or one is NaN or infinite.
    """
    keys = {"average": AVERAGED, "model": TRAINED, "auto": AVERAGED + TRAINED}[use]
    held = content if isinstance(content, Mapping) else {}
    key = next((key for key in keys if _is_weights(held.get(key))), None)
    if key is None and (use == "average" or not _is_weights(held)):
        found = ", ".join(map(str, list(held)[:8])) or f"a {type(content).__name__}"
        raise ValueError(
            f"no weights for {use!r} in it: looked for {', '.join(keys)}, found {found}"
        )
    own = held if key is None else held[key]
    tensors = plain_names(own)
    check_finite(tensors)
    first = next((name for name in own if name != _COUNTER), "")
    return Weights(key or "", tensors, first.removesuffix(next(iter(tensors), "")))


def _is_plain(value: Any) -> bool:
    """Whether a tensor is dense, and all its numbers are in memory."""
    if not isinstance(value, Tensor) or value.layout is not torch.strided:
        return False
    odd = value.is_quantized or value.is_nested or value.is_meta
    return not odd and value.nbytes <= value.untyped_storage().nbytes()


def _is_finite(value: Tensor) -> bool:
    if not (value.is_floating_point() or value.is_complex()):
        return True
    return bool((value.float() if value.dtype.itemsize == 1 else value).isfinite().all())


def check_finite(weights: Mapping[str, Tensor]) -> None:
    """Raise ValueError if weights by name are no plain tensors, or NaN or infinite."""
    for words, holds in (("no plain tensors", _is_plain), ("NaN or infinite", _is_finite)):
        wrong = [str(name) for name, value in weights.items() if not holds(value)]
        if wrong:
            raise ValueError(f"{len(wrong)} weights are {words}: {', '.join(wrong[:3])}")


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
        return pick_weights(content, use)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def load_weights(model: nn.Module, weights: Weights) -> None:
    """Put weights into a model, whose own names may begin like a wrapper's.

    Raises:
        ValueError: They are not the model's, with the first names and shapes that differ, or are
            no numbers of its types.
    """
    own, given = model.state_dict(), plain_names(weights.tensors)
    places = dict(zip(plain_names(own), (n for n in own if n != _COUNTER), strict=True))
    strange = sorted(given.keys() - places)
    # a model's own counters stay where a file, as torchvision's, is too old to have them
    missing = sorted(n for n in places.keys() - given if not n.endswith("num_batches_tracked"))
    shapes = [
        f"{name} {tuple(value.shape)}, not {tuple(own[places[name]].shape)}"
        for name, value in given.items()
        if name in places and own[places[name]].shape != value.shape
    ]
    if missing or strange or shapes:
        raise ValueError(
            f"{len(missing)} weights are missing {missing[:3]}, {len(strange)} have no place "
            f"{strange[:3]}, {len(shapes)} have another shape {shapes[:3]}"
        )
    kinds = [
        f"{name} {str(value.dtype).removeprefix('torch.')}"
        for name, value in given.items()
        if own[places[name]].is_floating_point() and not value.is_floating_point()
    ]
    if kinds:  # torch would take a quantised weight's codes, or a complex one's real part
        raise ValueError(
            f"{len(kinds)} weights are no floating-point numbers: {', '.join(kinds[:3])}; give the "
            "network's weights as they were trained"
        )
    cast = {name: value.to(own[places[name]].dtype) for name, value in given.items()}
    if wide := [name for name, value in cast.items() if not _is_finite(value)]:
        raise ValueError(
            f"{len(wide)} weights are NaN or infinite in the network's type: {', '.join(wide[:3])}"
        )
    model.load_state_dict(own | {places[name]: value for name, value in cast.items()})
