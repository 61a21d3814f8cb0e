"""Train on labelled and unlabelled images: one plain loop for every method and arm."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from classification.augmentation import compiled, make_saliency
from classification.train import CHECK_EVERY, check_model, make_optimizer
from keepaugment import GradientSaliency, SampleDraws
from keepbench.clock import Stopwatch
from keepbench.loop import Interrupted, LossWatch, Row, fit
from keepbench.order import Samples, Stream, mixed_seed, seed_noise
from keepbench.processes import Processes
from semisup_uda.config import Config, shared
from semisup_uda.data import Images, keep_record, open_images, split_record
from semisup_uda.evaluate import evaluate, new_model
from semisup_uda.losses import tsa_threshold
from semisup_uda.objective import SUMS, step_losses, training_figures
from semisup_uda.views import Views

LABELLED, UNLABELLED = 0, 1  # streams


def learning_rate(config: Config, step: int) -> float:
    """The learning rate of a step of the whole run, from 0: 7/16 of a cosine's period.

    It ends at about a fifth of its highest value; UDA's and FixMatch's codes agree.
    """
    return config.lr * math.cos(7 * math.pi / 16 * step / config.total_steps)


class Trainer:
    """A training run in progress.

    Attributes:
        model: the classifier; `tested` is what is evaluated, its average if the config has one.
        views: what the network sees; pictures can be drawn with it.
        epoch: epochs trained so far, a test after each.
        step: steps done in the present epoch.
        steps: of an epoch.
    """

    def __init__(self, config: Config, images: Images, processes: Processes) -> None:
        self.config, self.images, self.processes = config, images, processes
        self.device = device = processes.device
        settings, data = shared(config), images.data
        self.model = new_model(config, data, device)
        check_model(self.model, settings, data)
        self.network: Any = compiled(self.model) if config.compile else self.model
        draws, noise = (SampleDraws(config.seed + stream * 1_000_003) for stream in range(2))
        gradient = make_saliency(settings, GradientSaliency(self.network, config.scale), noise)
        self.watch = Stopwatch(device)

        def saliency(inputs: Tensor, labels: Tensor | None) -> Tensor:
            with self.watch("map"):
                return gradient(inputs, labels)

        self.views = Views(config, data, saliency, draws, noise)
        self.streams = [
            self._stream(LABELLED, len(images.labelled), config.batch_size),
            self._stream(UNLABELLED, len(images.unlabelled), config.batch_size * config.ratio),
        ]
        self.optimizer = make_optimizer(settings, [self.model])
        self.tested: nn.Module = self.model
        if config.ema:
            average = get_ema_multi_avg_fn(config.ema)
            self.tested = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True)
        if processes.world_size > 1:
            self.network = DistributedDataParallel(self.network)
        self.epoch, self.step, self.steps = 0, 0, config.steps
        self.sums = torch.zeros(len(SUMS), device=device)

    def _stream(self, name: int, num_images: int, batch_size: int) -> Stream:
        return Stream(
            name=name,
            num_images=num_images,
            batch_size=batch_size,
            seed=self.config.seed,
            rank=self.processes.rank,
            world_size=self.processes.world_size,
        )

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16)

    def _inputs(self, labelled: Samples, unlabelled: Samples) -> tuple[Tensor, Tensor]:
        """What the network sees in a step: labelled, clean and strong views, and the pasted share.

        Supervised training sees the labelled ones alone.
        """
        pixels = self.images.data.train.images[self.images.labelled[labelled.numbers]]
        views = self.views
        inputs = [views.inputs(views.weak(pixels, LABELLED, labelled.positions))]
        pasted = inputs[0].new_zeros((), dtype=torch.float32)
        if self.config.method != "supervised":
            pixels = self.images.unlabelled[unlabelled.numbers]
            weak = views.weak(pixels, UNLABELLED, unlabelled.positions)
            clean = views.inputs(weak)
            strong, pasted = views.strong(weak, clean)
            inputs += [clean, strong]
        return torch.cat(inputs), pasted

    def train_step(self, labelled: Samples, unlabelled: Samples) -> Tensor:
        """Train on a step's samples: the values of `SUMS`."""
        step, images = self.epoch * self.steps + self.step, self.images
        labels = images.data.train.labels[images.labelled[labelled.numbers]]
        hidden = None if images.hidden is None else images.hidden[unlabelled.numbers]
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, step)
        # The model's own noise follows from the step, so that no generator need be saved.
        seed_noise(mixed_seed(self.config.seed, step, self.processes.rank), self.device)
        with self.watch("views"), self._autocast():
            inputs, pasted = self._inputs(labelled, unlabelled)
        with self.watch("step"):
            with self._autocast():
                logits = self.network(inputs)
            progress = step / self.config.total_steps
            loss, found = step_losses(
                self.config, logits.float(), labels, hidden, progress, self.processes
            )
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            if isinstance(self.tested, AveragedModel):
                self.tested.update_parameters(self.model)
        found["pasted"] = pasted
        return torch.stack([found.get(name, torch.zeros_like(loss)).detach() for name in SUMS])

    def train_epoch(self, progress: Callable[[], None] = lambda: None) -> Row:
        """The rest of the steps to the next test, and the test: a row of metrics.

        Raises:
            FloatingPointError: A loss is not finite.
            Interrupted: `progress` asked to stop; `state` goes on here.
        """
        started = time.perf_counter()
        try:
            self._train_steps(progress)
        except Interrupted:
            self._settle()
            raise
        sums = (self.processes.total(self.sums) / self.steps / self.processes.world_size).tolist()
        lr = learning_rate(self.config, self.epoch * self.steps + self.steps - 1)
        self.epoch, self.step, self.sums = self.epoch + 1, 0, torch.zeros_like(self.sums)
        seconds = self.watch.seconds()
        row = {"epoch": self.epoch, "step": self.epoch * self.steps, "lr": lr}
        row |= training_figures(
            self.config,
            dict(zip(SUMS, sums, strict=True)),
            known=self.images.hidden is not None,
            threshold=self._threshold(),
        )
        row["map_seconds"] = seconds.get("map", 0.0)
        row["views_seconds"] = seconds.get("views", 0.0) - row["map_seconds"]
        row["step_seconds"] = seconds.get("step", 0.0)
        row["train_seconds"] = time.perf_counter() - started
        return row | self.test()

    def _threshold(self) -> float:
        """Training signal annealing's, at the present epoch's begin."""
        progress = self.epoch / self.config.epochs
        return tsa_threshold(self.config.tsa, progress, len(self.images.data.classes))

    def _train_steps(self, progress: Callable[[], None]) -> None:
        """The steps of the present epoch that are not done."""
        self.network.train()
        first, last = self.epoch * self.steps + self.step, (self.epoch + 1) * self.steps
        watch = LossWatch(self.device)
        streams = (stream.steps(first, last, self.device) for stream in self.streams)
        for labelled, unlabelled in zip(*streams, strict=True):
            try:
                sums = self.train_step(labelled, unlabelled)
            except ValueError as error:  # such as a map with NaN
                self._check(watch)
                raise ValueError(f"{error} ({self._place(self.step)})") from error
            watch.add(self.step, sums[0])
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
        """A step of the present epoch and the numbers of its images, in words."""
        first = self.epoch * self.steps + step
        labelled, unlabelled = (
            stream.numbers(first * stream.batch_size, (first + 1) * stream.batch_size)
            for stream in self.streams
        )
        images = self.images.labelled.cpu()[labelled].tolist()
        words = f"epoch {self.epoch + 1}, step {step + 1}, on the training images {images}"
        if self.config.method == "supervised":
            return words
        return f"{words} and the unlabelled images {unlabelled.tolist()}"

    def _settle(self) -> None:
        """Bring the processes' sums to the first, which saves them: all of them must call."""
        total = self.processes.total(self.sums.clone())
        self.sums = total if self.processes.first else torch.zeros_like(total)

    def test(self) -> dict[str, float]:
        """What the tested weights are worth on the test set (see `evaluate`)."""
        if self.processes.world_size > 1:
            for buffer in self.tested.buffers():  # BatchNorm's differ; the first process saves its
                dist.broadcast(buffer, 0)
        return evaluate(self.tested, self.images.data, self.processes, self.config)

    def state(self) -> dict[str, Any]:
        """Everything that resumes the run: plain tensors and numbers.

        Random numbers follow from the seed and the step, so none are kept.
        """
        return {
            "epoch": self.epoch,
            "step": self.step,
            "sums": self.sums.cpu(),
            "model": self.model.state_dict(),
            "average": self.tested.state_dict() if self.config.ema else {},
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.epoch, self.step = state["epoch"], state["step"]
        if self.processes.first:
            self.sums.copy_(state["sums"])
        self.model.load_state_dict(state["model"])
        if self.config.ema:
            self.tested.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])


def _shown(row: Row) -> str:
    masked = f", mask {row['mask_rate']:.2f}" if "mask_rate" in row else ""
    return (
        f"loss {row['train_loss']:.3f}{masked}, test {row['test_accuracy']:.2f} %, "
        f"{row['train_seconds']:.1f} s"
    )


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
    images = open_images(config, processes.device)
    trainer = Trainer(config, images, processes)
    if processes.first:
        keep_record(folder, split_record(config, images))
    fit(trainer, name, config, folder, processes, resume=resume, budget=budget, shown=_shown)
    return trainer
