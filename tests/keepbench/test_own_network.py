from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
from torch import nn

from keepbench.own_network import (
    find_function,
    is_function,
    make_network,
    refuse_code,
    source_files,
)

SOURCE = """
from dataclasses import dataclass
from torch import nn

@dataclass
class Net(nn.Module):
    width: int = 3
    __hash__ = nn.Module.__hash__
    def __post_init__(self): super().__init__()

def make(): return Net()
def number(): return 3
def wide(width): return Net(width)
"""


def test_a_function_is_found_in_a_file_and_in_a_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_network.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for place in ("own_network", "own_network.py", f"{tmp_path}/own_network.py"):
        for function in ("make", "Net"):
            network = make_network(f"{place}:{function}")
            assert isinstance(network, nn.Module) and type(network).__name__ == "Net"


def test_a_file_may_import_what_lies_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "own_blocks.py").write_text(SOURCE)
    (tmp_path / "own_whole.py").write_text("from own_blocks import make")
    assert type(make_network(f"{tmp_path}/own_whole.py:make")).__name__ == "Net"


def test_a_file_replaces_no_module(tmp_path: Path) -> None:
    (tmp_path / "random.py").write_text(SOURCE)
    make_network(f"{tmp_path}/random.py:make")
    assert sys.modules["random"] is random


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere:make", "No module named 'nowhere'"),
        ("math:make", "no attribute 'make'"),
        ("no.py:make", "No such file"),
        ("collections:OrderedDict", "must return a torch.nn.Module, found OrderedDict"),
        ("own.py:number", "found int"),
        ("own.py:wide", "missing a required argument: 'width'"),
        ("broken.py:make", "cannot be called: .*broken.py, line 1"),
        ("raises.py:make", "cannot be called: .*raises.py, line 2: NameError: name 'numpy' is"),
    ],
)
def test_a_function_that_makes_no_network_is_refused(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.py").write_text(SOURCE)
    (tmp_path / "broken.py").write_text("def make(:")
    (tmp_path / "raises.py").write_text("\nnumpy.array(1)")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        make_network(name)


def test_a_file_is_run_once_unless_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text("class Net: pass\nimport sys\nsys.exit(3)")
    with pytest.raises(ValueError, match="own.py, line 3: SystemExit: 3"):
        find_function(f"{path}:Net")
    path.write_text("class Net: pass")
    first = find_function(f"{path}:Net")
    assert find_function(f"{path}:Net") is first
    path.write_text("class Net: width = 3")
    assert find_function(f"{path}:Net").width == 3  # type: ignore[attr-defined]


def test_code_is_its_file_and_what_that_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = {
        "net.py": "import torch, blocks.conv\ndef make():\n    from blocks import late\n",
        "blocks/__init__.py": "",
        "blocks/conv.py": "from . import act\nfrom .act import relu\nimport net",
        "blocks/act.py": "def (:",
        "blocks/late.py": "from ... import beyond",
        "blocks/other.py": "",
        "other.py": "",
    }
    for name, text in sources.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    parts = ["net.py", *(f"blocks/{name}.py" for name in ("__init__", "conv", "late", "act"))]
    paths = [tmp_path / part for part in parts]
    for name in ("net.py:make", f"{tmp_path}/net.py:make", "net:make"):
        assert source_files(name) == paths
    monkeypatch.chdir("/")
    assert source_files(f"{tmp_path}/net.py:make") == paths
    for name in ("resnet18", "hf-hub:owner/net", "torchvision.models:resnet18", "a/b:c", "~:c"):
        assert source_files(name) == []


def test_names_that_timm_fetches_are_no_functions() -> None:
    names = ("hf-hub:owner/model", "resnet50", "net.py:make", "net:make")
    assert [is_function(name) for name in names] == [False, False, True, True]


def test_a_function_gets_what_its_parameters_name(tmp_path: Path) -> None:
    place = tmp_path / "sized.py"
    place.write_text(
        "import torch\ndef make(num_classes):\n    return torch.nn.Linear(2, num_classes)"
    )
    network = make_network(f"{place}:make", num_classes=7, in_chans=3)
    assert isinstance(network, nn.Linear) and network.out_features == 7


def test_code_that_a_folder_names_is_not_run() -> None:
    refuse_code("resnet18")
    with pytest.raises(ValueError, match="evil.py:make is code, which is not run"):
        refuse_code("evil.py:make")
