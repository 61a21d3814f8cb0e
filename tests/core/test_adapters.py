"""Each adapter inside the loop of the real library."""

from __future__ import annotations

import copy
import functools
import importlib
import pickle
import random
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small import NUM_CLASSES, labels, network, randn, seeded
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

from keepaugment import (
    BoxSaliency,
    KeepCutMix,
    KeepCutout,
    KeepPaste,
    KeepRandomErasing,
    adapters,
)
from keepaugment.adapters import (
    KeepCallback,
    KeepEngine,
    KeepLoader,
    KeepMixup,
    KeepTrainer,
    KeepTransform,
    mixed_loss,
)
from keepaugment.adapters.step import run_step
from keeppolicies import RandAugment

IMAGES, LABELS = randn(4, 3, 8, 8), labels(4)


def library(name: str) -> ModuleType:
    """An optional package, whatever it warns of while it is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, reason=f"{name} is not installed")


def zeroed(images: Tensor, labels: Tensor) -> Tensor:
    return torch.zeros_like(images)


def mixed(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Half an image and half the next, and so the classes."""
    targets = F.one_hot(labels, NUM_CLASSES).float()
    return (images + images.roll(1, 0)) / 2, (targets + targets.roll(1, 0)) / 2


class Numbered(Dataset):
    """Images of ones, whose label is their number."""

    def __init__(self, make: Callable[[Tensor, int], Any], size: tuple[int, int] = (8, 8)) -> None:
        self.make = make
        self.size = size

    def __len__(self) -> int:
        return NUM_CLASSES

    def __getitem__(self, number: int) -> Any:
        return self.make(torch.ones(3, *self.size), number)


def test_a_step_may_give_images_alone() -> None:
    images, targets = run_step(zeroed, IMAGES, LABELS)
    assert not images.any() and targets is LABELS
    assert run_step(mixed, IMAGES, LABELS)[1].shape == (4, NUM_CLASSES)


# timm


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_targets_are_those_of_timm(smoothing: float) -> None:
    timm_data = library("timm.data")
    theirs = timm_data.Mixup(prob=0.0, label_smoothing=smoothing, num_classes=NUM_CLASSES)
    ours = KeepMixup(zeroed, NUM_CLASSES, label_smoothing=smoothing)
    images, targets = ours(IMAGES, LABELS)
    assert not images.any()
    torch.testing.assert_close(targets, theirs(IMAGES.clone(), LABELS)[1])


