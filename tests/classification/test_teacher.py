from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from classification import teacher
from classification.config import Config
from classification.data import open_data
from classification.importance import Teacher
from classification.methods import Cutout, KeepCut
from classification.models import create_model
from classification.train import Trainer, train
from keepbench.images import IMAGENET_MEAN
from keepbench.order import EpochBatches
from keepbench.own_network import make_network
from keepbench.weights import load_checkpoint
from runs import CPU, rows_of, same, saved, write_tree

NETWORK = """
import torch
from torch import nn

class Red(nn.Module):
    '''Its answer depends on red pixels alone.'''

    def __init__(self, num_classes, in_chans=3):
        super().__init__()
        self.colour = nn.Conv2d(in_chans, 1, 1)
        self.fc = nn.Linear(1, num_classes)
        nn.init.constant_(self.fc.weight, 1.0)
        with torch.no_grad():
            self.colour.weight.copy_(torch.tensor([1.0, -1.0, -1.0])[None, :, None, None])
            self.colour.bias.fill_(-3.0)

    def forward(self, images):
        return self.fc(self.colour(images).relu().square().mean((2, 3)))
"""
RED = torch.tensor([230, 20, 20], dtype=torch.uint8)


@pytest.fixture
def red(tmp_path: Path) -> Teacher:
    """A teacher of three classes that looks at what is red."""
    (tmp_path / "red.py").write_text(NETWORK)
    name = f"{tmp_path / 'red.py'}:Red"
    torch.save(make_network(name, num_classes=3).state_dict(), tmp_path / "red.pt")
    return Teacher(network=name, weights=str(tmp_path / "red.pt"))


