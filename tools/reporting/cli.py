"""The command line of `tools/report.py`."""

from __future__ import annotations

import argparse
import sys
import webbrowser
from pathlib import Path

from evidence.catalogue import load
from evidence.plots import save_gains
from reporting import exports, page
from reporting.content import build


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Set finished runs beside the paper: report.html, .md, .json and .csv."
    )
    parser.add_argument(
        "runs", nargs="*", type=Path, default=[Path("runs")],
        help="folders of runs, or folders above them, and JSON files of benchmark_cost; "
        "in folders, files named cost*.json are read, too; runs if not given",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("report"), help="folder of the report")
    parser.add_argument(
        "--picture", type=Path,
        help="draw what keeping gives over what plain methods give into this file: PNG, SVG or PDF",
    )  # fmt: skip
    parser.add_argument("--open", action="store_true", help="show the page in a browser")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Write the report and say where it is and what was skipped."""
    arguments = _arguments(argv)
    try:
        report = build(arguments.runs, load())
        arguments.out.mkdir(parents=True, exist_ok=True)
        for name, text in (
            ("report.html", page.html(report, arguments.out)),
            ("report.md", page.markdown(report)),
            ("report.json", exports.as_json(report)),
            ("report.csv", exports.as_csv(report)),
        ):
            (arguments.out / name).write_text(text, encoding="utf-8")
        if arguments.picture:
            if not (found := page.gains_of(report.trials)):
                raise ValueError("--picture: no trial here has crop and flip, plain and keep")
            save_gains(arguments.picture, found)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    for each in report.skipped:
        print(f"skipped {each.folder}: {each.reason}", file=sys.stderr)
    for task, reason in report.results.catalogue.absent.items():
        print(f"without {task}: {reason}", file=sys.stderr)
    path = arguments.out / "report.html"
    print(f"{report.run_count} finished runs, {len(report.skipped)} skipped: {path}")
    if arguments.open:
        webbrowser.open(path.resolve().as_uri())
