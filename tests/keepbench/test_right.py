from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from keepbench.right import (
    ITEMS,
    NAME,
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


def test_numbers_of_items_come_back_to_the_bit(tmp_path: Path) -> None:
    values = torch.rand(7, dtype=torch.float64)
    write_items(tmp_path, values, epoch=3)
    assert torch.equal(read_items(tmp_path), values)
    assert mean_of_items(tmp_path) == 100 * float(values.mean())


@pytest.mark.parametrize("change", [{"items": 9}, {"mean": 0.5}, {"values": "?"}, {"values": None}])
def test_damaged_numbers_are_refused(change: dict, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=ITEMS):
        read_items(tmp_path)
    write_items(tmp_path, torch.tensor([0.1, 0.2]), epoch=1)
    about = json.loads((tmp_path / ITEMS).read_text())
    (tmp_path / ITEMS).write_text(json.dumps(about | change))
    with pytest.raises(ValueError, match=ITEMS):
        read_items(tmp_path)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_the_parts_of_processes_are_joined_in_the_items_order(processes: int) -> None:
    items = torch.arange(7)
    assert torch.equal(joined([items[rank::processes] for rank in range(processes)]), items)
