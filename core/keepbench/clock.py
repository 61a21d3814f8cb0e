"""Time spent in named parts of a step."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Stopwatch:
    """Seconds spent in the parts of a step; on a GPU by events, so that the step does not wait."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.spans: dict[str, list[tuple[Any, Any]]] = defaultdict(list)

    def _now(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Count the time within to `part`."""
        start = self._now()
        yield
        self.spans[part].append((start, self._now()))

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