def test_smoothing_of_mixed_targets_is_that_of_timm() -> None:
    mixup = library("timm.data.mixup")
    order = torch.tensor([3, 2, 1, 0])

    def flipped(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        one_hot = F.one_hot(labels, NUM_CLASSES).float()
        return images, 0.7 * one_hot + 0.3 * one_hot[order]

    _, targets = KeepMixup(flipped, NUM_CLASSES, label_smoothing=0.2)(IMAGES, LABELS)
    expected = mixup.mixup_target(LABELS, NUM_CLASSES, lam=0.7, smoothing=0.2)
    torch.testing.assert_close(targets, expected)


def test_mixing_can_be_switched_off_as_in_timm() -> None:
    library("timm.data")
    mixup_fn = KeepMixup(mixed, NUM_CLASSES, label_smoothing=0.0)
    mixup_fn.mixup_enabled = False
    images, targets = mixup_fn(IMAGES, LABELS)
    assert images is IMAGES
    assert torch.equal(targets, F.one_hot(LABELS, NUM_CLASSES).float())


def test_a_loop_of_timm() -> None:
    loss_fn = library("timm.loss").SoftTargetCrossEntropy()
    mixup = library("timm.data").Mixup(num_classes=NUM_CLASSES)
    model = network(nn.BatchNorm2d(6))
    step = KeepCutMix(model, NUM_CLASSES, generator=seeded())
    erase = KeepRandomErasing(model, p=1.0, generator=seeded())
    np.random.seed(0)
    for mixup_fn in (
        KeepMixup(step, NUM_CLASSES),
        KeepMixup(erase, NUM_CLASSES, mixup=mixup),
    ):
        x, target = mixup_fn(IMAGES.clone(), LABELS)
        assert not torch.equal(x, IMAGES)
        torch.testing.assert_close(target.sum(1), torch.ones(4))
        model.zero_grad()
        loss_fn(model(x), target).backward()
        assert model[0].weight.grad.any()


def test_a_loader_of_timm_is_changed_behind_its_prefetcher() -> None:
    """The map is taken of images that are ready for the model, within the script's autocast."""
    prefetching = library("timm.data.loader").PrefetchLoader
    contexts: list[bool] = []

    def step(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        contexts.append(torch.is_autocast_enabled("cpu") and images.is_floating_point())
        return mixed(images, labels)

    pixels = (255 * torch.rand(4, 3, 8, 8)).byte()
    loader = prefetching([(pixels, LABELS)], device=torch.device("cpu"))
    autocast = functools.partial(torch.autocast, "cpu", torch.bfloat16)
    keep = KeepMixup(step, NUM_CLASSES, label_smoothing=0.0, autocast=autocast)
    changed = KeepLoader(loader, keep)
    ((images, targets),) = changed
    ((plain, _),) = loader
    assert contexts == [True] and len(changed) == len(loader)
    torch.testing.assert_close(images, (plain + plain.roll(1, 0)) / 2)
    assert targets.shape == (4, NUM_CLASSES) and changed.mean is loader.mean
    changed.mixup_enabled = False
    ((images, _),) = changed
    assert torch.equal(images, plain) and contexts == [True]


class Slices:
    """A loader with special methods of its own, which are not the wrapper's."""

    mean = 3

    def __iter__(self) -> Iterator[Any]:
        return iter([(IMAGES, LABELS)])

    def __deepcopy__(self, memo: dict) -> Slices:
        return self

    def __getstate__(self) -> dict[str, int]:
        return {"number": 1}


def test_a_loader_can_be_copied() -> None:
    loader = KeepLoader(Slices(), KeepMixup(zeroed, NUM_CLASSES))
    for copied in (copy.copy(loader), copy.deepcopy(loader), pickle.loads(pickle.dumps(loader))):
        assert type(copied) is KeepLoader and copied.mean == 3 and copied.mixup_enabled
        ((images, _),) = copied
        assert not images.any()
    with pytest.raises(AttributeError, match="'Slices' object has no attribute 'std'"):
        _ = loader.std


def test_mixing_after_a_step_is_switched_off_with_it() -> None:
    mixup = library("timm.data").Mixup(mixup_alpha=1.0, num_classes=NUM_CLASSES)
    keep = KeepMixup(zeroed, NUM_CLASSES, mixup=mixup)
    keep.mixup_enabled = False
    images, targets = keep(IMAGES.clone(), LABELS)
    assert torch.equal(images, IMAGES) and not mixup.mixup_enabled


def test_a_mixup_and_the_step_before_it_smooth_alike() -> None:
    mixup = library("timm.data").Mixup(label_smoothing=0.2, num_classes=NUM_CLASSES)
    assert KeepMixup(mixed, NUM_CLASSES, mixup=mixup).label_smoothing == 0.2
    assert KeepMixup(mixed, NUM_CLASSES).label_smoothing == 0.1
    with pytest.raises(ValueError, match="label_smoothing is 0.1 here and 0.2 in mixup"):
        KeepMixup(mixed, NUM_CLASSES, label_smoothing=0.1, mixup=mixup)
    with pytest.raises(ValueError, match="num_classes is 7 here and 5 in mixup"):
        KeepMixup(mixed, 7, mixup=mixup)


def test_targets_fit_the_losses_of_timm() -> None:
    """The cross-entropy and the binary one that its script makes for its own mixing."""
    losses, logits = library("timm.loss"), randn(4, NUM_CLASSES)
    _, targets = KeepMixup(mixed, NUM_CLASSES, label_smoothing=0.2)(IMAGES, LABELS)
    expected = F.cross_entropy(logits, mixed(IMAGES, LABELS)[1], label_smoothing=0.2)
    torch.testing.assert_close(losses.SoftTargetCrossEntropy()(logits, targets), expected)
    expected = F.binary_cross_entropy_with_logits(logits, targets)
    torch.testing.assert_close(losses.BinaryCrossEntropy(smoothing=0.2)(logits, targets), expected)


def test_labels_may_be_bytes_and_must_be_classes() -> None:
    assert KeepMixup(zeroed, NUM_CLASSES)(IMAGES, LABELS.byte())[1].shape == (4, NUM_CLASSES)
    with pytest.raises(ValueError, match="labels must be in"):
        KeepMixup(zeroed, 2)(IMAGES, torch.tensor([0, 1, 2, 3]))


# torchvision


def test_a_transform_among_those_of_torchvision() -> None:
    v2 = library("torchvision.transforms.v2")
    keep = KeepTransform(KeepCutMix(network(), NUM_CLASSES, generator=seeded()))
    chosen = v2.RandomChoice([keep, v2.MixUp(num_classes=NUM_CLASSES)])
    kinds = set()
    for seed in range(8):
        torch.manual_seed(seed)
        images, targets = chosen(IMAGES, LABELS)
        assert images.shape == IMAGES.shape and targets.shape == (4, NUM_CLASSES)
        kinds.add(bool((images == IMAGES).any()))  # mixup changes every pixel
    assert kinds == {True, False}
    assert "KeepCutMix" in repr(v2.Compose([keep]))


def test_a_named_batch_keeps_its_names() -> None:
    class Samples(NamedTuple):
        images: Tensor
        labels: Tensor
        path: str

    batch = KeepTransform(zeroed)(Samples(IMAGES, LABELS, "a"))
    assert type(batch) is Samples and not batch.images.any() and batch.path == "a"


@pytest.mark.parametrize("packed", [True, False])
def test_a_batch_keeps_its_form(packed: bool) -> None:
    v2 = library("torchvision.transforms.v2")
    compose = v2.Compose([KeepTransform(zeroed), v2.Identity()])
    batch = (IMAGES, LABELS, "names")
    images, targets, names = compose(batch) if packed else compose(*batch)
    assert not images.any() and targets is LABELS and names == "names"
    assert isinstance(KeepTransform(zeroed)([IMAGES, LABELS]), list)


@pytest.mark.parametrize("batch", [{"image": IMAGES}, IMAGES, (IMAGES,)])
def test_another_batch_is_refused(batch: object) -> None:
    with pytest.raises(ValueError, match=r"expected a batch \(images, labels"):
        KeepTransform(zeroed)(batch)


def test_a_transform_in_a_loader() -> None:
    keep = KeepTransform(KeepCutout(network(), 4, p=1.0, generator=seeded()))
    data = Numbered(lambda image, number: (image, number))
    loader = DataLoader(
        data, batch_size=5, collate_fn=lambda samples: keep(default_collate(samples))
    )
    images, targets = next(iter(loader))
    assert targets.tolist() == [0, 1, 2, 3, 4]
    assert all((image == 0).any() and (image == 1).any() for image in images)


# Lightning


def lightning_module(lightning: ModuleType) -> Any:
    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = network(nn.BatchNorm2d(6))
            self.seen: list[Any] = []
            self.validated: list[Tensor] = []

        def forward(self, images: Tensor) -> Tensor:
            return self.model(images)

        def training_step(self, batch: Any, index: int) -> Tensor:
            self.seen.append(batch)
            images, targets = batch.values() if isinstance(batch, dict) else batch
            return F.cross_entropy(self(images).float(), targets)

        def validation_step(self, batch: Any, index: int) -> None:
            self.validated.append(
                next(iter(batch.values())) if isinstance(batch, dict) else batch[0]
            )

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    torch.manual_seed(0)
    return Module()


def fit(lightning: ModuleType, module: Any, callback: Any, loader: Any, **options: Any) -> None:
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[callback], **options,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about few workers and the like
        trainer.fit(module, loader, loader)


def callback_of(lightning: ModuleType, *arguments: Any) -> Any:
    class Keep(KeepCallback, lightning.Callback):
        pass

    return Keep(*arguments)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_callback_changes_what_lightning_trains_on(precision: str) -> None:
    lightning = library("lightning")
    module, precisions = lightning_module(lightning), []

    def logits(images: Tensor) -> Tensor:
        precisions.append(torch.is_autocast_enabled("cpu"))
        return module(images)

    keep = KeepCutout(logits, 4, generator=seeded())
    loader = DataLoader(Numbered(lambda image, number: (image, number)), batch_size=5)
    fit(lightning, module, callback_of(lightning, keep), loader, precision=precision)
    ((images, targets),) = module.seen
    assert targets.tolist() == [0, 1, 2, 3, 4]
    assert all((image == 0).any() and (image == 1).any() for image in images)
    assert all((images == 1).all() for images in module.validated) and module.validated
    assert precisions == [precision == "bf16-mixed"]  # the map costs what the step costs


def test_a_callback_may_mix_the_labels_of_a_dict() -> None:
    lightning = library("lightning")
    module = lightning_module(lightning)
    data = Numbered(lambda image, number: {"x": image * number, "y": number})
    loader = DataLoader(data, batch_size=5)
    fit(lightning, module, callback_of(lightning, mixed, "x", "y"), loader)
    (batch,) = module.seen
    assert batch["x"][:, 0, 0, 0].tolist() == [2.0, 0.5, 1.5, 2.5, 3.5]
    assert batch["y"][1].tolist() == [0.5, 0.5, 0, 0, 0]


def test_a_batch_that_cannot_be_changed_is_refused() -> None:
    lightning = library("lightning")
    callback = callback_of(lightning, zeroed)
    with pytest.raises(ValueError, match="must be a list or a dict.*found tuple"):
        callback.on_train_batch_start(None, None, (IMAGES, LABELS), 0)
    of_two_loaders = {"labelled": [IMAGES, LABELS], "others": [IMAGES, LABELS]}
    for batch in (of_two_loaders, [IMAGES]):
        with pytest.raises(ValueError, match="no images at 0 and labels at 1, its places are"):
            callback.on_train_batch_start(None, None, batch, 0)
    with pytest.raises(ValueError, match="no images at 'x' and labels at 1, its places are 0, 1"):
        callback_of(lightning, zeroed, "x").on_train_batch_start(None, None, [IMAGES, LABELS], 0)


# torchreid


@pytest.fixture
def persons(tmp_path: Path) -> Any:
    """torchreid's own data manager, on three noisy persons seen by two cameras."""
    torchreid = library("torchreid")
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    random.seed(0)
    files = []
    for person in range(3):
        for camera in range(2):
            path = tmp_path / f"{person}_{camera}.png"
            noise = torch.randint(256, (32, 16, 3), generator=seeded(person), dtype=torch.uint8)
            image.fromarray(noise.numpy()).save(path)
            files.append((str(path), person, camera))

    class Persons(torchreid.data.ImageDataset):
        def __init__(self, root: str = "", **options: Any) -> None:
            query, gallery = files[::2], files[1::2]
            super().__init__(files, query, gallery, **options)

    registered = importlib.import_module("torchreid.reid.data.datasets").__dict__
    registered["__image_datasets"]["noisy_persons"] = Persons
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield torchreid.data.ImageDataManager(
            root=str(tmp_path), sources="noisy_persons", height=32, width=16, use_gpu=False,
            batch_size_train=6, batch_size_test=6, workers=0, transforms=[],
            train_sampler="RandomSampler",
        )  # fmt: skip
    del registered["__image_datasets"]["noisy_persons"]


class Embedding(nn.Module):
    """As torchreid's models: (logits, features) or logits in training, features in evaluation."""

    def __init__(self, loss: str) -> None:
        super().__init__()
        self.loss = loss
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.Tanh())
        self.classifier = nn.Linear(6, 3)

    def forward(self, images: Tensor) -> Any:
        features = self.body(images).mean((2, 3))
        if not self.training:
            return features
        logits = self.classifier(features)
        return (logits, features) if self.loss == "triplet" else logits


@pytest.mark.parametrize("loss", ["softmax", "triplet"])
def test_an_engine_of_torchreid(loss: str, persons: Any, tmp_path: Path, capsys: Any) -> None:
    engines = library("torchreid").engine
    parent = engines.ImageTripletEngine if loss == "triplet" else engines.ImageSoftmaxEngine

    class Engine(KeepEngine, parent):  # type: ignore[misc, valid-type]
        pass

    model, seen = Embedding(loss), []
    model.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    logits = (lambda images: model(images)[0]) if loss == "triplet" else model
    calls = []
    keep = KeepRandomErasing(logits, p=1.0, fill=100.0, generator=seeded())

    def step(images: Tensor, labels: Tensor) -> Tensor:
        calls.append(labels)
        return keep(images, labels)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    engine = Engine(persons, model, optimizer, scheduler=scheduler, use_gpu=False, step=step)
    before = model.classifier.weight.detach().clone()
    engine.run(max_epoch=1, print_freq=1, save_dir=str(tmp_path), ranks=[1])
    assert len(calls) == 1 and set(calls[0].tolist()) <= {0, 1, 2}
    explained, trained, *evaluated = seen
    assert not (explained == 100).any()
    assert all((image == 100).any() for image in trained)
    assert evaluated and not any((images == 100).any() for images in evaluated)
    assert not torch.equal(model.classifier.weight, before)
    assert "acc" in capsys.readouterr().out


def test_torchreid_takes_no_mixed_persons(persons: Any) -> None:
    class Engine(KeepEngine, library("torchreid").engine.ImageSoftmaxEngine):  # type: ignore[misc, name-defined]
        pass

    model = Embedding("softmax")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    engine = Engine(persons, model, optimizer, use_gpu=False, step=mixed)
    with pytest.raises(ValueError, match="class weights.*take a step that cuts"):
        engine.parse_data_for_train({"img": IMAGES, "pid": LABELS})


# transformers


TRAINING_ARGUMENTS = "gradient_accumulation_steps", "label_smoothing_factor"


def hugging_face(tmp_path: Path, step: Any, **options: Any) -> tuple[Any, Any, list[Tensor]]:
    """A Trainer of a small ViT, the model, and the images that it gets to see."""
    problem = options.pop("problem_type", None)
    transformers = library("transformers")
    library("accelerate")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        image_size=8, patch_size=4, hidden_size=12, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=12, num_labels=NUM_CLASSES, problem_type=problem,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config)
    seen: list[Tensor] = []
    model.vit.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((args or tuple(kwargs.values()))[0].detach()),
        with_kwargs=True,
    )

    class Trainer(KeepTrainer, transformers.Trainer):  # type: ignore[misc, name-defined]
        pass

    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=1, use_cpu=True, report_to=[], save_strategy="no",
        per_device_train_batch_size=5, per_device_eval_batch_size=5, disable_tqdm=True,
        dataloader_pin_memory=False, logging_strategy="no",
        **{k: options.pop(k) for k in TRAINING_ARGUMENTS if k in options},
    )  # fmt: skip
    data = Numbered(lambda image, number: {"pixel_values": image, "labels": number})
    made = step(lambda images: model(pixel_values=images).logits)
    trainer = Trainer(model, arguments, train_dataset=data, eval_dataset=data, step=made, **options)
    return trainer, model, seen


