"""How times grow: the fit by hand, and the tool on few, small points."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from costing import growth

ROWS = [
    {"series": series, "number": number, **{part: 3.0 * number**2 for part in growth.PARTS}}
    for series in growth.SERIES
    for number in (1, 2, 4, 8)
]


def test_a_power_law_gives_its_exponent() -> None:
    assert growth.slope([1, 2, 4], [5, 10, 20]) == pytest.approx(1)
    assert growth.slope([1, 10, 100], [7, 7, 7]) == pytest.approx(0)


def test_the_upper_half_is_fitted() -> None:
    bent = [{**row, "total_ms": 1.0} if row["number"] < 4 else row for row in ROWS]
    found = growth.slopes(bent, "pixels")
    assert found["map_ms"] == pytest.approx(2)
    upper = growth.slope([2, 4, 8], [1.0, 48.0, 192.0])
    assert found["total_ms"] == pytest.approx(upper)


def test_each_series_changes_one_thing() -> None:
    points = [*growth.points()]
    for series in growth.SERIES:
        numbers = [number for name, number, _, _ in points if name == series]
        assert numbers == sorted(numbers) and len(set(numbers)) == len(numbers) >= 5
    batches = [replace(config, batch_size=1) for name, _, _, config in points if name == "batch"]
    assert len(set(batches)) == 1
    assert [n for name, n, _, _ in points if name == "pixels"][-1] == 512 * 512


def test_the_tool_measures_prints_and_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(growth, "BATCHES", (1, 2, 3))
    monkeypatch.setattr(growth, "LENGTHS", (8, 12, 16))
    monkeypatch.setattr(growth, "PASTED", (120, 112, 8))
    words = ["--repeats", "1", "--device", "cpu"]
    files = [tmp_path / "rows.json", tmp_path / "plot.svg"]
    growth.main([*words, "--json", str(files[0]), "--plot", str(files[1])])
    rows = json.loads(files[0].read_text())
    assert [row["number"] for row in rows] == [1, 2, 3, 64, 144, 256, 81, 289, 14641]
    assert all(row["total_ms"] > row["map_ms"] + row["step_ms"] > 0 for row in rows)
    assert capsys.readouterr().out.count("exponent") == 3
    assert "<svg" in files[1].read_text()


def test_no_turns_are_refused() -> None:
    with pytest.raises(SystemExit, match="at least 1, found 0"):
        growth.main(["--repeats", "0"])
