"""The command line of `tools/run_trial.py`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from classification.config import Config
from classification.experiments import EXPERIMENTS
from classification.methods import Keep
from classification.models import check_side
from evidence.catalogue import Package, load
from evidence.plots import save_doses
from evidence.statistics import p_equals
from keepbench.command import check_place
from keepbench.files import FolderLock
from keepbench.leaving import PREEMPTED, exit_with_message
from keepbench.machine import find_device
from keepbench.progress import say
from keepbench.settings import Kind, changed, flat, is_within, nearest
from previewing.pages import write
from queueing import local
from queueing.cli import add_cluster, carry_out, summary
from queueing.jobs import given_settings
from trialling.analysis import MOST_SEEDS
from trialling.arms import (
    ARMS,
    METHODS,
    STAGES,
    USUAL,
    check_arms,
    check_given,
    shared_keep,
    stage_of,
)
from trialling.data import DATA, digests_of_tree
from trialling.doses import Dose, parse_doses
from trialling.own import HELP as OWN
from trialling.own import check_shared, parse_arms
from trialling.page import as_json, page
from trialling.plan import (
    PLAN,
    Plan,
    check_begin,
    fix_plan,
    make_own_plan,
    make_plan,
    package_of,
    read_plan,
    used_seeds,
)
from trialling.results import UNFINISHED, Trial, dose_curves, read_trial
from trialling.runs import stages
from trialling.taking import take
from trialling.timing import announcement, in_words, seconds_of_runs, whole_seconds

EPILOG = """\
Words after -- are settings of tools/run_classification.py for all arms:
python tools/run_trial.py cifar10 --method cutout -- --data data --subset 4000 --cut.size 12 --bf16

arms:
""" + "\n".join(f"  {name:10s} {arm.about}" for name, arm in ARMS.items())
KNOWN = ("digits", "cifar10", "cifar100")
FEWEST, FEWEST_DOSED = 3, 4  # seeds; of a trial with doses half of them choose


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Does keeping the important region help on these images? Trains a plain "
        "method, its Keep arm and controls, paired by seed, by a plan that is fixed before.",
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "data",
        help="tree with train/<class>/* and test/<class>/*, or " + ", ".join(KNOWN)
        + "; with --arm also an experiment of any task, such as digits-uda-randaugment-20",
    )  # fmt: skip
    parser.add_argument("--arm", action="append", default=[], metavar="NAME=SETTINGS", help=OWN)
    parser.add_argument("--method", default="cutout", help=", ".join(METHODS))
    parser.add_argument("--arms", nargs="+", default=[*USUAL], metavar="ARM", help="see below")
    parser.add_argument(
        "--network", default="", help="one of classification.models, timm's, or FILE.py:FUNCTION"
    )
    parser.add_argument(
        "--teacher", default="", metavar="FILE",
        help="weights of a trained network: adds the arm teacher; starting weights, given as "
        "-- --weights FILE, serve as the teacher of --arms ... teacher, too",
    )  # fmt: skip
    parser.add_argument(
        "--teacher-network", default="", metavar="NETWORK", help="the teacher's; default --network"
    )
    parser.add_argument(
        "--dose", nargs="+", default=[], metavar="NAME=V,V,...",
        help="try the method at each of these values, from mild to strong: size=8,16,24, or "
        "num_ops=2,2,4 magnitude=5,15,25 side by side",
    )  # fmt: skip
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
    add_cluster(parser)
    parser.add_argument(
        "--take",
        nargs="+",
        type=Path,
        default=[],
        metavar="FOLDER",
        help="copy finished runs of the same settings from there instead of running them",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be run and stop")
    parser.add_argument("--read", action="store_true", help="run nothing; recompute from the bits")
    parser.add_argument("--json", type=Path, help="write the results to this file, too")
    parser.add_argument(
        "--picture", type=Path, help="draw accuracy over the doses into this file: PNG, SVG or PDF"
    )
    arguments = parser.parse_args(argv)
    for name in ("method", "arms", "teacher_network"):
        if arguments.arm and getattr(arguments, name) != parser.get_default(name):
            flag = "--" + name.replace("_", "-")
            parser.error(f"{flag} is of a trial of a method; leave it out beside --arm")
    if arguments.teacher_network and not (arguments.teacher or "teacher" in arguments.arms):
        parser.error("--teacher-network is of the arm teacher; give --teacher")
    if arguments.picture and not arguments.dose and not arguments.read:
        parser.error("--picture draws doses; give --dose")
    if arguments.teacher and "teacher" not in arguments.arms:
        arguments.arms = [*arguments.arms, "teacher"]
    return arguments


def data_settings(
    data: str, network: str, given: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings that a trial's data and network fix, and others that are usual with them.

    Raises:
        ValueError: The user's settings say otherwise.
    """
    kind = data if data in KNOWN else "images" if "image_size" in given else "folder"
    known: dict[str, Any] = {"dataset": kind} if data in KNOWN else {"dataset": kind, "data": data}
    known |= {"arch": network} if network else {}
    usual: dict[str, Any] = {"test_rest": False} if kind == "images" else {}
    usual |= {"flip": False, "flip_test": False} if data == "digits" else {}
    for name, value in known.items():
        if given.get(name, value) != value:
            raise ValueError(f"{name}={value} is what the trial is of; leave --{name} out")
    return known, usual