@pytest.mark.filterwarnings("ignore")
def test_a_trainer_of_hugging_face(tmp_path: Path) -> None:
    def step(logits: Any) -> KeepCutout:
        return KeepCutout(logits, 4, border="inside", generator=seeded())

    trainer, model, seen = hugging_face(tmp_path, step)
    before = model.classifier.weight.detach().clone()
    trainer.train()
    explained, trained = seen
    assert (explained == 1).all()
    assert ((trained == 0).sum((1, 2, 3)) == 3 * 4 * 4).all()
    assert not torch.equal(model.classifier.weight, before)
    seen.clear()
    trainer.evaluate()
    assert all((images == 1).all() for images in seen) and seen


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("accumulation", [1, 2])
def test_mixed_labels_of_hugging_face(tmp_path: Path, accumulation: int) -> None:
    trainer, model, _ = hugging_face(
        tmp_path, lambda logits: mixed, compute_loss_func=mixed_loss,
        gradient_accumulation_steps=accumulation,
    )  # fmt: skip
    images, numbers = torch.ones(5, 3, 8, 8), torch.arange(5)
    model.train()
    expected = F.cross_entropy(model(pixel_values=images).logits, mixed(images, numbers)[1])
    inputs = {"pixel_values": images, "labels": numbers}
    loss = trainer.training_step(model, inputs, num_items_in_batch=torch.tensor(5 * accumulation))
    torch.testing.assert_close(loss, expected.detach() / accumulation)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("loss", [mixed_loss, None])
