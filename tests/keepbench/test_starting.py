from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from keepbench.starting import (
    begin_from,
    check_source,
    classes_of,
    classifiers_of,
    find_weights,
    first_layers,
    pretrained_config,
)
from keepbench.weights import Weights, read_weights


class Net(nn.Module):
    """A classifier that is not the last of its layers by name."""

    def __init__(self, classes: int, channels: int = 3) -> None:
        super().__init__()
        self.fc = nn.Linear(4, classes)
        self.conv = nn.Conv2d(channels, 4, 1)
        self.norm = nn.BatchNorm2d(4)


class Wrapped(nn.Module):
    """All names begin as if a wrapper had put "model." before them."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.model = Net(classes)


def constant(model: nn.Module, value: float) -> dict[str, Tensor]:
    return {name: torch.full_like(each, value) for name, each in model.state_dict().items()}


FILES: dict[str, Any] = {
    "a state dict": lambda state: state,
    "DistributedDataParallel's": lambda state: {f"module.{n}": v for n, v in state.items()},
    "a checkpoint of a run": lambda state: {
        "epoch": 3, "model": {n: v + 1 for n, v in state.items()}, "average": state,
    },
    "a backbone": lambda state: {n: v for n, v in state.items() if not n.startswith("fc.")},
}  # fmt: skip


@pytest.mark.parametrize("form", FILES)
@pytest.mark.parametrize("kind", [Net, Wrapped])
def test_all_weights_are_the_files_but_the_classifiers(
    form: str, kind: Any, tmp_path: Path
) -> None:
    torch.save(FILES[form](constant(Net(5), 2.0)), tmp_path / "w.pt")
    model = kind(7)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    begin_from(model, find_weights(str(tmp_path / "w.pt"), "any", download=False), 7)
    for name, value in model.state_dict().items():
        assert value.equal(before[name]) if "fc." in name else (value == 2).all(), name


def test_weights_of_as_many_classes_bring_no_classifier_either(tmp_path: Path) -> None:
    save_file(constant(Net(7), 2.0), tmp_path / "w.safetensors")
    model = Net(7)
    begin_from(model, read_weights(tmp_path / "w.safetensors"), 7)
    assert (model.conv.weight == 2).all() and not (model.fc.weight == 2).any()


@pytest.mark.parametrize("other", [Net(5, channels=1), nn.Linear(4, 5)])
def test_another_networks_weights_are_refused_and_nothing_is_changed(other: nn.Module) -> None:
    model = Net(7)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="not this network's.*as many channels"):
        begin_from(model, Weights("", constant(other, 2.0)), 7)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("arch", "names"),
    [
        ("resnet18", ["fc"]),
        ("vit_tiny_patch16_224", ["head"]),
        ("convnext_atto", ["head.fc"]),
        ("deit_tiny_distilled_patch16_224", ["head", "head_dist"]),
    ],
)
def test_the_classifiers_of_timms_networks_and_their_classes_are_known(
    arch: str, names: list[str]
) -> None:
    with torch.device("meta"):
        model, trained = (timm.create_model(arch, num_classes=number) for number in (2, 11))
    assert classifiers_of(model, 2) == names
    assert classes_of(Weights("", trained.state_dict()), model, 2) == 11


def test_a_network_without_an_output_for_each_class_has_no_known_classifier() -> None:
    assert classifiers_of(Wrapped(7), 7) == ["model.fc"]
    assert classes_of(Weights("", Net(5).state_dict()), Wrapped(7), 7) == 5
    assert classes_of(Weights("", {"conv.weight": torch.ones(4, 3, 1, 1)}), Net(7), 7) == 0
    with pytest.raises(ValueError, match="of 9 outputs"):
        classifiers_of(Net(7), 9)


@pytest.mark.parametrize(
    ("last", "parameters", "layers"),
    [
        ("conv1", ["conv1.weight"], {"conv1"}),
        ("act1", ["conv1.weight", "bn1.weight", "bn1.bias"], {"conv1", "bn1"}),
        ("layer1.0.conv1", ["layer1.0.conv1.weight"], {"bn1", "layer1.0.conv1"}),
        ("layer1", ["layer1.1.bn2.bias"], {"bn1", "layer1", "layer1.1.bn2"}),
    ],
)
def test_the_first_layers_end_with_the_one_that_is_named(
    last: str, parameters: list[str], layers: set[str]
) -> None:
    model = timm.create_model("resnet18")
    names = {id(value): name for name, value in model.named_parameters()}
    known = {id(value): name for name, value in model.named_modules()}
    found, inside = first_layers(model, last)
    assert [names[id(value)] for value in found][-len(parameters) :] == parameters
    inner = {known[id(each)] for each in inside}
    assert layers <= inner and not {"", "layer2", "fc"} & inner
    assert ("layer1" in inner) == (last == "layer1")


@pytest.mark.parametrize(
    ("arch", "last", "name"),
    [
        ("convnext_atto", "stages.0", "stages.0.blocks.0.gamma"),  # a block's own
        ("vit_tiny_patch16_224", "blocks.0", "pos_embed"),  # the network's own
    ],
)
def test_parameters_that_are_in_no_layer_are_among_the_first(
    arch: str, last: str, name: str
) -> None:
    with torch.device("meta"):
        model = timm.create_model(arch)
    assert any(value is model.get_parameter(name) for value in first_layers(model, last)[0])


@pytest.mark.parametrize(
    ("source", "arch", "message"),
    [
        ("nowhere.pt", "resnet18", "no file nowhere.pt"),
        ("timmy.pt", "resnet18", "no file timmy.pt"),
        ("timm", "resnet18", "resnet18.* needs --download"),
        ("timm:resnet18.a1_in1", "any", "did you mean resnet18.a1_in1k"),
        ("timm", "my.py:net", "timm has no weights of my.py:net"),
    ],
)
def test_weights_that_cannot_be_had_are_refused_early(source: str, arch: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_source(source, arch, download=False)


def test_weights_that_cannot_be_read_are_refused_early(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(b"rubbish")
    with pytest.raises(ValueError, match="w.pt cannot be read"):
        check_source(str(tmp_path / "w.pt"), "any", download=False)


def test_a_networks_own_colours_and_size_are_timms() -> None:
    known = pretrained_config("vit_base_patch16_384.augreg_in21k_ft_in1k")
    assert known["input_size"] == (3, 384, 384) and known["mean"] == (0.5, 0.5, 0.5)
    assert pretrained_config("my.py:net") == pretrained_config("resnet18.no_such_tag") == {}
