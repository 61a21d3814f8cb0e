"""The report's figures as JSON and CSV, for other tools."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evidence.statistics import RULE, Verdict
from reporting.content import Report
from reporting.results import CellView, ClaimView, Finding, Measured
from reporting.summary import Comparison

COLUMNS = (
    "where", "row", "column", "experiment", "metric", "paper", "status", "budget", "full", "n",
    "mean", "deviation", "low", "high", "best", "seeds", "hardware", "commit", "command",
)  # fmt: skip


def places(report: Report) -> Iterator[tuple[str, str, str, CellView]]:
    """Every cell with its table or figure, row and column."""
    for view in report.tables:
        for row, column, cell in view.cells():
            yield view.section.name, row, column, cell
    for figure in report.figures:
        for part in figure.parts:
            name = f"Figure {part.figure.number}"
            for column, points in (("test", part.points), ("training", part.train)):
                for x, cell in points:
                    yield name, f"{x:g}", column, cell
            if part.baseline:
                yield name, "baseline", "test", part.baseline
    for title, cells in report.others.items():
        for cell in cells:
            yield title, cell.experiment, "", cell


def _measured(each: Measured) -> dict[str, Any]:
    """A line of the table, of one group of runs."""
    return {
        "budget": each.budget,
        "full": each.full,
        **asdict(each.value),
        "best": each.best,
        "seeds": list(each.seeds),
        "hardware": "; ".join(each.hardware),
        "commit": "; ".join(each.commits),
        "command": each.commands[0],
    }


def rows(report: Report) -> list[dict[str, Any]]:
    """A line for every cell and group of runs; a cell without runs has one with its command."""
    found = []
    for where, row, column, cell in places(report):
        place = {
            "where": where, "row": row, "column": column, "experiment": cell.experiment,
            "metric": cell.metric or "headline", "paper": cell.paper,
        }  # fmt: skip
        for each in cell.measured:
            found.append({**place, "status": "run", **_measured(each)})
        if not cell.whole:
            status = cell.missing or "not run yet"
            found.append({**place, "status": status, "command": cell.command})
    return found


def _finding(found: Finding) -> dict[str, Any]:
    return {
        "comparison": found.name,
        "weights": dict(found.contrast.weights),
        "metric": found.contrast.metric or "headline",
        "paper": found.contrast.claimed,
        **_verdict(found.verdict),
        "short_or_changed": {label: _verdict(v) for label, v in found.indications.items()},
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    """A verdict; "resolvable" is the smallest difference that it could have told from 0."""
    return {**asdict(verdict), "resolvable": verdict.difference and verdict.difference.half}


def _comparison(each: Comparison) -> dict[str, Any]:
    return {
        "task": each.task,
        "kind": each.kind,
        **each.name._asdict(),
        "budget": each.budget,
        "full": each.full,
        "weights": dict(each.contrast.weights),
        "paper": each.contrast.claimed,
        "decided": each.decided,
        **_verdict(each.verdict),
    }


def _claim(view: ClaimView) -> dict[str, Any]:
    findings = [_finding(each) for each in view.findings]
    claim = view.claim
    return {"where": claim.where, "claim": claim.text, "verdict": view.word, "findings": findings}


def as_json(report: Report) -> str:
    """Everything but the pictures."""
    content = {
        "headline": report.headline,
        "runs": report.run_count,
        "cells": rows(report),
        "claims": [_claim(view) for view in report.claims],
        "costs": [
            {"table": view.costs.number, "row": name, **asdict(cell)}
            for _, view in report.costs
            for name, cells in view.rows
            for cell in cells
        ],
        "comparisons": [_comparison(each) for each in report.comparisons],
        "trials": [asdict(each) for each in report.trials],
        "skipped": [asdict(each) for each in report.skipped],
        "absent": report.results.catalogue.absent,
        "rule": RULE,
    }
    return json.dumps(content, indent=1, default=_as_text, ensure_ascii=False) + "\n"


def _as_text(value: Any) -> str:
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"no JSON for {type(value).__name__}")


def _inert(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in {*"=+-@\t\r"} else value


def as_csv(report: Report) -> str:
    """The lines of `rows` under `COLUMNS`."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows(report):
        seeds = " ".join(str(seed) for seed in row.get("seeds", []))
        writer.writerow({name: _inert(value) for name, value in {**row, "seeds": seeds}.items()})
    return buffer.getvalue()