@pytest.mark.parametrize("step", [zeroed, mixed])
def test_label_smoothing_of_hugging_face(tmp_path: Path, step: Any, loss: Any) -> None:
    """By `mixed_loss` or by the Trainer's own, which knows no class weights."""
    trainer, model, _ = hugging_face(
        tmp_path, lambda logits: step, compute_loss_func=loss, label_smoothing_factor=0.2
    )
    images, numbers = torch.ones(5, 3, 8, 8), torch.arange(5)
    images[2:] = 0.5
    inputs = {"pixel_values": images, "labels": numbers}
    model.train()
    if step is mixed and loss is None:
        with pytest.raises(ValueError, match="compute_loss_func=mixed_loss"):
            trainer.compute_loss(model, inputs)
        return
    changed, targets = run_step(step, images, numbers)
    logits = model(pixel_values=changed).logits
    expected = F.cross_entropy(logits, targets, label_smoothing=0.2)
    torch.testing.assert_close(trainer.compute_loss(model, inputs), expected)
    total = trainer.compute_loss(model, inputs, num_items_in_batch=torch.tensor(10))
    torch.testing.assert_close(total, expected / 2)


@pytest.mark.filterwarnings("ignore")
def test_losses_that_would_be_dropped_are_refused(tmp_path: Path) -> None:
    def own(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        return F.cross_entropy(outputs["logits"], labels)

    options: dict[str, Any] = {"tmp_path": tmp_path, "step": lambda logits: mixed}
    hugging_face(**options, compute_loss_func=own)
    with pytest.raises(ValueError, match="label_smoothing_factor=0.2 reaches no compute_loss_func"):
        hugging_face(**options, compute_loss_func=own, label_smoothing_factor=0.2)
    problem = "multi_label_classification"
    with pytest.raises(ValueError, match=f"problem_type is '{problem}'"):
        hugging_face(**options, compute_loss_func=mixed_loss, problem_type=problem)


@pytest.mark.filterwarnings("ignore")
def test_mixed_labels_need_their_loss(tmp_path: Path) -> None:
    trainer, _, _ = hugging_face(tmp_path, lambda logits: mixed)
    with pytest.raises(ValueError, match="compute_loss_func=mixed_loss"):
        trainer.train()


def test_targets_of_a_detector_of_hugging_face_pass() -> None:
    class Base:
        compute_loss_func, model = None, None
        args = SimpleNamespace(label_smoothing_factor=0.0)

        def compute_loss(self, model: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
            return inputs

    class Trainer(KeepTrainer, Base):
        pass

    boxes = [{"boxes": torch.tensor([[0.0, 0, 4, 4]])}] * 4
    trainer = Trainer(step=KeepCutout(saliency=BoxSaliency(), size=2, tau=0.0, border="inside"))
    seen = trainer.compute_loss(
        network(), {"pixel_values": torch.ones(4, 3, 8, 8), "labels": boxes}
    )
    assert seen["labels"] is boxes
    assert (seen["pixel_values"] == 0).sum() == 4 * 3 * 4
    assert (seen["pixel_values"][:, :, :4, :4] == 1).all()


def test_the_loss_of_weights_and_of_labels() -> None:
    outputs, weights = {"logits": randn(4, NUM_CLASSES)}, F.one_hot(LABELS, NUM_CLASSES).float()
    expected = F.cross_entropy(outputs["logits"], LABELS)
    torch.testing.assert_close(mixed_loss(outputs, weights), expected)
    torch.testing.assert_close(mixed_loss(outputs, LABELS), expected)
    torch.testing.assert_close(mixed_loss(outputs, weights, 8), expected / 2)


def test_the_step_around_a_paste_that_the_docstring_shows() -> None:
    """It gets the very pixels back, for the policy."""
    code = re.search(r"    def step.*?\n\n", adapters.__doc__, re.DOTALL)[0]
    mean, std = (
        torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.5, 0.225))
    )
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, -1, -1)
    seen = []

    def policy(images: Tensor) -> Tensor:
        seen.append(images)
        return RandAugment()(images)

    paste = KeepPaste(network(), 4)
    names = {"torch": torch, "paste": paste, "policy": policy, "mean": mean, "std": std}
    exec(textwrap.dedent(code), names)
    images = (pixels / 255 - mean) / std
    assert names["step"](images, labels(2)).shape == images.shape
    assert torch.equal(seen[0], pixels)
