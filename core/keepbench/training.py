"""A training run in progress: what a task adds to the loop of `keepbench.loop`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from keepbench.clock import Clock
from keepbench.network import load_optimizer, load_whole
from keepbench.processes import Processes

Row = dict[str, Any]
Self = TypeVar("Self", bound="Training")


class Training(ABC):
    """A training run in progress: what a task adds to the loop.

    A task sets `model`, `optimizer` and `steps`, and `tested` if averaged weights are tested.

    Args:
        config: its settings, `epochs`, `bf16` and `tensorboard` among them.
        processes: this process among those of the run.

    Attributes:
        epoch: epochs trained so far.
        step: steps done in the present epoch.
        steps: steps of the present epoch.
        sums: what these steps gave, in the order of `SUMS`.
        clock: counts the time of a step's parts.
    """

    model: nn.Module
    tested: nn.Module
    optimizer: torch.optim.Optimizer
    steps: int
    seconds = 0.0  # of the epoch's steps, in this process
    nonfinite_advice = ""  # what else can be done about a loss that is not finite

    SUMS: ClassVar[tuple[str, ...]]
    """Names of the sums over the steps of an epoch; "loss" is one."""

    def __init__(self, config: Any, processes: Processes) -> None:
        self.config = config
        self.processes = processes
        self.device = processes.device
        self.epoch = self.step = 0
        self.sums = torch.zeros(len(self.SUMS), device=self.device)
        self.clock = Clock(self.device)
        self.records: dict[str, Any] = {}  # JSON files that say more of the run, by name
        self.ranks: list[dict[str, Any]] = []  # what processes held apart when they gathered

    @classmethod  # noqa: B027
    def check(cls, config: Any, *, goes_on: bool) -> None:
        """Refuse, before data are read, settings that name what is not there.

        Args:
            config: of the run.
            goes_on: from a checkpoint, so it needs nothing to begin with.

        Raises:
            ValueError: Something is not there.
        """

    @classmethod
    def begin(cls: type[Self], config: Any, processes: Processes) -> Self:
        """A run that has made no step, with its data read."""
        return cls(config, processes)

    def remarks(self, *, goes_on: bool) -> Iterable[str]:
        """Lines for the terminal before the first step."""
        return ()

    def shown(self, row: Row) -> str:
        """An epoch's metrics in words, for the terminal."""
        return ""

    def finish(self, folder: Path) -> None:  # noqa: B027
        """Write what the end of a run adds to its folder; all processes must call."""

    @abstractmethod
    def batches(self) -> Iterable[Any]:
        """The batches of the present epoch, from `step` on."""

    @abstractmethod
    def train_step(self, batch: Any) -> Mapping[str, Tensor]:
        """Train on a batch: a number for each of `SUMS`."""

    @abstractmethod
    def epoch_figures(self, totals: Mapping[str, Tensor]) -> Row:
        """An epoch's metrics from the sums over its steps and all processes; `epoch` counts it."""

    @abstractmethod
    def images_of(self, step: int) -> str:
        """The images of a step of the present epoch, in words."""

    def contents(self) -> Iterable[str | bytes]:
        """The data's contents: a run goes on only with those that it began with."""
        return ()

    def prepare(self) -> None:  # noqa: B027
        """Do what a run does once, before its first step, and then has in its checkpoint."""

    def before_epoch(self) -> None:  # noqa: B027
        """Prepare the present epoch, or the rest of it."""

    def after_epoch(self) -> Row:
        """Do the rest of an epoch, such as a test if it is due: further metrics."""
        return {}

    def step_loss(self, found: Mapping[str, Tensor]) -> Tensor:
        """The loss of a step, which must be finite."""
        return found["loss"]

    def autocast(self) -> torch.autocast:
        """The precision that a step computes in."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16)

    def gather(self) -> None:
        """Bring what processes hold apart to the first, which saves it; all of them must call.

        These are the sums and, within an epoch, BatchNorm's statistics, which maps are taken with.
        """
        buffers = {name: each.cpu() for name, each in self.model.named_buffers()}
        own = {"step": self.step, "sums": self.sums.cpu(), "buffers": buffers}
        self.ranks = self.processes.gathered(own)

    def state(self) -> dict[str, Any]:
        """Everything that resumes the run after any step: tensors, numbers and text.

        Random numbers follow from the seed, the epoch and the step, so none are kept.
        """
        average = self.tested.state_dict() if self.tested is not self.model else {}
        ranks = [each for each in self.ranks if each["step"] == self.step > 0]
        return {
            "epoch": self.epoch,
            "step": self.step,
            "sums": sum(each["sums"] for each in ranks) if ranks else self.sums.cpu(),
            "model": self.model.state_dict(),
            "average": average,
            "optimizer": self.optimizer.state_dict(),
            "ranks": ranks,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.epoch, self.step = state["epoch"], state["step"]
        if self.processes.first:
            self.sums.copy_(state["sums"].view_as(self.sums))
        load_whole(self.model, state["model"])
        if self.tested is not self.model:
            load_whole(self.tested, state["average"])
        load_optimizer(self.optimizer, state["optimizer"])
        ranks = state.get("ranks", [])
        if len(ranks) == self.processes.world_size:
            own = ranks[self.processes.rank]
            self.sums.copy_(own["sums"].view_as(self.sums))
            buffers = {name: own["buffers"][name] for name, _ in self.model.named_buffers()}
            self.model.load_state_dict(buffers, strict=False)
