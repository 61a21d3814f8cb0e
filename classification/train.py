"""Train a classifier: what a step does, for every arm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from classification.augmentation import REGIONS, Augmentation
from classification.comparisons import set_drop_block
from classification.config import Config
from classification.data import Data, open_data
from classification.maps import Maps
from classification.methods import AttentiveCutMix
from classification.models import check_side, load_start
from classification.recipe import (
    check_names,
    frozen_part,
    learning_rate,
    make_criterion,
    make_model,
)
from keepaugment import EarlyHead, SampleDraws
from keepbench import loop
from keepbench.accuracy import EvaluationSums, label_ranks, occluded
from keepbench.images import Batch
from keepbench.maps import scales_of
from keepbench.network import (
    Joined,
    check_logits,
    check_single_image,
    compiled,
    make_average,
    make_optimizer,
    set_rate,
)
from keepbench.order import EpochBatches, mixed_seed, seed_noise
from keepbench.processes import Processes
from keepbench.right import write_shares
from keepbench.starting import classifiers_of
from keepbench.training import Row, Training

OCCLUSIONS = (0.1, 0.25, 0.5)  # shares of a test image's area


class Trainer(Training):
    """A training run in progress.

    Attributes:
        model: the classifier; `tested` is what is evaluated, its average if the config has one.
        head: its early head, or None.
        maps: what its method asks where the important region is.
        augment: what the network sees.
        right: (N,) bool, which of this process's test images were right in the last test, or None.
    """

    SUMS = ("loss", "right", "changed", "count", "skipped")

    right: Tensor | None = None

    nonfinite_advice = ", or --nonfinite skip with --resume"

    def __init__(self, config: Config, data: Data, processes: Processes) -> None:
        super().__init__(config, processes)
        self.data = data
        config.check_image_size(data.image_size)
        device, classes = self.device, len(data.classes)
        self.model = make_model(config, classes, data.channels).to(device)
        if config.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
        self.criterion = make_criterion(config)
        self.order = self._order()
        self.steps = self.order.steps
        check_logits(
            self.model, config.arch,
            channels=data.channels, image_size=data.image_size, num_classes=classes,
            scales=scales_of(config.keep),
        )  # fmt: skip
        if self.order.fewest == 1:
            check_single_image(self.model, config.arch, data.channels, data.image_size)
        self.head = None
        if config.early_head:
            self.head = EarlyHead(
                self.model, config.early_head, classes, weight=config.early_weight
            )
            if config.compile:
                self.head.compile(dynamic=False)
        network: Any = compiled(self.model) if config.compile else self.model
        self._augment(network)
        classifiers = self._classifiers()
        self.network: nn.Module = Joined(network, self.head)
        self.optimizer = make_optimizer(
            [self.network], kind=config.optimizer, lr=config.lr, momentum=config.momentum,
            weight_decay=config.weight_decay, norm_decay=config.norm_decay,
            bias_decay=config.bias_decay, scale=config.classifier_lr, apart=classifiers,
        )  # fmt: skip
        self.tested = make_average(self.model, config.ema) if config.ema else self.model
        if processes.world_size > 1:
            self.network = DistributedDataParallel(self.network)

    def _classifiers(self) -> list[nn.Module]:
        """The layers with a learning rate of their own."""
        if self.config.classifier_lr == 1.0:
            return []
        names = classifiers_of(self.model, len(self.data.classes))
        return [self.model.get_submodule(name) for name in names]

    def prepare(self) -> None:
        """Begin with the initial weights, and compute a teacher's maps; all processes must call.

        A run that goes on has both in its checkpoint.
        """
        load_start(self, len(self.data.classes))
        self.maps.prepare(self.processes)

    def _augment(self, network: Any) -> None:
        """Make the map and the augmentation."""
        config, data = self.config, self.data
        images, colours, maps = (SampleDraws(config.seed + n * 1_000_003) for n in range(3))
        self.maps = Maps(config, data, network, self.head, maps, self.device)
        sources = (images, colours, maps)
        self.augment = Augmentation(
            config, data, self.model, self.maps.used, self.maps.stored, sources, self.device,
            self.clock,
        )  # fmt: skip

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

    def contents(self) -> Iterable[str | bytes]:
        """The bytes of the data, for a digest."""
        return self.data.contents()

    def batches(self) -> Iterable[Batch]:
        """This process's samples of the steps to come."""
        self.network.train()
        for layer in frozen_part(self.config, self.model, len(self.data.classes))[1]:
            layer.eval()
        if self.config.regulariser == "dropblock":
            set_drop_block(self.model, self.epoch / self.config.epochs)
        self.order = self._order()
        return self.data.train_batches(self.order, self.device, self.config.workers)

    def images_of(self, step: int) -> str:
        """The training images of a step in all processes, in words."""
        order = replace(self.order, rank=0, world_size=1, start=step)
        return f"the training images {next(iter(order))}"

    def train_step(self, batch: Batch) -> dict[str, Tensor]:
        """Augment a step's samples and train on them.

        Returns:
            Sums over the images of losses, right answers and changed shares, their count, and
            whether the step was skipped.
        """
        config, processes = self.config, self.processes
        lr = learning_rate(config, self.epoch * self.steps + self.step, self.steps)
        set_rate(self.optimizer, lr)
        # The model's own noise follows from the step, so that no generator need be saved.
        seed_noise(mixed_seed(config.seed, self.epoch, self.step, processes.rank), self.device)
        with self.clock("augment"), self.autocast():
            seen = self.augment(self.epoch, self.step, batch)
            inputs, targets = seen.inputs, seen.targets
        if self.maps.recycled:
            inputs.requires_grad_()
        # Gradients average to that of the whole batch also when its images do not divide.
        share = len(batch.labels) * processes.world_size / self.order.images_in(self.step)
        skipping = config.nonfinite == "skip"
        buffers = [buffer.clone() for buffer in self.model.buffers()] if skipping else []
        with self.clock("step"):
            with self.autocast():
                logits = self.network(inputs)
                loss = total = self.criterion(logits, targets)
                if self.head:
                    total = loss + self.head.loss(targets, self.criterion)
            self.optimizer.zero_grad()
            (share * total).backward()
            if skipping and not self._finite_gradients():
                for buffer, before in zip(self.model.buffers(), buffers, strict=True):
                    buffer.copy_(before)
                nothing = loss.new_zeros((), dtype=torch.float32)
                return dict.fromkeys(self.SUMS, nothing) | {"skipped": nothing + 1}
            self._update()
        if self.maps.recycled:
            with self.clock("map"):
                self.maps.recycled.take(inputs)
        right = (logits.detach().argmax(1) == batch.labels).sum()
        count, zero = len(batch.labels), right * 0
        return {
            "loss": loss.detach() * count,
            "right": right,
            "changed": seen.changed * count,
            "count": zero + count,
            "skipped": zero,
        }

    def _finite_gradients(self) -> bool:
        """Whether the gradient, which is that of all processes, can be used; waits for it."""
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        return bool(nn.utils.get_total_norm(gradients).isfinite())

    def _update(self) -> None:
        if self.config.clip:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip)
        self.optimizer.step()
        if isinstance(self.tested, AveragedModel) and self.step % self.config.ema_every == 0:
            self.tested.update_parameters(self.model)
            if self.config.ema_every > 1 and self.epoch < self.config.warmup:
                self.tested.n_averaged.zero_()  # the next update copies the model again

    def part_seconds(self) -> dict[str, float]:
        """Seconds since the last call: map, boxes, step (of the network), other augmentation."""
        seconds = self.clock.seconds()
        return {
            "map": seconds.pop("map", 0.0),
            "boxes": sum(seconds.pop(stage, 0.0) for stage in REGIONS),
            "step": seconds.pop("step", 0.0),
            "augment": sum(seconds.values()),
        }

    def epoch_figures(self, totals: Mapping[str, Tensor]) -> Row:
        """Loss, accuracy (%), the changed area, and the seconds of a step's parts."""
        found = {name: total.item() for name, total in totals.items()}
        count = found["count"]
        if not count:
            raise FloatingPointError(
                f"all {self.steps} steps of epoch {self.epoch} were skipped, for no gradient was "
                "finite; the last checkpoint, if there is one, is from before it"
            )
        row: Row = {
            "lr": learning_rate(self.config, self.epoch * self.steps - 1, self.steps),
            "train_loss": found["loss"] / count,
            "train_accuracy": 100 * found["right"] / count,
            "changed_area": found["changed"] / count,
        }
        row |= {f"{part}_seconds": seconds for part, seconds in self.part_seconds().items()}
        if self.config.nonfinite == "skip":
            row["skipped_steps"] = round(found["skipped"] / self.processes.world_size)
        return row

    def after_epoch(self) -> Row:
        """Renew what maps are taken by, and test if it is due."""
        with self.autocast():
            row = self.maps.after_epoch(
                self.epoch, self.model, self.head, self.augment.inputs, self.processes
            )
        last = self.epoch == self.config.epochs
        if last or self.epoch % self.config.eval_every == 0:
            row |= self.test(occlusion=last and self.config.occlusion)
        return row

    def gather(self) -> None:
        """Bring sums, statistics and stored maps to the first process; all of them must call."""
        super().gather()
        self.maps.merge()

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
        right = [torch.zeros(0, dtype=torch.bool, device=self.device)]
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
                logits = self._test_logits(view)
                sum_.update(logits, labels)
                if not share:
                    right.append(label_ranks(logits, labels) == 0)
        self.tested.train()
        self.right = torch.cat(right)
        result = {f"test_{name}": value for name, value in sums.pop(0.0).result().items()}
        for share, sum_ in sums.items():
            result[f"test_accuracy_occluded_{share}"] = sum_.result()["accuracy"]
        return result

    def _test_logits(self, images: Tensor) -> Tensor:
        """Logits of test images, with `flip_test` the mean over them and their mirror images."""
        with self.autocast():
            logits = self.tested(images).float()
            if self.config.flip_test:
                logits = (logits + self.tested(images.flip(3)).float()) / 2
        return logits

    def record(self, folder: Path) -> None:
        """Store which test images are right after the last epoch; all processes must call."""
        if self.right is None:  # resumed after its end
            self.test(occlusion=False)
        assert self.right is not None
        write_shares(folder, self.right, self.epoch, self.processes)

    def state(self) -> dict[str, Any]:
        """Everything that resumes the run: plain tensors, numbers and text."""
        return super().state() | {
            "early_head": self.head.state_dict() if self.head else {},
            **self.maps.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        super().load_state(state)
        if self.head:
            self.head.load_state_dict(state["early_head"])
        self.maps.load_state_dict(state)

    @classmethod
    def check(cls, config: Config, *, goes_on: bool) -> None:  # noqa: D102
        check_names(config, goes_on=goes_on)
        if isinstance(config.mix, AttentiveCutMix):
            config.mix.network(config.download)

    @classmethod
    def begin(cls, config: Config, processes: Processes) -> Trainer:  # noqa: D102
        return cls(config, open_data(config, processes.device), processes)

    def remarks(self, *, goes_on: bool) -> Iterable[str]:
        """A remark on a network that is made for smaller images."""
        remark = "" if goes_on else check_side(self.config.arch, min(self.data.image_size))
        return [remark] if remark else []

    def shown(self, row: Row) -> str:  # noqa: D102
        tested = f", test {row['test_accuracy']:.2f} %" if "test_accuracy" in row else ""
        return f"loss {row['train_loss']:.3f}{tested}, {row['train_seconds']:.1f} s"

    def finish(self, folder: Path) -> None:
        """Store which test images are right, if the config asks for it."""
        if self.config.record:
            self.record(folder)


train = partial(loop.train, Trainer)
