"""Affinity and diversity, on cases whose answer is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from classification.config import Config
from classification.data import open_data
from classification.methods import Cutout, KeepCut, KeepPaste
from classification.train import Trainer, train
from keepbench.maps import Gradient
from keepbench.policies import RandAugment
from keepbench.processes import Processes
from keepbench.settings import flat
from previewing.affinity import (
    METHODS,
    Row,
    augmentation_of,
    make_arms,
    measure,
    right_answers,
    trained_on,
    with_diversity,
)
from previewing.affinity_page import affinity_plots
from previewing.cli import main
from previewing.runs import read_run

CPU = Processes(torch.device("cpu"))
CLEAN = Config(
    dataset="digits", arch="resnet8", subset=40, test_subset=30, epochs=2, batch_size=20,
    eval_every=2,
)  # fmt: skip
CUTOUT = METHODS["cutout"]


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    torch.manual_seed(0)
    return Trainer(CLEAN, open_data(CLEAN, CPU.device), CPU)


def test_a_cut_of_no_pixels_has_affinity_0(trainer: Trainer) -> None:
    plain = next(make_arms(CLEAN, CUTOUT, [0]))  # a Keep arm of it would have nothing to keep
    (row,) = measure(trainer, [plain], CUTOUT, seed=0, limit=0)
    assert (row.strength, row.affinity, row.error, row.changed) == (0, 0.0, 0.0, 0.0)


def test_a_cut_of_everything_leaves_one_answer(trainer: Trainer) -> None:
    """All images are then the same, so as many are right as have the label that is guessed."""
    whole = next(make_arms(CLEAN, CUTOUT, [32]))
    right, changed = right_answers(trainer, whole, seed=0)
    assert len(right) == 30
    assert changed == pytest.approx(0.56, abs=0.1)  # centres anywhere, clipped at the border
    clean, none = right_answers(trainer, None, seed=0)
    assert none == 0.0 and len(clean) == 30


def test_arms_differ_in_keep_alone_and_tau_1_makes_them_equal(trainer: Trainer) -> None:
    plain, keep = make_arms(CLEAN, CUTOUT, [12], **{"keep.tau": 1.0, "keep.size": 3})
    assert replace(keep, keep=None) == plain and keep.keep == KeepCut(tau=1.0)
    one, other = (right_answers(trainer, arm, seed=0) for arm in (plain, keep))
    assert torch.equal(one[0], other[0]) and one[1] == other[1]
    stricter = replace(keep, keep=KeepCut(tau=0.2))
    assert right_answers(trainer, stricter, seed=0)[1] < one[1]  # clipped boxes have small sums


def test_the_definition_by_hand(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of four right on clean images, two on augmented ones: -25 points, and its error."""
    answers = {None: [1, 1, 1, 0], 8: [1, 0, 1, 0]}

    def answer(trainer: Trainer, config: Config | None, seed: int, limit: int) -> tuple:
        return torch.tensor(answers[config and config.cut.size]).bool(), 0.1  # type: ignore

    monkeypatch.setattr("previewing.affinity.right_answers", answer)
    row = measure(trainer, list(make_arms(CLEAN, CUTOUT, [8]))[:1], CUTOUT, 0, 0)[0]
    assert (row.accuracy, row.affinity) == (50.0, -25.0)
    assert row.error == pytest.approx(100 * (3 / 16) ** 0.5 / 2)  # deviation of (0, -1, 0, 0)


def test_limit_looks_at_the_first_images(trainer: Trainer) -> None:
    arm = next(make_arms(CLEAN, METHODS["randaugment+cutout"], [9]))
    every, _ = right_answers(trainer, arm, seed=0)
    few, _ = right_answers(trainer, arm, seed=0, limit=7)
    assert torch.equal(few, every[:7])


def test_the_trainer_is_left_as_it_was(trainer: Trainer) -> None:
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    right_answers(trainer, list(make_arms(CLEAN, METHODS["randaugment"], [20]))[1], seed=0)
    assert trainer.model.training
    assert all(torch.equal(before[n], v) for n, v in trainer.model.state_dict().items())


