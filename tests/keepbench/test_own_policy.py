from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from keepaugment import SampleDraws
from keepbench.own_policy import Own, Timm

SOURCE = """
import random
import numpy
import torch
from torchvision.transforms import v2
from keeppolicies import RandAugment

policy = v2.Compose([v2.RandomHorizontalFlip(), v2.ColorJitter(0.9, 0.9)])
def sources(image):
    shift = random.randrange(99) + numpy.random.randint(99) + int(torch.randint(50, ()))
    return (image.int() + shift).remainder(256).byte()

class Noise:
    def __call__(self, image):
        return torch.randint(256, image.shape, dtype=torch.uint8)

def whole(images):
    return torch.randint(256, images.shape, dtype=torch.uint8)

ours = RandAugment()

def black(image):
    image[:] = 0
    return image

def breaks(image): 
    random.random(), numpy.random.rand(), torch.rand(3)
    raise KeyError("lost")

def floats(image): return image / 255
def smaller(image): return image[:, 1:]
def nothing(image): return None
def leaves(image): raise SystemExit(3)

def blind(image):
    torch.set_grad_enabled(False)
    return image

generator = torch.Generator()
def other(image): return torch.randint(256, image.shape, dtype=torch.uint8, generator=generator)
def others(images): return other(images)
number = 3
"""
PIPELINES = """
import albumentations

pipeline = albumentations.Compose([albumentations.RandomBrightnessContrast(p=1.0)])
single = albumentations.GaussNoise(p=1.0)

class Mine(albumentations.ImageOnlyTransform):
    def apply(self, img, **params):
        return 255 - img

mine = Mine(p=1.0)
"""
IMAGES = torch.randint(256, (6, 3, 12, 9), generator=torch.Generator().manual_seed(0)).byte()
WORDS = ["rand-m9-mstd0.5", "rand-m15-n3-inc1", "augmix-m5-w2", "original", "3a", "v0r-mstd1"]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own") / "own.py"
    path.write_text(SOURCE)
    path.with_name("pipelines.py").write_text(PIPELINES)
    return path


def built(policy: Any, epoch: int, index: list[int]) -> Callable[[Tensor], Tensor]:
    draws = SampleDraws(1)
    draws.at(epoch, torch.tensor(index))
    return policy.build((0.5, 0.4, 0.3), draws)


def own(file: Path, name: str) -> Own:
    if name in ("pipeline", "single", "mine"):
        pytest.importorskip("albumentations", reason="make examples installs it")
        file = file.with_name("pipelines.py")
    return Own(transform=f"{file}:{name}")


def states() -> list[Any]:
    numpy_state: Any = np.random.get_state()
    return [torch.get_rng_state().tolist(), random.getstate(), numpy_state[1].tolist()]


@pytest.mark.parametrize(
    "name", ["policy", "pipeline", "single", "sources", "Noise", *map("timm:{}".format, WORDS)]
)
def test_an_image_gets_the_same_in_any_batch_and_another_in_another_epoch(
    name: str, file: Path
) -> None:
    policy = Timm(config=name[5:]) if name.startswith("timm:") else own(file, name)
    before = states()
    found = built(policy, 0, [0, 1, 2, 3, 4, 5])(IMAGES)
    assert states() == before
    assert found.shape == IMAGES.shape and found.dtype == torch.uint8 and not found.equal(IMAGES)
    torch.rand(7), random.random(), np.random.rand()  # another process: they stand elsewhere
    assert built(policy, 0, [4, 1])(IMAGES[[4, 1]]).equal(found[[4, 1]])
    assert not built(policy, 1, [0, 1, 2, 3, 4, 5])(IMAGES).equal(found)


@pytest.mark.parametrize("name", ["whole", "ours"])
def test_what_takes_images_gets_the_batch_and_draws_by_its_first_image(
    name: str, file: Path
) -> None:
    policy, before = own(file, name), states()
    found = built(policy, 0, [0, 1, 2, 3, 4, 5])(IMAGES)
    assert states() == before and found.shape == IMAGES.shape
    assert built(policy, 0, [0, 3, 2, 1, 4, 5])(IMAGES).equal(found)
    assert not built(policy, 0, [1, 0, 2, 3, 4, 5])(IMAGES).equal(found)


def test_a_transform_that_writes_into_its_image_leaves_the_runs_images(file: Path) -> None:
    images = IMAGES.clone()
    assert not built(own(file, "black"), 0, [0, 1, 2, 3, 4, 5])(images).any()
    assert images.equal(IMAGES)


def test_a_users_subclass_of_albumentations_is_one(file: Path) -> None:
    assert built(own(file, "mine"), 0, [0, 1, 2, 3, 4, 5])(IMAGES).equal(255 - IMAGES)


@pytest.mark.parametrize("name", ["policy", "sources", "ours", "mine", "rand", "augmix"])
def test_grey_images_stay_grey(name: str, file: Path) -> None:
    policy = Timm(config=name) if name in ("rand", "augmix") else own(file, name)
    draws = SampleDraws(1)
    draws.at(0, torch.arange(6))
    grey = IMAGES[:, :1]
    assert policy.build((0.5,), draws)(grey).shape == grey.shape


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("breaks", r"breaks failed: .*own.py, line \d+: KeyError: 'lost'"),
        ("floats", r"bytes of the shape .* \(3, 12, 9\) uint8, found \(3, 12, 9\) float32"),
        ("smaller", r"found \(3, 11, 9\) uint8"),
        ("nothing", "found NoneType"),
        ("leaves", "leaves failed: .*SystemExit: 3"),
        ("number", "is no transform"),
        ("lost", "no attribute 'lost'"),
    ],
)
def test_a_wrong_transform_is_told_of_and_leaves_random_numbers(
    name: str, message: str, file: Path
) -> None:
    before = states()
    with pytest.raises(ValueError, match=message):
        built(own(file, name), 0, [0, 1, 2, 3, 4, 5])(IMAGES)
    assert states() == before


@pytest.mark.parametrize("name", ["other", "others", "policy", "sources", "single", "whole"])
def test_a_generator_of_its_own_is_told_of(
    name: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transform = built(own(file, name), 0, [0, 1, 2, 3, 4, 5])
    transform(IMAGES), transform(IMAGES)
    said = capsys.readouterr().err
    assert said.count("draws from a generator of its own") == name.startswith("other")


def test_a_transform_cannot_switch_gradients_off(file: Path) -> None:
    built(own(file, "blind"), 0, [0, 1, 2, 3, 4, 5])(IMAGES)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("words", ["", "foo", "rand-x5", "rand-mfoo", "augmix-n3", "original-q1"])
def test_words_that_timm_does_not_know_are_refused_at_once(words: str) -> None:
    with pytest.raises(ValueError, match="is no policy of timm"):
        Timm(config=words)


def test_what_is_beyond_the_image_is_the_mean_or_black() -> None:
    filled = [Timm(config="rand-m9", fill=fill)._colour((0.5, 1.0)) for fill in ("mean", "black")]
    assert filled == [(128, 255), (0, 0)]
    with pytest.raises(ValueError, match="a fill of its own"):
        Own(transform="my.py:mine", fill="black")
