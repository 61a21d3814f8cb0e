"""The command lines of the tasks: experiments, settings as flags, and the end of a run."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import Field, fields
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from keepbench.experiments import Experiment, listing, print_as_made
from keepbench.leaving import PREEMPTED
from keepbench.loop import Trainer, train
from keepbench.machine import bfloat16
from keepbench.older import RENAMED
from keepbench.own_network import is_function
from keepbench.processes import join_processes
from keepbench.settings import (
    ROLES,
    Kind,
    changed,
    find_kind,
    flat,
    is_a,
    named,
    nearest,
    task_of,
    walk,
)
from keepbench.settings_file import read_settings

Config = TypeVar("Config")

SMOKE = "smoke: checks that everything works; the accuracy means nothing"
Brought = Mapping[str, type[Kind]]
Owned = tuple[str, Field[Any], Any]
"""The name of a kind that has a setting, its field, and the value that is shown."""
_METAVARS = {int: "N", float: "X", str: "TEXT"}


class _Parser(argparse.ArgumentParser):
    """A parser that raises ValueError for wrong words."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


class _Renamed(argparse.Action):
    """A flag of earlier versions."""

    def __call__(self, parser: Any, namespace: Any, values: Any, flag: str | None = None) -> None:
        """Say what it is called now."""
        no = "--no-" if flag and flag.startswith("--no-") else "--"
        parser.error(f"{flag} is {_flag(str(self.const)).replace('--', no, 1)} now")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _text(help: str, notes: Sequence[str]) -> str:
    return f"{help} ({', '.join(notes)})".replace("%", "%%")


def _shown(owned: Sequence[Owned]) -> Any:
    """The value that is shown: the one that is set, if any is."""
    return next((value for _, each, value in owned if value != each.default), owned[0][2])


def _add_flag(group: Any, name: str, owned: Sequence[Owned]) -> None:
    """Add the flag of a plain setting, which several kinds may have.

    Args:
        group: to add it to.
        name: of the setting.
        owned: by what kind, as what field, and with what value it is had.
    """
    plain = type(owned[0][1].default)
    alike: dict[tuple[str, str], list[Owned]] = {}
    for each in owned:
        about = each[1].metadata
        alike.setdefault((about["help"], about["range"]), []).append(each)
    words = []
    for (text, interval), same in alike.items():
        value = _shown(same)
        notes = [f"in {interval}"] if interval else []
        notes += [f"default {value!r}" if value == "" else f"default {value}"]
        kinds = ", ".join(kind for kind, _, _ in same if kind)
        words.append(_text(f"{kinds}: {text}" if kinds else text, notes))
    options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": "; ".join(words)}
    if plain is bool:
        options["action"] = argparse.BooleanOptionalAction
    else:
        found = [own.metadata["choices"] or () for _, own, _ in owned]
        choices = [*dict.fromkeys(chain.from_iterable(found))] if all(found) else None
        metavar = None if choices else _METAVARS[plain]
        options |= {"type": plain, "choices": choices, "metavar": metavar}
    group.add_argument(_flag(name), dest=name, **options)


def _add_kinds(
    parser: argparse.ArgumentParser, name: str, owned: Sequence[Owned], brought: Brought
) -> None:
    """Add the flags of a setting of several kinds, and of what these have.

    Arguments as of `_add_flag` and `add_flags`.
    """
    each, value = owned[0][1], _shown(owned)
    known = (kind for _, own, _ in owned for kind in own.metadata["kinds"][1:])
    kinds = [*dict.fromkeys((*([brought[name]] if name in brought else ()), *known))]
    group = parser.add_argument_group(each.metadata["help"])
    group.add_argument(
        _flag(name), dest=name, default=argparse.SUPPRESS, metavar="KIND",
        help=_text(
            ", ".join(kind.name for kind in kinds) + ", FILE.py:CLASS of your own"
            + ("" if each.metadata["required"] else ", or '' for none"),
            [f"default {named(value)!r}"],
        ),
    )  # fmt: skip
    inner: dict[str, list[Owned]] = {}
    for kind in kinds:
        for own in fields(kind):
            shown = getattr(value, own.name) if type(value) is kind else own.default
            inner.setdefault(own.name, []).append((kind.name, own, shown))
    for own_name, found in inner.items():
        if found[0][1].metadata["kinds"]:
            _add_kinds(parser, f"{name}.{own_name}", found, brought)
        else:
            _add_flag(group, f"{name}.{own_name}", found)


