"""Learning-rate schedules, made of fvcore's: functions of the share of the run that is over."""

from __future__ import annotations

from collections.abc import Sequence

from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    LinearParamScheduler,
    MultiStepParamScheduler,
    ParamScheduler,
)

EPSILON = 1e-9  # of the run: below one step; fvcore's own, 1e-6, is above one of 1.5 million


def warmed_up(
    main: ParamScheduler, warmup: float, start: float, *, rescaled: bool = True
) -> ParamScheduler:
    """A schedule after a linear warm-up to 1.

    Args:
        main: the schedule.
        warmup: share of the run, in [0, 1].
        start: where the warm-up starts.
        rescaled: `main` begins where the warm-up ends; otherwise it began with the run.
    """
    scaling = ["rescaled", "rescaled" if rescaled else "fixed"]
    parts = [LinearParamScheduler(start, 1.0), main]
    whole = CompositeParamScheduler(parts, [warmup, 1.0 - warmup], scaling)
    whole.WHERE_EPSILON = EPSILON
    return whole


def tenths(milestones: Sequence[int], epochs: int) -> ParamScheduler:
    """1, and a tenth of it more from each milestone on, in epochs; those outside the run may be."""
    inside = sorted({each for each in milestones if 0 < each < epochs})
    values = [0.1 ** sum(each <= begun for each in milestones) for begun in (0, *inside)]
    stairs = MultiStepParamScheduler(values, epochs, inside)
    stairs.WHERE_EPSILON = EPSILON
    return stairs
