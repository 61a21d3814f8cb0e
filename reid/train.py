"""Train a re-identification network: one plain loop for every arm.

The recipe is that of reid-strong-baseline (Luo et al., CVPRW 2019). Every random choice follows
from the seed, the epoch and the number of the image, so a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from keepaugment import GradientSaliency, Saliency
from keepbench.clock import Stopwatch
from keepbench.loop import Interrupted, LossWatch, Row, fit
from keepbench.processes import Processes
from reid.augmentation import Augmentation
from reid.config import Config
from reid.data import Data, open_data
from reid.evaluation import SCORES
from reid.losses import CentreLoss, gathered, make_losses
from reid.market import described
from reid.model import Output, ReidModel, load_backbone, read_weights
from reid.testing import Tester

CHECK_EVERY = 500  # steps between looks at the loss, which wait for the device
LOSSES = ("identity", "triplet", "centre")


def learning_rate(config: Config, epoch: int) -> float:
    """The learning rate of an epoch, from 0.

    Linear from a hundredth of it over the warm-up, a tenth from 1/3 and again from 7/12 of the
    epochs on (40 and 70 of 120). As Bag of Tricks' scheduler is stepped before its first epoch,
    epochs count from 1 here: the first of 10 has 0.109 of the rate, and the 40th has a tenth.
    """
    number = epoch + 1
    warm = 0.01 + 0.99 * number / config.warmup if number < config.warmup else 1.0
    milestones = (round(config.epochs / 3), round(config.epochs * 7 / 12))
    return config.lr * warm * 0.1 ** sum(number >= milestone for milestone in milestones)


def make_model(config: Config, num_classes: int) -> ReidModel:
    """The network of a config, initialised by its seed, with its pretrained weights.

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
    return model


class _Joined(nn.Module):
    """The network, with its centres beside it for DistributedDataParallel to see."""

    def __init__(self, model: ReidModel, centres: CentreLoss | None) -> None:
        super().__init__()
        self.model = model
        self.centres = centres

    def forward(self, images: Tensor) -> Output:
        return self.model(images)


