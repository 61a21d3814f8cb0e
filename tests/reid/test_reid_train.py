from __future__ import annotations

import json
import math
import random
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from keepaugment import RandomErasing
from keepbench.loop import fit, train_epoch
from keepbench.maps import Centre, Gradient, KeepCut, Map, Random
from keepbench.processes import Processes, join_processes
from keepbench.right import mean_of_items, read_items
from keepbench.settings import check_shared, flat, from_flat
from reid.config import Config
from reid.experiments import ARMS, BUDGETS, EXPERIMENTS, TRICKS
from reid.files import PARTS
from reid.toy import write_toy
from runs import CPU, ROOT, assert_resumes, rows_of, torchrun

pytest.importorskip("torchreid", reason="training takes torchreid's parts")
from reid.augmentation import make_erasing  # noqa: E402
from reid.cli import cost, main  # noqa: E402
from reid.data import Data, open_data  # noqa: E402
from reid.train import Trainer, learning_rate, train  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy") / "people"
    write_toy(folder, num_train=4, num_test=4, cameras=2, images=2, strangers=2)
    return folder


@pytest.fixture(scope="module")
def small(folder: Path) -> Config:
    return replace(
        TRICKS, dataset="toy", data=str(folder), arch="resnet18", weights="none", height=32,
        width=16, padding=2, workers=0, num_ids=2, num_instances=2, epochs=2, warmup=1,
        eval_every=1, sheet=0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def data(small: Config) -> Data:
    return open_data(small, CPU)


# The recipe


def test_the_learning_rate_is_bag_of_tricks_law() -> None:
    # WarmupMultiStepLR of its code, stepped before each epoch, at 120 epochs
    def theirs(number: int) -> float:
        alpha = number / 10
        warm = 0.01 * (1 - alpha) + alpha if number < 10 else 1.0
        return 3.5e-4 * warm * 0.1 ** ((number >= 40) + (number >= 70))

    for epoch in range(120):
        assert learning_rate(TRICKS, epoch) == pytest.approx(theirs(epoch + 1))
    assert learning_rate(TRICKS, 0) == pytest.approx(3.5e-4 * 0.109)
    assert learning_rate(ARMS["baseline"], 0) == 3.5e-4
    short = replace(TRICKS, epochs=12, warmup=1)
    rates = [round(learning_rate(short, epoch) / 3.5e-4, 6) for epoch in range(12)]
    assert rates == [1] * 3 + [0.1] * 3 + [0.01] * 6


def test_the_arms_differ_in_what_the_table_says() -> None:
    baseline, tricks, low = (ARMS[n] for n in ("baseline", "bag_of_tricks", "keep_erasing_low"))
    assert low == replace(tricks, keep=KeepCut(map=Gradient(scale=0.5), tau=0.6))
    assert baseline == replace(
        tricks, last_stride=2, neck=False, smoothing=0, erase_p=0, centre_weight=0, warmup=0
    )
    papers = {name: each.paper for name, each in EXPERIMENTS.items() if each.paper}
    assert papers == {
        "market-resnet101-baseline": "88.1/74.6",
        "market-resnet101-bag_of_tricks": "94.5/87.1",
        "market-resnet101-keep_erasing_low": "95.0/87.4",
    }


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.parametrize("budget", BUDGETS)
def test_every_experiment_has_every_budget_and_a_cost(name: str, budget: str) -> None:
    config = BUDGETS[budget](EXPERIMENTS[name].config)
    assert cost(config) > 0
    assert config.warmup <= config.epochs


def test_maps_that_need_no_model_cost_nothing() -> None:
    keep = EXPERIMENTS["market-resnet101-keep_erasing"].config
    plain, free = (
        replace(keep, keep=None),
        [replace(keep, keep=KeepCut(map=kind)) for kind in (Random(), Centre())],
    )
    assert {cost(config) for config in free} == {cost(plain)} != {cost(keep)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keep": KeepCut(), "erase_p": 0.0}, "nothing to keep from"),
        ({"epochs": 9}, "warmup must be at most epochs=9, found 10"),
        ({"padding": 128}, "padding must be at most 127 for 256x128 images, found 128"),
        ({"keep": KeepCut(map=Gradient(scale=0.01))}, "keep.map.scale must leave 2 pixels"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TRICKS, **change)


# The erasing


def erasing(config: Config, images: Tensor) -> tuple[RandomErasing, Tensor]:
    def halves(images: Tensor, labels: Tensor | None) -> Tensor:  # the left matters
        return (
            (torch.arange(images.shape[3]) < images.shape[3] / 2)
            .float()
            .expand(len(images), *images.shape[2:])
        )

    generator = torch.Generator().manual_seed(0)
    erase = make_erasing(config, halves, generator)
    return erase, erase.mask(images, torch.zeros(len(images), dtype=torch.int64))


def test_keep_erasing_changes_where_and_nothing_else() -> None:
    images = torch.zeros(500, 3, 64, 32)
    (plain, mask), (kept, kept_mask) = (erasing(ARMS[name], images)
                                        for name in ("bag_of_tricks", "keep_erasing"))  # fmt: skip
    assert type(plain) is type(kept) is RandomErasing and plain.keep is None is not kept.keep
    assert torch.equal(mask.sum((1, 2, 3)), kept_mask.sum((1, 2, 3)))  # every image's own box
    for one, other in ((1, 2), (2, 1)):  # and height and width of it
        assert torch.equal(mask.any(one + 1).sum((1, 2)), kept_mask.any(one + 1).sum((1, 2)))
        assert one != other
    left, kept_left = (m[..., :16].float().mean() for m in (mask, kept_mask))
    assert kept_left < 0.75 * left


def original_area(source: random.Random, height: int, width: int) -> int:
    """Of a box as Bag of Tricks draws it, one try after the other."""
    while True:
        area = source.uniform(0.02, 0.4) * height * width
        ratio = source.uniform(0.3, 1 / 0.3)
        h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if h < height and w < width:
            return h * w


def test_boxes_follow_bag_of_tricks_law() -> None:
    source, (height, width) = random.Random(0), (64, 32)
    theirs = torch.tensor([original_area(source, height, width) for _ in range(4000)]).float()
    _, mask = erasing(TRICKS, torch.zeros(8000, 1, height, width))
    ours = mask.sum((1, 2, 3)).float()
    assert abs(float((ours > 0).float().mean()) - 0.5) < 0.02
    ours = ours[ours > 0]
    assert float(ours.mean()) == pytest.approx(float(theirs.mean()), rel=0.03)
    for share in (0.1, 0.5, 0.9):
        assert float(ours.quantile(share)) == pytest.approx(float(theirs.quantile(share)), rel=0.06)


@pytest.mark.parametrize(("fill", "colour"), [("mean", [0.485, 0.456, 0.406]), ("zero", [0.0] * 3)])
def test_a_fill_is_written_into_the_normalised_image(fill: str, colour: list[float]) -> None:
    images = torch.full((20, 3, 64, 32), 2.0)
    erase, mask = erasing(replace(TRICKS, erase_fill=fill), images)
    erased = erase(images, mask=mask).movedim(1, 3)[mask[:, 0]]
    torch.testing.assert_close(erased, torch.tensor(colour).expand_as(erased))


def test_a_random_fill_differs_in_every_pixel() -> None:
    images = torch.full((20, 3, 64, 32), 2.0)
    erase, mask = erasing(replace(TRICKS, erase_fill="random"), images)
    erased = erase(images, mask=mask).movedim(1, 3)[mask[:, 0]]
    assert erased.unique().numel() > 0.99 * erased.numel()
    assert abs(float(erased.mean())) < 0.05 and abs(float(erased.std()) - 1) < 0.05


# Training


@pytest.mark.parametrize(("arm", "steps"), [("baseline", 2), ("keep_erasing_low", 1)])
def test_a_run_stopped_after_any_step_goes_on_there(
    arm: str, steps: int, small: Config, data: Data, tmp_path: Path
) -> None:
    law = ARMS[arm]
    config = replace(
        small, keep=law.keep, neck=law.neck, erase_p=law.erase_p,
        centre_weight=law.centre_weight, last_stride=law.last_stride,
    )  # fmt: skip
    rows = assert_resumes(lambda: Trainer(config, data, CPU), steps, tmp_path)
    assert "start_mAP" in rows[0]


def test_centres_move_by_their_own_rate_without_the_losss_weight(small: Config, data: Data) -> None:
    trainer = Trainer(replace(small, centre_weight=1e-3), data, CPU)
    assert trainer.centres is not None
    before = trainer.centres.centres.detach().clone()
    index = trainer.order[0]
    inputs, _ = trainer.augment(0, 0, index)
    raw, labels = trainer.model(inputs).raw.detach(), data.labels[index]
    trainer = Trainer(replace(small, centre_weight=1e-3), data, CPU)
    trainer.train_step(index)
    moved = before.clone()
    for feature, label in zip(raw, labels, strict=True):  # SGD at 0.5 on the mean's gradient
        moved[label] -= 0.5 * 2 * (before[label] - feature) / len(index)
    assert trainer.centres is not None
    torch.testing.assert_close(trainer.centres.centres.detach(), moved, rtol=1e-4, atol=1e-4)


def test_arms_of_one_seed_see_the_same_crops_and_boxes_sizes(small: Config, data: Data) -> None:
    plain, kept = (
        Trainer(replace(small, keep=keep), data, CPU) for keep in (None, KeepCut(map=Random()))
    )
    assert torch.equal(plain.order, kept.order)
    a, share_a = plain.augment(0, 0, plain.order[0])
    b, share_b = kept.augment(0, 0, kept.order[0])
    assert share_a == share_b
    untouched = ((a == b).all(1)).float().mean()
    assert untouched > 1 - 2 * share_a - 1e-3


def test_one_image_twice_in_a_batch_is_augmented_twice(small: Config, data: Data) -> None:
    trainer = Trainer(replace(small, erase_p=0.0), data, CPU)
    inputs, changed = trainer.augment(0, 0, torch.zeros(16, dtype=torch.int64))
    assert len({tuple(image.flatten().tolist()) for image in inputs}) > 8
    assert changed == 0


def test_a_test_scores_and_says_whether_it_is_comparable(small: Config, data: Data) -> None:
    trainer = Trainer(replace(small, rerank=True, bf16=True, channels_last=True), data, CPU)
    row = trainer.tester.scores(last=True)
    assert row["queries"] == 8 and 0 < row["mINP"] <= row["mAP"] <= 100
    assert {"reranked_rank1", "reranked_mAP"} <= row.keys()
    assert row["comparable"] is False and row["why_not"] == "the pedestrians are drawn"
    assert trainer.model.training


def test_features_that_tell_people_apart_score_everything(small: Config, data: Data) -> None:
    trainer = Trainer(small, data, CPU)
    trainer.tester.features = lambda shown: torch.eye(20)[shown.people]  # type: ignore[method-assign]
    row = trainer.tester.scores()
    assert row["mAP"] == row["mAP_official"] == row["mINP"] == row["rank1"] == 100


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({}, FloatingPointError, "not finite in"),
        ({"keep": KeepCut(), "erase_p": 1.0}, ValueError, "NaN.*"),
    ],
)
def test_a_step_that_is_not_finite_names_its_images(
    change: dict, kind: type, message: str, small: Config, data: Data
) -> None:
    trainer = Trainer(replace(small, **change), data, CPU)
    trainer.before_epoch()
    with torch.no_grad():
        trainer.model.classifier.weight.fill_(torch.nan)
    images = re.escape(str(trainer.order[0].tolist()))
    with pytest.raises(kind, match=f"{message}.*epoch 1, step 1, on the training images {images}"):
        train_epoch(trainer)


