"""Measured training times beside the paper's: files of `benchmark_cost.py --json`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evidence.folders import Skipped, number
from keepbench.paper import COSTS, Costs

FIELDS = ("map_ms", "boxes_ms", "step_ms", "total_ms", "ratio", "ratio_low", "ratio_high")
CHEAP = ("low", "early")
"""The approximations that cost "about 20 %"."""
BATCH_SIZE = 128
"""Models of Table 6, and of `benchmark_cost.py` where nothing else is asked for."""
SWITCHES = {"bf16": "bfloat16", "compile": "compiled"}


@dataclass(frozen=True)
class CostRow:
    """A method on a model: milliseconds of a step, and their ratio to the plain method's.

    `ratio_low` and `ratio_high` are its quartiles over turns. `device` names those settings, too,
    that are not `benchmark_cost.py`'s own.
    """

    file: Path
    model: str
    method: str
    map_ms: float
    boxes_ms: float
    step_ms: float
    total_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    peak_mib: float | None
    device: str
    batch_size: int
    image_size: int

    @property
    def overhead(self) -> float:
        """Percent above the plain method."""
        return 100 * (self.ratio - 1)


def find(paths: Iterable[Path]) -> list[Path]:
    """Files given by name, and those called cost*.json in folders."""
    found: set[Path] = set()
    for path in paths:
        found |= {path} if path.is_file() else set(path.rglob("cost*.json"))
    return sorted(found)


def read(path: Path) -> list[CostRow]:
    """The rows of a file.

    Raises:
        ValueError: It is not what `benchmark_cost.py --json` writes.
    """
    try:
        rows = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise ValueError(f"cannot be read: {error}") from None
    if not isinstance(rows, list) or not rows:
        raise ValueError("holds no list of rows, as benchmark_cost.py --json writes it")
    return [_row(path, row) for row in rows]


def _row(path: Path, row: Any) -> CostRow:
    texts = ("model", "method", "device")
    if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in texts):
        raise ValueError(f"a row lacks {', '.join(texts)}")
    values = {name: value for name in FIELDS if (value := number(row, name)) is not None}
    if len(values) < len(FIELDS):
        raise ValueError(f"a row lacks {', '.join(set(FIELDS) - set(values))}")
    return CostRow(
        file=path,
        model=row["model"],
        method=row["method"],
        device=", ".join([row["device"], *_settings(row)]),
        peak_mib=number(row, "peak_mib"),
        batch_size=int(number(row, "batch_size") or 0),
        image_size=int(number(row, "image_size") or 0),
        **values,
    )


def _settings(row: dict[str, Any]) -> Iterator[str]:
    batch_size = number(row, "batch_size")
    if batch_size and batch_size != BATCH_SIZE:
        yield f"batch {batch_size:g}"
    yield from (word for name, word in SWITCHES.items() if row.get(name))


def read_all(paths: Iterable[Path]) -> tuple[list[CostRow], list[Skipped]]:
    """The rows of all files, and the files that have none."""
    rows: list[CostRow] = []
    skipped = []
    for path in find(paths):
        try:
            rows += read(path)
        except ValueError as error:
            skipped.append(Skipped(path, str(error)))
    return rows, skipped


@dataclass(frozen=True)
class CostCell:
    """A method on a model: the paper's time and overhead, and ours, one for each device."""

    paper: str
    method: str
    model: str
    overhead: float | None
    ours: tuple[CostRow, ...]


@dataclass(frozen=True)
class CostView:
    """Table 6 or 7 with what was measured."""

    costs: Costs
    rows: tuple[tuple[str, tuple[CostCell, ...]], ...]
    command: str
    devices: tuple[str, ...]

    @property
    def done(self) -> tuple[int, int]:
        """How many of the paper's times of a known method are measured, and how many there are."""
        cells = [cell for _, cells in self.rows for cell in cells if cell.method]
        return sum(bool(cell.ours) for cell in cells), len(cells)

    @property
    def cheap(self) -> str:
        """Whether the approximations cost as little as the paper says, in words."""
        cells = [cell for _, cells in self.rows for cell in cells if cell.method in CHEAP]
        found = [row for cell in cells for row in cell.ours]
        if not found:
            return "not measured yet"
        limit = max(round(cell.overhead or 0, 1) for cell in cells)
        within = sum(100 * (row.ratio_high - 1) <= limit for row in found)
        return f"{within} of {len(found)} measured overheads are at most the paper's {limit} %"


def view(number_: str, rows: Iterable[CostRow]) -> CostView:
    """A table of costs; overheads are computed from the paper's times, not copied."""
    costs, measured = COSTS[number_], list(rows)
    lines, plain = [], costs.rows[0][2]
    for name, method, times in costs.rows:
        if not name.startswith(("Keep", "+")):
            plain = times
        cells = []
        for model, time, base in zip(costs.models, times, plain, strict=True):
            percent = None if times is plain else 100 * (time / base - 1)
            ours = [r for r in measured if method and (r.model, r.method) == (model, method)]
            shown = f"{time:g} {costs.unit}" + ("" if percent is None else f" ({percent:+.1f} %)")
            cells.append(CostCell(shown, method, model, percent, tuple(ours)))
        lines.append((name, tuple(cells)))
    return CostView(
        costs,
        tuple(lines),
        f"python tools/benchmark_cost.py --models {' '.join(costs.models)} "
        f"--json runs/cost{number_}.json",
        tuple(dict.fromkeys(row.device for row in measured if row.model in costs.models)),
    )
