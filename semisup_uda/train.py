"""Train on labelled and unlabelled images: what a step does, for every method and arm."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fvcore.common.param_scheduler import CosineParamScheduler
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from classification.models import check_arch, check_side, check_weights, load_start
from keepaugment import SampleDraws
from keepbench import loop
from keepbench.maps import Gradient, Scene, scales_of
from keepbench.network import check_logits, compiled, make_average, make_optimizer
from keepbench.order import Samples, Stream, mixed_seed, seed_noise
from keepbench.processes import Processes
from keepbench.right import write_shares
from keepbench.training import Row, Training
from semisup_uda.config import Config
from semisup_uda.data import Images, open_images, split_record
from semisup_uda.evaluate import evaluate, make_model
from semisup_uda.losses import tsa_threshold
from semisup_uda.objective import SUMS, step_losses, training_figures
from semisup_uda.views import Views

LABELLED, UNLABELLED = 0, 1  # streams


def learning_rate(config: Config, step: int) -> float:
    """The learning rate of a step of the whole run, from 0: 7/16 of a cosine's period.

    It ends at about a fifth of its highest value; UDA's and FixMatch's codes agree.
    """
    half_period = CosineParamScheduler(config.lr, -config.lr)
    return half_period(7 / 16 * step / config.total_steps)


class Trainer(Training):
    """A training run in progress; an epoch ends with a test.

    Attributes:
        model: the classifier; `tested` is what is evaluated, its average if the config has one.
        views: what the network sees; pictures can be drawn with it.
        right: (N,) bool, which of this process's test images were right in the last test, or None.
    """

    SUMS = SUMS
    right: Tensor | None = None

    def __init__(self, config: Config, images: Images, processes: Processes) -> None:
        super().__init__(config, processes)
        self.images = images
        data = images.data
        self.records = {"split.json": split_record(config, images)}
        config.check_image_size(data.image_size)
        self.model = make_model(config, data, self.device)
        check_logits(
            self.model, config.arch,
            channels=data.channels, image_size=data.image_size, num_classes=len(data.classes),
            scales=scales_of(config.keep),
        )  # fmt: skip
        self.network: Any = compiled(self.model) if config.compile else self.model
        draws, noise = (SampleDraws(config.seed + stream * 1_000_003) for stream in range(2))
        kind = config.keep.map if config.keep else Gradient()
        saliency = kind.build(Scene(self.network, noise))
        self.views = Views(config, data, saliency, draws, noise, self.clock)
        self.streams = [
            self._stream(LABELLED, len(images.labelled), config.batch_size),
            self._stream(UNLABELLED, len(images.unlabelled), config.batch_size * config.ratio),
        ]
        self.optimizer = make_optimizer(
            [self.model], lr=config.lr, momentum=config.momentum,
            weight_decay=config.weight_decay, norm_decay=config.norm_decay,
        )  # fmt: skip
        self.tested = make_average(self.model, config.ema) if config.ema else self.model
        if processes.world_size > 1:
            self.network = DistributedDataParallel(self.network)
        self.steps = config.steps

    def prepare(self) -> None:
        """Begin with the initial weights; a run that goes on has its own."""
        load_start(self, len(self.images.data.classes))

    def _stream(self, name: int, num_images: int, batch_size: int) -> Stream:
        return Stream(
            name=name,
            num_images=num_images,
            batch_size=batch_size,
            seed=self.config.seed,
            rank=self.processes.rank,
            world_size=self.processes.world_size,
        )

    def contents(self) -> Iterator[str | bytes]:
        """The bytes of the data, for a digest."""
        return self.images.contents()

    def batches(self) -> Iterator[tuple[Samples, Samples]]:
        """Labelled and unlabelled samples of the steps to come."""
        self.network.train()
        first, last = self.epoch * self.steps + self.step, (self.epoch + 1) * self.steps
        return zip(*(s.steps(first, last, self.device) for s in self.streams), strict=True)

    def images_of(self, step: int) -> str:
        """The images of a step of the present epoch, in words."""
        first = self.epoch * self.steps + step
        labelled, unlabelled = (
            stream.numbers(first * stream.batch_size, (first + 1) * stream.batch_size)
            for stream in self.streams
        )
        words = f"the training images {self.images.labelled.cpu()[labelled].tolist()}"
        if self.config.method == "supervised":
            return words
        return f"{words} and the unlabelled images {unlabelled.tolist()}"

    def _inputs(self, labelled: Samples, unlabelled: Samples) -> tuple[Tensor, Tensor]:
        """A step's inputs: labelled, clean and strong views, and the pasted share.

        Supervised training sees the labelled ones alone.
        """
        pixels = self.images.data.train.images[self.images.labelled[labelled.numbers]]
        own = self.views.weak(pixels, LABELLED, labelled.positions).clean
        if self.config.method == "supervised":
            return own, own.new_zeros((), dtype=torch.float32)
        pixels = self.images.unlabelled[unlabelled.numbers]
        other = self.views.strong(pixels, UNLABELLED, unlabelled.positions)
        return torch.cat([own, other.clean, other.strong]), other.pasted

    def train_step(self, batch: tuple[Samples, Samples]) -> dict[str, Tensor]:
        """Train on a step's labelled and unlabelled samples: means over the batch."""
        labelled, unlabelled = batch
        config, images = self.config, self.images
        step = self.epoch * self.steps + self.step
        labels = images.data.train.labels[images.labelled[labelled.numbers]]
        hidden = None if images.hidden is None else images.hidden[unlabelled.numbers]
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        # The model's own noise follows from the step, so that no generator need be saved.
        seed_noise(mixed_seed(config.seed, step, self.processes.rank), self.device)
        with self.clock("views"), self.autocast():
            inputs, pasted = self._inputs(labelled, unlabelled)
        with self.clock("step"):
            with self.autocast():
                logits = self.network(inputs)
            progress = step / config.total_steps
            loss, found = step_losses(
                config, logits.float(), labels, hidden, progress, self.processes
            )
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            if isinstance(self.tested, AveragedModel):
                self.tested.update_parameters(self.model)
        return dict.fromkeys(SUMS, torch.zeros_like(loss)) | found | {"pasted": pasted}

    def epoch_figures(self, totals: Mapping[str, Tensor]) -> Row:
        """Means over the steps and processes, and the seconds of a step's parts."""
        steps = self.epoch * self.steps
        means = {
            name: (total / self.steps / self.processes.world_size).item()
            for name, total in totals.items()
        }
        row = {"step": steps, "lr": learning_rate(self.config, steps - 1)}
        progress = self.epoch / self.config.epochs
        row |= training_figures(
            self.config,
            means,
            known=self.images.hidden is not None,
            threshold=tsa_threshold(self.config.tsa, progress, len(self.images.data.classes)),
        )
        seconds = self.clock.seconds()
        row |= {f"{part}_seconds": seconds.pop(part, 0.0) for part in ("map", "step")}
        return row | {"views_seconds": sum(seconds.values())}

    def after_epoch(self) -> Row:
        """Metrics of the tested weights on the test set (see `evaluate`)."""
        right: list[Tensor] = []
        row = evaluate(self.tested, self.images.data, self.processes, self.config, right)
        self.right = torch.cat(right)
        return row

    def record(self, folder: Path) -> None:
        """Store which test images are right after the last epoch; all processes must call."""
        if self.right is None:  # resumed after its end
            self.after_epoch()
        assert self.right is not None
        write_shares(folder, self.right, self.epoch, self.processes)

    @classmethod
    def check(cls, config: Config, *, goes_on: bool) -> None:  # noqa: D102
        check_arch(config.arch, download=config.download)
        if not goes_on:
            check_weights(config.weights, config.arch, download=config.download)
        if config.policy:  # a transform of the user's own may not be there
            config.policy.build((0.5,) * 3, SampleDraws(0))

    @classmethod
    def begin(cls, config: Config, processes: Processes) -> Trainer:  # noqa: D102
        return cls(config, open_images(config, processes.device), processes)

    def remarks(self, *, goes_on: bool) -> Iterable[str]:
        """A remark on a network that is made for smaller images."""
        size = self.images.data.image_size
        remark = "" if goes_on else check_side(self.config.arch, min(size))
        return [remark] if remark else []

    def shown(self, row: Row) -> str:  # noqa: D102
        masked = f", mask {row['mask_rate']:.2f}" if "mask_rate" in row else ""
        return (
            f"loss {row['train_loss']:.3f}{masked}, test {row['test_accuracy']:.2f} %, "
            f"{row['train_seconds']:.1f} s"
        )

    def finish(self, folder: Path) -> None:
        """Store which test images are right, if the config asks for it."""
        if self.config.record:
            self.record(folder)


train = partial(loop.train, Trainer)
