"""Structure and arithmetic of the benchmark; that a figure is good is not for a test to say."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from classification.methods import CutMix, Cutout
from classification.models import create_model
from costing.cli import main
from costing.memory import Peak
from costing.methods import (
    METHODS,
    Setting,
    count_flops,
    first_stage,
    method_config,
    random_data,
)
from costing.report import TIMES, paper_ratio, paper_tables
from costing.timing import Arm, medians, take_turns
from keepbench.settings import named

CPU = torch.device("cpu")
TINY = Setting(batch_size=4)
KEYS = {"model", "method", "ratio", "map_ms", "boxes_ms", "step_ms", "peak_mib", "device"}


def test_the_tool_writes_a_row_for_each_method(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows.json"
    words = ["--models", "resnet8", "--batch-size", "2", "--repeats", "2", "--device", "cpu"]
    main([*words, "--json", str(file)])
    printed = capsys.readouterr().out
    assert "threads; torch" in printed and "resnet8, batch 2 of 32 pixels" in printed
    rows = json.loads(file.read_text())
    assert [row["method"] for row in rows] == list(METHODS)
    for row in rows:
        assert row.keys() >= KEYS
        parts = row["map_ms"], row["boxes_ms"], row["step_ms"]
        assert all(math.isfinite(part) and part >= 0 for part in parts)
        assert (row["map_ms"] > 0) == (not row["method"].startswith("plain"))
        assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
        assert row["peak_mib"] > 0 and row["waits"] is None
    assert rows[0]["ratio"] == rows[0]["flop_ratio"] == 1.0 and rows[0]["added"] == 0.0


def test_a_large_image_is_mixed_and_a_small_one_cut() -> None:
    for method, change in METHODS.items():
        small = method_config("resnet8", method, TINY)
        large = method_config("resnet18.tv_in1k", method, TINY)
        assert (small.cut, small.mix, large.cut, large.mix) == (Cutout(), None, None, CutMix())
        assert named(small.keep) == ("cut" if "keep" in change else "")
        assert named(large.keep) == ("mix" if "keep" in change else "")
        if small.keep and large.keep:
            assert (small.keep.map, small.keep.cache) == (large.keep.map, large.keep.cache)
    assert TINY.length("resnet8") == 32 and TINY.length("resnet18.tv_in1k") == 224
    assert Setting(size=96).length("resnet8") == 96


@pytest.mark.parametrize(
    ("arch", "stage"),
    [
        ("resnet8", "layer1"),
        ("convnext_atto", "stages.0"),
        ("efficientnet_lite0", "blocks.0"),
        ("vit_tiny_patch16_224", "blocks.2"),  # three of twelve blocks
    ],
)
def test_the_first_stage(arch: str, stage: str) -> None:
    assert first_stage(create_model(arch, 10)) == stage


def test_what_cannot_be_measured_is_named() -> None:
    with pytest.raises(ValueError, match="Sequential has no stage .* but 0"):
        first_stage(nn.Sequential(nn.Flatten()))
    with pytest.raises(ValueError, match="no method 'fast'; there are plain, full"):
        method_config("resnet8", "fast", TINY)
    with pytest.raises(SystemExit, match="unknown model 'resnet17x'"):
        main(["--models", "resnet17x", "--device", "cpu"])


def test_a_transformer_has_no_half_size(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--batch-size", "1", "--repeats", "1", "--device", "cpu", "--methods", "low"]
    main(["--models", "vit_tiny_patch16_224", *words])
    printed = capsys.readouterr()
    assert "vit_tiny_patch16_224 without low: " in printed.err
    assert "\nplain " in printed.out and "\nlow " not in printed.out


def test_operations_by_hand() -> None:
    """A step is three passes, a map two; without the gradient of the first layer's input."""
    model = create_model("resnet8", 10)
    plain, full, half, early, both, stored, recycled, teacher, low_precision = (
        count_flops(method_config("resnet8", method, TINY), 32) for method in METHODS
    )
    stem = 2 * 27 * 16 * 32**2
    sizes: dict[str, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(
                lambda m, i, o, name=name: sizes.__setitem__(name, o[0].numel())
            )
    model(torch.zeros(1, 3, 32, 32))
    layers = dict(model.named_modules())
    passes = {name: 2 * layers[name].weight[0].numel() * size for name, size in sizes.items()}
    rest = sum(passes.values()) - stem
    assert plain == 2 * stem + 3 * rest
    assert full - plain == 2 * (stem + rest)
    assert (half - plain) / (full - plain) == pytest.approx(0.25, rel=1e-3)
    assert plain < both < early < full
    refreshes = 20 / 300  # epochs 0, 1, 2, 4, 8, 16, 20, 40, ...
    assert stored - plain == pytest.approx((half - plain) * refreshes, rel=0.1)
    assert low_precision == plain
    assert stem < recycled - plain < 1.25 * stem  # and placing it in the image's frame
    assert 0 < teacher - plain < recycled - plain - stem  # reading it there


def test_ratios_are_medians_within_turns() -> None:
    """A machine that gets slower by the turn changes no ratio."""

    def turns(factor: float) -> list[dict[str, float]]:
        slow = (1.0, 2.0, 9.0, 4.0, 5.0)
        return [dict.fromkeys(("map", "boxes", "step", "total"), factor * s) for s in slow]

    row = medians(turns(1.5), turns(1.0))
    assert row["ratio"] == row["ratio_low"] == row["ratio_high"] == 1.5
    assert row["total_ms"] == row["map_ms"] == 6.0
    assert row["added"] == 1.5 + 1.5 - 1.0  # map and boxes; the plain step's own boxes do not count
    assert medians(turns(3.0)[:1], turns(2.0)[:1])["ratio"] == 1.5


def test_every_turn_has_every_arm_in_another_order() -> None:
    order: list[str] = []

    class Clock:
        def turn(self, steps: int) -> dict[str, float]:
            return {"total": steps}

    arms = {name: Clock() for name in "abcd"}
    times = take_turns(arms, 6, 5, order.append)  # type: ignore[arg-type]
    assert all(times[name] == [{"total": 5}] * 6 for name in arms)
    rounds = ["".join(order[i : i + 4]) for i in range(0, 24, 4)]
    assert all(sorted(each) == list("abcd") for each in rounds)
    assert len(set(rounds)) > 3


def test_parts_add_up_and_shares_weigh() -> None:
    data = random_data(8, 32, 10, CPU)
    arm = Arm(method_config("resnet8", "low", TINY), data, CPU)
    parts = arm.turn(2)
    assert parts["map"] + parts["boxes"] + parts["step"] < parts["total"]
    arm.shares = {0: 0.0}
    assert arm.turn(1)["total"] == 0.0
    assert arm.waits() is None


def test_the_peak_by_hand() -> None:
    with Peak(CPU) as peak:
        kept = torch.ones(256, 1024)  # 1 MiB
        _ = torch.ones(512, 1024)
        _ = torch.ones(1024, 1024)  # made before the 2 MiB are gone
        del _
        view = kept.view(-1)[10:]
        torch.ones(1024, 1024)
    assert peak.mib == pytest.approx(7.0, abs=0.01)
    assert len(view) == 256 * 1024 - 10
    with Peak(CPU, compiled=True) as unknown:
        pass
    assert unknown.mib is None


def test_the_papers_overheads() -> None:
    """As printed, but for those of docs/errata.md."""
    percent = {
        (model, method): f"{100 * (paper_ratio(model, method) or 0) - 100:.1f}"
        for model in TIMES
        for method in ("full", "low", "early")
    }
    assert percent["resnet18", "full"] == "100.0" and percent["wrn28_10", "full"] == "101.1"
    assert percent["resnet18", "low"] == "26.3" and percent["resnet110", "low"] == "25.0"
    assert percent["resnet18", "early"] == "21.1"  # printed: 13.0
    assert percent["resnet110", "early"] == "21.4"  # printed: 21.1
    assert percent["wrn28_10", "early"] == "13.0"
    assert percent["resnet50", "low"] == "20.0" and percent["resnet101", "early"] == "20.6"
    assert paper_ratio("resnet50", "full") is None and paper_ratio("resnet8", "low") is None


def test_the_columns_of_the_paper() -> None:
    rows = [
        {"model": "wrn28_10", "method": "plain", "ratio": 1.0},
        {"model": "wrn28_10", "method": "low", "ratio": 1.125},
        {"model": "wrn28_10", "method": "low_early", "ratio": 1.0625},
    ]
    lines = list(paper_tables(rows))
    assert lines[0].startswith("Table 6: ") and len(lines) == 7
    assert lines[4].split() == ["+", "low", "resolution", "+20.7", "%", "+12.5", "%"]
    assert lines[6].split() == ["+", "both", "-", "+6.2", "%"]