def test_settings_without_effect_are_no_difference() -> None:
    plain = replace(CLEAN, cut=Cutout(size=12))
    assert augmentation_of(plain) == augmentation_of(replace(plain, jitter=True, padding=2))
    assert augmentation_of(plain) != augmentation_of(replace(plain, cut=Cutout(size=13)))
    kept = replace(plain, keep=KeepCut())
    low = KeepCut(map=Gradient(scale=0.5), cache=3)
    assert augmentation_of(kept) == augmentation_of(replace(kept, keep=low))
    assert augmentation_of(kept) != augmentation_of(replace(kept, keep=KeepCut(tau=0.1)))


def test_settings_reach_the_arms_that_have_them() -> None:
    settings = {"keep.tau": 0.4, "keep.size": 8, "policy.num_ops": 2}
    plain, keep = make_arms(CLEAN, METHODS["randaugment"], [20], **settings)
    assert plain.policy == keep.policy == RandAugment(num_ops=2, magnitude=20)
    assert plain.keep is None and keep.keep == KeepPaste(tau=0.4, size=8)


def fake_run(folder: Path, config: Config, loss: float, epochs: int | None = None) -> Path:
    """A run's folder with made-up losses: only what the arithmetic reads."""
    folder.mkdir()
    settings = {"experiment": "x", "budget": "paper", "settings": flat(config)}
    (folder / "run.json").write_text(json.dumps(settings))
    done = config.epochs if epochs is None else epochs
    rows = [{"epoch": n + 1, "train_loss": loss if n + 1 == done else 9.0} for n in range(done)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_diversity_is_the_final_loss_relative_to_the_clean_runs(tmp_path: Path) -> None:
    arms = list(make_arms(CLEAN, CUTOUT, [8, 16]))
    rows = [Row(flat(arm)["cut.size"], bool(arm.keep), 90.0, -1.0, 0.1, 0.2) for arm in arms]
    clean = read_run(fake_run(tmp_path / "clean", CLEAN, 0.5))
    cutout = [replace(CLEAN, cut=Cutout(size=size)) for size in range(17)]
    folders = [
        fake_run(tmp_path / "8", cutout[8], 0.6),
        fake_run(tmp_path / "8-again", replace(cutout[8], seed=1), 0.8),
        fake_run(tmp_path / "16-keep", replace(cutout[16], keep=KeepCut()), 0.75),
        fake_run(tmp_path / "other", cutout[9], 0.7),
        fake_run(tmp_path / "longer", replace(cutout[8], epochs=3), 0.7),
    ]
    found, notes = with_diversity(rows, arms, clean, folders)
    assert [row.diversity for row in found] == [pytest.approx(1.4), None, None, pytest.approx(1.5)]
    assert len(notes) == 2 and "none of these" in notes[0] and "budget" in notes[1]
    half = fake_run(tmp_path / "half", replace(cutout[8], seed=2), 0.7, epochs=1)
    with pytest.raises(ValueError, match="1 of its 2 epochs"):
        with_diversity(rows, arms, clean, [half])


def test_a_model_that_was_not_trained_on_clean_images_is_named() -> None:
    assert trained_on(CLEAN) == ""
    assert "cut=cutout" in trained_on(replace(CLEAN, cut=Cutout()))


def test_plots_say_their_figures_in_words() -> None:
    rows = [Row(8, False, 90, -1.5, 0.1, 0, 1.2), Row(8, True, 91, -0.5, 0.1, 0, 1.1)]
    first, second = affinity_plots(rows, "length")
    assert 'aria-label="affinity by length: plain 8: -1.50; Keep 8: -0.50"' in first
    assert second.startswith("<svg role=")
    assert len(affinity_plots([replace(row, diversity=None) for row in rows], "length")) == 1


def test_the_command_writes_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train("clean", CLEAN, tmp_path / "clean", CPU)
    train("cut", replace(CLEAN, cut=Cutout(size=8)), tmp_path / "cut", CPU)
    capsys.readouterr()
    page = tmp_path / "page.html"
    main(["--affinity", str(tmp_path / "clean"), "--strengths", "8", "--device", "cpu",
          "--diversity", str(tmp_path / "cut"), "--out", str(page)])  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["arm", "plain", "Keep"]
    text = page.read_text()
    assert "Affinity of cutout" in text and text.count("<svg") == 2
    final = [read_run(tmp_path / n).record.rows[-1]["train_loss"] for n in ("cut", "clean")]
    assert f"{final[0] / final[1]:.3f}" in lines[1]