def _given(package: Package, extra: Sequence[str]) -> dict[str, Any]:
    """The settings of all runs, by name."""
    given = given_settings(package, extra)
    if "record" in given:
        raise ValueError("record is set for each run; leave it out")
    return given


def remark_side(config: Config) -> None:
    """Say it if a network is made for smaller images."""
    if config.image_size and (remark := check_side(config.arch, config.image_size)):
        say(remark)


def shared_settings(
    data: str,
    network: str,
    method: Kind,
    arms: Collection[str],
    doses: Sequence[Dose],
    extra: Sequence[str],
) -> tuple[Config, Kind, Keep]:
    """Settings that all arms share: their own, the method's, and those of Keep."""
    given = _given(package_of("classification"), extra)
    known, usual = data_settings(data, network, given)
    check_given(method, arms, given)
    stage = stage_of(method)
    for name in sorted({f"{stage}.{name}" for dose in doses for name in dose} & given.keys()):
        raise ValueError(f"{name} is given by --dose and for all arms; leave one out")
    bare = replace(EXPERIMENTS["trial"].config, record=True)
    kept = replace(bare, **{stage: method}, keep=STAGES[stage][1])
    config = changed(kept, {**known, **usual, **given})
    remark_side(config)
    return replace(config, **{stage: None}, keep=None), getattr(config, stage), config.keep


def _fewest(arguments: argparse.Namespace) -> int:
    """Seeds that a trial must have."""
    return FEWEST_DOSED if arguments.dose else FEWEST


def _check(arguments: argparse.Namespace, out: Path) -> None:
    """Raise ValueError for what cannot be asked for, before anything is read or timed."""
    if not arguments.arm:
        check_arms(arguments.method, arguments.arms)
    for name, interval in (
        ("seeds", f"[{_fewest(arguments)}, {MOST_SEEDS}]"), ("minutes", "(0, 1e7]"),
        ("margin", "(0, 100]"), ("first_seed", "[0, 1.9e9]"),
    ):  # fmt: skip
        value = getattr(arguments, name)
        if value is not None and not is_within(value, interval):
            raise ValueError(f"--{name.replace('_', '-')} must be in {interval}, found {value}")
    for source in arguments.take:
        if not source.is_dir():
            raise ValueError(f"--take: there is no folder {source}")
    check_place(out)


def _own_base(
    arguments: argparse.Namespace, extra: Sequence[str]
) -> tuple[Any, dict[str, dict[str, Any]], str]:
    """Settings that all arms of the user's own share, these arms, and the experiment."""
    if arguments.dose:
        raise ValueError("--dose is of a method; give each dose as an --arm")
    if arguments.teacher:
        raise ValueError(
            "--teacher is of a method; give --arm NAME='--cut cutout --keep cut --keep.map teacher "
            "--keep.map.weights FILE'"
        )
    catalogue, data = load(), arguments.data
    package = catalogue.find(data, "")
    if not package and data not in KNOWN and not Path(data).expanduser().is_dir():
        names = {name for each in catalogue.packages.values() for name in each.experiments}
        absent = [f"; {task} cannot be run here ({why})" for task, why in catalogue.absent.items()]
        raise ValueError(
            f"there is no folder and no experiment {data}{nearest(data, names)}{''.join(absent)}"
        )
    if package and arguments.network:
        raise ValueError("--network is for a tree of images; give the experiment's as -- --arch")
    experiment = arguments.data if package else "trial"
    package = package or package_of("classification")
    given = _given(package, extra)
    base = package.experiments[experiment].config
    if experiment == "trial":
        known, usual = data_settings(arguments.data, arguments.network, given)
        base, given = changed(base, usual), {**known, **given}
    recorded = {"record": True} if hasattr(base, "record") else {}
    base = changed(base, {**given, **recorded})
    if experiment == "trial":
        remark_side(base)
    own = parse_arms(arguments.arm, package, base)
    check_shared(given, own)
    return base, own, experiment