def add_flags(parser: argparse.ArgumentParser, config: Any, brought: Brought) -> None:
    """Add a flag for every setting of a config; its value there is shown as the default.

    Args:
        parser: to add them to.
        config: of a task.
        brought: kinds of the user's own, by the setting that they are of.
    """
    groups = {role: parser.add_argument_group(title) for role, title in ROLES.items()}
    for each in fields(config):
        value = getattr(config, each.name)
        if each.metadata["kinds"]:
            _add_kinds(parser, each.name, [("", each, value)], brought)
        else:
            _add_flag(groups[each.metadata["role"]], each.name, [("", each, value)])
    for old, name in RENAMED.get(task_of(config), {}).items():
        flags = (_flag(old), f"--no-{old.replace('_', '-')}")
        parser.add_argument(
            *flags, action=_Renamed, const=name, nargs="?", dest=f"old {old}",
            default=argparse.SUPPRESS, help=argparse.SUPPRESS,
        )  # fmt: skip


def _parser(
    description: str, budgets: Sequence[str], shown: Any, brought: Brought | None = None
) -> _Parser:
    """The command line of a task, whose help shows a config's values as defaults."""
    parser = _Parser(
        description=description, usage="%(prog)s EXPERIMENT [--setting VALUE ...]", add_help=False,
        epilog=bfloat16(), allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("experiment", nargs="?", help="name, see --list")
    parser.add_argument("-h", "--help", action="store_true", help="with EXPERIMENT: its defaults")
    parser.add_argument("--list", action="store_true", help="print the experiments and exit")
    parser.add_argument(
        "--budget", choices=budgets, default="paper", help="smoke: seconds; paper: the full run"
    )
    parser.add_argument(
        "--config", type=Path, help="YAML of settings by name, or a run.json; flags go before"
    )
    parser.add_argument("--out", type=Path, help="run folder (default runs/EXPERIMENT/seed-N)")
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1, mps; auto = GPU if any"
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in its folder")
    add_flags(parser, shown, brought or {})
    return parser


def _find_brought(config: Any, words: Sequence[str]) -> dict[str, type[Kind]]:
    """The classes of the user's own that words name, by setting."""
    kinds: dict[str, Sequence[type[Kind]]] = {}

    def look(within: Any, prefix: str) -> None:
        for each in fields(within):
            if each.metadata["kinds"]:
                kinds[prefix + each.name] = each.metadata["kinds"]
            for kind in each.metadata["kinds"][1:]:
                look(kind, f"{prefix}{each.name}.")

    look(config, "")
    parser = _Parser(add_help=False, allow_abbrev=False)
    for name in kinds:
        parser.add_argument(_flag(name), dest=name, default="")
    found = {}
    for name, value in vars(parser.parse_known_args(words)[0]).items():
        if is_function(value):
            try:
                found[name] = find_kind(value, kinds[name])
            except ValueError as error:
                raise ValueError(f"{name} {error}") from None
    return found


def _parsed(
    description: str, budgets: Sequence[str], shown: Any, argv: Sequence[str] | None
) -> tuple[argparse.Namespace, dict[str, Any], dict[str, Any], Brought]:
    """Arguments, those without words, the settings that words give, and the kinds that they bring.

    Raises:
        ValueError: A word is wrong.
    """
    words = sys.argv[1:] if argv is None else argv
    brought = _find_brought(shown, words)
    parser = _parser(description, budgets, shown, brought)
    arguments, strange = parser.parse_known_args(words)
    if strange:
        hidden = argparse.SUPPRESS
        flags = [flag for flag, act in parser._option_string_actions.items() if act.help != hidden]
        raise ValueError(
            f"unrecognized arguments: {' '.join(strange)}"
            f"{nearest(strange[0].partition('=')[0], flags)}"
        )
    usual = vars(parser.parse_args([]))
    settings = {n: v for n, v in vars(arguments).items() if n not in usual}
    return arguments, usual, settings, brought


def words_of(config: Any, budgets: Sequence[str], argv: Sequence[str]) -> dict[str, Any]:
    """The settings that words of a task's command line give, unchecked, by name.

    Args:
        config: of the task, of any values.
        budgets: their names.
        argv: the words.

    Raises:
        ValueError: A word is wrong.
    """
    arguments, usual, settings, _ = _parsed("", budgets, config, argv)
    return {n: v for n, v in vars(arguments).items() if n in usual and v != usual[n]} | settings


def flags(config: Any, base: Any) -> Iterator[str]:
    """The flags that make a config of another."""
    usual = flat(base)
    switched: tuple[str, ...] = ()  # what was set of another kind may go, or stay
    for name, each, value in walk(config):
        if name in usual and usual[name] == value and not name.startswith(switched):
            continue
        switched += (f"{name}.",) if each.metadata["kinds"] else ()
        if isinstance(value, bool):
            yield _flag(name) if value else "--no-" + name.replace("_", "-")
        else:
            yield f"{_flag(name)}={value}"


def check_place(folder: Path) -> None:
    """Raise ValueError if no run can be written into a folder: before data are read."""
    if not is_a(str(folder), str):
        raise ValueError(f"--out must be printable text, found {str(folder)!r}")
    try:
        there = next(place for place in (folder, *folder.parents) if place.exists())
    except OSError as error:  # such as a name that is too long
        raise ValueError(f"--out: {error.strerror}") from None
    if not there.is_dir():
        raise ValueError(f"--out: {there} is no folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"--out: nothing may be written in {there}")


def read(
    experiments: Mapping[str, Experiment],
    argv: Sequence[str] | None,
    *,
    budgets: Mapping[str, Callable[[Any], Any]],
    description: str = "",
) -> tuple[str, Any, argparse.Namespace]:
    """Read `EXPERIMENT [--setting value ...]`: its name, its config, and the other arguments.

    With `--help` and `--list` the name may be missing, and the config is then the class's own.

    Raises:
        ValueError: A word is wrong.
    """
    shown = type(next(iter(experiments.values())).config)()
    arguments, _, given, brought = _parsed(description, [*budgets], shown, argv)
    name = arguments.experiment
    if arguments.list:
        return "", shown, arguments
    if name in experiments:
        config = budgets[arguments.budget](experiments[name].config)
    elif arguments.help and name is None:
        name, config = "", shown
    else:
        wrong = f" {name!r}{nearest(name, experiments)}" if name else " given"
        raise ValueError(f"no experiment{wrong} (--list prints all)")
    if arguments.help:
        arguments.help = _parser(description, [*budgets], config, brought).format_help()
        return name, config, arguments
    if arguments.config:
        config = read_settings(arguments.config, config)
    config = changed(config, given)
    parts = [name] if arguments.budget == "paper" else [name, arguments.budget]
    arguments.out = arguments.out or Path("runs", *parts, f"seed-{config.seed}")
    check_place(arguments.out)
    return name, config, arguments


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
    try:
        name, config, arguments = read(experiments, argv, budgets=budgets, description=description)
        if arguments.list:
            print_as_made(listing(experiments, cost, arguments.device, note))
            sys.exit(0)
        if arguments.help:
            print(arguments.help, end="")
            sys.exit(0)
    except ValueError as error:
        sys.exit(f"error: {error}")
    if arguments.budget == "smoke" and os.environ.get("RANK", "0") == "0":
        print(SMOKE, file=sys.stderr)
    return name, config, arguments


def train_to_the_end(
    kind: type[Trainer], name: str, config: Any, arguments: argparse.Namespace
) -> Trainer | None:
    """Train as one of the processes of a run; exit with `PREEMPTED` if a signal stopped it.

    Args:
        kind: the task's training.
        name: of the experiment.
        config: its settings.
        arguments: the others that `parse` found.

    Returns:
        The finished run in the first process, None in the others.
    """
    with join_processes(arguments.device) as processes:
        training = train(
            kind, name, config, arguments.out, processes,
            resume=arguments.resume, budget=arguments.budget,
        )  # fmt: skip
    if training is None:
        sys.exit(PREEMPTED)
    return training if processes.first else None
