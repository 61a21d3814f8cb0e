"""Drawn pedestrians in Market-1501's layout: for tests, and for a first run without the dataset.

A person has clothes, hair, skin, a build and perhaps a bag; a camera has a background, a colour
cast and a brightness; an image has a pose, a place, noise and perhaps something in front. All of
it follows from the seed. Nobody is real.
"""

from __future__ import annotations

import colorsys
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from reid.files import DISTRACTOR, JUNK, PARTS

Colour = tuple[int, int, int]

HEIGHT, WIDTH = 128, 64  # of an image, as Market-1501's
_FINE = 2  # drawn at twice the size, then reduced
CAMERAS = 6


@dataclass(frozen=True)
class Person:
    """How somebody looks; lengths are shares of the image's height."""

    skin: Colour
    hair: Colour
    long_hair: bool
    top: Colour
    stripes: Colour | None
    legs: Colour
    legwear: str  # trousers, shorts or skirt
    shoes: Colour
    bag: Colour | None
    height: float
    breadth: float


@dataclass(frozen=True)
class Camera:
    """How a camera sees; the cast multiplies red, green and blue."""

    ground: Colour
    wall: Colour
    cast: tuple[float, float, float]
    horizon: float
    noise: float


def _colour(source: random.Random, *, strong: bool) -> Colour:
    """A random colour, one of twelve hues if strong, else one of dull fabrics."""
    hue = source.randrange(12) / 12
    saturation = source.uniform(0.6, 0.95) if strong else source.uniform(0.0, 0.25)
    value = source.uniform(0.45, 0.95) if strong else source.choice([0.12, 0.3, 0.55, 0.85])
    red, green, blue = (round(255 * c) for c in colorsys.hsv_to_rgb(hue, saturation, value))
    return red, green, blue


def draw_person(seed: int, number: int) -> Person:
    """The looks of the person of a number."""
    source = random.Random(f"person-{seed}-{number}")
    skins = [(241, 204, 177), (224, 172, 135), (172, 116, 79), (105, 66, 43)]
    hairs = [(30, 24, 22), (82, 52, 30), (190, 150, 90), (150, 150, 150)]
    return Person(
        skin=source.choice(skins),
        hair=source.choice(hairs),
        long_hair=source.random() < 0.4,
        top=_colour(source, strong=source.random() < 0.7),
        stripes=_colour(source, strong=True) if source.random() < 0.3 else None,
        legs=_colour(source, strong=source.random() < 0.35),
        legwear=source.choice(["trousers", "trousers", "shorts", "skirt"]),
        shoes=_colour(source, strong=source.random() < 0.3),
        bag=_colour(source, strong=True) if source.random() < 0.4 else None,
        height=source.uniform(0.76, 0.9),
        breadth=source.uniform(0.11, 0.16),
    )


def draw_camera(seed: int, number: int) -> Camera:
    """The view of the camera of a number."""
    source = random.Random(f"camera-{seed}-{number}")
    red, green, blue = (source.uniform(0.72, 1.15) for _ in range(3))
    return Camera(
        ground=_colour(source, strong=False),
        wall=_colour(source, strong=False),
        cast=(red, green, blue),
        horizon=source.uniform(0.25, 0.6),
        noise=source.uniform(3.0, 9.0),
    )


def _body(
    draw: ImageDraw.ImageDraw, person: Person, source: random.Random, size: tuple[int, int]
) -> None:
    """Draw a person into an image of `size` (h, w), head to shoes."""
    tall = person.height * size[0] * source.uniform(0.92, 1.05)
    middle = size[1] * (0.5 + source.uniform(-0.08, 0.08))
    top = (size[0] - tall) * source.uniform(0.2, 0.7)
    half = person.breadth * tall * source.uniform(0.9, 1.05)
    step = source.uniform(-0.7, 0.7) * half  # how far the feet are apart

    def y(share: float) -> float:
        return top + share * tall

    def box(left: float, upper: float, right: float, lower: float, colour: Colour) -> None:
        shape = [middle + left * half, y(upper), middle + right * half, y(lower)]
        draw.rectangle(shape, fill=colour)

    for side in (-1, 1):
        foot = middle + side * 0.3 * half + side * step
        hip = middle + side * 0.38 * half
        bare = person.skin if person.legwear != "trousers" else person.legs
        draw.line([(hip, y(0.5)), (foot, y(0.96))], fill=bare, width=round(0.5 * half))
        if person.legwear == "shorts":
            knee = (hip + foot) / 2
            draw.line([(hip, y(0.5)), (knee, y(0.7))], fill=person.legs, width=round(0.6 * half))
        shoe = [foot - 0.35 * half, y(0.94), foot + 0.35 * half, y(1.0)]
        draw.ellipse(shoe, fill=person.shoes)
        hand = (middle + side * (1.15 * half + 0.3 * abs(step)), y(0.53))
        draw.line([(middle + side * 0.9 * half, y(0.22)), hand], fill=person.top,
                  width=round(0.4 * half))  # fmt: skip
    if person.legwear == "skirt":
        corners = [(-0.7, 0.48), (0.7, 0.48), (1.0, 0.7), (-1.0, 0.7)]
        draw.polygon([(middle + a * half, y(b)) for a, b in corners], fill=person.legs)
    if person.long_hair:
        box(-0.55, 0.05, 0.55, 0.24, person.hair)
    box(-1.0, 0.17, 1.0, 0.52, person.top)
    for number in range(3 if person.stripes else 0):
        box(-1.0, 0.22 + 0.1 * number, 1.0, 0.26 + 0.1 * number, person.stripes or person.top)
    if person.bag:
        side = source.choice([-1, 1])
        edges = sorted((side * 0.7, side * 1.5))
        box(edges[0], 0.34, edges[1], 0.52, person.bag)
    head = [middle - 0.45 * half, y(0.0), middle + 0.45 * half, y(0.16)]
    draw.ellipse(head, fill=person.hair)
    if source.random() < 0.5:  # from the front
        face = [middle - 0.36 * half, y(0.04), middle + 0.36 * half, y(0.16)]
        draw.ellipse(face, fill=person.skin)


