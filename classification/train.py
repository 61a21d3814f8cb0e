"""Train a classifier: one plain loop for every arm."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from classification.data import Data, ImageSet, crop_flip, load_data
from classification.experiments import Config
from classification.methods import augment, make_method, make_saliency
from classification.models import create_model
from keepaugment import EarlyHead, Saliency
from keepaugment.runs import Run


class Stopwatch:
    """Seconds spent in the parts of a step; on a GPU by events, so that the step does not wait."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.spans: dict[str, list[tuple[Any, Any]]] = defaultdict(list)

    def _now(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Count the time within to `part`."""
        start = self._now()
        yield
        self.spans[part].append((start, self._now()))

    def seconds(self) -> dict[str, float]:
        """Seconds by part since the last call."""
        if self.cuda:
            torch.cuda.synchronize()
        total = {
            part: sum(a.elapsed_time(b) / 1000 if self.cuda else b - a for a, b in spans)
            for part, spans in self.spans.items()
        }
        self.spans.clear()
        return total


def cosine(step: int, steps: int) -> float:
    """Half a cosine from 1 to 0, without restarts (Loshchilov and Hutter, 2016)."""
    return 0.5 * (1.0 + math.cos(math.pi * step / steps))


@torch.no_grad()
def evaluate(model: nn.Module, images: ImageSet, data: Data, config: Config) -> dict[str, float]:
    """Mean loss and accuracy (%) of a model on a set, in eval mode."""
    device = images.images.device
    training = model.training
    model.eval()
    loss, right = torch.zeros((), device=device), torch.zeros((), device=device)
    for batch, labels in zip(images.images.split(500), images.labels.split(500), strict=True):
        with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
            logits = model(_as_input(batch, data, config)).float()
        loss += F.cross_entropy(logits, labels, reduction="sum")
        right += (logits.argmax(1) == labels).sum()
    model.train(training)
    return {"loss": loss.item() / len(images), "accuracy": 100 * right.item() / len(images)}


def _as_input(images: Tensor, data: Data, config: Config) -> Tensor:
    images = data.normalise(images)
    return images.to(memory_format=torch.channels_last) if config.channels_last else images


def build(
    config: Config, num_classes: int, channels: int, device: torch.device
) -> tuple[nn.Module, EarlyHead | None]:
    """The model of a config and its early head, freshly initialised by the config's seed."""
    torch.manual_seed(config.seed)
    options = {"dropout": config.dropout} if config.dropout else {}
    model = create_model(config.arch, num_classes, in_chans=channels, **options).to(device)
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if not config.early_head:
        return model, None
    return model, EarlyHead(model, config.early_head, num_classes, weight=config.early_weight)


class Trainer:
    """A training run in progress.

    Attributes:
        model: the classifier.
        head: its early head, or None.
        saliency: the map of the run's method, which pictures can be drawn with.
        epoch: epochs trained so far.
    """

    def __init__(self, config: Config, data: Data, device: torch.device) -> None:
        self.config = config
        self.data = data
        self.train_set = data.train.to(device)
        self.test_set = data.test.to(device)
        self.device = device
        num_classes, channels = len(data.train.classes), data.train.images.shape[1]
        self.model, self.head = build(config, num_classes, channels, device)
        # Arms of one seed see the same images in the same order, cropped and flipped alike.
        self.order = torch.Generator(device).manual_seed(config.seed)
        self.draws = torch.Generator(device).manual_seed(config.seed + 1_000_003)
        self.watch = Stopwatch(device)
        self.saliency = make_saliency(config, self.model, self.head, self.draws)
        self.method = make_method(config, self._timed(self.saliency), num_classes, self.draws)
        parameters = [*self.model.parameters(), *(self.head.parameters() if self.head else ())]
        self.optimizer = torch.optim.SGD(
            parameters,
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            nesterov=config.momentum > 0,
        )
        self.epoch = 0
        self.steps = math.ceil(len(self.train_set) / config.batch_size)

    def _timed(self, saliency: Saliency) -> Saliency:
        def timed(images: Tensor, labels: Tensor | None) -> Tensor:
            with self.watch("map"):
                return saliency(images, labels)

        return timed

    def _step(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One step on the images numbered `index`: sum of losses, number right, cut share."""
        config = self.config
        labels = self.train_set.labels[index]
        images = self.train_set.images[index]
        images = crop_flip(images, padding=config.padding, flip=config.flip, generator=self.order)
        images = _as_input(images, self.data, config)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.bf16):
            with self.watch("augment"):
                images, targets, cut = augment(self.method, images, labels)
            with self.watch("step"):
                logits = self.model(images)
                loss = F.cross_entropy(logits, targets)
                total = loss + self.head.loss(targets) if self.head else loss
        with self.watch("step"):
            self.optimizer.zero_grad()
            total.backward()
            self.optimizer.step()
        right = (logits.detach().argmax(1) == labels).sum()
        return loss.detach() * len(index), right, cut * len(index)

    def train_epoch(self, bar: tqdm[Any]) -> dict[str, Any]:
        """One pass over the training set, and a test if it is due: a row for `metrics.jsonl`.

        Raises:
            FloatingPointError: The loss is not finite.
        """
        config, start = self.config, time.perf_counter()
        order = torch.randperm(len(self.train_set), generator=self.order, device=self.device)
        sums = torch.zeros(3, device=self.device)
        for step, index in enumerate(order.split(config.batch_size)):
            lr = config.lr * cosine(self.epoch * self.steps + step, config.epochs * self.steps)
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            sums += torch.stack([value.float() for value in self._step(index)])
            bar.update()
        self.epoch += 1
        loss, right, cut = (sums / len(self.train_set)).tolist()
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the training loss is {loss} in epoch {self.epoch}; lower --lr, or --no-bf16"
            )
        seconds = self.watch.seconds()
        row: dict[str, Any] = {
            "epoch": self.epoch,
            "lr": lr,
            "train_loss": loss,
            "train_accuracy": 100 * right,
            "cut_area": cut,
            "map_seconds": seconds.get("map", 0.0),
            "boxes_seconds": seconds["augment"] - seconds.get("map", 0.0),
            "step_seconds": seconds["step"],
            "train_seconds": time.perf_counter() - start,
        }
        if self.epoch % config.eval_every == 0 or self.epoch == config.epochs:
            test = evaluate(self.model, self.test_set, self.data, config)
            row |= {f"test_{name}": value for name, value in test.items()}
        return row

    def state(self) -> dict[str, Any]:
        """Everything that resumes the run: plain tensors and numbers."""
        return {
            "epoch": self.epoch,
            "model": self.model.state_dict(),
            "early_head": self.head.state_dict() if self.head else {},
            "optimizer": self.optimizer.state_dict(),
            "order": self.order.get_state(),
            "draws": self.draws.get_state(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state() if self.device.type == "cuda" else None,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.epoch = state["epoch"]
        self.model.load_state_dict(state["model"])
        if self.head:
            self.head.load_state_dict(state["early_head"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.order.set_state(state["order"])
        self.draws.set_state(state["draws"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"])


def train(
    name: str, config: Config, folder: Path, device: torch.device, *, resume: bool = False
) -> Trainer:
    """Run an experiment into its folder; go on from its last checkpoint with `resume`.

    Raises:
        ValueError: Bad settings, data that cannot be used, or a folder in use by another run.
    """
    data = load_data(
        config.dataset,
        config.data,
        download=config.download,
        subset=config.subset,
        test_subset=config.test_subset,
        seed=config.seed,
    )
    trainer = Trainer(config, data, device)
    run = Run(folder, name, config, device, resume=resume)
    state = run.load()
    if state is not None:
        trainer.load_state(state)
    total, done = config.epochs * trainer.steps, trainer.epoch * trainer.steps
    with tqdm(total=total, initial=done, desc=name, unit="step", disable=None) as bar:
        while trainer.epoch < config.epochs:
            row = trainer.train_epoch(bar)
            run.save(trainer.state())
            run.log(**row)
            tested = f", test {row['test_accuracy']:.2f} %" if "test_accuracy" in row else ""
            tqdm.write(
                f"{name} epoch {row['epoch']}/{config.epochs}: loss {row['train_loss']:.3f}"
                f"{tested}, {row['train_seconds']:.1f} s"
            )
    return trainer
