from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detection.pickles import read_pickle, write_pickle

from .conftest import Trap


def written(path: Path, content: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def test_weights_come_back_as_they_were(tmp_path: Path) -> None:
    weights = {
        "stem.conv1.weight": torch.randn(4, 3, 7, 7),
        "res2.0.conv1.norm.bias": torch.ones(2),
    }
    write_pickle(tmp_path / "a.pkl", weights)
    read = read_pickle(tmp_path / "a.pkl")
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[name], weights[name]) for name in weights)
    assert pickle.loads((tmp_path / "a.pkl").read_bytes())["matching_heuristics"] is True


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_other_peoples_arrays_are_read(tmp_path: Path, protocol: int) -> None:
    model = OrderedDict(a=np.arange(3, dtype=np.float32))
    path = written(tmp_path / "b.pkl", {"model": model, "__author__": "Caffe2"}, protocol)
    assert read_pickle(path)["a"].tolist() == [0, 1, 2]


def test_a_file_that_runs_code_is_refused_and_runs_none(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    path = written(tmp_path / "c.pkl", {"model": {"a": Trap(sprung)}, "__author__": "x"})
    with pytest.raises(ValueError, match="posix.mkdir|nt.mkdir"):
        read_pickle(path)
    assert not sprung.exists()
    pickle.loads(path.read_bytes())
    assert sprung.exists()  # the trap works


def test_code_inside_an_array_of_objects_is_refused(tmp_path: Path) -> None:
    array = np.array([Trap(tmp_path / "sprung")], dtype=object)
    path = written(tmp_path / "d.pkl", {"model": {"a": array}, "__author__": "x"})
    with pytest.raises(ValueError, match="mkdir"):
        read_pickle(path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {"a": np.ones(2)}}, "Detectron2's form"),
        ([1, 2], "Detectron2's form"),
        ({"model": {"a": "text"}, "__author__": "x"}, "'a' in .* is no array"),
        ({"model": {"a": np.array([None])}, "__author__": "x"}, "is no array"),
        ({"model": {"a": torch.ones(1)}, "__author__": "x"}, "torch._utils"),
        ({"model": {"a": np.array([1, np.nan])}, "__author__": "x"}, "NaN or infinite: a"),
    ],
)
def test_other_content_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_pickle(written(tmp_path / "e.pkl", content))


def test_a_damaged_or_missing_file_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "f.pkl", {"model": {"a": np.ones(100)}, "__author__": "x"})
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="no file of plain arrays"):
        read_pickle(path)
    with pytest.raises(ValueError, match="no file"):
        read_pickle(tmp_path / "none.pkl")
