"""The cheapest map that agrees well enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small import blocks, randn
from torch import Tensor, nn

from classification.auto_map import (
    KINDS,
    PART,
    choice_due,
    choose,
    gradient_maps,
    measure,
    step_gflop,
)
from classification.config import Config
from classification.data import open_data, sample
from classification.importance import Auto
from classification.methods import Cutout, KeepCut
from classification.models import create_model
from classification.train import Trainer
from keepaugment import CentreSaliency, EarlyHead, RandomSaliency, box_agreement, early_stage
from keepaugment.early_stage import Flops
from runs import CPU as ALONE
from runs import assert_resumes, epochs

CPU = torch.device("cpu")
BOXES = {"size": 8}


IMAGES, LABELS = randn(6, 3, 16, 16), torch.arange(6) % 5


def small() -> tuple[nn.Module, EarlyHead]:
    model = blocks(10)
    return model, EarlyHead(model, "2", 5)


# Operations


def test_operations_of_a_linear_layer() -> None:
    with Flops() as counter:
        nn.Linear(3, 5)(torch.ones(2, 3))
    assert counter.total == 2 * 2 * 3 * 5


def test_a_plain_step_is_three_forward_passes() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5))
    assert step_gflop(model, IMAGES) == pytest.approx(3 * 2 * 3 * 16 * 16 * 5 / 1e9)


@pytest.mark.parametrize("arch", ["resnet8", "resnet20", "wrn28_2"])
def test_the_early_stage_of_our_models(arch: str) -> None:
    assert early_stage(create_model(arch, 10), torch.zeros(1, 3, 32, 32)).name == "layer1"


# Agreement


def test_agreement_and_cost_by_hand() -> None:
    """More images than fit in a part, and not a multiple of one."""
    model, images = blocks(2), randn(PART + 3, 3, 16, 16)
    labels = torch.arange(len(images)) % 5
    maps = gradient_maps(model, None)
    full, low = measure(maps, images, labels, BOXES)
    each = box_agreement(maps["full"](images, labels), maps["low"](images, labels), **BOXES)
    assert low["agreement"] == pytest.approx(each.mean().item())
    assert low["error"] == pytest.approx(each.std(correction=0).item() / len(images) ** 0.5)
    assert (full["agreement"], full["error"]) == (1.0, 0.0)
    assert low["gflop"] == pytest.approx(full["gflop"] / 4, rel=0.01)
    assert full["map_ms"] > 0


def test_a_full_map_takes_two_thirds_of_a_step() -> None:
    model, head = small()
    rows = {row["map"]: row for row in choose(model, head, IMAGES, LABELS, boxes=BOXES).rows}
    costs = {kind: rows[kind]["cost"] - 1 for kind in KINDS}
    assert costs["full"] == pytest.approx(2 / 3, rel=0.01)
    assert costs["low"] == pytest.approx(1 / 6, rel=0.01)
    assert costs["early"] == pytest.approx(0.3 * 2 / 3, rel=0.01)
    assert costs["low_early"] == pytest.approx(0.3 / 6, rel=0.01)
    assert rows["random"]["cost"] == 1.0 and rows["mirrored"]["cost"] == rows["full"]["cost"]


def test_what_is_asked_for_decides() -> None:
    model, head = small()

    def kind(min_agreement: float) -> str:
        return choose(model, head, IMAGES, LABELS, boxes=BOXES, min_agreement=min_agreement).kind

    rows = choose(model, head, IMAGES, LABELS, boxes=BOXES).rows
    agreements = {row["map"]: row["agreement"] for row in rows}
    assert agreements["low_early"] < agreements["low"] < 1.0
    assert kind(0.0) == "low_early"
    assert kind(agreements["low"]) == "low"  # "at least": its own agreement is enough
    assert kind(1.0) == "full"


def test_without_a_head_there_are_two_kinds() -> None:
    choice = choose(blocks(4), None, IMAGES, LABELS, boxes=BOXES, min_agreement=0.0)
    assert [row["map"] for row in choice.rows] == ["low", "full", "random", "mirrored"]
    assert choice.kind == "low"


def test_maps_that_only_measure_are_never_taken() -> None:
    others = {"centre": CentreSaliency(), "free": RandomSaliency()}
    choice = choose(blocks(4), None, IMAGES, LABELS, boxes=BOXES, min_agreement=0.0, others=others)
    assert choice.kind == "low"
    assert {"centre", "free"} <= {row["map"] for row in choice.rows}


def test_a_model_of_one_size_takes_full_maps() -> None:
    model = nn.Sequential(blocks(2)[0], nn.Flatten(), nn.Linear(3 * 16 * 16, 5))
    choice = choose(model, None, IMAGES, LABELS, boxes=BOXES, min_agreement=0.0)
    assert choice.kind == "full"
    (low,) = (row for row in choice.rows if row["map"] == "low")
    assert "shapes cannot be multiplied" in low["why"] and low["agreement"] == 0.0
    assert any("not possible" in line for line in choice.table())


def test_a_model_that_fails_altogether_is_not_hidden() -> None:
    with pytest.raises(RuntimeError, match="channels"):
        choose(nn.Conv2d(1, 1, 1), None, IMAGES, LABELS, boxes=BOXES)


@pytest.mark.parametrize("min_agreement", [-0.1, 1.1])
def test_an_agreement_outside_is_refused(min_agreement: float) -> None:
    with pytest.raises(ValueError, match=r"in \[0, 1\], found"):
        choose(blocks(2), None, IMAGES, LABELS, boxes=BOXES, min_agreement=min_agreement)


def test_choosing_leaves_no_trace_and_repeats_itself() -> None:
    model = create_model("resnet8", 5).train()
    head = EarlyHead(model, "layer1", 5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    first, again = (choose(model, head, IMAGES, LABELS, boxes=BOXES) for _ in range(2))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(module.training for module in model.modules()) and head.features is None
    assert torch.equal(torch.get_rng_state(), random)
    assert first.kind == again.kind
    for one, other in zip(first.rows, again.rows, strict=True):
        assert {**one, "map_ms": 0} == {**other, "map_ms": 0}


def test_the_table_marks_what_was_taken() -> None:
    model, head = small()
    choice = choose(model, head, IMAGES, LABELS, boxes=BOXES, min_agreement=1.0)
    lines = list(choice.table())
    assert "1.0 asked for" in lines[0] and len(lines) == 7
    assert [line.split()[0] for line in lines if "<- taken" in line] == ["full"]


# In a run


def test_a_run_chooses_ever_more_rarely() -> None:
    assert [epochs for epochs in range(40) if choice_due(epochs)] == [1, 2, 4, 8, 16, 32]


@pytest.mark.parametrize("number", [10, 10_000])
def test_the_sample_is_always_the_same(number: int) -> None:
    data = open_data(Config(dataset="digits", subset=60, test_subset=20), CPU)
    first, again = (sample(data, CPU, number=number) for _ in range(2))
    assert len(first.labels) == min(number, 60) == len(first.numbers.unique())
    assert torch.equal(first.numbers, again.numbers) and torch.equal(first.images, again.images)
    other = sample(data, CPU, seed=1, number=number)
    assert not torch.equal(first.numbers, other.numbers)


def _constant(images: Tensor, labels: Tensor | None) -> Tensor:
    return torch.ones(len(images), *images.shape[2:])


@pytest.mark.parametrize(("saliency", "expected"), [(RandomSaliency(), 0.43), (_constant, 0.6)])
def test_what_agreement_means(
    saliency: Callable[[Tensor, Tensor | None], Tensor], expected: float
) -> None:
    """Noise agrees with noise by chance; a constant map allows every box, of which 60 % are so."""
    torch.manual_seed(0)
    images = torch.zeros(200, 3, 16, 16)
    labels = torch.zeros(200, dtype=torch.int64)
    _, row = measure({"noise": RandomSaliency(), "it": saliency}, images, labels, {"size": 4})
    assert row["agreement"] == pytest.approx(expected, abs=0.02)


AUTO = Config(
    dataset="digits", arch="resnet8", subset=40, test_subset=20, epochs=4, batch_size=16,
    cut=Cutout(), keep=KeepCut(map=Auto()), early_head="layer1",
)  # fmt: skip


@pytest.mark.parametrize(
    ("min_agreement", "kinds"), [(0.0, ["low_early"] * 3), (1.0, ["full"] * 3)]
)
def test_a_run_takes_what_it_chose(
    min_agreement: float, kinds: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The first epoch takes full maps; nothing is chosen after the third."""
    config = replace(AUTO, keep=KeepCut(map=Auto(agreement=min_agreement)))
    rows = epochs(Trainer(config, open_data(config, CPU), ALONE))
    assert [row["map"] for row in rows] == ["full", *kinds]
    assert ["map_agreement" in row for row in rows] == [True, True, False, True]
    assert rows[0]["map_agreement"]["full"] == 1.0
    assert capsys.readouterr().out.count("<- taken") == 3


def test_a_run_that_chose_full_maps_is_one_that_was_told_to() -> None:
    rows = []
    for keep in (KeepCut(map=Auto(agreement=1.0)), KeepCut()):
        config = replace(AUTO, keep=keep, epochs=2, early_head="")
        rows.append(epochs(Trainer(config, open_data(config, CPU), ALONE))[-1])
    same = ("train_loss", "changed_area", "test_loss")
    assert [rows[0][name] for name in same] == [rows[1][name] for name in same]


def test_a_stopped_run_goes_on_with_the_map_that_it_chose(tmp_path: Path) -> None:
    config = replace(AUTO, keep=KeepCut(map=Auto(agreement=0.3)))
    data = open_data(config, CPU)
    rows = assert_resumes(lambda: Trainer(config, data, ALONE), 10, tmp_path)
    assert rows[-1]["map"] == "low_early"


def test_what_is_chosen_anew_is_not_stored() -> None:
    with pytest.raises(ValueError, match=r"keep.cache=2 has no map to store \(keep.map=auto\)"):
        replace(AUTO, keep=KeepCut(map=Auto(), cache=2))
