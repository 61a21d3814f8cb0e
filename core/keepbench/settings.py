"""Settings: a dataclass per task, whose fields hold what flags, checks and reports need."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from keepbench.machine import bfloat16, find_device, flop_per_second, hardware

Config = TypeVar("Config")

ROLES = {
    "": "settings",
    "policy": "image-level augmentation",
    "cut": "region-level augmentation",
    "mix": "label-mixing augmentation",
    "keep": "KeepAugment",
    "map": "how the importance map is computed",
    "file": "files, the same wherever they lie",
    "neutral": "data, seed, speed and records; no part of what an experiment is",
}
"""What settings are for, as headings of `--help`.

"policy", "cut", "mix" and "keep" name the setting that switches the others of that role on. Those
of "keep" and "map" mean something to a Keep arm only, so that its plain twin may have others.
"""

CONTROLS = ("random", "shuffled", "inverted", "centre")
"""Maps that a control puts in place of the gradient's."""
SALIENCIES = ("gradient", *CONTROLS)
ORACLES = ("oracle", "inverted_oracle")
"""Maps of ground-truth boxes or masks."""
NO_GRADIENT = ("random", "centre", *ORACLES)
"""Maps that need no backward pass."""

SMOKE = "smoke: checks that everything works; the accuracy means nothing"
_TYPES = {bool: "true or false", int: "a whole number", float: "a number", str: "printable text"}
_METAVARS = {int: "N", float: "X", str: "TEXT"}


def nearest(name: str, known: Mapping[str, Any] | list[str]) -> str:
    """The known names most like a wrong one, as the end of an error message."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.4)
    return f"; did you mean {', '.join(near)}?" if near else ""


def setting(
    default: Any,
    help: str,
    *,
    choices: Sequence[Any] | None = None,
    range: str = "",
    role: str = "",
    may_change: bool = False,
    shared: bool = False,
    files: Callable[[str], Iterable[Path]] | None = None,
) -> Any:
    """A field of a config dataclass: its default and what `--help`, `check` and reports need.

    Args:
        default: its value, of the setting's type.
        help: for `--help`, without default and range.
        choices: its possible values; None for any.
        range: of a number, an interval such as "[0, 1)".
        role: one of `ROLES`.
        may_change: it changes no result, so it may differ when a run is resumed; such a setting is
            neutral.
        shared: a number of all processes together, each of which takes an equal share.
        files: the files that a value names, whose digest a run's folder holds.
    """
    help += ", over all processes" if shared else ""
    role = "neutral" if may_change else role
    assert role in ROLES, role
    about: dict[str, Any] = {"help": help, "choices": choices, "range": range, "role": role}
    about |= {"may_change": may_change, "shared": shared, "files": files}
    return field(default=default, metadata=about)


def with_role(config: Any, *roles: str) -> set[str]:
    """The names of a config's settings in some roles."""
    return {each.name for each in fields(config) if each.metadata["role"] in roles}


