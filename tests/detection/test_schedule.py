from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detection.schedule import COCO_IMAGES, Schedule, make_schedule


def test_on_coco_in_batches_of_16_it_is_the_zoos_3x() -> None:
    plan = make_schedule(images=COCO_IMAGES, batch_size=16, zoo_lr=0.02)
    assert plan == Schedule(iterations=270_000, drops=(210_000, 250_000), warmup=1000, lr=0.02)


def test_half_the_batch_takes_twice_the_steps_at_half_the_rate() -> None:
    plan = make_schedule(images=COCO_IMAGES, batch_size=8, zoo_lr=0.01)
    assert plan == Schedule(iterations=540_000, drops=(420_000, 500_000), warmup=2000, lr=0.005)


def test_a_tenth_of_the_schedule() -> None:
    plan = make_schedule(images=COCO_IMAGES, batch_size=16, zoo_lr=0.02, schedule=0.3)
    assert plan == Schedule(iterations=27_000, drops=(21_000, 25_000), warmup=1000, lr=0.02)


def test_steps_and_rate_may_be_given() -> None:
    plan = make_schedule(images=5, batch_size=2, zoo_lr=0.02, iterations=270, lr=0.1)
    assert plan == Schedule(iterations=270, drops=(210, 250), warmup=27, lr=0.1)


@given(st.integers(1, 10**6), st.integers(1, 256), st.floats(0.01, 10))
def test_every_schedule_can_be_run(images: int, batch: int, schedule: float) -> None:
    plan = make_schedule(images=images, batch_size=batch, zoo_lr=0.02, schedule=schedule)
    assert plan.iterations >= 1
    assert plan.warmup <= plan.iterations / 10
    assert all(0 < drop < plan.iterations for drop in plan.drops)
    assert plan.drops == tuple(sorted(set(plan.drops)))


@given(st.integers(1000, 10**6), st.sampled_from([1, 2, 4, 8, 16, 32]))
def test_images_are_seen_as_often_whatever_the_set_and_the_batch(images: int, batch: int) -> None:
    plan = make_schedule(images=images, batch_size=batch, zoo_lr=0.02)
    passes = plan.iterations * batch / images
    assert passes == pytest.approx(270_000 * 16 / COCO_IMAGES, rel=0.01)


def test_no_images_are_refused() -> None:
    with pytest.raises(ValueError, match="no training image has a box"):
        make_schedule(images=0, batch_size=16, zoo_lr=0.02)
