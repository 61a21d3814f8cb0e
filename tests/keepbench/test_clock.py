from __future__ import annotations

import itertools

import pytest
import torch

from keepbench.clock import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock whose time goes on by 1, 2, 4, 8 ... seconds from one look to the next."""
    times = itertools.accumulate(2.0**n for n in range(20))
    monkeypatch.setattr("keepbench.clock.time.perf_counter", lambda: next(times))
    return Clock(torch.device("cpu"))


def test_a_part_within_another_stops_the_outer_ones_time(clock: Clock) -> None:
    with clock("step"):  # 2 until the next look
        with clock("map"):  # 4
            pass
        with clock("map"):  # 8 between the two, then 16
            pass
        # 32
    assert clock.seconds() == {"step": 2 + 8 + 32, "map": 4 + 16}  # 62: from first to last


def test_time_outside_of_parts_is_nobodys_and_parts_add_up_until_they_are_asked(
    clock: Clock,
) -> None:
    for _ in range(2):
        with clock("step"):  # 2; 8
            pass
    assert clock.seconds() == {"step": 10}
    assert clock.seconds() == {}


def test_a_part_that_fails_ends_too(clock: Clock) -> None:
    with clock("step"):  # 2
        with pytest.raises(KeyError), clock("map"):  # 4
            raise KeyError
        # 8
    assert clock.seconds() == {"step": 10, "map": 4}
