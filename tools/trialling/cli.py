"""The command line of `tools/run_trial.py`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from classification.config import Config
from keepbench.leaving import PREEMPTED
from previewing.pages import write
from queueing import local
from queueing.cli import summary
from queueing.jobs import config_of
from reporting.catalogue import TASKS, load
from trialling.analysis import half_width
from trialling.arms import ARMS, METHODS, USUAL, check_arms
from trialling.page import as_json, page
from trialling.plan import PLAN, Plan, fix_plan, make_plan, read_plan, stages
from trialling.results import Trial, read_trial
from trialling.timing import announcement, in_words, seconds_of_runs

EPILOG = """\
Words after -- are settings of tools/run_classification.py for all arms:
python tools/run_trial.py cifar10 --method cutout -- --data data --subset 4000 --size 12 --bf16

arms:
""" + "\n".join(f"  {name:10s} {what}" for name, what in ARMS.items())
KNOWN = ("digits", "cifar10", "cifar100")
FEWEST = 3  # seeds
SDS = (0.3, 0.5, 0.8)
"""Residual deviations, in points, that small image sets have."""


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Does keeping the important region help on these images? Trains a plain "
        "method, its Keep arm and controls, paired by seed, by a plan that is fixed before.",
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "data", help="tree with train/<class>/* and test/<class>/*, or " + ", ".join(KNOWN)
    )
    parser.add_argument("--method", default="cutout", help=", ".join(METHODS))
    parser.add_argument("--arms", nargs="+", default=[*USUAL], metavar="ARM", help="see below")
    parser.add_argument(
        "--network", default="", help="one of classification.models, timm's, or FILE.py:FUNCTION"
    )
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--seeds", type=int, default=8, help="of each arm (default 8)")
    budget.add_argument("--minutes", type=float, help="as many seeds as this time allows")
    parser.add_argument(
        "--first-seed", type=int, default=0, metavar="N",
        help="another than 0 if seeds from 0 on served to choose method or settings",
    )  # fmt: skip
    parser.add_argument("--margin", type=float, default=0.5, help="points that count as none")
    parser.add_argument("--out", type=Path, help="folder (default runs/trial/DATA-METHOD)")
    parser.add_argument(
        "--devices", nargs="+", help="a run at a time on each: cuda:0 cuda:1, cpu cpu"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be run and stop")
    parser.add_argument("--read", action="store_true", help="run nothing; recompute from the bits")
    parser.add_argument("--json", type=Path, help="write the results to this file, too")
    return parser.parse_args(argv)


def _base(data: str, network: str, extra: Sequence[str]) -> Config:
    """The settings that all arms share."""
    words = ["trial"]
    if data in KNOWN:
        words.append(f"--dataset={data}")
    else:
        large = any(word.startswith("--image-size") for word in extra)
        words += [f"--dataset={'images' if large else 'folder'}", f"--data={data}"]
        words += ["--no-test-rest"] if large else []
    words += ["--no-flip", "--no-flip-test"] if data == "digits" else []
    words += [f"--arch={network}"] if network else []
    if {"--seed", "--out", "--resume", "--budget", "--device"} & {*extra}:
        raise ValueError("out, seed, resume, budget and device are set for each run")
    config, _ = config_of(load({"classification": TASKS["classification"]})
                          .packages["classification"], [*words, *extra])  # fmt: skip
    return replace(config, record=True)


def _devices(given: Sequence[str] | None) -> list[str]:
    """A GPU each, or a CPU core each, with one thread for each of the runs on a CPU."""
    found = [f"cuda:{n}" for n in range(torch.cuda.device_count())]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    devices = list(given or found or ["cpu"] * min(8, cores or 1))
    if on_cpu := devices.count("cpu"):
        threads = max(1, (cores or 1) // on_cpu)
        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)
    return devices


def _widths(num_arms: int, seeds: int) -> str:
    words = [f"±{half_width(sd, num_arms, seeds):.2f}" for sd in SDS]
    given = ", ".join(map(str, SDS))
    return f"{', '.join(words)} points if the residual deviation is {given}"


def _planned(arguments: argparse.Namespace, base: Config, devices: list[str], out: Path) -> Plan:
    """The plan, which is said and fixed."""

    def made(seeds: int) -> Plan:
        budget = f"{arguments.minutes:g} minutes" if arguments.minutes else f"{seeds} seeds"
        return make_plan(
            base, arguments.method, tuple(arguments.arms),
            seeds=seeds, budget=budget, margin=arguments.margin, first_seed=arguments.first_seed,
        )  # fmt: skip

    if (out / PLAN).exists() and arguments.minutes:  # how long a step takes differs from day to day
        plan = made(read_plan(out).seeds)
    else:
        plan = made(arguments.seeds)
    if (out / PLAN).exists():
        fix_plan(plan, out)
        print(f"going on by the plan in {out}")
        return plan
    seconds, sizes = seconds_of_runs(plan, torch.device(devices[0]))
    if arguments.minutes:
        whole = sum(seconds.values()) / len(devices)
        seeds = int(arguments.minutes * 60 / whole)
        if seeds < FEWEST:
            raise ValueError(
                f"{FEWEST} seeds of these arms take {in_words(FEWEST * whole)}; give more "
                "--minutes, fewer --arms or -- --epochs"
            )
        plan = made(seeds)
    widths = _widths(len(plan.arms), plan.seeds)
    print("\n".join(announcement(plan, seconds, sizes, len(devices), widths)))
    if not arguments.dry_run:
        fix_plan(plan, out)
    return plan


def _carry_out(plan: Plan, devices: list[str], out: Path) -> bool:
    """Run what is left, look by look; whether all of it is finished."""
    for asked in stages(plan, out):
        queue = [job for job in asked if not job.finished()]
        outcomes = local.run_all(queue, devices, out) if queue else []
        if any(each.word in ("failed", "stopped") for each in outcomes):
            print("\n".join(summary(outcomes)))
            return False
    return True


def _show(trial: Trial, out: Path, file: Path | None) -> None:
    print(trial.sentence, trial.remark)
    for each in trial.findings:
        more = each.wish and f": {each.wish}"
        print(
            f"  {each.contrast.name}: {each.difference:+.2f} ± {each.half:.2f} points, "
            f"n = {each.n}, p = {each.p_holm:.3f}: {each.verdict}{more}"
        )
    if file:
        file.write_text(json.dumps(as_json(trial), indent=1) + "\n")
    write(out / "trial.html", page(trial), "the page")


def main(argv: list[str] | None = None) -> None:
    """Run a trial, or what is left of it, and say what it found."""
    words = sys.argv[1:] if argv is None else argv
    cut = words.index("--") if "--" in words else len(words)
    arguments, extra = _arguments(words[:cut]), words[cut + 1 :]
    name = Path(arguments.data).resolve().name
    out = arguments.out or Path("runs", "trial", f"{name}-{arguments.method}")
    done = True
    try:
        if arguments.read:
            plan = read_plan(out)
        else:
            check_arms(arguments.method, arguments.arms)
            if arguments.seeds < FEWEST or not arguments.margin > 0 or arguments.first_seed < 0:
                raise ValueError(
                    f"a trial needs {FEWEST} seeds or more from 0 on, and a --margin above 0"
                )
            devices = _devices(arguments.devices)
            plan = _planned(
                arguments, _base(arguments.data, arguments.network, extra), devices, out
            )
            if arguments.dry_run:
                return
            done = _carry_out(plan, devices, out)
        _show(read_trial(plan, out), out, arguments.json)
    except (ValueError, FloatingPointError) as error:
        sys.exit(f"error: {error}")
    if not done:
        print("not all runs are finished; the same command goes on", file=sys.stderr)
        sys.exit(PREEMPTED)
