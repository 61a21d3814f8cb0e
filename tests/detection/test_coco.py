from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from detection.coco import RULES, check_images, mended_box, read_coco

HUGE = 10**400
VALUES: list[Any] = [
    None, "", "x", "1", -1, 0.5, float("nan"), float("inf"), HUGE, [], [1, 2, 3], {}, [[]], True,
]  # fmt: skip
LEGAL: dict[str, list[Any]] = {  # of these values; ... stands for an absent field
    "images.file_name": ["x", "1"],
    "categories.name": ["x", "1"],
    "annotations.id": [-1],
    "annotations.area": [None, 0.5, ...],
    "annotations.iscrowd": [None, True, ...],
    "annotations.ignore": [None, ...],
}


def content() -> dict[str, Any]:
    """The least that is in order: an image, a box, two categories."""
    box = {"id": 1, "image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}
    return {
        "images": [{"id": 1, "file_name": "a/b.png", "height": 60, "width": 80}],
        "categories": [{"id": 2, "name": "cat"}, {"id": 7, "name": "dog"}],
        "annotations": [box],
    }


def written(folder: Path, value: Any) -> Path:
    path = folder / "boxes.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_a_sound_file_is_read_as_it_is(tmp_path: Path) -> None:
    assert read_coco(written(tmp_path, content())) == content()


FIELDS = [(part, field) for part, rules in RULES.items() for field in rules]


@pytest.mark.parametrize(("part", "field"), FIELDS)
def test_every_field_is_checked(part: str, field: str, tmp_path: Path) -> None:
    """A wrong value, or none, is named with its place; nothing else is ever raised."""
    for value in [*VALUES, ...]:
        spoilt = content()
        spoilt[part][0][field] = value
        if value is ...:
            del spoilt[part][0][field]
        path = written(tmp_path, spoilt)
        if any(value is each for each in LEGAL.get(f"{part}.{field}", [])):
            read_coco(path)
        else:
            with pytest.raises(ValueError, match=rf"{part}\[0\]|none of the (images|categories)"):
                read_coco(path)


@pytest.mark.parametrize("part", RULES)
@pytest.mark.parametrize("value", VALUES)
def test_every_part_is_a_list_of_objects(part: str, value: Any, tmp_path: Path) -> None:
    if value != []:
        with pytest.raises(ValueError, match=f"{part}.* must be"):
            read_coco(written(tmp_path, content() | {part: value}))
    if value != {}:
        with pytest.raises(ValueError, match=rf"{part}\[0\] must be an object"):
            read_coco(written(tmp_path, content() | {part: [value]}))


@pytest.mark.parametrize("text", ["", "[", "1" * 5000, "[" * 100_000, "[]", "3", "null", "\ud800"])
def test_what_is_no_object_of_json_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "boxes.json"
    path.write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(ValueError, match="boxes.json is not in COCO's format"):
        read_coco(path)
    with pytest.raises(ValueError, match="no boxes at .* --dataset toy"):
        read_coco(tmp_path / "none.json")


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "a/../../b.png", "..", ".", "a\0.png"])
def test_images_lie_in_their_folder(name: str, tmp_path: Path) -> None:
    spoilt = content()
    spoilt["images"][0]["file_name"] = name
    with pytest.raises(ValueError, match="a path inside the folder of images"):
        read_coco(written(tmp_path, spoilt))