def draw_image(person: Person | None, camera: Camera, source: random.Random) -> Image.Image:
    """One image by a camera, (WIDTH, HEIGHT) RGB; of nobody without a person, as a bad detection.

    Args:
        person: who is in it.
        camera: that took it.
        source: draws what differs between two images of a person by a camera.
    """
    size = (HEIGHT * _FINE, WIDTH * _FINE)
    image = Image.new("RGB", (size[1], size[0]), camera.wall)
    draw = ImageDraw.Draw(image)
    horizon = size[0] * (camera.horizon + source.uniform(-0.05, 0.05))
    draw.rectangle([0, horizon, size[1], size[0]], fill=camera.ground)
    post = source.uniform(0, size[1])
    draw.rectangle([post, 0, post + 6, horizon], fill=camera.ground)
    if person:
        _body(draw, person, source, size)
    if source.random() < 0.2:  # something in front
        edge = source.uniform(0.75, 0.9) * size[0]
        draw.rectangle([0, edge, size[1] * source.uniform(0.4, 1), size[0]], fill=camera.wall)
    image = image.resize((WIDTH, HEIGHT), Image.Resampling.BOX)
    pixels = np.asarray(image) * np.array(camera.cast)
    noise = np.random.default_rng(source.getrandbits(32)).standard_normal(pixels.shape)
    pixels = pixels * source.uniform(0.75, 1.15) + camera.noise * noise
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _shots(
    numbers: range, seed: int, cameras: int, images: int
) -> Iterator[tuple[int, int, int, random.Random]]:
    """Person, camera, number of the image and its source, for some of the cameras each."""
    for number in numbers:
        seen_by = random.Random(f"seen-{seed}-{number}").sample(range(1, CAMERAS + 1), cameras)
        for camera in sorted(seen_by):
            for shot in range(images):
                yield number, camera, shot, random.Random(f"{seed}-{number}-{camera}-{shot}")


def write_toy(
    folder: Path,
    *,
    seed: int = 0,
    num_train: int = 48,
    num_test: int = 40,
    cameras: int = 4,
    images: int = 3,
    strangers: int = 40,
) -> None:
    """Write a set of drawn pedestrians into `folder`, whole or not at all; one that is there stays.

    Args:
        folder: gets bounding_box_train, query and bounding_box_test.
        seed: fixes every drawing.
        num_train: people to train on.
        num_test: other people to test on.
        cameras: of six that see each person.
        images: per person and camera; in the test part the first is a query.
        strangers: distractors (person 0) in the gallery, and half as many junk images (-1).
    """
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=folder.name + "-", dir=folder.parent))
    for part in PARTS.values():
        (beside / part).mkdir()
    views = {number: draw_camera(seed, number) for number in range(1, CAMERAS + 1)}
    last_train = num_train + 1
    for number, camera, shot, source in _shots(
        range(1, last_train + num_test), seed, cameras, images
    ):
        part = "train" if number < last_train else "gallery" if shot else "query"
        image = draw_image(draw_person(seed, number), views[camera], source)
        image.save(beside / PARTS[part] / _name(number, camera, shot), quality=95)
    for index in range(strangers + strangers // 2):
        source = random.Random(f"stranger-{seed}-{index}")
        camera = source.randrange(1, CAMERAS + 1)
        number = DISTRACTOR if index < strangers else JUNK
        person = draw_person(seed, 10_000 + index) if number == DISTRACTOR else None
        image = draw_image(person, views[camera], source)
        image.save(beside / PARTS["gallery"] / _name(number, camera, index), quality=95)
    beside.chmod(0o755)
    try:
        os.rename(beside, folder)
    except OSError:  # another process was faster
        shutil.rmtree(beside)
        if not folder.exists():
            raise


def _name(number: int, camera: int, shot: int) -> str:
    person = f"{number:04d}" if number >= 0 else str(number)
    return f"{person}_c{camera}s1_{shot:06d}_00.jpg"
