"""The model, the loss and the learning rate of a config."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from fvcore.common.param_scheduler import CosineParamScheduler, ParamScheduler
from timm.loss import BinaryCrossEntropy
from timm.optim import list_optimizers
from torch import Tensor, nn

from classification.comparisons import add_dropblock, check_regularised, regularisers
from classification.config import Config
from classification.importance import Teacher
from classification.models import check_arch, check_weights, create_model
from keepaugment import SampleDraws
from keepaugment.early_head import find_layer
from keepbench.rates import tenths, warmed_up
from keepbench.settings import nearest
from keepbench.starting import classifiers_of, first_layers

Criterion = Callable[[Tensor, Tensor], Tensor]


def learning_rate(config: Config, step: int, steps: int) -> float:
    """The learning rate of a step of the whole run.

    A linear warm-up from a hundredth, then half a cosine to 0 without restarts (Loshchilov and
    Hutter, 2016), or a tenth after each quarter of the epochs (CutMix's code at 300 epochs).
    "torchvision" is the cosine, changed between epochs only. So is "timm", whose cosine includes
    the warm-up and whose ends are 1/80 and 1/8000 (1e-4 and 1e-6 in ResNet strikes back's A3).

    Args:
        config: the run's settings.
        step: from 0, over all epochs.
        steps: of an epoch.
    """
    warmup, start, rescaled = config.warmup / config.epochs, 0.01, True
    if config.schedule in ("torchvision", "timm"):
        step -= step % steps
    main: ParamScheduler = CosineParamScheduler(1.0, 0.0)
    if config.schedule == "timm":
        main, start, rescaled = CosineParamScheduler(1.0, 1 / 8000), 1 / 80, False
    elif config.schedule == "step":
        quarters = [round(share * config.epochs) for share in (0.25, 0.5, 0.75)]
        main, rescaled = tenths(quarters, config.epochs), False
    schedule = warmed_up(main, warmup, start, rescaled=rescaled)
    return config.lr * schedule(step / (config.epochs * steps))


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
        model = create_model(
            config.arch, num_classes, in_chans=channels, download=config.download, **options
        )
    except TypeError as error:
        raise ValueError(f"{config.arch} does not take {options}: {error}") from None
    check_regularised(model, regularisers(named))
    if not config.zero_init_last:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d) and not module.weight.any():
                nn.init.ones_(module.weight)
    for parameter in frozen_part(config, model, num_classes)[0]:
        parameter.requires_grad_(False)
    if config.regulariser == "dropblock":
        add_dropblock(model)
    return model


def frozen_part(
    config: Config, model: nn.Module, num_classes: int
) -> tuple[list[nn.Parameter], list[nn.Module]]:
    """The parameters and layers that stay as the initial weights have them, statistics and all.

    Raises:
        ValueError: The model has no layer of the name, or nothing would be left to train.
    """
    if not config.frozen:
        return [], []
    find_layer(model, config.frozen)
    parameters, layers = first_layers(model, config.frozen)
    new = [model.get_submodule(name) for name in classifiers_of(model, num_classes)]
    if frozen := {*parameters} & {p for layer in new for p in layer.parameters()}:
        raise ValueError(
            f"frozen={config.frozen} holds {len(frozen)} weights of the new classifier, which has "
            "to learn; name an earlier stage"
        )
    return parameters, layers


def check_names(config: Config, *, goes_on: bool = False) -> None:
    """Raise ValueError for a model, optimiser or stage that is not there, before data are read.

    Args:
        config: of the run.
        goes_on: from a checkpoint, so it needs no weights to begin with.
    """
    check_arch(config.arch, download=config.download)
    if not goes_on:
        check_weights(config.weights, config.arch, download=config.download)
        if config.keep and isinstance(config.keep.map, Teacher):
            config.keep.map.check_teacher(config)
    if config.policy:  # a transform of the user's own may not be there
        config.policy.build((0.5,) * 3, SampleDraws(0))
    known = list(map(str, list_optimizers()))
    if config.optimizer != "sgd" and config.optimizer not in known:
        raise ValueError(f"no optimizer {config.optimizer!r}{nearest(config.optimizer, known)}")
    if config.early_head or config.frozen:
        try:
            with torch.device("meta"):
                model = make_model(config, 10, 3)
        except (NotImplementedError, RuntimeError):  # a model that computes with its weights
            return
        if config.early_head:
            find_layer(model, config.early_head)