def again(part: str, **change: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content[part].append(content[part][0] | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (again("images", file_name="c.png"), "2 images have the id 1"),
        (again("images", id=2), "2 images have the file_name 'a/b.png'"),
        (again("categories", name="bird"), "2 categories have the id 2"),
        (again("categories", id=9), "2 categories have the name 'cat'"),
        (again("annotations"), "2 annotations have the id 1"),
        (again("annotations", id=2, image_id=9), r"annotations\[1\].image_id 9 is none of"),
        (
            again("annotations", id=2, category_id=3),
            r"annotations\[1\].category_id 3 is none of",
        ),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(
    change: Callable[[dict[str, Any]], None], message: str, tmp_path: Path
) -> None:
    spoilt = content()
    change(spoilt)
    with pytest.raises(ValueError, match=f"1 contradictions: {message}"):
        read_coco(written(tmp_path, spoilt))


def test_faults_are_counted_and_the_first_named(tmp_path: Path) -> None:
    spoilt = content()
    spoilt["annotations"] = [{"id": number} for number in range(100)]
    with pytest.raises(ValueError, match="300 faults .*annotations.1..image_id .*; \\.\\.\\.$"):
        read_coco(written(tmp_path, spoilt))


def box(*bbox: float) -> dict[str, Any]:
    return {"id": 1, "bbox": list(bbox), "area": 10_000, "iscrowd": 0}


@pytest.mark.parametrize(
    ("bbox", "fault", "left"),
    [
        ((10, 20, 30, 40), "", (10, 20, 30, 40)),
        ((-0.5, 0, 81, 60), "", (-0.5, 0, 81, 60)),  # rounding stays
        ((-10, -20, 30, 40), "clipped", (0, 0, 20, 20)),
        ((70, 50, 30, 40), "clipped", (70, 50, 10, 10)),
        ((-9, -9, 200, 200), "clipped", (0, 0, 80, 60)),
        ((90, 10, 5, 5), "outside", None),
        ((10, 70, 5, 5), "outside", None),
        ((10, 10, 0, 5), "empty", None),
        ((10, 10, 5, -1), "empty", None),
    ],
)
def test_boxes_at_the_edge_of_an_image_of_60_by_80(
    bbox: tuple[float, ...], fault: str, left: tuple[float, ...] | None
) -> None:
    word, mended = mended_box(box(*bbox), (60, 80))
    assert word == fault
    if left is None:
        assert mended is None
    else:
        assert mended is not None and tuple(mended["bbox"]) == left
        assert mended["area"] == (left[2] * left[3] if fault else 10_000)


@given(*[st.floats(-200, 200) for _ in range(4)])
def test_mended_boxes_are_in_their_image_and_mending_ends(
    left: float, top: float, width: float, height: float
) -> None:
    _, mended = mended_box(box(left, top, width, height), (60, 80))
    if mended is not None:
        x, y, w, h = mended["bbox"]
        assert w > 0 and h > 0
        assert x >= -1 and y >= -1 and x + w <= 81.001 and y + h <= 61.001
        assert mended_box(mended, (60, 80)) == ("", mended)


def test_missing_fields_are_filled_in() -> None:
    bare = {"id": 1, "bbox": [1, 2, 3, 4]}
    assert mended_box(bare, (60, 80)) == ("completed", bare | {"area": 12, "iscrowd": 0})
    assert mended_box(bare | {"area": 5}, (60, 80))[1] == bare | {"area": 5, "iscrowd": 0}


PIXELS = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)


def look(folder: Path, name: str, height: int = 60, width: int = 80) -> None:
    check_images(folder, [{"id": 1, "file_name": name, "height": height, "width": width}])


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "webp"])
def test_images_are_of_their_size_and_whole(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{ending}"
    Image.fromarray(PIXELS).save(path)
    look(tmp_path, path.name)
    for size in ((30, 40), (80, 60), (60, 79)):
        with pytest.raises(ValueError, match=rf"is 60 x 80, not {size[0]} x {size[1]} as its"):
            look(tmp_path, path.name, *size)
    for share in (0.0, 0.5, 0.95):
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ValueError, match=f"1 of 1 images cannot be used: a.{ending} cannot be"):
            look(tmp_path, path.name)
        path.write_bytes(whole)


def test_a_png_that_is_damaged_in_its_middle_is_named(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match="a.png cannot be read: broken PNG"):
        look(tmp_path, "a.png")


def test_a_turned_image_has_the_size_that_is_shown(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", exif=exif)
    look(tmp_path, "a.jpg", 80, 60)
    with pytest.raises(ValueError, match="is 80 x 60 turned as its EXIF says, not 60 x 80"):
        look(tmp_path, "a.jpg")


def test_what_is_no_image_of_8_bits_is_named(tmp_path: Path) -> None:
    Image.fromarray(PIXELS[..., 0].astype(np.uint16)).save(tmp_path / "a.png")
    Image.fromarray(PIXELS[..., 0].astype(np.float32)).save(tmp_path / "a.tif")
    Image.fromarray(PIXELS).convert("RGBA").save(tmp_path / "opaque.png")
    look(tmp_path, "opaque.png")
    clear = np.dstack([PIXELS, PIXELS[..., 0]])
    Image.fromarray(clear).save(tmp_path / "clear.png")
    os.mkfifo(tmp_path / "pipe.jpg")
    messages = {
        "clear.png": "is transparent in places",
        "a.png": "has 16 bits", "a.tif": "floating-point", "pipe.jpg": "is no regular file",
        "gone.jpg": "is not there",
    }  # fmt: skip
    for name, message in messages.items():
        with pytest.raises(ValueError, match=message):
            look(tmp_path, name)
