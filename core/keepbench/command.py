"""What the command lines of the tasks share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from keepbench.leaving import PREEMPTED
from keepbench.processes import join_processes

Trainer = TypeVar("Trainer")


def train_to_the_end(
    train: Callable[..., Trainer | None], name: str, config: Any, arguments: argparse.Namespace
) -> Trainer | None:
    """Train as one of the processes of a run; exit with `PREEMPTED` if a signal stopped it.

    Args:
        train: a task's function of that name.
        name: of the experiment.
        config: its settings.
        arguments: what else `keepbench.settings.parse` found.

    Returns:
        The finished run in the first process, None in the others.
    """
    with join_processes(arguments.device) as processes:
        trainer = train(
            name, config, arguments.out, processes, resume=arguments.resume, budget=arguments.budget
        )
    if trainer is None:
        sys.exit(PREEMPTED)
    return trainer if processes.first else None
