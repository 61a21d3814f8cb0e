"""Write a classifier's backbone for others: Detectron2, torchvision, timm, ONNX.

Every file gets a JSON beside it that says what it was made of and what was checked. No date is in
it: the same checkpoint and versions give the same JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from detection import detectron, verify
from detection.names import HEADS, convert, is_left_out
from detection.pickles import read_pickle, write_pickle
from detection.sources import Source, sha256
from keepbench.machine import versions
from keepbench.weights import load_checkpoint

ENDINGS = {"detectron2": ".pkl", "torchvision": ".pth", "timm": ".safetensors", "onnx": ".onnx"}
DIFFERENT = "the features differ"
NOT_COMPARED = "Detectron2 is not installed: names and shapes were checked, features were not"

Comparison = dict[str, verify.Differences]


def settings_text(source: Source) -> str:
    """The YAML of what a Detectron2 config needs for a source's weights.

    Detectron2's own defaults are those of another network: BGR, no division by the standard
    deviation, and the stride in the first 1x1 convolution of a bottleneck.
    """
    resnets: dict[str, Any] = {"DEPTH": source.depth, "NORM": "FrozenBN", "STRIDE_IN_1X1": False}
    resnets["RES2_OUT_CHANNELS"] = 64 if source.depth < 50 else 256
    model = {
        "PIXEL_MEAN": [round(255 * value, 6) for value in source.mean],
        "PIXEL_STD": [round(255 * value, 6) for value in source.std],
        "RESNETS": resnets,
    }
    return yaml.safe_dump({"VERSION": 2, "MODEL": model, "INPUT": {"FORMAT": "RGB"}})


def to_detectron2(source: Source, path: Path, compare: bool) -> Comparison:
    """Write the `.pkl` of Detectron2's weights, and its settings as a YAML beside it."""
    weights = convert(source.weights, source.depth)
    write_pickle(path, weights)
    settings = path.with_suffix(".yaml")
    settings.write_text(settings_text(source))
    written = read_pickle(path)
    if not compare:
        return {}
    return verify.compare_detectors(source, settings, path, written)


def _compare_read_back(source: Source, weights: Mapping[str, Tensor]) -> Comparison:
    """Compare the source's features with those of torchvision's and timm's with written weights."""
    written = Source(dict(weights), source.depth, source.mean, source.std)
    images = verify.normalised(verify.photograph(), source)
    before = verify.source_models(source)["torchvision"].double()
    features = verify.stage_features(before, images)
    return {
        library: verify.differences(verify.stage_features(model.double(), images), features)
        for library, model in verify.source_models(written).items()
    }


def to_torchvision(source: Source, path: Path, compare: bool) -> Comparison:
    """Write a state dict that torchvision's ResNet loads, with the classifier if there is one."""
    torch.save(_clean(source), path)
    return _compare_read_back(source, load_checkpoint(path)) if compare else {}


def to_timm(source: Source, path: Path, compare: bool) -> Comparison:
    """Write the safetensors of timm's ResNet, with the classifier if there is one."""
    try:
        from safetensors.torch import load_file, save_file
    except ImportError:
        raise ValueError("--to timm needs the package safetensors") from None
    save_file(_clean(source), path)
    return _compare_read_back(source, load_file(path)) if compare else {}


def _clean(source: Source) -> dict[str, Tensor]:
    """The backbone's weights by torchvision's names, and the classifier if it is a plain `fc`."""
    convert(source.weights, source.depth)  # refuses what does not fit
    return {
        name: value.detach().clone().contiguous()
        for name, value in source.weights.items()
        if not is_left_out(name) or name.startswith("fc.")
    }


class Pyramid(nn.Module):
    """RGB images (B, 3, H, W) in [0, 255] to the features of stem and res2 to res5."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Normalise, then run the network to its last stage."""
        inputs = (images / 255 - self.mean) / self.std
        return tuple(verify.stage_features(self.model, inputs).values())


