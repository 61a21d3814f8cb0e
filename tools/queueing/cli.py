"""The command line of `tools/run_table.py`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from evidence.catalogue import load
from queueing import cluster, local
from queueing.jobs import Job, jobs
from queueing.local import Outcome

EPILOG = """\
Words after -- go to each run: python tools/run_table.py 1 -- --data data/cifar10 --bf16
"""


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a cluster, for `carry_out`."""
    parser.add_argument(
        "--slurm", nargs="*", metavar="KEY=VALUE",
        help="submit with submitit, with its parameters: slurm_partition=gpu gpus_per_node=1",
    )  # fmt: skip
    parser.add_argument(
        "--cluster", choices=cluster.NAMES, default="slurm", help="where --slurm submits to"
    )


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Run what a table or figure of the paper needs; what is finished is skipped.",
        epilog=EPILOG,
    )
    parser.add_argument("table", help="1 to 11, 2a, 2b, 3a, 3b, control or small")
    parser.add_argument("--budget", choices=["smoke", "short", "paper"], default="smoke")
    parser.add_argument("--seeds", type=int, default=0, help="for each; the paper's number if 0")
    parser.add_argument("--only", default="", help="experiments whose name holds this")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of all runs")
    parser.add_argument(
        "--devices", nargs="+", default=["auto"], help="a run at a time on each: cuda:0 cuda:1"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands and stop")
    add_cluster(parser)
    return parser.parse_args(argv)


def summary(outcomes: Sequence[Outcome]) -> list[str]:
    """A line on how many ended how, and one for each that did not finish."""
    counts = Counter(each.word for each in outcomes)
    lines = [", ".join(f"{number} {word}" for word, number in counts.items())]
    for each in outcomes:
        if each.word in ("failed", "stopped"):
            log = f" (see {each.log})" if each.log else ""
            lines.append(f"{each.word}: {each.job.name}: {each.last}{log}")
    return lines


def carry_out(
    queue: Sequence[Job], arguments: argparse.Namespace, devices: Sequence[str], root: Path
) -> list[Outcome]:
    """Run jobs on some devices of this machine, or on the cluster that is asked for."""
    if arguments.slurm is None:
        return local.run_all(queue, devices, root)
    options = cluster.parameters(arguments.slurm)
    return cluster.run_all(queue, arguments.cluster, options, root)


def main(argv: list[str] | None = None) -> None:
    """Run the queue; exits with 1 if a run failed or was stopped."""
    words = sys.argv[1:] if argv is None else argv
    cut = words.index("--") if "--" in words else len(words)
    arguments, extra = _arguments(words[:cut]), words[cut + 1 :]
    try:
        if arguments.seeds < 0:
            raise ValueError(f"--seeds must not be negative, found {arguments.seeds}")
        found = jobs(
            load(), arguments.table, budget=arguments.budget, seeds=arguments.seeds,
            only=arguments.only, extra=extra, root=arguments.out,
        )  # fmt: skip
        over = [job for job in found if job.finished()]
        queue = [job for job in found if job not in over]
        print(f"{len(found)} runs, {len(over)} of them finished before")
        if arguments.dry_run:
            print("\n".join(shlex.join(job.command) for job in queue))
            return
        outcomes = [Outcome(job, "skipped") for job in over]
        outcomes += carry_out(queue, arguments, arguments.devices, arguments.out) if queue else []
    except ValueError as error:
        sys.exit(f"error: {error}")
    print("\n".join(summary(outcomes)))
    if any(each.word in ("failed", "stopped") for each in outcomes):
        sys.exit(1)
