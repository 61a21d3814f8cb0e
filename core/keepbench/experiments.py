"""Named experiments, and their list."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from keepbench.machine import find_device, flop_per_second, hardware
from keepbench.settings import differences


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


def print_as_made(lines: Iterator[str]) -> None:
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


def listing(
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
