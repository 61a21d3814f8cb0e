"""Time training steps of several methods side by side, each part apart.

The step is the one that `classification.train` runs; only the images are random bytes, held on the
device, since their content changes no time. Every turn times each method once, in a fresh random
order, so a machine that warms up or is shared slows all of them alike; a method's ratio is the
median over the turns of its time to the plain method's in the same turn.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from classification.config import Config
from classification.train import Trainer
from costing.memory import Peak
from costing.methods import epoch_shares
from keepbench.images import Batch
from keepbench.processes import Processes
from keepbench.small_images import StoredData

WARM_UP = 3  # turns that are not counted
_PARTS = ("map", "boxes", "step", "total")


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


class Arm:
    """One method's training run, ready to take single steps.

    Attributes:
        shares: epochs to take steps in, and how often each occurs in a whole run.
        peak_mib: the most memory that it used, weights and optimiser included; None if unknown.
    """

    def __init__(self, config: Config, data: StoredData, device: torch.device) -> None:
        self.device = device
        self.shares = epoch_shares(config)
        index = torch.arange(config.batch_size, device=device)
        self.samples = Batch(index, data.train.images[index], data.train.labels[index])
        with Peak(device, compiled=config.compile) as peak:
            self.trainer = Trainer(config, data, Processes(device))
            self.trainer.network.train()
            for _ in range(WARM_UP - 1):
                self.turn(1)
        self.peak_mib = peak.mib
        self.turn(1)

    def step(self, epoch: int) -> None:
        """Train on the samples once."""
        self.trainer.epoch = epoch
        self.trainer.train_step(self.samples)

    def turn(self, steps: int) -> dict[str, float]:
        """Milliseconds of a mean step: map, boxes, step (of the network) and total."""
        mean = dict.fromkeys(_PARTS, 0.0)
        for epoch, share in self.shares.items():
            self.trainer.part_seconds()  # what came before does not count
            synchronise(self.device)
            start = time.perf_counter()
            for _ in range(steps):
                self.step(epoch)
            synchronise(self.device)
            total = time.perf_counter() - start
            parts = {**self.trainer.part_seconds(), "total": total}
            for part in _PARTS:
                mean[part] += share * 1000 * parts[part] / steps
        return mean

    def waits(self) -> bool | None:
        """Whether a step makes the host wait for a GPU; None without one."""
        if self.device.type != "cuda":
            return None
        torch.cuda.set_sync_debug_mode("error")
        try:
            for epoch in self.shares:
                self.step(epoch)
        except RuntimeError as error:
            if "synchroniz" not in str(error):
                raise
            return True
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return False


def take_turns(
    arms: dict[str, Arm], repeats: int, steps: int, done: Callable[[str], None]
) -> dict[str, list[dict[str, float]]]:
    """Time every arm `repeats` times, in a new random order each turn.

    Args:
        arms: by method.
        repeats: turns.
        steps: of an arm's turn, between two synchronisations.
        done: called with the method after each of its turns.

    Returns:
        For each method its turns' milliseconds by part (see `Arm.turn`).
    """
    generator = torch.Generator().manual_seed(0)
    names = list(arms)
    times: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(repeats):
        for number in torch.randperm(len(names), generator=generator).tolist():
            times[names[number]].append(arms[names[number]].turn(steps))
            done(names[number])
    return times


def medians(turns: list[dict[str, float]], plain: list[dict[str, float]]) -> dict[str, float]:
    """Medians of an arm's turns, and of their ratios to the plain arm's in the same turn.

    Returns:
        `map_ms`, `boxes_ms`, `step_ms` (the network's), `total_ms` (all of it), `ratio` (of the
        totals) and its quartiles `ratio_low` and `ratio_high`, and `added`: the time of map and
        boxes above the plain arm's, as a share of the plain total. It leaves out the network's
        own step, the same work in every arm, and with that most of a machine's noise.
    """
    pairs = [*zip(turns, plain, strict=True)]
    ratios = [own["total"] / other["total"] for own, other in pairs]
    added = [(own["map"] + own["boxes"] - other["boxes"]) / other["total"] for own, other in pairs]
    low, ratio, high = (
        statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else 3 * ratios
    )
    row = {f"{part}_ms": statistics.median(turn[part] for turn in turns) for part in _PARTS}
    spread = {"ratio_low": low, "ratio_high": high}
    return {**row, "ratio": ratio, **spread, "added": statistics.median(added)}
