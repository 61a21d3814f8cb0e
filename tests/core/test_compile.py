"""The box code is one graph for torch.compile, with the results of eager mode."""

from __future__ import annotations

import shutil
import sysconfig
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from small import NUM_CLASSES, labels, rand, randn
from torch import Tensor

from keepaugment import (
    CutMix,
    Cutout,
    GradientSaliency,
    KeepCutMix,
    KeepCutout,
    KeepPaste,
    KeepRandomErasing,
    RandomErasing,
    SampleDraws,
    region_scores,
    selective_cut,
    selective_paste,
)

IMAGES, AUGMENTED, SALIENCY = randn(6, 3, 9, 8), randn(6, 3, 9, 8, seed=1), rand(6, 9, 8)
SIZES = {"int": 3, "(h, w)": (2, 4), "per image": torch.tensor([[1, 2], [3, 3], [9, 8]] * 2)}
NUMBERS = rand(6, 20)

every_size = pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
both_borders = pytest.mark.parametrize("border", ["inside", "clip"])


def numbers(shape: tuple[int, ...], device: torch.device) -> Tensor:
    return NUMBERS[:, : shape[1]]


def a_map(images: Tensor, labels: Tensor | None) -> Tensor:
    return SALIENCY


def compiled(function: Callable, backend: str = "aot_eager") -> Callable:
    torch.compiler.reset()
    return torch.compile(function, fullgraph=True, backend=backend)


@every_size
@both_borders
def test_region_scores(size: int | tuple | Tensor, border: str) -> None:
    expected = region_scores(SALIENCY, size, border=border)
    scores = compiled(region_scores)(SALIENCY, size, border=border)
    assert torch.equal(scores.nan_to_num(-1), expected.nan_to_num(-1))


@every_size
@both_borders
@pytest.mark.parametrize("match_area", [False, True])
def test_selective_cut(size: int | tuple | Tensor, border: str, match_area: bool) -> None:
    settings = {"size": size, "border": border, "match_area": match_area, "generator": numbers}
    expected = selective_cut(IMAGES, SALIENCY, **settings)
    assert torch.equal(compiled(selective_cut)(IMAGES, SALIENCY, **settings), expected)
    assert not torch.equal(expected, IMAGES)


@every_size
def test_selective_paste(size: int | tuple | Tensor) -> None:
    settings = {"size": size, "generator": numbers}
    expected = selective_paste(IMAGES, AUGMENTED, SALIENCY, **settings)
    result = compiled(selective_paste)(IMAGES, AUGMENTED, SALIENCY, **settings)
    assert torch.equal(result, expected)


@pytest.mark.parametrize(
    "method",
    [
        Cutout(4, generator=numbers),
        Cutout((3, 2), p=0.5, border="inside", fill=(1.0, 2.0, 3.0), generator=numbers),
        KeepCutout(saliency=a_map, size=4, generator=numbers),
        RandomErasing(1.0, generator=numbers),
        KeepRandomErasing(saliency=a_map, p=1.0, log_ratio=True, generator=numbers),
    ],
    ids=lambda method: type(method).__name__,
)
def test_methods_that_cut(method: Callable) -> None:
    expected = method(IMAGES, labels(6))
    assert torch.equal(compiled(method)(IMAGES, labels(6)), expected)
    assert not torch.equal(expected, IMAGES)


@pytest.mark.parametrize(
    "method",
    [
        CutMix(NUM_CLASSES, generator=numbers),
        KeepCutMix(None, NUM_CLASSES, saliency=a_map, generator=numbers),
    ],
    ids=lambda method: type(method).__name__,
)
def test_methods_that_mix(method: Callable) -> None:
    results = compiled(method)(IMAGES, labels(6))
    for result, expected in zip(results, method(IMAGES, labels(6)), strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-6)


def test_keep_paste() -> None:
    paste = KeepPaste(saliency=a_map, size=3, generator=numbers)
    expected = paste(IMAGES, AUGMENTED, labels(6))
    assert torch.equal(compiled(paste)(IMAGES, AUGMENTED, labels(6)), expected)


def test_draws_of_torch_are_part_of_the_graph() -> None:
    cut = compiled(Cutout(4))(IMAGES)
    assert ((cut == 0) | (cut == IMAGES)).all() and (cut == 0).any()


def test_maps_of_a_model_leave_off_compiled_code_and_come_back() -> None:
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.LazyLinear(NUM_CLASSES)
    )
    model(IMAGES)
    saliency = torch.compiler.disable(GradientSaliency(model))
    keep = KeepCutout(saliency=saliency, size=4, generator=numbers)
    expected = keep(IMAGES, labels(6))
    torch.compiler.reset()
    assert torch.equal(torch.compile(keep, backend="aot_eager")(IMAGES, labels(6)), expected)


needs_a_compiler = pytest.mark.skipif(
    not (shutil.which("g++") and Path(sysconfig.get_path("include"), "Python.h").exists()),
    reason="Inductor needs a compiler and Python's headers",
)


@needs_a_compiler
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch 2.10 warns of itself
def test_generated_code_gives_the_same_boxes() -> None:
    """Inductor rewrites the arithmetic; in whole numbers nothing is left to round."""

    def cut(images: Tensor, saliency: Tensor) -> Tensor:
        return selective_cut(images, saliency, size=4, border="clip", generator=numbers)

    expected = cut(IMAGES, SALIENCY)
    assert torch.equal(compiled(cut, "inductor")(IMAGES, SALIENCY), expected)


@needs_a_compiler
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("kind", [partial(KeepCutout, size=4), KeepRandomErasing])
def test_generated_code_draws_the_same_numbers(kind: Callable) -> None:
    draws = SampleDraws(0)
    keep = kind(saliency=a_map, p=0.5, generator=draws)
    generated = compiled(keep.mask, "inductor")
    for epoch in range(2):
        draws.at(epoch, torch.arange(6))
        expected = keep.mask(IMAGES, labels(6))
        draws.again()
        assert torch.equal(generated(IMAGES, labels(6)), expected)
        assert expected.any()