def _planned(
    arguments: argparse.Namespace, extra: Sequence[str], devices: list[str], out: Path
) -> Plan:
    """The plan, which is said and fixed."""
    common = {"margin": arguments.margin, "first_seed": arguments.first_seed}
    if arguments.arm:
        base, own, experiment = _own_base(arguments, extra)
    else:
        method = METHODS[arguments.method]
        doses = parse_doses(method, arguments.dose) if arguments.dose else ()
        base, tried, keep = shared_settings(
            arguments.data, arguments.network, method, arguments.arms, doses, extra
        )
        data = arguments.data
        if data not in KNOWN and not Path(data).expanduser().is_dir():
            raise ValueError(f"there is no folder {data}; experiments are tried by --arm")
        if "teacher" in arguments.arms and not (arguments.teacher or base.weights):
            raise ValueError("the arm teacher needs --teacher FILE, or -- --weights FILE")
        asked = {"weights": arguments.teacher, "network": arguments.teacher_network}
        teacher = {name: value for name, value in asked.items() if value}

    files = digests_of_tree(base)

    def made(seeds: int) -> Plan:
        budget = f"{arguments.minutes:g} minutes" if arguments.minutes else f"{seeds} seeds"
        if arguments.arm:
            plan = make_own_plan(
                base, own, seeds=seeds, budget=budget, experiment=experiment, **common
            )
        else:
            plan = make_plan(
                base, arguments.method, tuple(arguments.arms), seeds=seeds, budget=budget,
                settings=flat(tried), keep=shared_keep(keep), doses=doses, teacher=teacher,
                **common,
            )  # fmt: skip
        return replace(plan, files=plan.files | files)

    if (out / PLAN).exists() and arguments.minutes:  # how long a step takes differs from day to day
        plan = made(read_plan(out).seeds)
    else:
        plan = made(arguments.seeds)
    if (out / PLAN).exists():
        fix_plan(plan, out)
        print(f"going on by the plan in {out}")
        return plan
    check_begin(plan)
    seconds = seconds_of_runs(plan, find_device(devices[0]))
    if arguments.minutes:
        fewest = _fewest(arguments)
        whole = whole_seconds(made(fewest), seconds, len(devices))
        seeds = min(MOST_SEEDS, int(arguments.minutes * 60 / whole * fewest))
        if seeds < fewest:
            raise ValueError(
                f"{fewest} seeds of these arms take {in_words(whole)}; give more "
                "--minutes, fewer --arms or -- --epochs"
            )
        plan = made(seeds)
    print("\n".join(announcement(plan, seconds, len(devices))))
    for remark in used_seeds(plan, out):
        print(remark)
    if not arguments.dry_run:
        fix_plan(plan, out)
    return plan


def _carry_out(plan: Plan, arguments: argparse.Namespace, devices: list[str], out: Path) -> bool:
    """Run what is left, look by look; whether all of it is finished.

    Raises:
        ValueError: Another process does so, or a look's runs cannot be read.
    """
    with closing(FolderLock(out)):
        return _carried(plan, arguments, devices, out)


def _carried(plan: Plan, arguments: argparse.Namespace, devices: list[str], out: Path) -> bool:
    for asked in stages(plan, out):
        if taken := take(asked, arguments.take):
            print(f"{taken} runs are taken from elsewhere")
        queue = [job for job in asked if not job.finished()]
        outcomes = carry_out(queue, arguments, devices, out) if queue else []
        if any(each.word in ("failed", "stopped") for each in outcomes):
            print("\n".join(summary(outcomes)))
            return False
    return True


def _show(trial: Trial, out: Path, file: Path | None, picture: Path | None) -> None:
    print(trial.sentence, trial.remark)
    for each in trial.findings:
        more = each.wish and f": {each.wish}"
        print(
            f"  {each.contrast.name}: {each.difference:+.2f} ± {each.half:.2f} points, "
            f"n = {each.n}, {p_equals(each.p_holm)}: {each.verdict}{more}"
        )
    for each in trial.by_image:
        print(f"  by image, {each.contrast.name}: {each.difference:+.2f} ± {each.half:.2f} points")
    print(trial.told)
    if not trial.finished:
        print(UNFINISHED)
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(as_json(trial), indent=1) + "\n")
    write(out / "trial.html", page(trial), "the page")
    if picture:
        if (found := dose_curves(trial)) is None:
            raise ValueError("--picture draws doses, of which this trial has none to draw yet")
        save_doses(picture, found)


@exit_with_message()
def main(argv: list[str] | None = None) -> None:
    """Run a trial, or what is left of it, and say what it found."""
    words = sys.argv[1:] if argv is None else argv
    cut = words.index("--") if "--" in words else len(words)
    arguments, extra = _arguments(words[:cut]), words[cut + 1 :]
    name = Path(arguments.data).resolve().name
    tried = "own" if arguments.arm else arguments.method
    out = arguments.out or Path("runs", "trial", f"{name}-{tried}")
    done = True
    if arguments.read:
        plan = read_plan(out)
    else:
        _check(arguments, out)
        devices = local.find_devices(arguments.devices)
        plan = _planned(arguments, extra, devices, out)
        if arguments.dry_run:
            return
        done = _carry_out(plan, arguments, devices, out)
    _show(read_trial(plan, out), out, arguments.json, arguments.picture)
    if not done:
        left = "not all runs are finished; the same command goes on"
        if plan.files.keys() - {DATA}:
            left += f"; once a file has changed, with another --out and --take {out}"
        print(left, file=sys.stderr)
        sys.exit(PREEMPTED)
