"""Train a classifier: one plain loop for every arm."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timm.loss import BinaryCrossEntropy
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from classification.augmentation import Augmentation, Augmented, compiled, make_saliency
from classification.auto_map import AutoSaliency, choose, due, sample
from classification.caching import PROBE, agreement, compared_boxes, make_cache
from classification.comparisons import (
    add_dropblock,
    check_regularised,
    regularisers,
    set_drop_block,
)
from classification.config import Config
from classification.data import Data, open_data
from classification.models import create_model
from keepaugment import CachedSaliency, EarlyHead, GradientSaliency, Saliency, SampleDraws
from keepaugment.no_trace import no_trace
from keepbench.accuracy import EvaluationSums, occluded
from keepbench.clock import Stopwatch
from keepbench.loop import Interrupted, LossWatch, Row, fit
from keepbench.order import EpochBatches, mixed_seed, seed_noise
from keepbench.processes import Processes
from keepbench.small_images import Batch

OCCLUSIONS = (0.1, 0.25, 0.5)  # shares of a test image's area

CHECK_EVERY = 500  # steps between looks at the loss, which wait for the device

Criterion = Callable[[Tensor, Tensor], Tensor]


def learning_rate(config: Config, step: int, steps: int) -> float:
    """The learning rate of a step of the whole run.

    A linear warm-up from a hundredth, then half a cosine to 0 without restarts (Loshchilov and
    Hutter, 2016), or a tenth after each quarter of the epochs (CutMix's code at 300 epochs).

    Args:
        config: the run's settings.
        step: from 0, over all epochs.
        steps: of an epoch.
    """
    warm, total = config.warmup * steps, config.epochs * steps
    if step < warm:
        return config.lr * (0.01 + 0.99 * step / warm)
    if config.schedule == "cosine":
        return config.lr * 0.5 * (1.0 + math.cos(math.pi * (step - warm) / (total - warm)))
    quarters = [round(share * config.epochs) * steps for share in (0.25, 0.5, 0.75)]
    return config.lr * 0.1 ** sum(step >= quarter for quarter in quarters)


def make_criterion(config: Config) -> Criterion:
    """The loss of logits (B, K) and labels (B,) or class weights (B, K)."""
    if config.loss == "bce":  # as in "ResNet strikes back": any class above 0.2 counts fully
        return BinaryCrossEntropy(smoothing=config.smoothing, target_threshold=0.2)
    return lambda logits, targets: F.cross_entropy(
        logits, targets, label_smoothing=config.smoothing
    )


def make_model(config: Config, num_classes: int, channels: int) -> nn.Module:
    """The classifier of a config, freshly initialised by its seed.

    Raises:
        ValueError: An unknown model, or one that does not take the config's options.
    """
    torch.manual_seed(config.seed)
    options: dict[str, float] = {"dropout": config.dropout} if config.dropout else {}
    named = config.regulariser if config.regulariser in ("dropout", "droppath") else "none"
    options |= regularisers(named)
    try:
        model = create_model(config.arch, num_classes, in_chans=channels, **options)
    except TypeError as error:
        raise ValueError(f"{config.arch} does not take {options}: {error}") from None
    check_regularised(model, regularisers(named))
    if config.regulariser == "dropblock":
        add_dropblock(model)
    return model


@torch.no_grad()
def check_model(model: nn.Module, config: Config, data: Data) -> None:
    """Raise ValueError unless a model takes the run's images, and half-size copies for its maps."""
    device = next(model.parameters()).device
    scales = {1.0, config.scale} if config.keep else {1.0}
    for scale in sorted(scales, reverse=True):
        size = [max(1, round(side * scale)) for side in data.image_size]
        image = torch.zeros(1, data.channels, *size, device=device)
        try:
            with no_trace(model, device):
                logits = model(image)
        except Exception as error:  # models refuse sizes in many ways
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"{config.arch} does not take images of {size[0]}x{size[1]} pixels: {reason}"
            ) from error
        if logits.shape != (1, len(data.classes)):
            raise ValueError(f"{config.arch} gives {tuple(logits.shape)}, not logits (1, K)")


