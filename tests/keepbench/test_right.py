from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from keepbench.right import NAME, read_right, write_right


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
