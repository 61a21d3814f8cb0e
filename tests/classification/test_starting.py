"""Runs that begin with weights: fine-tuning."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from classification.config import Config
from classification.data import open_data
from classification.methods import Cutout, KeepCut
from classification.models import check_arch, colours_of, create_model
from classification.recipe import check_names
from classification.train import Trainer, train
from keepbench.images import IMAGENET_MEAN
from keepbench.loop import train_epoch
from keepbench.maps import Gradient
from keepbench.own_network import make_network
from keepbench.run import RunRecord
from runs import CPU, assert_resumes, rows_of, same, saved

SMALL = Config(
    dataset="digits", arch="resnet8", subset=60, test_subset=30, epochs=2, batch_size=20, ema=0.5
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Weights of resnet8 for five classes, with statistics that no data have."""
    torch.manual_seed(7)
    model = create_model("resnet8", 5, in_chans=1)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.fill_(0.1)
    torch.save(
        {"average": {f"module.{n}": v for n, v in model.state_dict().items()}}, tmp_path / "w.pt"
    )
    return tmp_path / "w.pt"


def begun(config: Config) -> Trainer:
    trainer = Trainer(config, open_data(config, CPU.device), CPU)
    trainer.prepare()
    return trainer


def test_a_run_begins_with_the_files_weights_and_a_new_classifier(file: Path) -> None:
    given = torch.load(file)["average"]
    trainer = begun(replace(SMALL, weights=str(file)))
    fresh = Trainer(SMALL, trainer.data, CPU).model.state_dict()
    average = trainer.tested.module.state_dict()
    for name, value in trainer.model.state_dict().items():
        assert value.equal(fresh[name] if name.startswith("fc.") else given[f"module.{name}"])
        assert value.equal(average[name])


def test_the_classifier_alone_has_its_own_rate_in_every_step(file: Path) -> None:
    config = replace(
        SMALL, weights=str(file), classifier_lr=10.0, early_head="layer1", cut=Cutout(),
        keep=KeepCut(map=Gradient()),
    )  # fmt: skip
    trainer = begun(config)
    train_epoch(trainer)
    rates: dict[int, float] = {
        id(p): group["lr"] for group in trainer.optimizer.param_groups for p in group["params"]
    }
    high = max(rates.values())
    assert sorted({*rates.values()}) == pytest.approx([high / 10, high])
    names = {name for name, p in trainer.model.named_parameters() if rates[id(p)] == high}
    assert names == {"fc.weight", "fc.bias"}
    assert trainer.head and all(rates[id(p)] < high for p in trainer.head.parameters())


@pytest.mark.parametrize("frozen", ["layer1", "layer2.0.conv1"])
def test_frozen_layers_keep_weights_and_statistics(frozen: str, file: Path) -> None:
    trainer = begun(replace(SMALL, weights=str(file), frozen=frozen, weight_decay=0.1))
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    for _ in range(2):  # a test between
        train_epoch(trainer)
    after = trainer.model.state_dict()
    names = [name for name in after if not name.startswith("fc.")]
    last = max(place for place, name in enumerate(names) if name.startswith(f"{frozen}."))
    for place, name in enumerate(names):
        counted = name.endswith("num_batches_tracked")
        assert counted or after[name].equal(before[name]) == (place <= last), name


@pytest.mark.parametrize(
    ("frozen", "message"),
    [
        ("layer9", "no layer 'layer9' .* did you mean .*layer1"),
        ("fc", "frozen=fc holds 2 weights of the new classifier"),
    ],
)
def test_what_cannot_be_frozen_is_refused_before_data_are_read(
    frozen: str, message: str, file: Path
) -> None:
    config = replace(SMALL, weights=str(file), frozen=frozen)
    with pytest.raises(ValueError, match=message):
        check_names(config)
    with pytest.raises(ValueError, match="would keep random weights"):
        replace(config, weights="")


def test_a_frozen_run_goes_on_to_the_bit(file: Path, tmp_path: Path) -> None:
    config = replace(SMALL, weights=str(file), frozen="layer1", classifier_lr=10.0)
    data = open_data(config, CPU.device)

    def make() -> Trainer:
        trainer = Trainer(config, data, CPU)
        trainer.prepare()
        return trainer

    assert_resumes(make, 2, tmp_path)


