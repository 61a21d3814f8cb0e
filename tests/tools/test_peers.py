"""What is printed of times; that a figure is good is not for a test to say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from costing import peers
from costing.peers import OURS, Images, all_arms, main, measure, rows_of, table

CPU = torch.device("cpu")


def test_the_tool_writes_a_row_for_each_work_of_each_library(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, threads = tmp_path / "rows.json", torch.get_num_threads()
    main(["--batches", "8x16", "--repeats", "1", "--json", str(file)])
    torch.set_num_threads(threads)
    rows = json.loads(file.read_text())
    assert {row["library"] for row in rows} >= {OURS, "torchvision", "timm"}
    assert all(row["ms"] > 0 and row["version"] and row["image_size"] == 16 for row in rows)
    assert all(row["ours"] == 1.0 for row in rows if row["library"] == OURS)
    printed = capsys.readouterr().out
    assert "8 of 16 pixels" in printed
    assert all(f"\n{row['work']} " in printed for row in rows)


def test_each_arm_does_its_work_on_its_own_images() -> None:
    arms = all_arms(Images(8, 16, CPU))
    for (work, library), call in arms.items():
        assert (work, OURS) in arms, library
        assert call() is not None


def test_ratios_are_those_of_a_turn() -> None:
    times = {
        ("Cutout", OURS): [2.0, 4.0, 4.0],
        ("Cutout", "other"): [1.0, 1.0, 8.0],
        ("KeepCutout", OURS): [10.0, 20.0, 12.0],
    }
    plain, other, keep = rows_of(times, 4, version=lambda library: library)
    assert (plain["ms"], plain["ours"], "above_plain_ms" in plain) == (4.0, 1.0, False)
    assert (other["ms"], other["ours"]) == (1.0, 2.0)  # of 2, 4 and 0.5
    assert keep["above_plain_ms"] == 2.0  # of 8, 16 and 8, for 4 images
    lines = [*table([row | {"batch_size": 4, "image_size": 9} for row in (plain, other, keep)])]
    assert lines[2].split() == ["Cutout", "4.00", "2.00"]
    assert lines[3].split() == ["KeepCutout", "12.00", "-", "2.0000", "ms", "an", "image"]


def test_turns_go_round_all_arms(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    arms = {(name, OURS): lambda name=name: calls.append(name) for name in "abc"}
    monkeypatch.setattr(peers, "milliseconds", lambda call, device: call() or 1.0)
    times = measure(arms, 2, CPU)  # type: ignore[arg-type]
    assert [sorted(calls[i : i + 3]) for i in (0, 3, 6)] == 3 * [["a", "b", "c"]]
    assert all(turns == [1.0, 1.0] for turns in times.values())


@pytest.mark.parametrize("batch", ["32", "4x224", "axb"])
def test_a_batch_that_cannot_be_is_refused(batch: str) -> None:
    with pytest.raises(SystemExit, match="--batches takes such as 32x224"):
        main(["--batches", batch])
