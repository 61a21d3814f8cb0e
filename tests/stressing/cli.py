"""Kill, misuse and damage runs, and count what is lost."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from stressing import files, flags, kills
from stressing.cases import Case, Limits, Outcome, run_all
from stressing.forks import preload

Prepare = Callable[[Path, int], Callable[[], Iterable[Case]]]
PARTS: dict[str, Prepare] = {
    "kills": kills.prepare, "flags": flags.prepare, "files": files.prepare,
}  # fmt: skip


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="stressing", description=__doc__)
    add = parser.add_argument
    add("--seed", type=int, default=0, help="of all random choices (default 0)")
    add("--only", nargs="+", choices=[*PARTS], default=[*PARTS], help="parts (default all)")
    add("--kills", type=int, default=1000, help="of runs, about (default 1000)")
    add("--minutes", type=float, default=60, help="begin no further case after (default 60)")
    add("--jobs", type=int, default=1, help="cases at a time (default 1)")
    add("--case", default="", help="only cases whose name holds this, to repeat one")
    add("--json", type=Path, help="file that gets the counts and faults")
    add("--folder", type=Path, help="keep files here (default a temporary folder)")
    return parser.parse_args(argv)


def table(part: str, outcome: Outcome) -> list[str]:
    """A part's counts, a line each."""
    lines = [f"{part}: {len(outcome.faults)} faults"]
    return lines + [f"  {number:8,d}  {word}" for word, number in sorted(outcome.counts.items())]


def main(argv: list[str] | None = None) -> None:
    """Run the parts and print their counts; exits with 1 if anything was lost."""
    words = _arguments(argv)
    torch.set_num_threads(1)
    preload()
    until = time.time() + 60 * words.minutes
    outcomes = {}
    with tempfile.TemporaryDirectory(prefix="stress-") as temporary:
        root = words.folder or Path(temporary)
        for part in words.only:
            (root / part).mkdir(parents=True)
            cases = PARTS[part](root / part, words.seed)

            def chosen(cases: Callable[[], Iterable[Case]] = cases) -> Iterable[Case]:
                return (case for case in cases() if words.case in case.name)

            limits = Limits("kills", words.kills, until)
            outcomes[part] = run_all(chosen, words.seed, root / part / "cases", limits, words.jobs)
    for part, outcome in outcomes.items():
        print("\n".join(table(part, outcome)))
    if words.json:
        found = {part: vars(outcome) for part, outcome in outcomes.items()}
        words.json.write_text(json.dumps({"seed": words.seed, **found}, indent=2) + "\n")
    sys.exit(1 if any(outcome.faults for outcome in outcomes.values()) else 0)
