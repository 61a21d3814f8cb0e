from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torch.optim.swa_utils import AveragedModel

from detection.sources import open_source, pick_weights, plain_names
from keepbench.images import IMAGENET_MEAN, IMAGENET_STD


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return torchvision.models.resnet18().state_dict()


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


WRAPPED = {
    "plain": lambda w: w,
    "CutMix's": lambda w: {"state_dict": {f"module.{n}": v for n, v in w.items()}, "epoch": 300},
    "compiled": lambda w: {"model": {f"module._orig_mod.{n}": v for n, v in w.items()}},
}


@pytest.mark.parametrize("form", WRAPPED)
def test_weights_come_out_of_their_wrapping(
    tmp_path: Path, weights: dict[str, torch.Tensor], form: str
) -> None:
    source = open_source(saved(tmp_path / "a.pth", WRAPPED[form](weights)))
    assert source.depth == 18
    assert source.weights.keys() == weights.keys()
    assert torch.equal(source.weights["conv1.weight"], weights["conv1.weight"])
    assert (source.mean, source.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert source.record["sha256"] == hashlib.sha256((tmp_path / "a.pth").read_bytes()).hexdigest()


def test_safetensors_are_read(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is optional")
    safetensors.save_file(weights, tmp_path / "a.safetensors")
    source = open_source(tmp_path / "a.safetensors")
    assert torch.equal(source.weights["fc.bias"], weights["fc.bias"])
    (tmp_path / "b.safetensors").write_bytes(b"no header")
    with pytest.raises(ValueError, match="cannot be read"):
        open_source(tmp_path / "b.safetensors")


def content(value: float, **more: Any) -> dict[str, Any]:
    return {"model": {"a": torch.tensor(value)}, **more}


def test_the_average_is_taken_if_there_is_one() -> None:
    both = content(1.0, average={"n_averaged": torch.tensor(3), "module.a": torch.tensor(2.0)})
    assert pick_weights(both)[0] == "average"
    assert pick_weights(both)[1]["a"] == 2.0
    assert pick_weights(both, "model")[1]["a"] == 1.0
    assert pick_weights(content(1.0, average={}))[0] == "model"
    assert pick_weights({"state_dict_ema": {"a": torch.tensor(4.0)}, "arch": "x"})[1]["a"] == 4.0
    with pytest.raises(ValueError, match="found model, average"):
        pick_weights(content(1.0, average={}), "average")


def test_an_averaged_models_weights_have_their_plain_names() -> None:
    averaged = AveragedModel(nn.Linear(2, 1), use_buffers=True)
    assert plain_names(averaged.state_dict()).keys() == {"n_averaged", "weight", "bias"}


def test_two_weights_of_one_plain_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two weights are called a"):
        plain_names({"a": torch.ones(1), "module.a": torch.ones(1)})


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
        ({"dataset": "images"}, {"mean": [0.5] * 3, "std": [0.0] * 3}, "three numbers"),
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


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no checkpoint"):
        open_source(tmp_path / "none.pth")
    with pytest.raises(ValueError, match="no weights for 'auto' in it"):
        open_source(saved(tmp_path / "a.pth", {"epoch": 3}))
    with pytest.raises(ValueError, match="b.pth"):
        open_source(saved(tmp_path / "b.pth", nn.Linear(1, 1)))
    (tmp_path / "c.pth").write_bytes(b"rubbish")
    with pytest.raises(ValueError, match="c.pth"):
        open_source(tmp_path / "c.pth")
