"""The command line of `make sweep`."""

from __future__ import annotations

import argparse
import gc
import json
from pathlib import Path

import torch

from keepbench.machine import commit, hardware, versions
from keepbench.progress import progress_bar
from sweeping.checks import Row, examine
from sweeping.networks import Family, families, smallest
from sweeping.page import page


def read_rows(path: Path) -> list[Row]:
    """The rows of a file of JSON lines; none if it is not there."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def in_order(rows: list[Row]) -> list[Row]:
    """Rows in the order of libraries and families, whatever order they were made in."""
    return sorted(rows, key=lambda row: (row["library"], row["family"]))


def _about(family: Family) -> Row:
    """Where a row comes from."""
    found = {name: version for name, version in versions().items() if name != "keepaugment"}
    number, plus, changes = (commit(Path(__file__).parent) or "unknown").partition("+")
    return {
        "family": family.name,
        "machine": hardware(torch.device("cpu")),
        "versions": ", ".join(f"{name} {version}" for name, version in found.items()),
        "commit": number[:8] + plus + changes,
    }


def sweep(chosen: list[Family], path: Path, seconds: float) -> list[Row]:
    """Examine the families that `path` has no row of, adding a line for each: all rows."""
    known = {(row["library"], row["family"]) for row in read_rows(path)}
    waiting = [family for family in chosen if (family.library, family.name) not in known]
    bar = progress_bar(waiting, unit="network")
    for family in bar:
        bar.set_description(f"{family.library} {family.name}")
        row = examine(family.library, smallest(family), seconds) | _about(family)
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        gc.collect()  # networks and hooks hold each other in circles
    return read_rows(path)


def main(argv: list[str] | None = None) -> None:
    """Examine the networks and write the rows and the page."""
    parser = argparse.ArgumentParser(prog="sweeping", description=__doc__)
    add = parser.add_argument
    add("--only", nargs="+", metavar="FAMILY", help="families by name (default all)")
    add("--rows", type=Path, default=Path("networks.jsonl"),
        help="file of JSON lines, one a network; those it has are not tried again")  # fmt: skip
    add("--page", type=Path, help="write the table into this file")
    add(
        "--seconds",
        type=float,
        default=300,
        help="limit of processor time for a network (default 300)",
    )
    words = parser.parse_args(argv)
    found = families()
    names = {family.name for family in found}
    if unknown := set(words.only or ()) - names:
        parser.error(
            f"no family {', '.join(sorted(unknown))}; there are {', '.join(sorted(names))}"
        )
    chosen = [family for family in found if not words.only or family.name in words.only]
    rows = sweep(chosen, words.rows, words.seconds)
    if words.page:
        words.page.write_text(page(in_order(rows)))
    ran = sum("error" not in row for row in rows)
    print(f"{ran} networks, {len(rows) - ran} could not be run; rows in {words.rows}")
