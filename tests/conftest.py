"""Shared by all tests: small images with answers a reader can check."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

from runs import write_tree

hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Tensors here are tiny: more threads would only wait for each other.

    Autograd starts a thread for each device that it knows at its first backward pass, which is this
    one: fake tensors make it know a GPU, and what a process with such threads forks cannot train.
    """
    torch.set_num_threads(1)
    torch.ones(1, requires_grad=True).sum().backward()


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    torch.manual_seed(0)
    yield


@pytest.fixture(autouse=True)
def _compile_anew() -> Iterator[None]:
    """Forget compiled code: of a forward that eight tests compiled, torch compiles no more."""
    yield
    if dynamo := sys.modules.get("torch._dynamo"):
        dynamo.reset()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A class-folder tree of 32x32 images: red, green and blue ones, 8 to train and 4 to test."""
    write_tree(tmp_path / "tree", {"train": 8, "test": 4})
    return tmp_path / "tree"
