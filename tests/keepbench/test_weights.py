from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from keepbench.weights import Weights, load_checkpoint, load_weights, pick_weights, read_weights

Names = dict[str, Tensor]


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def state(value: float) -> Names:
    return {"a": torch.tensor(value)}


def test_the_average_is_taken_if_there_is_one_and_said() -> None:
    both = {"model": state(1.0), "average": AveragedModel(Linear()).state_dict()}
    averaged = pick_weights(both)
    assert str(averaged) == "averaged weights ('average') without 'module.'"
    assert averaged.tensors.keys() == {"weight", "bias"}
    trained = pick_weights(both, "model")
    assert str(trained) == "trained weights ('model')" and trained.tensors["a"] == 1
    assert str(pick_weights(state(1.0))) == "trained weights"
    assert pick_weights({"model": state(1.0), "average": {}}).key == "model"
    assert pick_weights({"state_dict_ema": state(4.0), "arch": "x"}).tensors["a"] == 4
    with pytest.raises(ValueError, match="no weights for 'average' in it.*found model"):
        pick_weights({"model": state(1.0)}, "average")


class Linear(nn.Linear):
    def __init__(self) -> None:
        super().__init__(2, 1)


class Inside(nn.Module):
    """All of its names begin like a wrapper's."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Linear()


class Twice(Linear):
    """It has `weight` and `model.weight`."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Linear()


WRAPPERS: dict[str, Callable[[str], str]] = {
    "as it is": lambda name: name,
    "DataParallel": lambda name: f"module.{name}",
    "DataParallel of a compiled model": lambda name: f"module._orig_mod.{name}",
    "Lightning": lambda name: f"model.{name}",
}


@pytest.mark.parametrize("make", [Linear, Inside, Twice])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_weights_reach_their_model_from_any_wrapper(
    make: Callable[[], nn.Module], wrapper: str, tmp_path: Path
) -> None:
    source, model = make(), make()
    names = {WRAPPERS[wrapper](name): value for name, value in source.state_dict().items()}
    load_weights(model, read_weights(saved(tmp_path / "a.pt", {"state_dict": names})))
    expected = source.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    load_weights(AveragedModel(model), read_weights(tmp_path / "a.pt"))


def test_weights_of_another_model_are_refused_and_change_nothing() -> None:
    model = Linear()
    before = model.weight.clone()
    other = {"weight": torch.ones(3, 2), "scale": torch.ones(1)}
    with pytest.raises(ValueError, match=r"missing \['bias'\].* no place \['scale'\].* \(3, 2\)"):
        load_weights(model, Weights("", other))
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_weights_that_are_not_finite_are_refused_by_name(
    value: float, dtype: torch.dtype, tmp_path: Path
) -> None:
    names = {"large": torch.ones(1).double() * 1e300, "bad": torch.tensor([1, value]).to(dtype)}
    with pytest.raises(ValueError, match="a.pt: 1 weights are NaN or infinite: bad$"):
        read_weights(saved(tmp_path / "a.pt", names))


@pytest.mark.parametrize("content", [[1, 2], torch.ones(2), "text", 3, None, nn.Linear(1, 1)])
def test_what_is_no_checkpoint_is_refused(content: Any, tmp_path: Path) -> None:
    for read in (load_checkpoint, read_weights):
        with pytest.raises(ValueError, match=r"a\.pt (is no checkpoint|cannot be read)") as error:
            read(saved(tmp_path / "a.pt", content))
        assert "weights_only" not in str(error.value)  # torch's words say how to run its code


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, {"model": [1]}, {"model": {"a": "text"}}])
def test_a_checkpoint_without_weights_is_refused(content: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.pt: no weights for 'auto' in it"):
        read_weights(saved(tmp_path / "a.pt", content))


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_damaged_and_missing_files_are_refused(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    with pytest.raises(ValueError, match="there is no checkpoint .*a"):
        read_weights(path)
    path.write_bytes(b"rubbish")
    with pytest.raises(ValueError, match="cannot be read"):
        read_weights(path)
    os.mkfifo(tmp_path / f"b{ending}")
    with pytest.raises(ValueError, match="there is no checkpoint .*b"):
        read_weights(tmp_path / f"b{ending}")


def test_safetensors_are_read_as_other_files_are(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    source = Linear()
    save_file(
        {f"module.{n}": v for n, v in source.state_dict().items()}, tmp_path / "a.safetensors"
    )
    read = read_weights(tmp_path / "a.safetensors")
    assert all(torch.equal(read.tensors[n], value) for n, value in source.state_dict().items())
