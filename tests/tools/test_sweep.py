"""The sweep over networks: what it finds of a few, and that its page is of its rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from runs import ROOT
from sweeping import checks
from sweeping.checks import COLUMNS, YES, OutOfTimeError, examine, time_limit
from sweeping.cli import in_order, main, read_rows
from sweeping.networks import Family, families, smallest
from sweeping.page import page


def test_the_tool_examines_goes_on_and_writes_its_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, table = tmp_path / "rows.jsonl", tmp_path / "networks.md"
    words = ["--only", "ghostnet", "shufflenetv2", "--rows", str(rows), "--page", str(table)]
    main(words)
    found = read_rows(rows)
    assert [row["family"] for row in found] == ["ghostnet", "shufflenetv2"]
    for row in found:
        held = {column for column in COLUMNS if row[column] == YES}
        assert held == COLUMNS.keys() - {"attention"}, row
        assert row["attention"].startswith("refused: ") and row["size"] == 32
    before = rows.read_bytes()
    main(words)
    assert rows.read_bytes() == before  # nothing is tried again
    assert "2 networks, 0 could not be run" in capsys.readouterr().out
    assert "| timm ghostnet_050 |" in table.read_text()


class Wrong(nn.Module):
    """Its map is not that of evaluation: it takes the batch's statistics and counts its passes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 10, 3, padding=1)
        self.passes = nn.Buffer(torch.zeros(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.conv(images).tanh()
        if self.training:
            features = features / features.std((0, 2, 3), keepdim=True)
        return features.mean((2, 3))


def test_what_does_not_hold_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeping.networks.make", lambda library, name: Wrong().train())
    monkeypatch.setattr(checks, "make", lambda library, name: Wrong().train())
    monkeypatch.setattr(checks, "trace_of", lambda model, action: (action(), {"buffers": ["a"]})[1])
    row = examine("timm", "wrong", 60)
    for column in ("map", "half", "bf16", "channels-last"):
        assert row[column].startswith("the map differs by"), row
    assert row["no trace"] == "changed buffers (a)"
    assert "the map differs" in page([row | {"machine": "", "versions": "", "commit": ""}])


def test_a_network_that_cannot_be_made_is_a_row_with_an_error() -> None:
    assert "no such network" in examine("timm", "no such network", 60)["error"].lower()


def test_a_limit_ends_what_takes_long() -> None:
    with pytest.raises(OutOfTimeError, match="not done after 0 s"), time_limit(0.01):
        while True:
            pass


def test_families_are_those_of_both_libraries() -> None:
    found = {(family.library, family.name): family for family in families()}
    assert len(found) >= 90
    assert "resnet18" in found["torchvision", "resnet"].members
    assert not any(member.startswith("test_") for f in found.values() for member in f.members)
    assert smallest(Family("torchvision", "vgg", ("vgg13", "vgg11"))) == "vgg11"


def test_the_page_in_the_docs_is_that_of_the_rows() -> None:
    path = ROOT / "results" / "networks.jsonl"
    assert (ROOT / "docs" / "networks.md").read_text() == page(in_order(read_rows(path)))