def to_onnx(source: Source, path: Path, compare: bool) -> Comparison:
    """Write the backbone as ONNX, normalisation included, for images of any number and size."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - torch.onnx needs it
    except ImportError as error:
        raise ValueError(f"--to onnx needs the package {error.name}") from None
    convert(source.weights, source.depth)
    mean, std = (torch.tensor(list(v))[:, None, None] for v in (source.mean, source.std))
    model = verify.load_backbone(verify.source_models(source)["torchvision"], source.weights)
    pyramid = Pyramid(model, mean, std).eval()
    images = verify.photograph()[None].float()
    sizes = {0: torch.export.Dim("batch"), 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    with detectron.its_warnings():
        program = torch.onnx.export(
            pyramid, (images,), input_names=["images"], output_names=list(verify.STAGES),
            dynamo=True, dynamic_shapes=(sizes,), verbose=False,
        )  # fmt: skip
    assert program is not None
    program.save(path, external_data=False)
    if not compare:
        return {}
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    # A second, smaller picture: the sizes must not be fixed to those of the export.
    views = {"onnxruntime": images, "onnxruntime/half": images[:, :, ::2, ::2].repeat(2, 1, 1, 1)}
    found = {}
    for name, view in views.items():
        outputs = map(torch.from_numpy, session.run(None, {"images": view.numpy()}))
        with torch.no_grad():
            features = dict(zip(verify.STAGES, pyramid(view), strict=True))
        found[name] = verify.differences(dict(zip(verify.STAGES, outputs, strict=True)), features)
    return found


WRITERS: dict[str, Callable[[Source, Path, bool], Comparison]] = {
    "detectron2": to_detectron2,
    "torchvision": to_torchvision,
    "timm": to_timm,
    "onnx": to_onnx,
}


def export(source: Source, to: str, path: Path, *, compare: bool) -> dict[str, Any]:
    """Write a backbone and, beside it, the JSON of what it is; return that.

    Args:
        source: the classifier.
        to: a key of `WRITERS`.
        path: the file to write, with that form's ending.
        compare: run both networks on a photograph, too. For Detectron2 that needs Detectron2;
            without it the record says that only names and shapes were checked.

    Raises:
        ValueError: Another ending, or weights that do not fit.
    """
    if path.suffix != ENDINGS[to]:
        raise ValueError(f"--to {to} writes {ENDINGS[to]} files, found --out {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    possible = to != "detectron2" or detectron.is_installed()
    found = WRITERS[to](source, path, compare and possible)
    record: dict[str, Any] = {
        "to": to,
        "sha256": sha256(path),
        "source": source.record,
        "depth": source.depth,
        "left_out": [name for name in source.weights if _is_classifier(name, to)],
        "mean": list(source.mean),
        "std": list(source.std),
        "differences": found,
        "tolerance": verify.TOLERANCE,
        "versions": versions() | _version_of(to),
    }
    if to == "detectron2":
        record["settings_sha256"] = sha256(path.with_suffix(".yaml"))
    record["checked"] = verdict(record)
    path.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
    return record


def _is_classifier(name: str, to: str) -> bool:
    """Whether a weight of a classifier is not in the file; torchvision and timm have `fc`."""
    kept = to in ("torchvision", "timm") and name.startswith("fc.")
    return name.startswith(HEADS) and not kept


def _version_of(to: str) -> dict[str, str]:
    """The version of what reads the file, if it is there."""
    package = {"onnx": "onnxruntime", "timm": "safetensors"}.get(to, to)
    try:
        return {package: metadata.version(package)}
    except metadata.PackageNotFoundError:
        return {}


def verdict(record: Mapping[str, Any]) -> str:
    """The proof in a record: "features", "names and shapes", or that the features differ."""
    stages = [stage for each in record["differences"].values() for stage in each.values()]
    if not stages:
        return "names and shapes"
    # not > tolerance: NaN is no proof
    return "features" if all(stage <= record["tolerance"] for stage in stages) else DIFFERENT