def test_a_run_goes_on_without_its_file_but_not_with_another(file: Path, tmp_path: Path) -> None:
    config, folder = replace(SMALL, weights=str(file)), tmp_path / "run"
    train("a", config, folder, CPU)
    assert set(RunRecord.read(folder).files) == {"weights"}
    whole, rows = saved(folder), rows_of(folder)
    content = file.read_bytes()
    (folder / "last.pt").unlink()  # the one before is of the first epoch
    shutil.copytree(folder, tmp_path / "other")
    file.write_bytes(content + b"0")
    with pytest.raises(ValueError, match="what weights names has changed"):
        train("a", config, folder, CPU, resume=True)
    file.unlink()
    train("a", config, folder, CPU, resume=True)
    assert same(saved(folder), whole) and rows_of(folder) == rows
    (tmp_path / "other" / "previous.pt").unlink()
    (tmp_path / "other" / "metrics.jsonl").unlink()
    with pytest.raises(ValueError, match="there is no file"):  # nothing to go on from
        train("a", config, tmp_path / "other", CPU, resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arch": "resnet20"}, r"not this network's.*They fit resnet8\."),
        ({"arch": "wrn28_2"}, "not this network's"),
        ({"weights": "timm"}, "resnet8 is our network, of which timm has no weights"),
        ({"weights": "timm", "arch": "resnet18"}, "timm's network, resnet18.a1_in1k"),
        ({"weights": "nowhere.pt"}, "no file nowhere.pt"),
        ({"weights": "timm", "arch": "resnet10t"}, "needs --download"),
    ],
)
def test_weights_that_do_not_suit_are_refused_and_say_whose_they_are(
    change: dict[str, Any], message: str, file: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        train("a", replace(SMALL, **{"weights": str(file), **change}), tmp_path / "run", CPU)
    assert not (tmp_path / "run").exists()  # the folder is free for another try


def test_colour_images_do_not_fit_weights_for_grey_ones(file: Path, tree: Path) -> None:
    with pytest.raises(ValueError, match=r"conv1.weight \(16, 1, .*as many channels"):
        begun(
            replace(
                SMALL, dataset="folder", data=str(tree), subset=0, test_subset=0, weights=str(file)
            )
        )


@pytest.mark.parametrize(
    ("choice", "source", "arch", "mean"),
    [
        ("auto", "", "resnet18.a1_in1k", None),  # as runs of earlier versions
        ("auto", "timm", "resnet18.a1_in1k", IMAGENET_MEAN),
        ("auto", "my.pt", "vit_base_patch16_384.augreg_in21k_ft_in1k", (0.5, 0.5, 0.5)),
        ("auto", "timm:resnet18.a1_in1k", "my.py:net", IMAGENET_MEAN),
        ("auto", "my.pt", "my.py:net", None),
        ("auto", "my.pt", "resnet18", None),  # ours, whatever timm's of that name is
        ("data", "timm", "resnet18.a1_in1k", None),
        ("network", "", "resnet18.a1_in1k", IMAGENET_MEAN),
    ],
)
def test_colours_are_the_networks_if_it_begins_with_weights_and_timm_has_them(
    choice: str, source: str, arch: str, mean: tuple[float, ...] | None
) -> None:
    assert colours_of(choice, source, arch, 3).get("mean") == mean
    assert colours_of("auto", source, arch, 1) == {}


def test_colours_that_nobody_knows_are_refused() -> None:
    with pytest.raises(ValueError, match="no mean and std of 1 channels for resnet18.a1_in1k"):
        colours_of("network", "timm", "resnet18.a1_in1k", 1)


def test_photographs_have_the_networks_size_if_it_is_known() -> None:
    images = replace(SMALL, dataset="images", image_size=64)
    for arch, size in (("resnet18.a1_in1k", 224), ("vit_base_patch16_384", 384)):
        assert replace(images, image_size=0, arch=arch, weights="timm").image_size == size
    for change in ({"arch": "resnet18.a1_in1k"}, {"weights": "my.pt", "arch": "resnet8"}):
        with pytest.raises(ValueError, match="needs --image-size"):
            replace(images, image_size=0, **change)
    assert replace(images, weights="timm", arch="resnet18.a1_in1k").image_size == 64


def test_a_tag_that_timm_has_not_is_told_of() -> None:
    with pytest.raises(ValueError, match="Invalid pretrained tag .* did you mean resnet18.a1_in1k"):
        check_arch("resnet18.a1_in1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value.char(), "no floating-point numbers: .*conv1.weight int8"),
        (lambda value: value.bool(), "no floating-point numbers: .*conv1.weight bool"),
        (lambda value: value * 1j, "no floating-point numbers: .*conv1.weight complex64"),
        (lambda value: value.double() + 1e300, "NaN or infinite in the network's type: .*conv1"),
    ],
)
def test_weights_that_are_no_numbers_of_the_networks_type_are_refused(
    change: Callable[[Tensor], Tensor], message: str, file: Path, tmp_path: Path
) -> None:
    given = torch.load(file)["average"]
    torch.save(given | {(n := "module.conv1.weight"): change(given[n])}, tmp_path / "odd.pt")
    with pytest.raises(ValueError, match=message):
        begun(replace(SMALL, weights=str(tmp_path / "odd.pt")))
    half = {n: v.half() if v.is_floating_point() else v for n, v in given.items()}
    torch.save(half, file)
    begun(replace(SMALL, weights=str(file)))


NETWORK = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.fc = nn.Linear(4, num_classes)
        self.first, self.last = nn.Conv2d(1, 10, 3), nn.Conv2d(10, 4, 1)

    def forward(self, images):
        return self.fc(self.last(self.first(images)).mean((2, 3)))

class Named(Net):
    pretrained_cfg = {"classifier": "fc"}
"""


def test_a_classifier_before_a_layer_with_as_many_outputs_must_be_named(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NETWORK)
    arch = f"{tmp_path}/net.py"
    torch.manual_seed(7)
    given = make_network(f"{arch}:Net", num_classes=10).state_dict()
    torch.save(given, tmp_path / "net.pt")
    config = replace(SMALL, arch=f"{arch}:Net", weights=str(tmp_path / "net.pt"))
    with pytest.raises(ValueError, match="classifier of Net is not known: fc, first have 10"):
        begun(config)
    found = begun(replace(config, arch=f"{arch}:Named")).model.state_dict()
    new = {name for name, value in found.items() if not value.equal(given[name])}
    assert new == {"fc.weight", "fc.bias"}
