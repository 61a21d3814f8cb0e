"""Words for the terminal: bars for long jobs, or lines of a log where there is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, TextIO

from tqdm import tqdm

LOG_EVERY = 60.0  # seconds between lines


def printable(text: str) -> str:
    """Text for a terminal: what a file's name may hide in it, such as escape sequences, shows."""
    return "".join(
        each if each.isprintable() or each == "\n" else each.encode("unicode_escape").decode()
        for each in text
    )


def say(text: str) -> None:
    """Print a line, which may hold names of files, on the terminal's error stream."""
    print(printable(text), file=sys.stderr)


class _Lines:
    """A stream that takes a bar's states as lines of a log."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> None:
        if text := text.strip("\r\n "):
            self.stream.write(text + "\n")

    def flush(self) -> None:
        self.stream.flush()


def progress_bar(
    iterable: Iterable[Any] | None = None, *, hide: bool = False, **options: Any
) -> tqdm[Any]:
    """A tqdm bar on a terminal; elsewhere a line with the time left each minute.

    Args:
        iterable: what is gone through; None for a bar that is updated by hand.
        hide: show nothing.
        **options: tqdm's.
    """
    if not sys.stderr.isatty():
        lines: Any = _Lines(sys.stderr)
        options |= {"file": lines, "mininterval": LOG_EVERY, "delay": LOG_EVERY, "ncols": 80}
    return tqdm(iterable, disable=hide, **options)
