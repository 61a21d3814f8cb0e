from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from detection.sources import open_source
from keepbench.images import IMAGENET_MEAN, IMAGENET_STD


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return torchvision.models.resnet18().state_dict()


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def test_a_source_knows_its_file_depth_and_images(
    tmp_path: Path, weights: dict[str, torch.Tensor]
) -> None:
    wrapped = {f"module.{name}": value for name, value in weights.items()}  # as CutMix's code saves
    source = open_source(saved(tmp_path / "a.pth", {"state_dict": wrapped, "epoch": 300}))
    assert source.depth == 18
    assert source.weights.keys() == weights.keys()
    assert torch.equal(source.weights["conv1.weight"], weights["conv1.weight"])
    assert (source.mean, source.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert source.record["sha256"] == hashlib.sha256((tmp_path / "a.pth").read_bytes()).hexdigest()


def run_folder(folder: Path, weights: dict[str, torch.Tensor], **settings: Any) -> Path:
    folder.mkdir()
    torch.save({"epoch": 1, "model": weights, "early_head": {}, "average": {}}, folder / "last.pt")
    about = {"experiment": "x", "budget": "smoke", "commit": "abc", "settings": settings}
    (folder / "run.json").write_text(json.dumps(about))
    return folder


def test_a_run_knows_its_images_and_itself(
    tmp_path: Path, weights: dict[str, torch.Tensor]
) -> None:
    run = run_folder(tmp_path / "a", weights, dataset="cifar10", arch="resnet18.tv_in1k")
    source = open_source(run)
    assert source.mean == pytest.approx((0.4914, 0.4822, 0.4465))
    about = {"experiment": "x", "budget": "smoke", "commit": "abc", "weights": "model"}
    assert about.items() <= source.record.items()
    assert open_source(run / "last.pt", mean=[0.5] * 3, std=[0.2] * 3).std == [0.2] * 3


@pytest.mark.parametrize(
    ("settings", "given", "message"),
    [
        ({"dataset": "folder", "arch": "resnet18"}, {}, "give --mean and --std"),
        ({"dataset": "images", "arch": "resnet50"}, {}, "those of resnet18, not of resnet50"),
        ({"dataset": "images"}, {"arch": "resnetblur18"}, "those of resnet18, not of resnetblur18"),
        ({"dataset": "images"}, {"mean": [0.5] * 3}, "both --mean and --std"),
        ({"dataset": "images"}, {"mean": [0.5] * 2, "std": [0.5] * 3}, "three numbers"),
        ({"dataset": "images"}, {"mean": [0.5] * 3, "std": [0.0] * 3}, "std is above 0"),
        ({"dataset": "images"}, {"mean": [123.7] * 3, "std": [58.4] * 3}, "divide those of bytes"),
        ({"dataset": "images"}, {"mean": [math.nan] * 3, "std": [0.5] * 3}, "found .nan"),
        ({"dataset": "images"}, {"mean": [0.5] * 3, "std": [math.inf] * 3}, "and .inf"),
        ({"dataset": "images"}, {"use": "average"}, "no weights for 'average'"),
    ],
)
def test_contradictions_are_refused(
    tmp_path: Path,
    weights: dict[str, torch.Tensor],
    settings: dict[str, str],
    given: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        open_source(run_folder(tmp_path / "a", weights, **settings), **given)


@pytest.mark.parametrize("text", ["{", "[1]", '"x"', "\\", '{"settings": {"dataset": []}}'])
def test_a_damaged_run_json_is_named(
    text: str, tmp_path: Path, weights: dict[str, torch.Tensor]
) -> None:
    run = run_folder(tmp_path / "a", weights)
    (run / "run.json").write_text(text)
    with pytest.raises(ValueError, match="run.json is damaged"):
        open_source(run)


def test_a_file_that_is_no_network_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a.pth: .* no ResNet-18"):
        open_source(saved(tmp_path / "a.pth", {"w": torch.ones(1)}))
