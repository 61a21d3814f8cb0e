from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from detection import detectron
from detection.checkpoints import last_checkpoint, make_checkpointer

from .conftest import Trap

FINAL = "model_final.pth"


@pytest.mark.parametrize(
    "name",
    ["trap.pkl", "model_trap.pkl", "../model_a.pth", "a/model_a.pth", "model_..pth",
     "model_a.pth\n.", "/model_a.pth", "https://h/model_a.pth", "a.pth", "", "link", "\x1b[2J\xff"],
)  # fmt: skip
def test_only_checkpoints_of_the_folder_are_gone_on_from(name: str, tmp_path: Path) -> None:
    (tmp_path / "model_link.pth").symlink_to("../model_a.pth")
    name = str(tmp_path / FINAL) if name == "" else name.replace("link", "model_link.pth")
    (tmp_path / "last_checkpoint").write_text(name, encoding="latin1")
    with pytest.raises(ValueError, match="which is no model_.* of this folder"):
        last_checkpoint(tmp_path)


def test_the_last_checkpoint_is_the_one_that_detectron2_names(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    (tmp_path / "last_checkpoint").write_text("model_0000003.pth\n")
    with pytest.raises(ValueError, match="model_0000003.pth, which is not there"):
        last_checkpoint(tmp_path)
    (tmp_path / "model_0000003.pth").touch()
    assert last_checkpoint(tmp_path) == tmp_path / "model_0000003.pth"


@pytest.mark.skipif(not detectron.is_installed(), reason="Detectron2 is optional (make detectron2)")
def test_checkpoints_are_checked_before_they_are_loaded(tmp_path: Path) -> None:
    def checkpointer() -> Any:
        return make_checkpointer(nn.Linear(2, 1), str(tmp_path), optimizer=nn.Linear(1, 1))

    saved, sprung = checkpointer(), tmp_path / "sprung"
    saved.save("model_final", iteration=3)
    again = checkpointer()
    assert again.resume_or_load("", resume=True) == {"iteration": 3}
    assert torch.equal(again.model.weight, saved.model.weight)
    whole = torch.load(tmp_path / FINAL, weights_only=True)
    bad = {
        "trap": (Trap(sprung), "cannot be read"),
        "list": ([1], "holds a list, no dict"),
        "part": ({"model": whole["model"]}, "holds no optimizer"),
        "less": (whole | {"model": {"weight": torch.ones(1, 2)}}, "1 weights are missing"),
        "nan": (whole | {"model": {"a": torch.tensor(torch.nan)}}, "NaN or infinite: a"),
        "odd": (whole | {"optimizer": 3}, "cannot be loaded"),
        "gone": (None, "is not there"),
    }
    for name, (content, message) in bad.items():
        (tmp_path / "last_checkpoint").write_text(f"model_{name}.pth")
        if content:
            torch.save(content, tmp_path / f"model_{name}.pth")
        with pytest.raises(ValueError, match=message):
            checkpointer().resume_or_load("", resume=True)
    (tmp_path / "model_trap.pth").write_bytes(pickle.dumps(Trap(sprung)))  # not torch's archive
    (tmp_path / "last_checkpoint").write_text("model_trap.pth")
    with pytest.raises(ValueError, match="cannot be read"):
        checkpointer().resume_or_load("", resume=True)
    assert not sprung.exists()
