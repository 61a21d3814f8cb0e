"""Networks to look at: by name, from runs, from files, one's own; and images of any shape."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from classification.config import Config
from classification.methods import Cutout, KeepCut
from classification.models import create_model
from classification.train import train
from diagnosing.subject import Subject
from keepaugment import saliency_map
from keepbench.maps import Gradient
from keepbench.processes import Processes
from previewing.images import levels, packed_bits, read_pictures, square
from previewing.networks import RANDOM, load_network
from previewing.panels import default_length

CPU = torch.device("cpu")


def test_a_name_is_ours_or_timms_and_its_weights_are_said_to_be_random() -> None:
    ours = load_network("resnet8", device=CPU)
    assert (ours.size, ours.warning, ours.name(3, 10)) == (32, RANDOM, "class 3")
    timms = load_network("test_resnet.r160_in1k", device=CPU)
    assert (timms.size, timms.warning) == (160, RANDOM)
    assert timms.name(281, 1000) == "class 281"  # random weights know no classes


@pytest.mark.parametrize(
    ("name", "size", "stem"), [("resnet18", 224, 7), ("cifar_resnet18", 32, 3)]
)
def test_a_name_of_timms_is_timms_and_ours_has_another(name: str, size: int, stem: int) -> None:
    network = load_network(name, device=CPU)
    assert network.size == size
    first = next(m for m in network.logits.modules() if isinstance(m, nn.Conv2d))  # type: ignore[attr-defined]
    assert first.kernel_size == (stem, stem)
    assert Subject(name).usual_size == size


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"model": s}])
def test_a_state_dict_gives_the_same_network(wrap: object, tmp_path: Path) -> None:
    model = create_model("resnet8", 7, in_chans=3).eval()
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save(wrap(state), tmp_path / "weights.pt")  # type: ignore[operator]
    network = load_network(str(tmp_path / "weights.pt"), arch="resnet8", device=CPU)
    images, labels = torch.randn(2, 3, 32, 32), torch.tensor([1, 6])
    expected = saliency_map(model, images, labels)
    assert torch.equal(network.saliency(images, labels), expected)
    assert network.warning == "" and "with the trained weights" in network.about
    with pytest.raises(ValueError, match="--arch"):
        load_network(str(tmp_path / "weights.pt"), device=CPU)
    with pytest.raises(ValueError, match="do not fit resnet20: .* those of --arch resnet8"):
        load_network(str(tmp_path / "weights.pt"), arch="resnet20", device=CPU)


def test_a_file_of_torchvisions_names_the_model_that_it_fits(tmp_path: Path) -> None:
    """Its files are older than BatchNorm's counters; our resnet18 has another stem."""
    state = torchvision.models.resnet18().state_dict()
    old = {name: value for name, value in state.items() if "num_batches" not in name}
    torch.save(old, tmp_path / "weights.pt")
    with pytest.raises(
        ValueError, match=r"do not fit resnet18: .* --arch resnet18\.\w+_in1k"
    ) as error:
        load_network(str(tmp_path / "weights.pt"), arch="resnet18", device=CPU)
    fitting = str(error.value).rpartition(" ")[2]
    network = load_network(str(tmp_path / "weights.pt"), arch=fitting, device=CPU)
    assert network.size == 224 and network.warning == ""
    assert Subject("resnet18", classes=1000, weights=tmp_path / "weights.pt").make().training
    with pytest.raises(ValueError, match="does not fit cifar_resnet18: .* those of resnet18"):
        Subject("cifar_resnet18", classes=1000, weights=tmp_path / "weights.pt").make()


