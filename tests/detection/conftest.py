from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from detection import verify
from detection.toy import write_toy


def tame(model: nn.Module) -> nn.Module:
    """Statistics that differ from layer to layer, as a trained network's do."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
            nn.init.uniform_(module.weight, 0.5, 1.0, generator=generator)
            nn.init.normal_(module.bias, 0, 0.2, generator=generator)
    return model


def save_resnet(folder: Path, depth: int) -> Path:
    path = folder / f"resnet{depth}.pth"
    torch.save(tame(torchvision.models.get_model(f"resnet{depth}")).state_dict(), path)
    return path


class Trap:
    """Unpickling it makes a folder, which tells that code ran."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.folder,)


@pytest.fixture(scope="session")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return save_resnet(tmp_path_factory.mktemp("weights"), 18)


@pytest.fixture
def small_photograph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features are compared on a twelfth of the pixels."""
    monkeypatch.setattr(verify, "HEIGHT", 96)
    monkeypatch.setattr(verify, "WIDTH", 128)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    write_toy(tmp_path / "toy", train=6, test=4)
    return tmp_path / "toy"
