from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from keepbench.right import (
    NAME,
    is_recorded,
    joined,
    mean_of_items,
    read_items,
    read_right,
    write_items,
    write_right,
)


@pytest.mark.parametrize("number", [0, 1, 8, 1001])
def test_bits_come_back_in_an_eighth_of_their_number_of_bytes(number: int, tmp_path: Path) -> None:
    right = torch.rand(number) < 0.8
    write_right(tmp_path, right, epoch=3)
    assert torch.equal(read_right(tmp_path), right)
    assert (tmp_path / NAME).stat().st_size < number / 6 + 80


@pytest.mark.parametrize("change", [{"images": 9}, {"right": 5}, {"bits": "?"}, {"bits": None}])
def test_damaged_bits_are_refused(change: dict, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=NAME):
        read_right(tmp_path)
    write_right(tmp_path, torch.tensor([True, False, True]), epoch=1)
    about = json.loads((tmp_path / NAME).read_text())
    (tmp_path / NAME).write_text(json.dumps(about | change))
    with pytest.raises(ValueError, match=NAME):
        read_right(tmp_path)


def test_numbers_come_back_to_the_bit_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    values = torch.rand(7, dtype=torch.float64)
    write_items(tmp_path, values, 3)
    assert read_items(tmp_path).equal(values) and is_recorded(tmp_path)
    assert mean_of_items(tmp_path) == pytest.approx(100 * values.mean().item())
    path = tmp_path / "items.json"
    about = json.loads(path.read_text())
    for change in ({"items": 8}, {"mean": 0.0}, {"values": about["values"][:-5]}, {"values": 3}):
        path.write_text(json.dumps(about | change))
        with pytest.raises(ValueError, match="cannot be read"):
            read_items(tmp_path)


def test_the_shares_of_processes_are_put_back_in_order() -> None:
    whole = torch.arange(7)
    assert joined([whole[rank::3] for rank in range(3)]).equal(whole)
