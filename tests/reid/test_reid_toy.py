from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reid.files import cameras, people
from reid.market import answerable, list_market
from reid.toy import HEIGHT, WIDTH, draw_camera, draw_image, draw_person, write_toy

SMALL = {"num_train": 3, "num_test": 2, "cameras": 2, "images": 2, "strangers": 2}


def contents(folder: Path) -> dict[str, bytes]:
    files = sorted(folder.rglob("*.jpg"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_one_seed_draws_the_same_people(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_toy(tmp_path / name, seed=seed, **SMALL)
    first, same, other = (contents(tmp_path / name) for name in "abc")
    assert first == same
    assert not {*first.values()} & {*other.values()}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]  # nothing half done


def test_a_folder_that_is_there_stays(tmp_path: Path) -> None:
    write_toy(tmp_path / "a", **SMALL)
    before = contents(tmp_path / "a")
    write_toy(tmp_path / "a", seed=5, **SMALL)
    assert contents(tmp_path / "a") == before


def test_the_layout_is_that_of_market1501(tmp_path: Path) -> None:
    write_toy(tmp_path / "a", **SMALL)
    listing = list_market(tmp_path / "a")
    assert listing.counts() == {"train": 12, "query": 4, "gallery": 6, "gallery with junk": 7}
    assert all(answerable(listing))
    assert sorted(people(listing.gallery)) == [0, 4, 5]
    assert all(len(cameras(seen)) == 2 for seen in people(listing.train).values())
    with Image.open(listing.train[0].path) as image:
        assert image.size == (WIDTH, HEIGHT) and image.mode == "RGB"


def mean_colour(person: int, camera: int, shot: int) -> np.ndarray:
    """Of the middle of an image, where the clothes are."""
    image = draw_image(draw_person(0, person), draw_camera(0, camera), random.Random(f"{shot}"))
    return np.asarray(image)[40:70, 22:42].reshape(-1, 3).mean(0)


def test_a_person_looks_more_like_itself_than_like_others() -> None:
    def apart(a: tuple[int, int, int], b: tuple[int, int, int]) -> float:
        return float(np.abs(mean_colour(*a) - mean_colour(*b)).mean())

    same = [apart((p, 1, 0), (p, 1, 1)) for p in range(1, 21)]
    other = [apart((p, 1, 0), (p + 1, 1, 1)) for p in range(1, 21)]
    assert np.mean(other) > 1.5 * np.mean(same)


def test_cameras_see_one_person_in_different_colours() -> None:
    seen = [mean_colour(1, camera, 0) for camera in range(1, 7)]
    assert np.std(seen, axis=0).min() > 5


def test_a_bad_detection_shows_nobody() -> None:
    camera = draw_camera(0, 1)
    empty, full = (
        np.asarray(draw_image(person, camera, random.Random("0")), dtype=float)
        for person in (None, draw_person(0, 1))
    )
    assert np.abs(empty - full)[30:90, 20:44].mean() > 10


@pytest.mark.parametrize("number", range(30))
def test_everybody_can_be_drawn(number: int) -> None:
    image = draw_image(
        draw_person(3, number), draw_camera(3, 1 + number % 6), random.Random(number)
    )
    assert np.asarray(image).std() > 5