def draw(root: Path, parts: dict[str, int], sizes: list[tuple[int, int]]) -> None:
    """A tree of two classes of grey noise with a red rectangle, of images (H, W)."""
    generator = torch.Generator().manual_seed(0)
    for part, number in parts.items():
        for name in ("a", "b"):
            (root / part / name).mkdir(parents=True)
            for index in range(number):
                height, width = sizes[index % len(sizes)]
                pixels = torch.randint(100, 156, (height, width, 1), generator=generator).byte()
                pixels = pixels.expand(-1, -1, 3).clone()
                row, column = (
                    int(torch.randint(side // 2, (), generator=generator))
                    for side in (height, width)
                )
                pixels[row : row + height // 3, column : column + width // 4] = RED
                Image.fromarray(pixels.numpy()).save(root / part / name / f"{index}.png")


def config_of(root: Path, kind: Teacher, **change: Any) -> Config:
    usual: dict[str, Any] = {"dataset": "folder", "arch": "resnet8", "workers": 0, "epochs": 2}
    usual |= {"data": str(root), "batch_size": 4, "occlusion": False}
    return Config(**usual | change, cut=Cutout(size=8), keep=KeepCut(map=kind))


def begun(config: Config) -> Trainer:
    trainer = Trainer(config, open_data(config, CPU.device), CPU)
    trainer.prepare()
    return trainer


def is_red(pixels: Tensor) -> Tensor:
    """Which pixels (B, 3, H, W) uint8 are red: (B, H, W)."""
    return (pixels[:, 0].int() - pixels[:, 1].int()) > 100


@pytest.mark.parametrize(
    ("sizes", "change"),
    [
        ([(48, 48)], {}),
        ([(150, 60), (70, 140), (96, 96)], {"dataset": "images", "image_size": 64}),
    ],
)
def test_a_map_lies_where_the_object_is_in_any_crop_mirrored_or_not(
    sizes: list[tuple[int, int]], change: dict[str, Any], red: Teacher, tmp_path: Path
) -> None:
    draw(tmp_path / "tree", {"train": 12, "test": 2}, sizes)
    trainer = begun(config_of(tmp_path / "tree", red, **change))
    mirrored, seen = set(), 0
    for epoch in range(3):
        steps = EpochBatches(num_images=24, batch_size=8, epoch=epoch)
        for batch in trainer.data.train_batches(steps, CPU.device, 0):
            found = trainer.augment(epoch, 0, batch)
            maps, objects = trainer.augment.map.last, is_red(found.pixels)
            assert maps is not None and found.view is not None
            mirrored |= {*found.view.mirrored.tolist()}
            for one, where in zip(maps, objects, strict=True):
                if 40 <= where.sum() <= where.numel() - 40:
                    seen += 1
                    assert one[where].mean() > 5 * one[~where].mean()
    assert mirrored == {True, False} and seen > 40


def test_maps_of_a_folder_are_taken_by_the_runs_that_they_suit_and_by_no_other(
    red: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(tmp_path / "tree", {"train": 6, "test": 2}, [(32, 32)])
    maps = tmp_path / "maps"
    kept = replace(red, folder=str(maps))
    first = begun(config_of(tmp_path / "tree", kept))
    assert first.maps.stored and first.maps.stored.maps.any()
    assert len([*maps.iterdir()]) == 1
    for change in ({"subset": 6}, {"subset": 6, "seed": 1}):  # another draw of images
        begun(config_of(tmp_path / "tree", kept, **change))
    begun(config_of(tmp_path / "tree", replace(kept, scale=0.5)))
    assert len([*maps.iterdir()]) == 4
    monkeypatch.setattr(teacher, "load_teacher", None)  # nothing is computed any more
    again = begun(config_of(tmp_path / "tree", kept, seed=3, test_subset=2, epochs=9))
    assert again.maps.stored and again.maps.stored.maps.equal(first.maps.stored.maps)


def test_maps_of_other_photographs_of_the_same_names_and_sizes_are_not_taken(
    red: Teacher, tmp_path: Path
) -> None:
    kept = replace(red, folder=str(tmp_path / "maps"))
    config = config_of(tmp_path / "tree", kept, dataset="images", image_size=32)
    for part in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / "tree" / part / name).mkdir(parents=True)
    found = []
    for column in (0, 24, 0):
        pixels = torch.full((32, 32, 3), 100, dtype=torch.uint8)
        pixels[:, column : column + 8] = RED
        for folder in (tmp_path / "tree").glob("*/*"):
            for number in range(3):
                Image.fromarray(pixels.numpy()).save(folder / f"{number}.bmp")
        stored = begun(config).maps.stored
        assert stored
        found.append(stored.maps.clone())
    first, other, again = found
    assert not first.equal(other) and first.equal(again)
    assert len([*(tmp_path / "maps").iterdir()]) == 2


def test_the_runs_own_weights_see_its_own_colours_as_a_teacher(
    red: Teacher, tmp_path: Path
) -> None:
    write_tree(tmp_path / "tree", {"train": 2, "test": 1})
    model = create_model("resnet10t", 3)
    for name in ("own", "another"):
        torch.save(model.state_dict(), tmp_path / f"{name}.pt")
    own = Teacher(network="resnet10t", weights=str(tmp_path / "own.pt"))
    colours = {}
    for kind in (own, replace(own, weights=str(tmp_path / "another.pt"))):
        config = config_of(
            tmp_path / "tree", kind, arch="resnet10t", weights=own.weights, colours="data"
        )
        trainer = Trainer(config, open_data(config, CPU.device), CPU)
        stored = trainer.maps.stored
        assert isinstance(stored, teacher.TeacherMaps)
        colours[kind.weights] = stored._inputs().mean
    assert [*colours.values()] == [trainer.augment.inputs.mean, IMAGENET_MEAN]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half", "another's"])
def test_a_damaged_file_of_maps_is_written_anew(
    content: Any, red: Teacher, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(tmp_path / "tree", {"train": 3, "test": 2}, [(32, 32)])
    config = config_of(tmp_path / "tree", replace(red, folder=str(tmp_path / "maps")))
    begun(config)
    (path,) = (tmp_path / "maps").iterdir()
    whole = load_checkpoint(path)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save({"maps": whole["maps"][1:]}, path)
    begun(config)
    assert "anew" in capsys.readouterr().err
    assert load_checkpoint(path)["maps"].equal(whole["maps"])
    assert [*(tmp_path / "maps").iterdir()] == [path]


def test_a_run_goes_on_with_the_maps_of_its_checkpoint(red: Teacher, tmp_path: Path) -> None:
    draw(tmp_path / "tree", {"train": 6, "test": 2}, [(32, 32)])
    config, folder = config_of(tmp_path / "tree", red), tmp_path / "run"
    train("a", config, folder, CPU)
    whole, rows = saved(folder), rows_of(folder)
    assert whole["cache"]["maps"].any()
    (folder / "last.pt").unlink()
    Path(red.weights).unlink()
    kept = replace(red, folder=str(tmp_path / "maps"))  # which changes nothing
    train("a", replace(config, keep=KeepCut(map=kept)), folder, CPU, resume=True)
    assert same(saved(folder)["model"], whole["model"]) and rows_of(folder) == rows
    assert not (tmp_path / "maps").exists()


def test_an_unreadable_photograph_has_the_map_of_its_stand_in(red: Teacher, tmp_path: Path) -> None:
    draw(tmp_path / "tree", {"train": 4, "test": 2}, [(80, 60)])
    (tmp_path / "tree" / "train" / "a" / "1.png").write_bytes(b"no image")
    options: dict[str, Any] = {"dataset": "images", "image_size": 32}
    config = config_of(tmp_path / "tree", red, **options, unreadable="skip")
    with pytest.warns(UserWarning, match="cannot read"):
        maps = begun(config).maps.stored.maps  # type: ignore[union-attr]
    assert maps[1].equal(maps[2]) and not maps[1].equal(maps[3])
    with pytest.raises(ValueError, match="cannot read"):
        begun(replace(config, unreadable="refuse"))


def test_a_teacher_of_other_classes_explains_its_own_answer_and_of_grey_images_too(
    red: Teacher, tmp_path: Path
) -> None:
    write_tree(tmp_path / "tree", {"train": 2, "test": 1})  # three classes, as the teacher has
    asked = []
    for classes in (3, 4):
        model = make_network(red.network, num_classes=classes)
        torch.save(model.state_dict(), red.weights)
        trainer = begun(config_of(tmp_path / "tree", red, batch_size=2))
        stored = trainer.maps.stored
        assert isinstance(stored, teacher.TeacherMaps)
        batches = stored._batches(trainer.augment.inputs, classes == 3, CPU)
        asked.append(next(iter(batches))[2])
    assert asked[0] is not None and asked[0].tolist() == [0, 0, 1, 1, 2, 2] and asked[1] is None
    digits = config_of(tmp_path, Teacher(weights="random"), dataset="digits", subset=20)
    assert begun(digits).maps.stored.maps.flatten(1).amax(1).eq(255).all()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": ""}, "keep.map=teacher needs a trained network"),
        ({"weights": "nowhere.pt"}, "no file nowhere.pt"),
        ({"folder": __file__}, "keep.map.folder=.*test_teacher.py is no folder"),
        ({"network": "resnet8"}, "no classifier of resnet8|not of resnet8"),
        ({"network": "resnet99"}, "unknown model 'resnet99'"),
        ({"scale": 0.03}, "keep.map.scale must leave 2 pixels"),
    ],
)
def test_a_teacher_that_is_not_there_is_refused(
    change: dict[str, Any], message: str, red: Teacher, tmp_path: Path
) -> None:
    write_tree(tmp_path / "tree", {"train": 2, "test": 1})
    with pytest.raises(ValueError, match=message):
        config = config_of(tmp_path / "tree", replace(red, **change), batch_size=2)
        train("a", config, tmp_path / "run", CPU)
