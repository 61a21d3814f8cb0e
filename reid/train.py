"""Train a re-identification network: what a step does, for every arm.

The recipe is that of reid-strong-baseline (Luo et al., CVPRW 2019). Every random choice follows
from the seed, the epoch and the number of the image, so a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fvcore.common.param_scheduler import LinearParamScheduler
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from keepbench import loop
from keepbench.network import Joined
from keepbench.processes import Processes
from keepbench.progress import say
from keepbench.rates import tenths
from keepbench.training import Row, Training
from reid.augmentation import Augmentation
from reid.config import Config
from reid.data import Data, open_data
from reid.evaluation import SCORES
from reid.losses import CentreLoss, gathered, make_losses
from reid.market import described
from reid.model import ReidModel, load_backbone, read_weights
from reid.testing import Tester

LOSSES = ("identity", "triplet", "centre")


def learning_rate(config: Config, epoch: int) -> float:
    """The learning rate of an epoch, from 0.

    Linear from a hundredth of it over the warm-up, a tenth from 1/3 and again from 7/12 of the
    epochs on (40 and 70 of 120). As Bag of Tricks' scheduler is stepped before its first epoch,
    epochs count from 1 here: the first of 10 has 0.109 of the rate, and the 40th has a tenth.
    """
    number = epoch + 1
    warm = LinearParamScheduler(0.01, 1.0)(min(1.0, number / max(1, config.warmup)))
    stairs = tenths((round(config.epochs / 3), round(config.epochs * 7 / 12)), config.epochs)
    return config.lr * warm * stairs(number / config.epochs)


def make_model(config: Config, num_classes: int, tell: bool = True) -> ReidModel:
    """The network of a config, initialised by its seed, with its pretrained weights.

    Args:
        config: settings of the run.
        num_classes: people to train on.
        tell: say which weights they are.

    Raises:
        ValueError: Weights that cannot be had, or are another network's.
    """
    torch.manual_seed(config.seed)
    model = ReidModel(
        config.arch,
        num_classes,
        last_stride=config.last_stride,
        stem_relu=config.stem_relu,
        neck=config.neck,
    )
    if config.weights != "none":
        weights = read_weights(config.weights, config.arch, download=config.download)
        load_backbone(model, weights)
        if tell:
            say(f"the backbone begins with the {weights} of {config.weights}")
    return model


class Trainer(Training):
    """A training run in progress. Epochs may differ by a few steps.

    Attributes:
        model: the network.
        tester: what tests it.
        start: scores before training.
    """

    SUMS = (*LOSSES, "right", "changed", "steps")

    def __init__(self, config: Config, data: Data, processes: Processes) -> None:
        super().__init__(config, processes)
        self.data, device = data, self.device
        layout = torch.channels_last if config.channels_last else torch.contiguous_format
        model = make_model(config, data.num_classes, processes.first)
        self.model = model.to(device).to(memory_format=layout)
        self.tested = self.model
        width = self.model.classifier.in_features
        self.centres = None
        if config.centre_weight:
            self.centres = CentreLoss(data.num_classes, width).to(device)
        self.optimizer = torch.optim.Adam(
            [p for p in self.model.parameters() if p.requires_grad],
            lr=config.lr,
            weight_decay=config.weight_decay,
        )
        self.augment = Augmentation(config, data, self.model.logits, processes, self.clock)
        self.tester = Tester(config, data, self.model, self.augment.inputs, processes)
        self.losses = make_losses(config, data.num_classes, device)
        self.network: nn.Module = Joined(self.model, self.centres)
        if processes.world_size > 1:
            self.network = DistributedDataParallel(self.network)
        self.start: dict[str, float] = {}
        self._find_order()

    def _find_order(self) -> None:
        """Find this process's samples in each step of the present epoch: whole identities."""
        config, processes = self.config, self.processes
        order = self.data.batches(config.seed, self.epoch, config.batch_size)
        self.order = order.chunk(processes.world_size, dim=1)[processes.rank].to(self.device)
        self.steps = len(order)

    def before_epoch(self) -> None:
        """Test before any training."""
        if not self.epoch and not self.step and not self.start:
            self.start = self.tester.scores()

    def contents(self) -> Iterator[str]:
        """The bytes of the data, for a digest."""
        return self.data.listing.contents()

    def batches(self) -> Iterator[Tensor]:
        """The numbers of this process's images in the steps to come."""
        self.network.train()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.epoch)
        return iter(self.order[self.step :])

    def images_of(self, step: int) -> str:
        """This process's images of a step of the present epoch, in words."""
        return f"the training images {self.order[step].tolist()}"

    def step_loss(self, found: Mapping[str, Tensor]) -> Tensor:
        """The sum of all losses."""
        return torch.stack([found[name] for name in LOSSES]).sum()

    def train_step(self, batch: Tensor) -> dict[str, Tensor]:
        """Train on images by number: losses, shares of right answers and of erased pixels."""
        labels = self.data.labels[batch]
        with self.clock("augment"), self.autocast():
            inputs, changed = self.augment(self.epoch, self.step, batch)
        with self.clock("step"):
            with self.autocast():
                output = self.network(inputs)
            logits = output.logits.float()
            losses = self._losses(logits, output.raw.float(), labels)
            self._update(losses)
        right = (logits.detach().argmax(1) == labels).float().mean()
        found = dict(zip(LOSSES, losses, strict=True))
        return found | {"right": right, "changed": changed, "steps": right * 0 + 1}

    def _losses(self, logits: Tensor, raw: Tensor, labels: Tensor) -> list[Tensor]:
        """Identity, triplet (mined in the whole batch of all processes) and centre loss."""
        identity, triplet = self.losses
        hard = triplet(*gathered(raw, labels))
        centre = self.centres(raw, labels) if self.centres else hard.new_zeros(())
        return [identity(logits, labels), hard, centre]

    def _update(self, losses: list[Tensor]) -> None:
        config = self.config
        identity, triplet, centre = losses
        self.network.zero_grad()
        total = identity + self.processes.world_size * triplet + config.centre_weight * centre
        total.backward()
        self.optimizer.step()
        if self.centres:
            # SGD at a rate of its own, on the gradient without the weight of the loss
            centres = self.centres.centres
            assert centres.grad is not None
            rate = config.centre_lr / config.centre_weight
            with torch.no_grad():
                centres.sub_(centres.grad, alpha=rate)

    def epoch_figures(self, totals: Mapping[str, Tensor]) -> Row:
        """Losses, accuracy (%), the erased area, and the seconds of a step's parts."""
        found = {name: total.item() for name, total in totals.items()}
        count = found["steps"]
        row: Row = {"lr": learning_rate(self.config, self.epoch - 1)}
        row |= {f"{name}_loss": found[name] / count for name in LOSSES}
        row["train_accuracy"] = 100 * found["right"] / count
        row["changed_area"] = found["changed"] / count
        seconds = self.clock.seconds()
        row |= {f"{part}_seconds": seconds.pop(part, 0.0) for part in ("map", "step")}
        return row | {"augment_seconds": sum(seconds.values())}

    def after_epoch(self) -> Row:
        """Test if it is due."""
        self._find_order()
        row: Row = {}
        last = self.epoch == self.config.epochs
        if self.epoch == 1:
            row |= {f"start_{name}": self.start[name] for name in SCORES}
        if last or self.epoch % self.config.eval_every == 0:
            row |= self.tester.scores(last=last)
        return row

    def state(self) -> dict[str, Any]:
        """Everything that resumes the run: plain tensors and numbers."""
        centres = self.centres.state_dict() if self.centres else {}
        return super().state() | {"start": self.start, "centres": centres}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        super().load_state(state)
        self.start = state["start"]
        if missing := [name for name in SCORES if type(self.start.get(name)) is not float]:
            raise ValueError(f"the checkpoint has no {', '.join(missing)} from before training")
        if self.centres:
            self.centres.load_state_dict(state["centres"])
        self._find_order()

    @classmethod
    def check(cls, config: Config, *, goes_on: bool) -> None:
        """Refuse weights that cannot be had."""
        make_model(config, num_classes=2, tell=False)

    @classmethod
    def begin(cls, config: Config, processes: Processes) -> Trainer:  # noqa: D102
        return cls(config, open_data(config, processes), processes)

    def remarks(self, *, goes_on: bool) -> Iterable[str]:
        """The data beside the official ones."""
        return described(self.data.listing)

    def shown(self, row: Row) -> str:  # noqa: D102
        losses = ", ".join(f"{loss} {row[f'{loss}_loss']:.3f}" for loss in LOSSES)
        tested = f", mAP {row['mAP']:.2f} %, rank-1 {row['rank1']:.2f} %" if "mAP" in row else ""
        return f"{losses}{tested}, {row['train_seconds']:.1f} s"

    def finish(self, folder: Path) -> None:
        """Store each query's average precision, and draw ranked lists, as the config asks."""
        if self.config.record:
            self.tester.record(folder, self.epoch)
        if self.config.sheet:
            self.tester.draw(folder / "ranked.png")


train = partial(loop.train, Trainer)
