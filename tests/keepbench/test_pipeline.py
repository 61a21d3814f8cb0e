from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from keepaugment import Cutout
from keepbench import pipeline
from keepbench.clock import Clock
from keepbench.pipeline import Pipeline, Stage, TimedMap, cutting


@pytest.fixture
def clock() -> Clock:
    return Clock(torch.device("cpu"))


STAGES = [
    Stage("double", lambda a: 2 * a, ("a",), ("b",)),
    Stage("divide", lambda b, d: divmod(b, d), ("b", "d"), ("b", "rest")),
    Stage("look", lambda rest: None, ("rest",), compiles=False),
]


@dataclass(frozen=True)
class Numbers:
    a: int
    d: int = 0
    b: int = 0
    rest: int = 0


GIVEN = Numbers(7, 4)


def test_stages_take_and_set_fields_by_name(clock: Clock) -> None:
    assert Pipeline(STAGES, clock)(GIVEN) == Numbers(7, 4, 3, 2)
    assert GIVEN == Numbers(7, 4)
    assert list(clock.seconds()) == ["double", "divide", "look"]


def test_a_listener_sees_the_batch_after_each_stage(clock: Clock) -> None:
    seen = []
    Pipeline(STAGES, clock)(GIVEN, lambda name, batch: seen.append((name, batch)))
    assert [name for name, _ in seen] == ["double", "divide", "look"]
    assert seen[0][1] == Numbers(7, 4, 14) and seen[1][1] == seen[2][1]


@pytest.mark.parametrize("result", [(1, 2, 3), None])
def test_a_stage_gives_as_many_values_as_it_says(result: Any, clock: Clock) -> None:
    stage = Stage("cut", lambda a: result, ("a",), ("a", "mask"))
    with pytest.raises(ValueError, match="zip"):
        Pipeline([stage], clock)(Numbers(1))


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda a: a[:1], r"\(2, 3\) torch.float32, found \(1, 3\) torch.float32"),
        (lambda a: a.double(), r"found \(2, 3\) torch.float64"),
        (lambda a: None, "found NoneType"),
        (None, "cut must be a function of a, found None"),
        (lambda: None, "cut must be a function of a, found <function"),
    ],
)
def test_images_stay_as_they_are_taken(run: Any, message: str, clock: Clock) -> None:
    given = Numbers(torch.zeros(2, 3))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        Pipeline([Stage("cut", run, ("a",), ("a",), like=True)], clock)(given)


def test_of_bytes_a_stage_may_give_fractions(clock: Clock) -> None:
    given = Numbers(torch.zeros(2, 3).byte())  # type: ignore[arg-type]
    halves = Stage("policy", lambda a: a + 0.5, ("a",), ("b",), like=True)
    assert Pipeline([halves], clock)(given).b.equal(torch.full((2, 3), 0.5))  # type: ignore[attr-defined]


def test_a_map_is_a_function_that_leaves_the_images(clock: Clock) -> None:
    for wrong in (None, lambda images: images):
        with pytest.raises(
            ValueError, match="a map must be a function of images and labels, found"
        ):
            TimedMap(wrong, clock)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has written into the images"):
        TimedMap(lambda images, labels: images.zero_().mean(1), clock)(torch.ones(1, 3, 4, 4))


@pytest.mark.parametrize("mask", [None, lambda images: images])
def test_what_has_no_mask_is_no_cut(mask: Any) -> None:
    def cut(images: Tensor, labels: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        return images

    cut.mask = mask  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"have mask\(images, labels\).*found <function"):
        cutting(cut)


@pytest.mark.parametrize("compile", [True, False])
def test_only_stages_that_may_be_are_compiled(
    compile: bool, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *values: ran.append(function) or function(*values)

    ran: list[Callable[..., Any]] = []
    monkeypatch.setattr(pipeline, "compiled", compiled)
    assert Pipeline(STAGES, clock, compile=compile)(GIVEN).rest == 2
    assert ran == ([stage.run for stage in STAGES[:2]] if compile else [])


def test_a_maps_time_is_not_its_stages(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 1.0, 11.0, 13.0])
    monkeypatch.setattr("keepbench.clock.time.perf_counter", lambda: next(times))

    def grey(images: Tensor, labels: Tensor | None) -> Tensor:
        return images.mean(1)

    saliency = TimedMap(grey, clock)
    assert saliency.last is None
    images = torch.rand(2, 3, 4, 4)
    stage = Stage("cut", saliency, ("a", "d"), ("b",))
    seen = Pipeline([stage], clock)(Numbers(images))  # type: ignore[arg-type]
    assert torch.equal(seen.b, images.mean(1)) and saliency.last is seen.b
    assert clock.seconds() == {"cut": 3.0, "map": 10.0}


def test_cutting_gives_images_share_and_mask() -> None:
    images = torch.ones(5, 3, 8, 8)
    cut = cutting(Cutout(4, p=0.5, generator=torch.Generator().manual_seed(0)))
    changed, share, mask = cut(images, torch.arange(5))
    assert torch.equal(changed, images * ~mask)
    assert share == mask.float().mean() and 0 < share < 0.25