class Trainer:
    """A training run in progress.

    Attributes:
        model: the network.
        tester: what tests it.
        epoch: epochs trained so far.
        step: steps done in the present epoch.
        steps: of the present epoch; the next may have a few more or less.
        start: scores before training.
    """

    def __init__(self, config: Config, data: Data, processes: Processes) -> None:
        if config.num_ids % processes.world_size:
            raise ValueError(
                f"{config.num_ids} identities of a batch do not divide by {processes.world_size} "
                "processes; change --num-ids"
            )
        self.config, self.data, self.processes = config, data, processes
        self.device = device = processes.device
        layout = torch.channels_last if config.channels_last else torch.contiguous_format
        self.model = make_model(config, data.num_classes).to(device)
        self.model = self.model.to(memory_format=layout)
        width = self.model.classifier.in_features
        self.centres = None
        if config.centre_weight:
            self.centres = CentreLoss(data.num_classes, width).to(device)
        self.optimizer = torch.optim.Adam(
            [p for p in self.model.parameters() if p.requires_grad],
            lr=config.lr,
            weight_decay=config.weight_decay,
        )
        self.watch = Stopwatch(device)
        self.saliency: Saliency = GradientSaliency(self.model.logits, config.scale)
        self.augment = Augmentation(config, data, self._timed_map, processes)
        self.tester = Tester(config, data, self.model, self.augment.inputs, processes)
        self.losses = make_losses(config, data.num_classes, device)
        self.network: nn.Module = _Joined(self.model, self.centres)
        if processes.world_size > 1:
            self.network = DistributedDataParallel(self.network)
        self.epoch = self.step = 0
        self.start: dict[str, float] = {}
        self.sums = torch.zeros(len(LOSSES) + 3, device=device)
        self._begin()

    def _timed_map(self, images: Tensor, labels: Tensor | None) -> Tensor:
        with self.watch("map"):
            return self.saliency(images, labels)

    def _begin(self) -> None:
        """Find this process's samples in each step of the present epoch: whole identities."""
        config, processes = self.config, self.processes
        order = self.data.batches(config.seed, self.epoch, config.batch_size)
        self.order = order.chunk(processes.world_size, dim=1)[processes.rank].to(self.device)
        self.steps = len(order)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16)

    def train_step(self, step: int, index: Tensor) -> Tensor:
        """Train on the images of a step: its losses, shares of right answers and erased, and 1."""
        labels = self.data.labels[index]
        with self.watch("augment"), self._autocast():
            inputs, changed = self.augment(self.epoch, step, index)
        with self.watch("step"):
            with self._autocast():
                output = self.network(inputs)
            logits = output.logits.float()
            losses = self._losses(logits, output.raw.float(), labels)
            self._update(losses)
        right = (logits.detach().argmax(1) == labels).float().mean()
        return torch.stack([*(loss.detach() for loss in losses), right, changed, right * 0 + 1])

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

    def train_epoch(self, progress: Callable[[], None] = lambda: None) -> Row:
        """The rest of a pass over the training set, and a test if it is due: a row of metrics.

        Raises:
            FloatingPointError: The loss is not finite.
            Interrupted: `progress` asked to stop; `state` goes on here.
        """
        if not self.epoch and not self.step and not self.start:
            self.start = self.tester.scores()
        started = time.perf_counter()
        try:
            self._train_steps(progress)
        except Interrupted:
            total = self.processes.total(self.sums.clone())
            self.sums = total if self.processes.first else torch.zeros_like(total)
            raise
        *losses, right, changed, count = self.processes.total(self.sums).tolist()
        row: Row = {"epoch": self.epoch + 1, "lr": learning_rate(self.config, self.epoch)}
        row |= {f"{name}_loss": loss / count for name, loss in zip(LOSSES, losses, strict=True)}
        row |= {"train_accuracy": 100 * right / count, "changed_area": changed / count}
        row |= self._seconds()
        row["train_seconds"] = time.perf_counter() - started
        self.epoch, self.step, self.sums = self.epoch + 1, 0, torch.zeros_like(self.sums)
        self._begin()
        last = self.epoch == self.config.epochs
        if self.epoch == 1:
            row |= {f"start_{name}": self.start[name] for name in SCORES}
        if last or self.epoch % self.config.eval_every == 0:
            row |= self.tester.scores(last=last)
        return row

    def _seconds(self) -> dict[str, float]:
        seconds = self.watch.seconds()
        maps, augment = seconds.get("map", 0.0), seconds.get("augment", 0.0)
        return {
            "map_seconds": maps,
            "augment_seconds": augment - maps,
            "step_seconds": seconds.get("step", 0.0),
        }

    def _train_steps(self, progress: Callable[[], None]) -> None:
        """The steps of the present epoch that are not done."""
        self.network.train()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.epoch)
        watch = LossWatch(self.device)
        for index in self.order[self.step :]:
            step = self.step
            try:
                sums = self.train_step(step, index)
            except ValueError as error:  # such as a map with NaN
                self._check(watch)
                raise ValueError(f"{error} ({self._place(step)})") from error
            watch.add(step, sums[: len(LOSSES)].sum())
            self.sums += sums
            self.step += 1
            if self.step % CHECK_EVERY == 0:
                self._check(watch)
            try:
                progress()
            except Interrupted:
                self._check(watch)
                raise
        self._check(watch)

    def _check(self, watch: LossWatch) -> None:
        """Raise FloatingPointError if a step's loss was not finite."""
        step = watch.check()
        if step is not None:
            raise FloatingPointError(
                f"the training loss is not finite in {self._place(step)}; last.pt, if there is "
                "one, stands before it: try a lower --lr in another --out"
            )

    def _place(self, step: int) -> str:
        """A step of the present epoch and the numbers of its images here, in words."""
        images = self.order[step].tolist()
        return f"epoch {self.epoch + 1}, step {step + 1}, on the training images {images}"

    def state(self) -> dict[str, Any]:
        """Everything that resumes the run: plain tensors and numbers."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "sums": self.sums.cpu(),
            "start": self.start,
            "model": self.model.state_dict(),
            "centres": self.centres.state_dict() if self.centres else {},
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.epoch, self.step, self.start = state["epoch"], state["step"], state["start"]
        if self.processes.first:
            self.sums.copy_(state["sums"])
        self.model.load_state_dict(state["model"])
        if self.centres:
            self.centres.load_state_dict(state["centres"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._begin()


def train(
    name: str,
    config: Config,
    folder: Path,
    processes: Processes,
    *,
    resume: bool = False,
    budget: str = "paper",
) -> Trainer:
    """Run an experiment into its folder; go on from its last checkpoint with `resume`.

    Raises:
        ValueError: Bad settings, data that cannot be used, or a folder that holds another run.
        FloatingPointError: The loss is not finite.
        Interrupted: A signal stopped the run after a step; it is saved.
    """
    data = open_data(config, processes)
    if processes.first:
        print("\n".join(described(data.listing)))
    trainer = Trainer(config, data, processes)

    def shown(row: Row) -> str:
        losses = ", ".join(f"{loss} {row[f'{loss}_loss']:.3f}" for loss in LOSSES)
        tested = f", mAP {row['mAP']:.2f} %, rank-1 {row['rank1']:.2f} %" if "mAP" in row else ""
        return f"{losses}{tested}, {row['train_seconds']:.1f} s"

    fit(trainer, name, config, folder, processes, resume=resume, budget=budget, shown=shown)
    if config.sheet:
        trainer.tester.draw(folder / "ranked.png")
    return trainer
