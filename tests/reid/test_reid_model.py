from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from keepaugment import saliency_map
from keepbench.weights import Weights
from reid.model import ReidModel, load_backbone, read_weights

IMAGES = torch.linspace(-1, 1, 2 * 3 * 64 * 32).view(2, 3, 64, 32)


def grid(model: ReidModel) -> tuple[int, ...]:
    """Rows and columns of the last stage."""
    shapes: list[tuple[int, ...]] = []
    hook = model.backbone.layer4.register_forward_hook(
        lambda module, inputs, output: shapes.append(tuple(output.shape[2:]))
    )
    model.eval()(torch.zeros(1, 3, 256, 128))
    hook.remove()
    return shapes[0]


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_last_stride_1_doubles_the_last_grid(arch: str) -> None:
    with torch.no_grad():
        assert grid(ReidModel(arch, 5, last_stride=1)) == (16, 8)
        assert grid(ReidModel(arch, 5, last_stride=2)) == (8, 4)


@pytest.mark.parametrize(("arch", "width"), [("resnet18", 512), ("resnet50", 2048)])
def test_last_stride_and_neck_change_no_other_parameter(arch: str, width: int) -> None:
    def count(model: nn.Module) -> int:
        return sum(parameter.numel() for parameter in model.parameters())

    plain = count(torchvision.models.get_model(arch, num_classes=7))
    assert count(ReidModel(arch, 7, last_stride=2, neck=False)) == plain
    assert count(ReidModel(arch, 7)) == plain - 7 + 2 * width  # no bias, but the neck


def test_the_neck_stands_between_feature_and_classifier() -> None:
    model = ReidModel("resnet18", 5)
    assert isinstance(model.neck, nn.BatchNorm1d)
    output = model(IMAGES)
    torch.testing.assert_close(output.feature.mean(0), torch.zeros(512), atol=1e-4, rtol=0)
    torch.testing.assert_close(output.logits, output.feature @ model.classifier.weight.T)
    assert not torch.equal(output.raw, output.feature)
    output.logits.square().sum().backward()
    assert model.neck.bias.grad is None and model.neck.weight.grad is not None
    assert 0.0005 < model.classifier.weight.std() < 0.0015


def test_without_a_neck_both_features_are_one() -> None:
    output = ReidModel("resnet18", 5, neck=False)(IMAGES)
    assert torch.equal(output.raw, output.feature)


def test_evaluation_gives_logits_too() -> None:
    model = ReidModel("resnet18", 5).eval()
    assert model(IMAGES).logits.shape == model.logits(IMAGES).shape == (2, 5)


def test_the_stem_has_no_activation_unless_asked_for() -> None:
    stems = []
    for stem_relu in (False, True):
        backbone = ReidModel("resnet18", 5, stem_relu=stem_relu).backbone
        stems.append(backbone.relu(torch.tensor([-1.0])).item())
    assert stems == [-1.0, 0.0]
    inner = ReidModel("resnet18", 5).backbone.layer1[0].relu
    assert inner(torch.tensor([-1.0])).item() == 0.0  # blocks keep theirs


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_its_map_is_that_of_the_identity_logit(scale: float) -> None:
    model = ReidModel("resnet18", 5)
    model(IMAGES)  # running statistics other than the initial ones
    before = {name: value.clone() for name, value in model.state_dict().items()}
    labels = torch.tensor([1, 4])
    maps = saliency_map(model.logits, IMAGES, labels, scale=scale)
    assert maps.shape == (2, 64, 32) and maps.amax((1, 2)).min() > 0
    alone = saliency_map(model.logits, IMAGES[:1], labels[:1], scale=scale)
    torch.testing.assert_close(maps[:1], alone, atol=1e-7, rtol=1e-3)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training and model.neck.training and not model.neck.bias.requires_grad


def features_of(network: nn.Module) -> Tensor:
    network.fc = nn.Identity()
    return network.eval()(IMAGES)


@pytest.mark.parametrize("averaged", [False, True])
def test_pretrained_weights_give_the_same_features(averaged: bool, tmp_path: Path) -> None:
    source = timm.create_model("resnet18", num_classes=10)
    content = state = source.state_dict()
    if averaged:  # the checkpoint of a run, whose trained weights are others
        start = {name: torch.zeros_like(value) for name, value in state.items()}
        average = {"n_averaged": torch.tensor(3)} | {f"module.{n}": v for n, v in state.items()}
        content = {"epoch": 3, "model": start, "average": average}
    torch.save(content, tmp_path / "a.pt")
    model = ReidModel("resnet18", 5, last_stride=2, stem_relu=True, neck=False)
    load_backbone(model, read_weights(str(tmp_path / "a.pt"), "resnet18"))
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(IMAGES).raw, features_of(source))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    model = ReidModel("resnet18", 5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for arch in ("resnet34", "resnet50"):
        torch.save(torchvision.models.get_model(arch).state_dict(), tmp_path / "a.pt")
        with pytest.raises(ValueError, match="the weights are not the backbone's"):
            load_backbone(model, read_weights(str(tmp_path / "a.pt"), "resnet18"))
    with pytest.raises(ValueError, match="100 weights are missing"):
        load_backbone(model, Weights("", {}))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no checkpoint .*none.pt"):
        read_weights(str(tmp_path / "none.pt"), "resnet50")
    with pytest.raises(ValueError, match="timm's resnet_of_nobody cannot be had"):
        read_weights("timm:resnet_of_nobody", "resnet50", download=True)
    with pytest.raises(ValueError, match="no backbone 'resnet49'; did you mean"):
        ReidModel("resnet49", 5)


def test_nothing_is_downloaded_unless_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(*arguments: object, **options: object) -> None:
        raise AssertionError("a download was begun")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    monkeypatch.setattr(timm, "create_model", fetch)
    for source in ("torchvision", "timm:resnet50.a1_in1k"):
        with pytest.raises(ValueError, match="need --download"):
            read_weights(source, "resnet50")


def test_torchvisions_weights_are_read_from_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    state = torchvision.models.resnet18().state_dict()
    (tmp_path / "checkpoints").mkdir()
    torch.save(state, tmp_path / "checkpoints" / "resnet18-f37072fd.pth")
    read = read_weights("torchvision", "resnet18")
    assert all(torch.equal(value, state[name]) for name, value in read.tensors.items())
