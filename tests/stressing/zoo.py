"""Odd and damaged files, made on the spot, and what a reader may make of each."""

from __future__ import annotations

import io
import json
import os
import pickle
import socket
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image

SAME, LEFT_OUT, REFUSED = "read rightly", "left out", "refused by name"
ANY, UNSAID = "read", "left out in silence"
"""What may come of a file: ANY of damage without a checksum, UNSAID of a folder without files."""
FLIPS = 40  # of each kind of file


@dataclass(frozen=True)
class Animal:
    """An odd file.

    Attributes:
        name: in words.
        put: writes it at a path, given the healthy file's bytes.
        fates: what may come of it.
        rename: what its name becomes, from stem and ending.
    """

    name: str
    put: Callable[[Path, bytes], Any]
    fates: frozenset[str]
    rename: Callable[[str, str], str] = lambda stem, ending: stem + ending


def _animal(name: str, put: Callable[[Path, bytes], Any], *fates: str, **rename: Any) -> Animal:
    return Animal(name, put, frozenset(fates), **rename)


def _saved(form: str, change: Callable[[Image.Image], Image.Image] = lambda i: i, **options: Any):  # type: ignore[no-untyped-def]  # noqa: E501
    """A writer of the healthy picture in another format and mode."""

    def put(path: Path, healthy: bytes) -> None:
        change(Image.open(io.BytesIO(healthy))).save(path, form, **options)

    return put


def _wide(image: Image.Image, white: int = 65535) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * (white // 255))


def _in_alpha(image: Image.Image) -> Image.Image:
    shape = Image.new("LA", image.size)
    shape.putalpha(image.convert("L"))
    return shape


def _turned(path: Path, healthy: bytes) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    turned = Image.open(io.BytesIO(healthy)).transpose(Image.Transpose.ROTATE_90)
    turned.save(path, "PNG", exif=exif)


def _chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = _chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(b"")), _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def flipped(content: bytes, random: Random) -> bytes:
    """The same with one bit turned."""
    place = random.randrange(len(content))
    turned = content[place] ^ (1 << random.randrange(8))
    return content[:place] + bytes([turned]) + content[place + 1 :]


def _bytes(content: bytes) -> Callable[[Path, bytes], Any]:
    return lambda path, healthy: path.write_bytes(content)


def _changed(change: Callable[[bytes], bytes]) -> Callable[[Path, bytes], Any]:
    return lambda path, healthy: path.write_bytes(change(healthy))


def _socket(path: Path, healthy: bytes) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the address of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(path.name)
    finally:
        os.chdir(here)


def _link(target: Callable[[Path], Path | str]) -> Callable[[Path, bytes], Any]:
    return lambda path, healthy: path.symlink_to(target(path))


def _outside(path: Path, healthy: bytes) -> None:
    other = path.parents[3] / f"elsewhere-{path.name}"
    other.write_bytes(healthy)
    path.symlink_to(other)


def _closed(path: Path, healthy: bytes) -> None:
    path.write_bytes(healthy)
    path.chmod(0)