def test_identities_must_divide_by_the_processes(small: Config) -> None:
    with pytest.raises(ValueError, match="num_ids=2 does not divide by 3 processes"):
        check_shared(small, 3)


# The command line


@pytest.mark.parametrize("arm", ["baseline", "bag_of_tricks", "keep_erasing_low"])
def test_every_arm_runs_smoke_on_drawn_pedestrians(
    arm: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"toy-resnet18-{arm}", "--budget", "smoke", "--data", str(folder), "--device", "cpu",
             "--height", "32", "--width", "16", "--out", str(tmp_path)]  # fmt: skip
    main(words)
    first, last = rows_of(tmp_path)
    assert {"rank1", "rank5", "rank10", "mAP", "mAP_official", "mINP", "start_mAP"} <= first.keys()
    assert "reranked_mAP" in last and "reranked_mAP" not in first
    assert (first["changed_area"] > 0) == (arm != "baseline")
    assert (first["centre_loss"] > 0) == (arm != "baseline")
    assert (tmp_path / "ranked.png").stat().st_size > 1000
    printed = "".join(capsys.readouterr())
    assert "12,936" in printed and "15,913" in printed and "19,732" in printed
    assert printed.count("NOT comparable with published figures: the pedestrians are drawn") == 2
    assert "re:mAP" in printed
    with pytest.raises(SystemExit, match="give --resume"):
        main(words)


