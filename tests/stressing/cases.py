"""Cases: each a name, from which with the seed all its random choices follow, and what is done."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import shutil
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

_FORK = multiprocessing.get_context("fork")


@dataclass
class Outcome:
    """What came of cases.

    Attributes:
        counts: of what happened, by words.
        faults: sentences, each of something that must not be.
    """

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def add(self, other: Outcome) -> None:
        """Add another's counts and faults."""
        self.counts += other.counts
        self.faults += other.faults


@dataclass(frozen=True)
class Case:
    """One thing to try: `run` takes its random numbers and an empty folder."""

    name: str
    run: Callable[[Random, Path], Outcome]


@dataclass(frozen=True)
class Limits:
    """When to end: a count that is reached, or a time.time()."""

    count: str = ""
    most: float = float("inf")
    until: float = float("inf")

    def reached(self, outcome: Outcome) -> bool:
        """Whether to begin no further case."""
        over = bool(self.count) and outcome.counts[self.count] >= self.most
        return over or time.time() > self.until


def run_case(case: Case, seed: int, folder: Path) -> Outcome:
    """Run a case in `folder`, which stays if a fault was found."""
    folder.mkdir(parents=True)
    try:
        outcome = case.run(Random(f"{seed} {case.name}"), folder)
    except Exception:  # of this tool: the case is not lost among the others
        outcome = Outcome(Counter(), [f"the case itself failed: {traceback.format_exc()}"])
    if not outcome.faults:
        shutil.rmtree(folder, ignore_errors=True)
    outcome.faults = [f"[{case.name}] {fault}" for fault in outcome.faults]
    return outcome


def _lane(cases: Iterable[Case], seed: int, folder: Path, limits: Limits, report: Path) -> None:
    total = Outcome()
    for number, case in enumerate(cases):
        if limits.reached(total):
            break
        total.add(run_case(case, seed, folder / str(number)))
        report.write_text(json.dumps([total.counts, total.faults]))


def run_all(
    cases: Callable[[], Iterable[Case]], seed: int, folder: Path, limits: Limits, jobs: int
) -> Outcome:
    """Run cases in so many processes at a time, shared out by their order."""
    folder.mkdir()
    reports = [folder / f"{number}.json" for number in range(jobs)]
    lanes = []
    for number, report in enumerate(reports):
        own = itertools.islice(cases(), number, None, jobs)
        share = Limits(limits.count, limits.most / jobs, limits.until)
        arguments = (own, seed, folder / f"lane-{number}", share, report)
        lanes.append(_FORK.Process(target=_lane, args=arguments))
        lanes[-1].start()
    total = Outcome()
    for lane, report in zip(lanes, reports, strict=True):
        lane.join()
        if report.exists():
            counts, faults = json.loads(report.read_text())
            total.add(Outcome(Counter(counts), faults))
        if lane.exitcode:
            total.faults.append(f"a process of this tool ended with {lane.exitcode}")
    print("\n".join(total.faults), file=sys.stderr, end="\n" if total.faults else "")
    return total
