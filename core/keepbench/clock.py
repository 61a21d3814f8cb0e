"""Time spent in the named parts of a step."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Clock:
    """Seconds spent in the parts of a step; on a GPU by events, so that the step never waits.

    A part within another stops the outer one's time, so the parts of a step add up to it.
    """

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.running: list[str] = []  # parts within parts, the innermost last
        self.since: Any = None
        self.spans: dict[str, list[tuple[Any, Any]]] = defaultdict(list)

    def _mark(self) -> None:
        """End the span of the part that runs, and begin the next."""
        now: Any = time.perf_counter()
        if self.cuda:
            now = torch.cuda.Event(enable_timing=True)
            now.record()
        if self.running:
            self.spans[self.running[-1]].append((self.since, now))
        self.since = now

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Count the time within to `part`."""
        self._mark()
        self.running.append(part)
        try:
            yield
        finally:
            self._mark()
            self.running.pop()

    def seconds(self) -> dict[str, float]:
        """Seconds by part since the last call."""
        if self.cuda:
            torch.cuda.synchronize()
        total = {
            part: sum(a.elapsed_time(b) / 1000 if self.cuda else b - a for a, b in spans)
            for part, spans in self.spans.items()
        }
        self.spans.clear()
        return total
