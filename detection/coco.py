"""A file of boxes in COCO's format: every field checked and its images looked at.

Detectron2 finds an odd image when a worker gets to it, pycocotools a missing field after the first
epoch, and both pass over much in silence. So a file is checked whole before anything is trained,
and what is handed on has the fields that are read, no others.
"""

from __future__ import annotations

import json
import os
import reprlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any

from PIL import Image
from tqdm import tqdm

from keepbench.images import FORMATS, check_depth, check_sums, is_transparent, is_wide, open_image

Record = dict[str, Any]
Content = dict[str, list[Record]]
"""By "images", "annotations" and "categories"."""

EDGE = 1.0
"""Pixels that a box may stand over its image's edge: rounding, as in COCO's own files."""
ORIENTATION = 0x0112  # in EXIF; from 5 on, height and width change places
LARGEST = 2**31  # pixels, far beyond any image
_NAMED = 4  # faults that a message names


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def _is_inside(value: Any) -> bool:
    """Whether a file's name leads nowhere out of the folder that it is taken in."""
    path = PurePath(value) if isinstance(value, str) and "\0" not in value else PurePath("/")
    return bool(path.name) and not path.is_absolute() and ".." not in path.parts


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


Rule = tuple[Callable[[Any], bool], str]
_WHOLE: Rule = (_is_whole, "a whole number")
_SIDE: Rule = (lambda value: _is_whole(value) and 0 < value < LARGEST, "a whole number above 0")
RULES: dict[str, dict[str, Rule]] = {
    "images": {
        "id": _WHOLE,
        "file_name": (_is_inside, "a path inside the folder of images"),
        "height": _SIDE,
        "width": _SIDE,
    },
    "categories": {
        "id": _WHOLE,
        "name": (lambda value: isinstance(value, str) and bool(value.strip()), "a name"),
    },
    "annotations": {
        "id": _WHOLE,
        "image_id": _WHOLE,
        "category_id": _WHOLE,
        "bbox": (_is_box, "four finite numbers"),
        "area": (lambda value: _is_number(value) and value >= 0, "a number from 0 on"),
        "iscrowd": (lambda value: value in (0, 1), "0 or 1"),
        "ignore": (lambda value: value == 0, "0, since Detectron2 ignores no box"),
    },
}
"""Types of fields, by part of the file."""
OPTIONAL = ("area", "iscrowd", "ignore")  # absent or null
UNIQUE = {"images": ("id", "file_name"), "categories": ("id", "name"), "annotations": ("id",)}


def _faults(part: str, records: Any) -> Iterator[str]:
    """Faults in a part of the file, field by field."""
    if not isinstance(records, list):
        yield f"{part} must be a list, found {reprlib.repr(records)}"
        return
    for number, record in enumerate(records):
        if not isinstance(record, dict):
            yield f"{part}[{number}] must be an object, found {reprlib.repr(record)}"
            continue
        for field, (holds, words) in RULES[part].items():
            value = record.get(field)
            if not (holds(value) or (value is None and field in OPTIONAL)):
                found = reprlib.repr(value) if field in record else "none"
                yield f"{part}[{number}].{field} must be {words}, found {found}"


def _contradictions(content: Content) -> Iterator[str]:
    """Contradictions in a file whose fields are right."""
    for part, fields in UNIQUE.items():
        for field in fields:
            for value, times in _repeated(record[field] for record in content[part]):
                yield f"{times} {part} have the {field} {value!r}"
    for part, field in (("images", "image_id"), ("categories", "category_id")):
        known = {record["id"] for record in content[part]}
        for number, record in enumerate(content["annotations"]):
            if record[field] not in known:
                yield f"annotations[{number}].{field} {record[field]} is none of the {part}"


def _repeated(values: Iterable[Hashable]) -> list[tuple[Any, int]]:
    return [(value, times) for value, times in Counter(values).items() if times > 1]


def refuse(path: Path, faults: Iterable[str], what: str) -> None:
    """Raise ValueError if there are faults, with their number and the first of them."""
    found = list(faults)
    if found:
        first = "; ".join(found[:_NAMED]) + ("; ..." if len(found) > _NAMED else "")
        raise ValueError(f"{path}: {len(found)} {what}: {first}")


