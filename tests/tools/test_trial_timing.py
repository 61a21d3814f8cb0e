"""How long a trial says that its runs take."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from classification.image_trees import TreeData
from detection.config import Config
from evidence.catalogue import load
from keepbench.processes import Processes
from keepbench.run import Run
from keepbench.small_images import ImageSet, StoredData
from keepbench.trees import ImageTree
from trialling import timing
from trialling.plan import Plan, make_own_plan

PACKAGES = load().packages
CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that goes on only when it is told."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def planned(task: str, experiment: str, **settings: Any) -> Plan:
    base = replace(PACKAGES[task].experiments[experiment].config, **settings)
    return make_own_plan(
        base, {"a": {}, "b": {}}, seeds=3, budget="", margin=1.0, experiment=experiment
    )


@dataclass
class Steps:
    """A training whose parts take as long as they say, 10 steps an epoch."""

    clock: SimpleNamespace
    steps = 10
    done = 0

    def take(self, seconds: float) -> None:
        self.clock.now += seconds

    def prepare(self) -> None:
        """Weights, which are no part of the steps."""

    def before_epoch(self) -> None:
        self.take(5.0)

    def batches(self) -> Iterator[int]:
        return iter(range(self.steps))

    def train_step(self, batch: int) -> torch.Tensor:
        self.done += 1
        self.take(4.0 if batch == 0 else 1.0)
        return torch.tensor(0.0)

    def step_loss(self, found: torch.Tensor) -> torch.Tensor:
        return found

    def state(self) -> dict[str, Any]:
        self.take(0.5)
        return {}

    def after_epoch(self) -> dict[str, Any]:
        self.take(7.0)
        return {}

    def contents(self) -> Iterator[str]:
        return iter("x")


def test_a_run_takes_its_start_its_steps_its_tests_and_its_checkpoints(
    clock: SimpleNamespace,
) -> None:
    trainer = Steps(clock)
    kind: Any = SimpleNamespace(begin=lambda config, processes: trainer)
    config = SimpleNamespace(epochs=4, eval_every=3)
    found = timing._by_steps(config, kind, Processes(CPU))
    assert trainer.done == timing.WARM + timing.TIMED
    assert found.start == 5 + 3  # a test before training, and what the first step took more
    assert found.rest == 4 * (10 * 1 + 0.5) + 2 * 7  # tested after epochs 3 and 4


def test_a_detector_is_timed_by_a_short_run_of_its_own(
    clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned("detection", "toy-faster_rcnn_fpn-r18-random", iterations=100, tests=3)
    ran: list[tuple[str, ...]] = []

    def run(command: tuple[str, ...], **given: Any) -> Any:
        ran.append(tuple(command))
        clock.now += 100
        folder = Path(command[command.index("--out") + 1])
        with Run(folder, plan.experiment, Config(), CPU, resume=False, data="x") as run:
            run.log(step_seconds=2.0, test_seconds=4.0)
        about = {"train": {"with_boxes": 16}, "test": {"images": 8, "of": 24}}
        (folder / "setup.json").write_text(json.dumps(about))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(timing, "subprocess", SimpleNamespace(run=run))
    start, steps, tests = 100 - 8 * 2 - 4, 100 * 2, 4 * 3 * 4  # after 33, 66, 99 and 100 steps
    whole = float(start + steps + tests)
    assert timing.seconds_of_runs(plan, CPU) == {"a": whole, "b": whole}
    assert {"--iterations=8", "--tests=1", "--test-subset=8"} <= {*ran[0]}

    ended = SimpleNamespace(returncode=1, stderr="one\nerror: there is no such backbone\n")
    failing = SimpleNamespace(run=lambda command, **given: ended)
    monkeypatch.setattr(timing, "subprocess", failing)
    with pytest.raises(ValueError, match="^a: there is no such backbone$"):
        timing.seconds_of_runs(plan, CPU)


def test_a_start_is_timed_until_the_run_has_begun_and_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "out, left = map(pathlib.Path, sys.argv[1:3])\n"
        "try:\n"
        "    out.mkdir()\n"
        "    (out / 'run.json').touch()\n"
        "    time.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        "    left.touch()\n"
    )
    plan, left = planned("classification", "trial"), tmp_path / "left"
    monkeypatch.setattr(
        timing, "command_of", lambda plan, config, out: (sys.executable, "-c", begin, out, left)
    )
    assert 0 < timing.seconds_of_start(plan, CPU) < 60 and left.exists()
    monkeypatch.setattr(timing, "command_of", lambda *words: (sys.executable, "-c", "1 / 0"))
    assert timing.seconds_of_start(plan, CPU) > 0  # why it failed is found when it is timed


def test_few_test_images_stand_for_all() -> None:
    def images(number: int) -> ImageSet:
        pixels = torch.zeros(number, 1, 2, 2, dtype=torch.uint8)
        return ImageSet(pixels, torch.zeros(number, dtype=torch.int64), ["a"])

    small = StoredData(images(3), images(1200), (0.5,), (0.5,))
    few, share = timing._few(small, 16)
    assert len(few.test) == 500 and share == 1200 / 500
    assert timing._few(replace(small, test=images(30)), 16)[1] == 1.0
    tree = ImageTree(Path("x"), ["a", "b"], [*"pqrstu"], [0, 0, 0, 0, 1, 1])
    few, share = timing._few(TreeData(tree, tree), 4)
    assert sorted(few.val.labels) == [0, 0, 1, 1] and share == 6 / 4
    assert timing._few(TreeData(tree, tree), 64)[1] == 1.0


def test_runs_side_by_side_wait_for_the_last_of_them() -> None:
    """Nine runs of a minute take five minutes in two places, in one nine."""
    plan = planned("classification", "trial", dataset="digits")  # of 3 seeds
    minute = dict.fromkeys("abc", 60.0)
    assert [timing.whole_seconds(plan, minute, places) for places in (1, 2)] == [540.0, 300.0]
