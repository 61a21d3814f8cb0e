"""The figures in tables: each method's, and the columns of the paper's Tables 6 and 7 with ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from keepbench.paper import TIMES

Row = dict[str, Any]

TABLES: dict[str, tuple[str, tuple[str, ...]]] = {
    "6": ("Cutout", ("resnet18", "resnet110", "wrn28_10")),
    "7": ("CutMix", ("resnet50", "resnet101")),
}
"""The plain method of each table, and its models."""

_NAMES = {
    "full": "Keep",
    "low": "+ low resolution",
    "early": "+ early loss",
    "low_early": "+ both",
    "cached": "+ cached",
    "recycled": "+ recycled",
    "teacher": "+ teacher",
}


def paper_ratio(model: str, method: str) -> float | None:
    """A method's time as a multiple of the plain one's in Table 6 or 7; None if not there."""
    times = TIMES.get(model, {})
    return times[method] / times["plain"] if method in times else None


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def model_table(rows: Sequence[Row]) -> Iterator[str]:
    """Lines with every figure of one model's methods."""
    titles = ("map", "boxes", "network", "step", "ratio", "quartiles", "added", "GFLOP", "ratio")
    widths = (9, 9, 9, 9, 7, 13, 8, 8, 7, 7)
    first = rows[0]
    yield (
        f"{first['model']}, batch {first['batch_size']} of {first['image_size']} pixels; "
        "milliseconds, map and boxes added to the plain step, GFLOP per image, peak memory"
    )
    yield " ".join(
        [f"{'':10s}", *(f"{t:>{w}s}" for t, w in zip((*titles, "MiB"), widths, strict=True))]
    )
    for row in rows:
        times = [f"{row[part]:.2f}" for part in ("map_ms", "boxes_ms", "step_ms", "total_ms")]
        cells = [
            *times,
            f"{row['ratio']:.3f}",
            f"{row['ratio_low']:.3f}-{row['ratio_high']:.3f}",
            f"{100 * row['added']:.2f} %",
            f"{row['gflop']:.2f}",
            f"{row['flop_ratio']:.3f}",
            _number(row["peak_mib"], ".0f"),
        ]
        waits = " waits for the GPU" if row["waits"] else ""
        line = [f"{row['method']:10s}", *(f"{c:>{w}s}" for c, w in zip(cells, widths, strict=True))]
        yield " ".join(line) + waits


def _overhead(ratio: float | None) -> str:
    return "-" if ratio is None else f"{100 * (ratio - 1):+.1f} %"


def paper_tables(rows: Sequence[Row]) -> Iterator[str]:
    """Lines with the columns of Tables 6 and 7 that were measured: overheads, the paper's and ours.

    Ours at 224 pixels is CutMix on one device; AutoAugment's rows of Table 7 are not measured.
    """
    ours = {(row["model"], row["method"]): row["ratio"] for row in rows}
    for table, (plain, models) in TABLES.items():
        shown = [model for model in models if (model, "plain") in ours]
        if not shown:
            continue
        yield f"Table {table}: training time above {plain}'s, in the paper and here"
        yield f"{'':18s}" + "".join(f"{model:>22s}" for model in shown)
        yield f"{'':18s}" + f"{'paper':>12s}{'here':>10s}" * len(shown)
        for method, name in _NAMES.items():
            cells = [(paper_ratio(m, method), ours.get((m, method))) for m in shown]
            if any(ratio is not None for pair in cells for ratio in pair):
                yield f"{name:18s}" + "".join(
                    f"{_overhead(theirs):>12s}{_overhead(here):>10s}" for theirs, here in cells
                )
