"""Whatever happens to a file of a run: what is read is right, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from keepbench.run import read_rows
from keepbench.weights import load_checkpoint

STATE = {
    "epoch": 3,
    "step": 0,
    "model": {"weight": torch.arange(60.0).view(3, 20), "seen": torch.tensor(7)},
    "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3, 20)}}, "lr": [0.1, 0.2]},
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "last.pt"
    torch.save(STATE, path)
    return path


def read_or_refused(whole: Path, content: bytes) -> bool:
    """Whether a damaged copy was read; what was read must be what was written."""
    path = whole.with_name("damaged.pt")
    path.write_bytes(content)
    try:
        state = load_checkpoint(path)
    except ValueError as error:
        assert str(path) in str(error)
        return False
    assert str(state) == str(STATE)
    return True


def test_a_tensor_marked_as_a_folder_is_refused(checkpoint: Path) -> None:
    content = bytearray(checkpoint.read_bytes())
    entry = content.rindex(b"PK\x01\x02", 0, content.rindex(b"data/0"))
    content[entry + 38] ^= 0x10
    assert not read_or_refused(checkpoint, bytes(content))


@settings(max_examples=300)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_anywhere(checkpoint: Path, place: float, bit: int) -> None:
    content = bytearray(checkpoint.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    read_or_refused(checkpoint, bytes(content))


@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_off_anywhere(checkpoint: Path, share: float) -> None:
    content = checkpoint.read_bytes()
    assert not read_or_refused(checkpoint, content[: int(share * len(content))])


@given(st.binary(max_size=400))
def test_a_file_of_anything(checkpoint: Path, content: bytes) -> None:
    assert not read_or_refused(checkpoint, content)


numbers = st.integers() | st.floats(allow_nan=False) | st.none() | st.booleans()


@given(
    rows=st.lists(st.dictionaries(st.text(max_size=8), numbers | st.text(max_size=8)), max_size=5),
    share=st.floats(0, 1),
)
def test_rows_that_were_cut_off_anywhere(checkpoint: Path, rows: list, share: float) -> None:
    """Whole lines come back as they were written, and none that was not."""
    path = checkpoint.with_name("metrics.jsonl")
    lines = [json.dumps(row) + "\n" for row in rows]
    whole = "".join(lines).encode()
    kept = whole[: round(share * len(whole))]
    path.write_bytes(kept)
    found = read_rows(path)
    assert found == rows[: len(found)]
    assert len(found) >= kept.count(b"\n")


@given(st.binary(max_size=100))
def test_rows_of_anything(checkpoint: Path, content: bytes) -> None:
    path = checkpoint.with_name("metrics.jsonl")
    path.write_bytes(content)
    assert isinstance(read_rows(path), list)