def test_a_bad_folder_ends_with_a_message(tmp_path: Path) -> None:
    words = ["market-resnet50-baseline", "--data", str(tmp_path), "--weights", "none"]
    with pytest.raises(SystemExit, match=f"error: .*{PARTS['train']}"):
        main([*words, "--out", str(tmp_path / "run"), "--device", "cpu"])


def test_the_list_has_the_papers_figures(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--list"])
    lines = capsys.readouterr().out.splitlines()
    (line,) = (line for line in lines if line.startswith("market-resnet101-keep_erasing_low "))
    assert "95.0/87.4" in line and "PFLOP" in line


def test_a_run_of_the_library_trains_to_the_end(small: Config, tmp_path: Path) -> None:
    trainer = train("a", replace(small, epochs=1, sheet=1), tmp_path, CPU)
    assert trainer.epoch == 1 and (tmp_path / "ranked.png").exists()


def train_frozen(words: str, folder: Path, processes: Processes) -> None:
    """Train with statistics that stand still: else two processes see half a batch in each norm."""
    config = from_flat(Config, json.loads(words))
    trainer = Trainer(config, open_data(config, processes), processes)
    for module in trainer.model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
            module.train = lambda mode=True, module=module: module
    assert fit(trainer, "a", folder)
    trainer.finish(folder)


@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [(Random(), 1e-4), pytest.param(Gradient(), 0.05, marks=pytest.mark.slow)],
    ids=["random", "gradient"],
)
def test_two_processes_train_as_one(
    small: Config, tmp_path: Path, kind: Map, tolerance: float
) -> None:
    """A gradient map depends on the weights, whose last digits differ: a box may tip over."""
    words = json.dumps(flat(replace(small, keep=KeepCut(map=kind), erase_p=1.0, record=True)))
    done = torchrun(__file__, words, tmp_path / "two")
    assert done.returncode == 0, done.stderr
    train_frozen(words, tmp_path / "one", CPU)
    for one, two in zip(rows_of(tmp_path / "one"), rows_of(tmp_path / "two"), strict=True):
        for name in ("identity_loss", "triplet_loss", "centre_loss", "changed_area", "mAP"):
            assert one[name] == pytest.approx(two[name], rel=tolerance) and one[name]
    for folder in (tmp_path / "one", tmp_path / "two"):
        assert mean_of_items(folder) == pytest.approx(rows_of(folder)[-1]["mAP"])


