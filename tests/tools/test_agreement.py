"""Kinds of maps over the epochs of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from costing.agreement import main


def test_a_small_run_is_compared_after_each_epoch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["digits-resnet8-keep_cutout_recycled", "--subset", "40", "--test-subset", "20"]
    words += ["--epochs", "2", "--early-head", "layer1", "--device", "cpu", "--out", str(tmp_path)]
    main(words)
    rows = json.loads((tmp_path / "agreement.json").read_text())
    kinds = {"recycled", "cached", "low", "early", "low_early", "random", "mirrored"}
    assert [row["epoch"] for row in rows] == [1, 2]
    assert all(row.keys() == kinds | {"epoch", "test_accuracy"} for row in rows)
    assert all(0 < row[kind]["agreement"] <= 1 for row in rows for kind in kinds)
    assert rows[1]["low"] != rows[0]["low"] and rows[1]["random"] != rows[1]["recycled"]
    assert (tmp_path / "agreement.png").stat().st_size > 0
    assert capsys.readouterr().out.count("recycled") >= 2


def test_only_recycled_arms_can_be_watched(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="an experiment with recycled maps, found keep.map=none"):
        main(["digits-resnet8-cutout", "--device", "cpu", "--out", str(tmp_path)])
