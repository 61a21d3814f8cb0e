"""Settings: a dataclass per task, flags and listings made of its fields."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

Config = TypeVar("Config")


def nearest(name: str, known: Mapping[str, Any] | list[str]) -> str:
    """The known names most like a wrong one, as the end of an error message."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.4)
    return f"; did you mean {', '.join(near)}?" if near else ""


def setting(
    default: Any, help: str, choices: list[Any] | None = None, *, may_change: bool = False
) -> Any:
    """A field of a config dataclass, and what its flag says.

    Args:
        default: its value.
        help: for `--help`.
        choices: its possible values; None for any.
        may_change: it may change when a run goes on, since it changes no result.
    """
    return field(
        default=default, metadata={"help": help, "choices": choices, "may_change": may_change}
    )


def add_flags(parser: argparse._ArgumentGroup, config: type) -> None:
    """Add a flag for every field of a dataclass; its metadata may hold `help` and `choices`."""
    types = get_type_hints(config)
    for each in fields(config):
        kind, flag = types[each.name], "--" + each.name.replace("_", "-")
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": each.metadata.get("help")}
        if kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options["type"] = next(k for k in (*get_args(kind), kind) if k is not type(None))
            options["choices"] = each.metadata.get("choices")
            options["metavar"] = None if options["choices"] else each.name.upper()
        parser.add_argument(flag, **options)


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


def parse(
    experiments: Mapping[str, Experiment],
    description: str,
    argv: list[str] | None = None,
    *,
    budgets: Mapping[str, Callable[[Any], Any]],
    cost: Callable[[Any], str],
) -> tuple[str, Any, argparse.Namespace]:
    """Read `EXPERIMENT [--setting value ...]` from the command line.

    Args:
        experiments: by name, their configs of one type.
        description: for `--help`.
        argv: the words; None takes the command's own.
        budgets: what `--budget` makes of a config, by name; "paper" is the default.
        cost: of a config, in words, for `--list`.

    Returns:
        The experiment's name, its config with the budget and the settings given, and the other
        arguments: `out` (the run's folder), `device`, `resume` and `budget`. Exits after `--list`
        and on a wrong word.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("experiment", nargs="?", help="see --list")
    parser.add_argument("--list", action="store_true", help="print the experiments and stop")
    parser.add_argument(
        "--budget", choices=[*budgets], default="paper", help="smoke takes seconds; paper is all"
    )
    parser.add_argument("--out", type=Path, help="folder of the run; runs/EXPERIMENT/seed-N if not")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps; auto takes a GPU")
    parser.add_argument("--resume", action="store_true", help="go on with the run in the folder")
    settings = parser.add_argument_group("settings, in place of the experiment's own")
    add_flags(settings, type(next(iter(experiments.values())).config))
    arguments = parser.parse_args(argv)
    name = arguments.experiment
    if arguments.list:
        print("\n".join(_listing(experiments, cost)))
        parser.exit()
    if name not in experiments:
        wrong = f" {name!r}{nearest(name, experiments)}" if name else " given"
        sys.exit(f"error: no experiment{wrong} (--list prints all)")
    try:
        config = chosen(arguments, budgets[arguments.budget](experiments[name].config))
    except ValueError as error:
        sys.exit(f"error: {error}")
    parts = [name] if arguments.budget == "paper" else [name, arguments.budget]
    arguments.out = arguments.out or Path("runs", *parts, f"seed-{config.seed}")
    return name, config, arguments


def _listing(experiments: Mapping[str, Experiment], cost: Callable[[Any], str]) -> Iterator[str]:
    """A line per experiment, by table."""
    yield f"{'experiment':52s} {'table':8s} {'paper':>6s} {'seeds':>5s} {'cost':>18s}  settings"
    for name, each in sorted(experiments.items(), key=lambda item: (item[1].table or "~", item[0])):
        yield (
            f"{name:52s} {each.table or '-':8s} {each.paper or '-':>6s} {each.trials:5d} "
            f"{cost(each.config):>18s}  {differences(each.config)}"
        )


def differences(config: Any) -> str:
    """What a config sets otherwise than its class, as flags."""
    changed = {f.name: v for f in fields(config) if (v := getattr(config, f.name)) != f.default}
    return " ".join(f"{name}={value}" for name, value in changed.items())