def read_coco(path: Path) -> Content:
    """Read a file of COCO's format.

    Raises:
        ValueError: It is missing or damaged, a field is not what it must be, records share what is
            theirs alone, or boxes are of no image or category in it.
    """
    if not path.is_file():
        raise ValueError(f"no boxes at {path}; give --data, or --dataset toy for generated images")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, numbers without end
        raise ValueError(f"{path} is not in COCO's format: {error!r}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not in COCO's format: {reprlib.repr(content)}")
    parts: dict[str, Any] = {part: content.get(part) for part in RULES}
    what = "faults in COCO's format"
    refuse(path, (fault for part in RULES for fault in _faults(part, parts[part])), what)
    refuse(path, _contradictions(parts), "contradictions")
    return {part: [_plain(part, record) for record in parts[part]] for part in parts}


def _plain(part: str, record: Record) -> Record:
    """The fields of a record that are read, without those that are null."""
    fields = {field: record.get(field) for field in RULES[part] if field != "ignore"}
    return {field: value for field, value in fields.items() if value is not None}


def mended_box(box: Record, size: tuple[int, int]) -> tuple[str, Record | None]:
    """The fault of a box, in a word, and the box that it becomes; None if it is dropped.

    A box over its image's edge by more than `EDGE` is clipped to the image. One without area, or
    wholly outside, is dropped. A missing area or crowd mark is filled in.

    Args:
        box: of COCO's format; `bbox` is (left, top, width, height) in pixels.
        size: (H, W) of its image.
    """
    left, top, width, height = box["bbox"]
    if width <= 0 or height <= 0:
        return "empty", None
    word = "" if "area" in box and "iscrowd" in box else "completed"
    right, bottom = left + width, top + height
    if min(left, top, size[1] - right, size[0] - bottom) < -EDGE:
        left, top = max(left, 0), max(top, 0)
        width, height = min(right, size[1]) - left, min(bottom, size[0]) - top
        if width <= 0 or height <= 0:
            return "outside", None
        word = "clipped"
    area = box.get("area", width * height)
    return word, box | {
        "bbox": [left, top, width, height],
        "area": min(area, width * height) if word == "clipped" else area,
        "iscrowd": int(box.get("iscrowd", 0)),
    }


def _is_whole_file(path: Path) -> bool:
    """Whether a JPEG or PNG file ends as such a file does; False for all others."""
    with path.open("rb") as file:
        file.seek(-min(64, path.stat().st_size), os.SEEK_END)
        end = file.read()
    return b"\xff\xd9" in end or b"IEND" in end


def _image_fault(path: Path, size: tuple[int, int]) -> str:
    """The fault of an image file, whose record says (H, W); "" if there is none.

    Its header is read, and a PNG's checksums; pixels are decoded only where a file's end does not
    show that it is whole, or where they may be transparent.
    """
    if not path.is_file():  # a pipe would be waited for
        return "is no regular file" if path.exists() else "is not there"
    try:
        with Image.open(path, formats=FORMATS) as image:
            found, turned = (image.height, image.width), False
            check_depth(image)
            if image.mode.startswith("I"):
                return "has 16 bits, which Detectron2 clips to white; store 8"
            if is_wide(image):  # of 16-bit colours it takes the high byte, as we do
                open_image(path)
            if is_transparent(image):
                return "is transparent in places, which Detectron2 passes over; store it without"
            with suppress(Exception):  # Detectron2 passes over damaged EXIF, too
                turned = image.getexif().get(ORIENTATION, 1) >= 5
            if not _is_whole_file(path):
                image.load()
            elif image.format == "PNG":
                check_sums(path)
    except Exception as error:  # damaged files make Pillow's decoders raise almost anything
        return f"cannot be read: {error}"
    if turned:
        found = found[::-1]
    if found == size:
        return ""
    as_shown = " turned as its EXIF says" if turned else ""
    return f"is {found[0]} x {found[1]}{as_shown}, not {size[0]} x {size[1]} as its record says"


def check_images(folder: Path, images: list[Record]) -> None:
    """Look at every image's file, whose header and size are what Detectron2 will insist on.

    Raises:
        ValueError: Some are missing, damaged, of more than 8 bits, transparent or of another size,
            first four.
    """

    def fault(image: Record) -> str:
        name = image["file_name"]
        wrong = _image_fault(folder / name, (image["height"], image["width"]))
        return f"{name} {wrong}" if wrong else ""

    with ThreadPoolExecutor(8) as pool:
        found = pool.map(fault, images, chunksize=64)
        bar = tqdm(found, "looking at images", len(images), leave=False, delay=2, disable=None)
        refuse(folder, filter(None, bar), f"of {len(images)} images cannot be used")