def make_optimizer(config: Config, modules: list[nn.Module]) -> torch.optim.Optimizer:
    """The optimiser of a config for the parameters of `modules`."""
    parameters = [p for module in modules for p in module.parameters()]
    decay = config.weight_decay
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
        {
            "params": [p for p in parameters if p.ndim <= 1],
            "weight_decay": decay if config.norm_decay else 0.0,
        },
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0
        )
    return create_optimizer_v2(groups, config.optimizer, lr=config.lr, weight_decay=decay)


class _Joined(nn.Module):
    """The model, with its early head beside it for DistributedDataParallel to see."""

    def __init__(self, model: nn.Module, head: EarlyHead | None) -> None:
        super().__init__()
        self.model = model
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)


class Trainer:
    """A training run in progress.

    Attributes:
        model: the classifier; `tested` is what is evaluated, its average if the config has one.
        head: its early head, or None.
        saliency: the map of the run's method, never a stored one; pictures can be drawn with it.
        cache: the maps that it stores, or None.
        epoch: epochs trained so far.
        step: steps done in the present epoch.
    """

    def __init__(self, config: Config, data: Data, processes: Processes) -> None:
        self.config = config
        self.data = data
        self.processes = processes
        self.device = device = processes.device
        self.model = make_model(config, len(data.classes), data.channels).to(device)
        if config.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
        check_model(self.model, config, data)
        self.head = None
        if config.early_head:
            self.head = EarlyHead(
                self.model, config.early_head, len(data.classes), weight=config.early_weight
            )
        seeds = (config.seed + stream * 1_000_003 for stream in range(3))
        sources = (SampleDraws(next(seeds)), SampleDraws(next(seeds)), SampleDraws(next(seeds)))
        network: Any = compiled(self.model) if config.compile else self.model
        if self.head and config.compile:
            self.head.compile(dynamic=False)
        gradient: Saliency = GradientSaliency(network, config.scale, self.head)
        self.chosen = None
        if config.saliency == "auto":
            gradient = self.chosen = AutoSaliency(network, self.head)
        self.cache = make_cache(config, data, gradient, device)
        self.saliency = make_saliency(config, gradient, sources[2])
        used = self._timed(make_saliency(config, self.cache or gradient, sources[2]))
        self.watch = Stopwatch(device)
        self.augment = Augmentation(
            config, data, self.model, used, self.cache, sources, device, self.watch
        )
        self.network: nn.Module = _Joined(network, self.head)
        self.optimizer = make_optimizer(config, [self.network])
        self.tested: nn.Module = self.model
        if config.ema:
            average = get_ema_multi_avg_fn(config.ema)
            self.tested = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True)
        if processes.world_size > 1:
            self.network = DistributedDataParallel(self.network)
        self.criterion = make_criterion(config)
        self.epoch = self.step = 0
        self.sums = torch.zeros(5, device=device)
        self.steps = self._order().steps

    def _timed(self, saliency: Saliency) -> Saliency:
        def timed(images: Tensor, labels: Tensor | None) -> Tensor:
            with self.watch("map"):
                return saliency(images, labels)

        # Compiled code cannot read clocks; what is called within runs compiled if it is.
        return torch.compiler.disable(timed) if self.config.compile else timed

    def _order(self) -> EpochBatches:
        """The samples of the present epoch's steps to come; arms of one seed see the same."""
        return EpochBatches(
            num_images=self.data.num_train,
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            epoch=self.epoch,
            rank=self.processes.rank,
            world_size=self.processes.world_size,
            start=self.step,
        )

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16)

    def train_step(self, step: int, samples: Batch, share: float = 1.0) -> Tensor:
        """Augment a step's samples and train on them.

        Args:
            step: of the present epoch, from 0.
            samples: of this process.
            share: weighs the mean loss, so that several processes' gradients average to that of the
                whole batch also when its last images do not divide by them.

        Returns:
            (5,) sums of losses, right answers and changed shares, the count, and steps skipped.
        """
        with self.watch("augment"), self._autocast():
            batch = self.augment(self.epoch, step, *samples)
        return self._step(batch, samples.labels, share)

    def _step(self, batch: Augmented, labels: Tensor, share: float) -> Tensor:
        skipping = self.config.nonfinite == "skip"
        buffers = [buffer.clone() for buffer in self.model.buffers()] if skipping else []
        with self.watch("step"):
            with self._autocast():
                logits = self.network(batch.inputs)
                loss = self.criterion(logits, batch.targets)
                total = loss + self.head.loss(batch.targets, self.criterion) if self.head else loss
            self.optimizer.zero_grad()
            (share * total).backward()
            if skipping and not self._finite_gradients():
                for buffer, before in zip(self.model.buffers(), buffers, strict=True):
                    buffer.copy_(before)
                return loss.new_tensor([0, 0, 0, 0, 1], dtype=torch.float32)
            if self.config.clip:
                nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip)
            self.optimizer.step()
            if isinstance(self.tested, AveragedModel):
                self.tested.update_parameters(self.model)
        right = (logits.detach().argmax(1) == labels).sum()
        count = len(labels)
        zero = right * 0
        return torch.stack(
            [loss.detach() * count, right, batch.changed * count, zero + count, zero]
        )

    def _finite_gradients(self) -> bool:
        """Whether the gradient, which is that of all processes, can be used; waits for it."""
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        return bool(nn.utils.get_total_norm(gradients).isfinite())

    def train_epoch(self, progress: Callable[[], None] = lambda: None) -> Row:
        """The rest of a pass over the training set, and a test if it is due: a row of metrics.

        Raises:
            FloatingPointError: The loss is not finite.
            Interrupted: `progress` asked to stop; `state` goes on here.
        """
        started = time.perf_counter()
        try:
            self._train_steps(progress)
        except Interrupted:
            self._settle()
            raise
        loss, right, changed, count, skipped = self.processes.total(self.sums).tolist()
        self.epoch, self.step, self.sums = self.epoch + 1, 0, torch.zeros_like(self.sums)
        seconds = self.watch.seconds()
        row: Row = {
            "epoch": self.epoch,
            "lr": learning_rate(self.config, self.epoch * self.steps - 1, self.steps),
            "train_loss": loss / max(1, count),
            "train_accuracy": 100 * right / max(1, count),
            "changed_area": changed / max(1, count),
            "map_seconds": seconds.get("map", 0.0),
            "boxes_seconds": seconds.get("boxes", 0.0) - seconds.get("map", 0.0),
            "augment_seconds": seconds.get("augment", 0.0) - seconds.get("boxes", 0.0),
            "step_seconds": seconds.get("step", 0.0),
            "train_seconds": time.perf_counter() - started,
        }
        if self.config.nonfinite == "skip":
            row["skipped_steps"] = round(skipped / self.processes.world_size)
        if self.cache is not None:
            self.cache.merge()
            row["cache_agreement"] = self._cache_agreement(self.cache)
        if self.chosen is not None:
            row["map"] = self.chosen.kind
            if due(self.epoch):
                row["map_agreement"] = self._choose_map(self.chosen)
        if self.epoch % self.config.eval_every == 0 or self.epoch == self.config.epochs:
            row |= self.test(occlusion=self.epoch == self.config.epochs)
        return row

    def _train_steps(self, progress: Callable[[], None]) -> None:
        """The steps of the present epoch that are not done."""
        config, processes = self.config, self.processes
        self.network.train()
        if config.regulariser == "dropblock":
            set_drop_block(self.model, self.epoch / config.epochs)
        order, watch = self._order(), LossWatch(self.device)
        for samples in self.data.train_batches(order, self.device, config.workers):
            step = self.step
            lr = learning_rate(config, self.epoch * self.steps + step, self.steps)
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            # The model's own noise follows from the step, so that no generator need be saved.
            seed_noise(mixed_seed(config.seed, self.epoch, step, processes.rank), self.device)
            share = len(samples.labels) * processes.world_size / order.images_in(step)
            try:
                sums = self.train_step(step, samples, share)
            except ValueError as error:  # such as a map with NaN
                self._check(watch)
                raise ValueError(
                    f"{error} (epoch {self.epoch + 1}, step {step + 1}, training images "
                    f"{samples.numbers.tolist()})"
                ) from error
            watch.add(step, sums[0])
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
            order = replace(self._order(), rank=0, world_size=1, start=step)
            raise FloatingPointError(
                f"the training loss is not finite in epoch {self.epoch + 1}, step {step + 1}, on "
                f"the training images {next(iter(order))}; last.pt stands before it: try a lower "
                "--lr in another --out, or --nonfinite skip with --resume"
            )

    def _settle(self) -> None:
        """Bring what the processes hold apart to where `state` is taken: all of them must call."""
        total = self.processes.total(self.sums.clone())
        self.sums = total if self.processes.first else torch.zeros_like(total)
        if self.cache is not None:
            self.cache.merge()

    def _choose_map(self, chosen: AutoSaliency) -> dict[str, float]:
        """Take the kind of map for the epochs to come: each kind's agreement with full maps."""
        choice = None
        if self.processes.first:  # BatchNorm's statistics differ among processes
            some = sample(self.data, self.device, seed=self.config.seed)
            with self._autocast():
                inputs = self.augment.inputs(some.images)
                choice = choose(
                    self.model,
                    self.head,
                    inputs,
                    some.labels,
                    boxes=compared_boxes(self.config, inputs.shape[2]),
                    least=self.config.agreement,
                )
            for line in choice.table():
                tqdm.write(line)
        choice = self.processes.shared(choice)
        chosen.kind = choice.kind
        return {row["map"]: row["agreement"] for row in choice.rows}

    def _cache_agreement(self, cache: CachedSaliency) -> float:
        """How far stored maps still lead to the boxes of fresh ones, on a few images."""
        some = sample(self.data, self.device, seed=self.config.seed, number=PROBE)
        with self._autocast():
            return agreement(self.config, cache, self.augment.inputs(some.images), some)

    @torch.no_grad()
    def test(self, *, occlusion: bool) -> dict[str, float]:
        """Loss, accuracy (%), top-5 (%) and calibration error on the test set.

        With `occlusion` also the accuracy after one square of each image, of a share of its area at
        a random but fixed place, was set to the mean colour.
        """
        shares = (0.0, *OCCLUSIONS) if occlusion else (0.0,)
        classes, processes = len(self.data.classes), self.processes
        sums = {share: EvaluationSums.zeros(classes, self.device) for share in shares}
        draws, seen = SampleDraws(0), 0
        self.tested.eval()
        for pixels, labels in self.data.test_batches(
            self.device, self.config.workers, processes.rank, processes.world_size
        ):
            images = self.augment.inputs(pixels)
            places = torch.arange(seen, seen + len(labels), device=self.device)
            seen += len(labels)
            for share, sum_ in sums.items():
                draws.at(0, places * processes.world_size + processes.rank)
                view = occluded(images, share, draws) if share else images
                with self._autocast():
                    sum_.update(self.tested(view).float(), labels)
        self.tested.train()
        result = {f"test_{name}": value for name, value in sums.pop(0.0).result().items()}
        for share, sum_ in sums.items():
            result[f"test_accuracy_occluded_{share}"] = sum_.result()["accuracy"]
        return result

    def state(self) -> dict[str, Any]:
        """Everything that resumes the run: plain tensors and numbers.

        Random numbers follow from the seed, the epoch and the step, so none are kept.
        """
        average = self.tested.state_dict() if self.config.ema else {}
        return {
            "epoch": self.epoch,
            "step": self.step,
            "sums": self.sums.cpu(),
            "model": self.model.state_dict(),
            "early_head": self.head.state_dict() if self.head else {},
            "average": average,
            "optimizer": self.optimizer.state_dict(),
            "cache": self.cache.state_dict() if self.cache else {},
            "map": self.chosen.kind if self.chosen else "",
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.epoch, self.step = state["epoch"], state["step"]
        if self.processes.first:
            self.sums.copy_(state["sums"])
        self.model.load_state_dict(state["model"])
        if self.head:
            self.head.load_state_dict(state["early_head"])
        if self.config.ema:
            self.tested.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.cache:
            self.cache.load_state_dict(state["cache"])
        if self.chosen:
            self.chosen.kind = state["map"]


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
    trainer = Trainer(config, open_data(config, processes.device), processes)

    def shown(row: Row) -> str:
        tested = f", test {row['test_accuracy']:.2f} %" if "test_accuracy" in row else ""
        return f"loss {row['train_loss']:.3f}{tested}, {row['train_seconds']:.1f} s"

    fit(trainer, name, config, folder, processes, resume=resume, budget=budget, shown=shown)
    return trainer