class Harmful:
    """Would leave a file behind if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_objects_in_a_file_are_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(pickle.dumps(Harmful(tmp_path / "harm")))
    with pytest.raises(ValueError, match="cannot be read"):
        load_network(str(tmp_path / "weights.pt"), arch="resnet8", device=CPU)
    assert not (tmp_path / "harm").exists()


def test_a_runs_network_and_map(tmp_path: Path) -> None:
    config = Config(
        dataset="digits", arch="resnet8", subset=20, test_subset=10, epochs=1, batch_size=10,
        cut=Cutout(), keep=KeepCut(map=Gradient(scale=0.5)), early_head="layer1",
    )  # fmt: skip
    trainer = train("x", config, tmp_path / "run", Processes(CPU))
    for place in ("run", "run/last.pt"):
        network = load_network(str(tmp_path / place), device=CPU)
        assert len(network.mean) == 1 and network.name(3, 10) == "3" and network.warning == ""
        pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
        inputs, labels = network.inputs(pixels), torch.tensor([1, 2])
        assert inputs.shape == (2, 1, 32, 32)
        assert torch.equal(network.saliency(inputs, labels), trainer.maps.used(inputs, labels))


def test_the_average_in_a_file_is_taken_and_said(tmp_path: Path) -> None:
    trained, average = create_model("resnet8", 7), create_model("resnet8", 7).eval()
    both = {"model": trained.state_dict(), "average": average.state_dict()}
    torch.save(both, tmp_path / "weights.pt")
    network = load_network(str(tmp_path / "weights.pt"), arch="resnet8", device=CPU)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(network.logits.eval()(images), average(images))  # type: ignore[attr-defined]
    assert network.about == "resnet8 with the averaged weights ('average') in weights.pt"


@pytest.mark.parametrize("channels", [1, 3])
def test_a_transformers_channels_are_its_convolutions(channels: int, tmp_path: Path) -> None:
    name = "vit_tiny_patch16_224"
    model = create_model(name, 3, in_chans=channels, depth=1)
    torch.save(model.state_dict(), tmp_path / "vit.pt")
    with patch("previewing.networks.create_model", partial(create_model, depth=1)):
        network = load_network(str(tmp_path / "vit.pt"), arch=name, device=CPU)
    assert len(network.mean) == channels


def test_ones_own_function(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("from torch import nn\ndef make():\n    return nn.Flatten()\n")
    network = load_network(f"{tmp_path}/own.py:make", device=CPU)
    assert isinstance(network.logits, nn.Flatten) and network.size == 224
    assert network.name(0, 1000).startswith("tench") and network.name(0, 10) == "class 0"


def test_nothing_is_fetched_unless_asked_for() -> None:
    with pytest.raises(ValueError, match="--pretrained"):
        load_network("hf-hub:someone/something", device=CPU)


def test_the_middle_square() -> None:
    image = torch.zeros(3, 4, 8, dtype=torch.uint8)
    image[:, :, 2:6] = 200
    assert (square(image, 4) == 200).all()
    assert square(image.mT.contiguous(), 2).eq(200).all()


def test_files_of_a_folder_in_order_and_no_more_than_asked(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for place, mode in (("b.png", "L"), ("deep/c.png", "RGBA"), ("a.jpg", "RGB")):
        Image.new(mode, (20, 10)).save(tmp_path / place)
    (tmp_path / "notes.txt").write_text("no image")
    pictures = read_pictures([str(tmp_path)], 8, most=9)
    assert pictures.names == ["a.jpg", "b.png", "c.png"]
    assert pictures.pixels.shape == (3, 3, 8, 8)
    assert read_pictures([str(tmp_path), "sample"], 8, most=2).names == ["a.jpg", "b.png"]
    (tmp_path / "a.jpg").write_bytes(b"broken")
    with pytest.raises(ValueError, match="cannot read .*a.jpg"):
        read_pictures([str(tmp_path)], 8, most=9)


def test_levels_and_bits() -> None:
    assert levels(torch.tensor([[0.0, 0.5], [1.0, 2.0]])).tolist() == [[0, 16384], [32768, 65535]]
    assert levels(torch.zeros(1, 2)).tolist() == [[0, 0]]
    mask = torch.tensor([[True, False, False, False], [False, False, False, True], [True] * 4])
    assert packed_bits(mask) == "gfA="  # 1000 0001 1111 0000


def test_the_first_length_is_the_papers_on_small_images() -> None:
    assert (default_length(32), default_length(224)) == (16, 84)
