from __future__ import annotations

import math
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from keepbench.images import Normalise, read_image, read_or_error

RAMP = np.arange(256, dtype=np.uint8).reshape(8, 32)


def grey(path: Path) -> list[int]:
    """The grey values of an image file, whose three channels are equal."""
    pixels = read_image(path)
    assert pixels.dtype == torch.uint8 and (pixels == pixels[:1]).all()
    return pixels[0].flatten().tolist()


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_a_ramp_of_16_bits_is_that_of_8(name: str, tmp_path: Path) -> None:
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(tmp_path / name)
    assert grey(tmp_path / name) == list(range(256))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_of_8_bits_keeps_black_and_white(mode: str, tmp_path: Path) -> None:
    path = tmp_path / (
        "a.jpg" if mode in ("CMYK", "YCbCr") else "a.tif" if mode == "PA" else "a.png"
    )
    image = Image.fromarray(np.repeat(np.array([[0, 255]], np.uint8), 8, 0).repeat(8, 1))
    image.convert("P" if mode == "PA" else mode).save(path)
    assert {*grey(path)} == {0, 255}


def test_transparent_pixels_are_white(tmp_path: Path) -> None:
    """A palette's and a grey's own transparent value, and half a black on white."""
    white_at_3 = [0, 1, 2, 255, *range(4, 256)]
    Image.fromarray(RAMP).convert("P").save(tmp_path / "a.png", transparency=3)
    assert grey(tmp_path / "a.png") == white_at_3
    Image.fromarray(RAMP).save(tmp_path / "a.png", transparency=3)
    assert grey(tmp_path / "a.png") == white_at_3
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(tmp_path / "a.png", transparency=771)
    assert grey(tmp_path / "a.png") == white_at_3
    alpha = np.full((8, 32, 2), [0, 255], np.uint8)
    alpha[:, :2, 1] = [0, 127]
    for mode in ("LA", "RGBA", "PA"):
        image = Image.fromarray(alpha).convert(mode)
        image.putalpha(Image.fromarray(alpha[..., 1].copy()))  # which becoming PA had dropped
        ending = "tif" if mode == "PA" else "png"
        image.save(tmp_path / f"a.{ending}")
        assert grey(tmp_path / f"a.{ending}")[:3] == [255, 128, 0]


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_what_white_would_hide_is_refused(mode: str, tmp_path: Path) -> None:
    alpha = np.full((8, 32, 2), 255, np.uint8)
    alpha[:, 7:, 1] = 0
    Image.fromarray(alpha).convert(mode).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="shown on white, where nothing of it is seen"):
        read_image(tmp_path / "a.png")
    alpha[..., 1] = 0  # nothing is hidden where nothing is
    Image.fromarray(alpha).convert(mode).save(tmp_path / "a.png")
    assert {*grey(tmp_path / "a.png")} == {255}


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_fewer_bits_in_16_are_refused(name: str, bits: int, tmp_path: Path) -> None:
    Image.fromarray(RAMP.astype(np.uint16) << (bits - 8)).save(tmp_path / name)
    with pytest.raises(ValueError, match="16-bit values end near .* so that white is 65535"):
        read_image(tmp_path / name)


def test_black_and_a_white_that_is_told_are_16_bits(tmp_path: Path) -> None:
    Image.new("I;16", (4, 4)).save(tmp_path / "a.png")
    assert {*grey(tmp_path / "a.png")} == {0}
    (tmp_path / "a.pgm").write_bytes(b"P5 2 1 1023\n" + np.array([0, 1023], ">u2").tobytes())
    assert grey(tmp_path / "a.pgm") == [0, 255]


def test_of_16_bit_colours_the_high_byte_is_read(tmp_path: Path) -> None:
    """Pillow writes none, so the file is made by hand."""

    def write(values: np.ndarray) -> None:
        def chunk(kind: bytes, content: bytes) -> bytes:
            body = kind + content
            return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
        head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2, 0, 0, 0)
        parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
        (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*p) for p in parts))

    colours = RAMP[..., None].repeat(3, 2).astype(np.uint16)
    write(colours * 257)
    assert grey(tmp_path / "a.png") == list(range(256))
    for bits in (8, 12):
        write(colours << (bits - 8))
        with pytest.raises(ValueError, match="16-bit values end near"):
            read_image(tmp_path / "a.png")


@pytest.mark.parametrize(("kind", "words"), [("int32", "32-bit integers"), ("float32", "floating")])
def test_pixels_without_a_known_white_are_refused(kind: str, words: str, tmp_path: Path) -> None:
    Image.fromarray(RAMP.astype(kind)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=f"pixels are {words}.*store 8 or 16 bits"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_exif_orientation_is_applied(orientation: int, kind: type, tmp_path: Path) -> None:
    upright = RAMP.astype(kind) * (257 if kind is np.uint16 else 1)
    turned = {  # what a camera stores, by how it was held
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.T, 6: np.rot90(upright), 7: upright[::-1, ::-1].T, 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(turned)).save(tmp_path / "a.png", exif=exif)
    assert read_image(tmp_path / "a.png").shape == (3, 8, 32)
    assert grey(tmp_path / "a.png") == list(range(256))


def test_damaged_exif_says_nothing(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "a.png", exif=b"Exif\0\0no such thing")
    assert grey(tmp_path / "a.png") == list(range(256))


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_what_is_wrong_with_a_file_is_said(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(RAMP).save(path)
    path.write_bytes(path.read_bytes()[:-40] if content is None else content)
    assert isinstance(read_or_error(str(path)), str)


def test_special_files_are_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    for place in (tmp_path / "a.jpg", tmp_path, tmp_path / "none"):
        with pytest.raises(ValueError, match="is no regular file"):
            read_image(place)


@pytest.mark.parametrize(
    ("mean", "std"),
    [((123.7,), (0.2,)), ((0.5,), (58.0,)), ((0.5,), (0.0,)), ((-0.1,), (0.2,)),
     ((math.nan,), (0.2,)), ((0.5,), (math.inf,)), ((0.5, 0.5), (0.2,))],
)  # fmt: skip
def test_colours_of_bytes_are_refused(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    Normalise((0.0, 1.0), (1.0, 1 / 255))
    with pytest.raises(ValueError, match="channels in .0, 1., a number each, and std is above 0"):
        Normalise(mean, std)
