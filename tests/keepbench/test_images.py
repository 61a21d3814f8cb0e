from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from keepbench.images import read_image, read_or_error

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


def test_transparency_is_dropped_without_a_warning(tmp_path: Path) -> None:
    Image.fromarray(RAMP).convert("P").save(tmp_path / "a.png", transparency=3)
    assert grey(tmp_path / "a.png") == list(range(256))


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