def test_the_average_precisions_of_queries_have_the_map_as_mean(
    small: Config, data: Data, tmp_path: Path
) -> None:
    tester = Trainer(replace(small, record=True), data, CPU).tester
    for folder in ("fresh", "tested"):
        (tmp_path / folder).mkdir()
    tester.record(tmp_path / "fresh", 2)  # as after a run's end: nothing was tested
    row = tester.scores(last=True)
    tester.record(tmp_path / "tested", 2)
    for folder in ("fresh", "tested"):
        precisions = read_items(tmp_path / folder)
        assert len(precisions) == row["queries"]
        assert 100 * float(precisions.mean()) == pytest.approx(row["mAP"])


@pytest.mark.slow
def test_two_processes_train_and_one_writes(folder: Path, tmp_path: Path) -> None:
    result = torchrun(
        ROOT / "tools/run_reid.py", "toy-resnet18-keep_erasing_low", "--budget", "smoke",
        "--data", folder, "--device", "cpu", "--out", tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    rows = rows_of(tmp_path)
    assert [row["epoch"] for row in rows] == [1, 2] and rows[-1]["queries"] == 8
    assert result.stdout.count("NOT comparable") == 2


if __name__ == "__main__":
    with join_processes("cpu") as joined:
        train_frozen(sys.argv[1], Path(sys.argv[2]), joined)