def places(random: Random, healthy: int) -> Iterator[Animal]:
    """What may lie at a file's place whatever its kind, and general damage."""
    for name, put in (
        ("a FIFO", lambda path, _: os.mkfifo(path)),
        ("a socket", _socket),
        ("a folder", lambda path, _: path.mkdir()),
        ("a link to itself", _link(lambda path: path)),
        ("a link to nothing", _link(lambda path: "nothing")),
        ("a link to its folder", _link(lambda path: path.parent)),
        ("a link upwards", _link(lambda path: path.parents[1])),
        ("a link to /", _link(lambda path: "/proc/self/fd")),
        ("a link to /dev/zero", _link(lambda path: "/dev/zero")),
        ("a link to /dev/stdin", _link(lambda path: "/dev/stdin")),
    ):
        unsaid = {UNSAID} if name == "a folder" else set()
        yield _animal(name, put, LEFT_OUT, REFUSED, *unsaid)
    yield _animal("itself", _changed(bytes), SAME)
    yield _animal("a link to a file elsewhere", _outside, SAME, REFUSED)
    yield _animal("a file that nobody may read", _closed, SAME, REFUSED)
    yield _animal("an empty file", _bytes(b""), REFUSED)
    yield _animal("random bytes", _bytes(random.randbytes(2000)), REFUSED)
    yield _animal("zeros", _bytes(bytes(2000)), REFUSED)
    yield _animal("text", _bytes(b"not what it seems\n" * 9), REFUSED)
    for cut in sorted({1, 7, healthy // 2, healthy - 1, *random.sample(range(healthy), 6)}):
        put = _changed(lambda content, cut=cut: content[:cut])  # type: ignore[misc]
        yield _animal(f"cut to {cut} of {healthy} bytes", put, REFUSED, SAME)


def _flips(random: Random, *fates: str) -> Iterator[Animal]:
    for number in range(FLIPS):
        own = Random(random.random())
        put = _changed(lambda content, own=own: flipped(content, own))  # type: ignore[misc]
        yield _animal(f"a bit flipped, {number}", put, *fates)


def _with(more: str) -> Callable[[str, str], str]:
    """A longer name."""
    return lambda stem, ending: stem + more + ending


def images(random: Random, healthy: bytes) -> Iterator[Animal]:
    """Odd image files; the healthy one is a grey PNG whose three channels are equal."""
    yield from places(random, len(healthy))
    yield from _flips(random, SAME, REFUSED)
    for form, mode in (("PNG", "L"), ("PNG", "LA"), ("PNG", "RGBA"), ("BMP", "RGB"),
                       ("TIFF", "L"), ("TIFF", "RGB"), ("PPM", "RGB")):  # fmt: skip
        put = _saved(form, lambda image, mode=mode: image.convert(mode))  # type: ignore[misc]
        yield _animal(f"{form}, {mode}", put, SAME)
    palette = _saved("PNG", lambda image: image.convert("L").convert("P"))
    yield _animal("PNG, P", palette, SAME)
    yield _animal("16 bits, PNG", _saved("PNG", _wide), SAME, REFUSED)
    yield _animal("16 bits, TIFF", _saved("TIFF", _wide), SAME, REFUSED)
    yield _animal("12 bits in 16", _saved("PNG", lambda i: _wide(i, 4095)), REFUSED)
    yield _animal("black whose shape is in alpha", _saved("PNG", _in_alpha), ANY, REFUSED)
    yield _animal("lossless WebP", _saved("WEBP", lossless=True), SAME)
    yield _animal("turned by EXIF", _turned, SAME)
    yield _animal("32-bit integers", _saved("TIFF", lambda i: i.convert("I")), REFUSED)
    yield _animal("floating-point", _saved("TIFF", lambda i: i.convert("F")), REFUSED)
    yield _animal("JPEG", _saved("JPEG", quality=95), ANY)
    yield _animal("CMYK", _saved("JPEG", lambda i: i.convert("CMYK")), ANY)
    yield _animal("GIF inside", _saved("GIF"), SAME, REFUSED)
    for size in ((60_000, 60_000), (2**31 - 1, 1), (0, 5), (1, 2**20)):
        yield _animal(f"PNG that claims {size}", _bytes(png_of(*size)), REFUSED)
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n"
    yield _animal("PostScript", _bytes(postscript), REFUSED)
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    yield _animal("SVG", _bytes(svg), REFUSED)
    for name, rename in (
        ("hidden", lambda stem, ending: "." + stem + ending),
        ("no image's ending", lambda stem, ending: stem + ".txt"),
        ("no ending", lambda stem, ending: stem),
    ):
        yield _animal(f"name: {name}", _changed(bytes), LEFT_OUT, REFUSED, rename=rename)
    for name, more in (("not UTF-8", "\udcff"), ("a line break", "\n"), ("long", "n" * 150),
                       ("an escape", "\x1b[2J"),
                       ("markup", "<b>&'\"`$(id)"), ("far", "\u6c49 \u00e9")):  # fmt: skip
        yield _animal(f"name: {name}", _changed(bytes), SAME, REFUSED, rename=_with(more))
    capital = lambda stem, ending: stem + ending.upper()  # noqa: E731
    yield _animal("name: capitals", _changed(bytes), SAME, REFUSED, rename=capital)


class _Code:
    """An object whose pickle writes a file when it is loaded."""

    def __init__(self, canary: str) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.mkdir, (self.canary,)


def canary_of(path: Path) -> Path:
    """What code in a pickle at `path` makes."""
    return path.with_name("code-ran")


def _zip_with_code(path: Path, healthy: bytes) -> None:
    """A torch archive whose pickle was replaced."""
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("archive/data.pkl", pickle.dumps({"model": _Code(str(canary_of(path)))}))
        out.writestr("archive/version", "3\n")


def _pickled(path: Path, healthy: bytes) -> None:
    path.write_bytes(pickle.dumps({"model": _Code(str(canary_of(path))), "__author__": "x"}))


def _deep(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


def _stored(change: Callable[[Any], Any]) -> Callable[[Path, bytes], Any]:
    """A writer of a checkpoint with changed content."""

    def put(path: Path, healthy: bytes) -> None:
        content = torch.load(io.BytesIO(healthy), weights_only=True) if healthy[:2] == b"PK" else {}
        torch.save(change(content), path)

    return put


def _with_weights(change: Callable[[torch.Tensor], Any]) -> Callable[[Any], Any]:
    def changed(content: Any) -> Any:
        inside = content.get("model")
        weights = inside if isinstance(inside, dict) else content
        new = {name: change(value) for name, value in weights.items()}
        average: Any = {"average": {}} if "average" in content else {}
        return {**content, "model": new, **average} if inside is weights else new

    return changed


def checkpoints(random: Random, healthy: bytes) -> Iterator[Animal]:
    """Odd files of weights."""
    yield from places(random, len(healthy))
    yield from _flips(random, SAME, REFUSED)
    yield _animal("a pickle with code", _pickled, REFUSED)
    yield _animal("an archive with code", _zip_with_code, REFUSED)
    for name, content in (
        ("a list", [1]), ("a tensor", torch.ones(3)), ("a text", "x"), ("nothing", None),
        ("an empty dict", {}), ("numbers for names", {1: torch.ones(2)}), ("deep", _deep(100)),
        ("a dict of lists", {"model": [1], "epoch": 1, "step": 0}),
        ("a dict of texts", {"model": {"a": "b"}, "epoch": 1, "step": 0}),
    ):  # fmt: skip
        yield _animal(name, _stored(lambda _, content=content: content), REFUSED)  # type: ignore[misc]
    for name, change in (
        ("NaN", lambda value: value * float("nan") if value.is_floating_point() else value),
        ("other shapes", lambda value: torch.zeros(3, 5)),
        ("texts for weights", lambda value: "x"),
    ):
        yield _animal(f"weights: {name}", _stored(_with_weights(change)), REFUSED)


def states(random: Random, healthy: bytes, most: int = 250) -> Iterator[Animal]:
    """Odd checkpoints of a run, beyond odd files of weights: any part gone or of another kind."""
    yield from checkpoints(random, healthy)
    for name, text in (("metrics", "[1]"), ("metrics", "{}"), ("metrics", '[{"epoch": "x"}]'),
                       ("run", "[]"), ("run", "{}"), ("run", "[" * 10_000)):  # fmt: skip
        put = _stored(lambda c, name=name, text=text: c | {name: text})  # type: ignore[misc]
        yield _animal(f"{name} is {text[:20]!r}", put, REFUSED, SAME)
    known = torch.load(io.BytesIO(healthy), weights_only=True)
    values = (None, True, -1, 10**9, float("nan"), "x", [1], {"a": 1}, _GONE)
    changes = [(place, new) for place in _paths(known) for new in values if place]
    chosen = [change for change in changes if len(change[0]) == 1]
    rest = [change for change in changes if len(change[0]) > 1]
    for place, new in chosen + random.sample(rest, min(most, len(rest))):
        put = _stored(lambda c, place=place, new=new: _put(c, place, new))  # type: ignore[misc]
        if place[:2] == ("optimizer", "state") and new is _GONE:
            continue  # a parameter may have none
        yield _animal(f"{'.'.join(map(str, place))} is {new!r}", put, REFUSED, SAME)


_GONE = "nothing at all"
ODD = [None, True, -1, 0.5, 10**30, float("nan"), float("inf"), "", "x", "\x1b[2J", [], [1], {},
       {"a": 1}, "\ud800", _deep(50)]  # fmt: skip
"""Values that take the place of each value of a JSON file."""


def _paths(value: Any, here: tuple = ()) -> Iterator[tuple]:
    """The places of all values in JSON."""
    yield here
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value[:2]) if isinstance(value, list) else items  # type: ignore[assignment]
    for key, each in items:
        yield from _paths(each, (*here, key))


def _put(value: Any, place: tuple, new: Any) -> Any:
    """A copy of JSON, or of a checkpoint, with one value replaced or gone."""
    if not place:
        return new
    copy = value.copy()
    if place[1:] or new is not _GONE:
        copy[place[0]] = _put(value[place[0]], place[1:], new)
    else:
        del copy[place[0]]
    return copy


def documents(random: Random, healthy: bytes, most: int = 400) -> Iterator[Animal]:
    """Odd JSON files: every value replaced by others; any may be taken but must not break."""
    yield from places(random, len(healthy))
    yield from _flips(random, ANY, REFUSED)
    yield _animal("nested deeply", _bytes(b"[" * 100_000), REFUSED)
    yield _animal("a long number", _bytes(b'{"a": ' + b"9" * 50_000 + b"}"), REFUSED)
    yield _animal("not UTF-8", _changed(lambda content: content.replace(b"e", b"\xff")), REFUSED)
    yield _animal("UTF-16", _changed(lambda c: c.decode().encode("utf-16")), REFUSED, ANY)
    yield _animal("twice", _changed(lambda content: content + content), REFUSED)
    known = json.loads(healthy)
    changes = [(place, new) for place in _paths(known) for new in ODD]
    for place, new in random.sample(changes, min(most, len(changes))):
        text = json.dumps(_put(known, place, new)).encode()
        where = ".".join(map(str, place))
        yield _animal(f"{where} is {str(new)[:12]!r}", _bytes(text), ANY, REFUSED)


def lines(random: Random, healthy: bytes) -> Iterator[Animal]:
    """Odd files of JSON lines."""
    yield from places(random, len(healthy))
    yield from _flips(random, ANY)
    known = [json.loads(line) for line in healthy.splitlines()]
    parts = healthy.splitlines(keepends=True)
    for name, content in (
        ("reversed", b"".join(reversed(parts))), ("twice", healthy * 2), ("last alone", parts[-1]),
        ("blank lines", b"\n\n" + healthy), ("a long line", healthy + b"x" * 10**6),
        ("NUL bytes", healthy + bytes(100)), ("nested deeply", healthy + b"[" * 100_000 + b"\n"),
    ):  # fmt: skip
        yield _animal(name, _bytes(content), ANY)
    changes = [(place, new) for place in _paths(known) if place for new in ODD]
    for place, new in random.sample(changes, min(200, len(changes))):
        text = "".join(json.dumps(row) + "\n" for row in _put(known, place, new))
        yield _animal(f"{place} is {str(new)[:12]!r}", _bytes(text.encode()), ANY)