def _within(value: float, interval: str) -> bool:
    """Whether a number lies in an interval such as "[0, 1)"; NaN lies in none."""
    low, high = map(float, interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    return above and (value <= high if interval[-1] == "]" else value < high)


def _is_a(value: Any, kind: type) -> bool:
    """Whether a value is of a setting's type; a whole number is a number, too."""
    if kind is str:  # control characters and half surrogates break terminals, paths and JSON
        return isinstance(value, str) and not {"Cc", "Cs"} & set(map(unicodedata.category, value))
    return type(value) is kind or (kind is float and type(value) is int)


def check(config: Any) -> None:
    """Raise ValueError for a setting of a wrong type, out of its range or none of its choices."""
    for each in fields(config):
        value, kind = getattr(config, each.name), type(each.default)
        choices, interval = each.metadata["choices"], each.metadata["range"]
        if not _is_a(value, kind):
            possible = _TYPES[kind]
        elif choices and value not in choices:
            possible = f"one of {', '.join(map(repr, choices))}"
        elif interval and not _within(value, interval):
            possible = f"in {interval}"
        else:
            continue
        raise ValueError(f"{each.name} must be {possible}, found {value!r}")


def check_keep(config: Any, **used: bool) -> None:
    """Raise ValueError for a Keep arm of a method that changes nothing, so that it keeps nothing.

    Args:
        config: its `keep` is the switch.
        **used: by a setting's name, whether its value leaves the method something to do.
    """
    if config.keep and not all(used.values()):
        idle = [f"{name}={getattr(config, name)!r}" for name, does in used.items() if not does]
        raise ValueError(f"keep={config.keep} has nothing to keep from ({', '.join(idle)})")


def check_shared(config: Any, processes: int) -> None:
    """Raise ValueError for a setting that cannot be shared out equally among processes."""
    for each in fields(config):
        value = getattr(config, each.name)
        if each.metadata["shared"] and value % processes:
            raise ValueError(
                f"{each.name}={value} does not divide by {processes} processes; take a multiple"
            )


def check_kinds(config: Any, settings: Mapping[str, Any]) -> None:
    """Raise ValueError for settings by name whose type is not that of the config's."""
    for each in fields(config):
        kind = type(each.default)
        if not _is_a(settings.get(each.name, each.default), kind):
            found = settings[each.name]
            raise ValueError(f"its setting {each.name} is not {_TYPES[kind]}: {found!r}")


def check_lengths(image_size: tuple[int, int], **lengths: int) -> None:
    """Raise ValueError for a setting in pixels that is longer than images (H, W) have room for.

    A crop's `padding` stays below the shorter side, or a crop could miss the whole image; so does
    a `paste_size`, or nothing of the policy would be left.
    """
    for name, length in lengths.items():
        most = min(image_size) - (name in ("padding", "paste_size"))
        if length > most:
            size = "x".join(map(str, image_size))
            raise ValueError(f"{name} must be at most {most} for {size} images, found {length}")


def check_scale(scale: float, image_size: tuple[int, int]) -> None:
    """Raise ValueError if a map at `scale` of images (H, W) has a side of one pixel or none."""
    if round(min(image_size) * scale) < 2:
        size = "x".join(map(str, image_size))
        raise ValueError(f"scale must leave 2 pixels of a side of {size} images, found {scale}")


def add_flags(parser: argparse.ArgumentParser, config: Any) -> None:
    """Add a flag for every field of a config, by role; its value there is shown as the default."""
    groups = {role: parser.add_argument_group(title) for role, title in ROLES.items()}
    for each in fields(config):
        kind, about = type(each.default), each.metadata
        value = getattr(config, each.name)
        notes = [f"in {about['range']}"] if about["range"] else []
        notes += [f"default {value!r}" if value == "" else f"default {value}"]
        text = f"{about['help']} ({', '.join(notes)})".replace("%", "%%")
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": text}
        if kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            metavar = None if about["choices"] else _METAVARS[kind]
            options |= {"type": kind, "choices": about["choices"], "metavar": metavar}
        groups[about["role"]].add_argument("--" + each.name.replace("_", "-"), **options)


def chosen(arguments: argparse.Namespace, config: Config) -> Config:
    """The config with the fields that were given on the command line."""
    names = {each.name for each in fields(config)}  # type: ignore[arg-type]
    given = {name: value for name, value in vars(arguments).items() if name in names}
    return replace(config, **given)  # type: ignore[type-var]


@dataclass(frozen=True)
class Experiment:
    """A named run, and the cell of the paper that it belongs to.

    Attributes:
        config: a dataclass with every setting, at the paper's budget.
        table: of the paper, or figure, or "control"; "" if none.
        paper: the paper's figure, in %; "" if it has none.
        trials: runs with different seeds that the paper averages, or that we propose.
    """

    config: Any
    table: str = ""
    paper: str = ""
    trials: int = 1


def _parser(description: str, budgets: Sequence[str], shown: Any) -> argparse.ArgumentParser:
    """The command line of a task, whose help shows a config's values as defaults."""
    parser = argparse.ArgumentParser(
        description=description, usage="%(prog)s EXPERIMENT [--setting VALUE ...]", add_help=False,
        epilog=bfloat16(),
    )  # fmt: skip
    parser.add_argument("experiment", nargs="?", help="name, see --list")
    parser.add_argument("-h", "--help", action="store_true", help="with EXPERIMENT: its defaults")
    parser.add_argument("--list", action="store_true", help="print the experiments and exit")
    parser.add_argument(
        "--budget", choices=budgets, default="paper", help="smoke: seconds; paper: the full run"
    )
    parser.add_argument("--out", type=Path, help="run folder (default runs/EXPERIMENT/seed-N)")
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1, mps; auto = GPU if any"
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in its folder")
    add_flags(parser, shown)
    return parser


def words_of(config: Any, budgets: Sequence[str], argv: Sequence[str]) -> dict[str, Any]:
    """What words of a task's command line set, unchecked, by name; exits on a wrong word.

    Args:
        config: of the task, of any values.
        budgets: their names.
        argv: the words.
    """
    parser = _parser("", budgets, config)
    usual = vars(parser.parse_args([]))
    given = vars(parser.parse_args([*argv]))
    return {n: v for n, v in given.items() if n not in usual or v != usual[n]}


def _check_place(folder: Path) -> None:
    """Raise ValueError if no run can be written into a folder: before data are read."""
    if not _is_a(str(folder), str):
        raise ValueError(f"--out must be printable text, found {str(folder)!r}")
    try:
        there = next(place for place in (folder, *folder.parents) if place.exists())
    except OSError as error:  # such as a name that is too long
        raise ValueError(f"--out: {error.strerror}") from None
    if not there.is_dir():
        raise ValueError(f"--out: {there} is no folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"--out: nothing may be written in {there}")


def parse(
    experiments: Mapping[str, Experiment],
    description: str,
    argv: list[str] | None = None,
    *,
    budgets: Mapping[str, Callable[[Any], Any]],
    cost: Callable[[Any], float | str],
    note: str = "",
) -> tuple[str, Any, argparse.Namespace]:
    """Read `EXPERIMENT [--setting value ...]` from the command line.

    Args:
        experiments: by name, their configs of one type.
        description: for `--help`.
        argv: the words; None takes the command's own.
        budgets: what `--budget` makes of a config, by name; "paper" is the default.
        cost: of a config, for `--list`: floating-point operations, or words.
        note: printed above the list.

    Returns:
        The experiment's name, its config with the budget and the settings given, and the other
        arguments: `out` (the run's folder), `device`, `resume` and `budget`. Exits after `--list`
        and `--help`, and on a wrong word.
    """
    shown = type(next(iter(experiments.values())).config)()
    arguments = _parser(description, [*budgets], shown).parse_args(argv)
    name, help_only = arguments.experiment, vars(arguments).pop("help")
    if arguments.list:
        _print_as_made(_listing(experiments, cost, arguments.device, note))
        sys.exit(0)
    if name not in experiments and not (help_only and name is None):
        wrong = f" {name!r}{nearest(name, experiments)}" if name else " given"
        sys.exit(f"error: no experiment{wrong} (--list prints all)")
    try:
        if name:
            shown = budgets[arguments.budget](experiments[name].config)
        if help_only:
            _parser(description, [*budgets], shown).print_help()
            sys.exit(0)
        config = chosen(arguments, shown)
        parts = [name] if arguments.budget == "paper" else [name, arguments.budget]
        arguments.out = arguments.out or Path("runs", *parts, f"seed-{config.seed}")
        _check_place(arguments.out)
    except ValueError as error:
        sys.exit(f"error: {error}")
    if arguments.budget == "smoke" and os.environ.get("RANK", "0") == "0":
        print(SMOKE, file=sys.stderr)
    return name, config, arguments


def _print_as_made(lines: Iterator[str]) -> None:
    """Print each line at once: some take seconds to make."""
    try:
        for line in lines:
            print(line, flush=True)
    except BrokenPipeError:  # --list | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except ValueError as error:
        sys.exit(f"error: {error}")


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _listing(
    experiments: Mapping[str, Experiment],
    cost: Callable[[Any], float | str],
    device: str,
    note: str,
) -> Iterator[str]:
    """A line per experiment, by table; then the machine whose hours they are."""
    if note:
        yield note
    yield (
        f"{'experiment':52s} {'table':8s} {'paper':>6s} {'seeds':>5s} {'cost':>15s} {'hours':>8s}"
        "  settings"
    )
    speed = 0.0
    for name, each in sorted(experiments.items(), key=lambda item: (item[1].table or "~", item[0])):
        amount, hours = cost(each.config), ""
        if not isinstance(amount, str):
            speed = speed or flop_per_second(find_device(device))
            hours = _short(amount / speed / 3600)
            amount = f"{_short(amount / 1e15)} PFLOP"
        yield (
            f"{name:52s} {each.table or '-':8s} {each.paper or '-':>6s} {each.trials:5d} "
            f"{amount:>15s} {hours:>8s}  {differences(each.config)}"
        )
    if speed:
        yield (
            f"hours: of one run on {hardware(find_device(device))}, at {speed / 1e9:,.0f} GFLOP/s, "
            "measured just now on convolutions as ResNet-18's, in float32"
        )


def differences(config: Any) -> str:
    """What a config sets otherwise than its class, as flags."""
    changed = {f.name: v for f in fields(config) if (v := getattr(config, f.name)) != f.default}
    return " ".join(f"{name}={value}" for name, value in changed.items())
