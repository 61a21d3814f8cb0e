"""What the tests of the library share: small models with every habit, slow loops, fixed numbers."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

NUM_CLASSES = 5


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=seeded(seed))


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def labels(batch: int) -> Tensor:
    return torch.arange(batch) % NUM_CLASSES


# Random numbers that are not random


class Fixed:
    """A source of "random" numbers that hands out the given tensors, one per call."""

    def __init__(self, *numbers: Tensor) -> None:
        self.numbers = iter(numbers)

    def __call__(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        return next(self.numbers).expand(shape)


def grid(steps: int) -> Tensor:
    """The middles of `steps` equal parts of [0, 1): a draw from them all is uniform, exactly."""
    return (torch.arange(steps) + 0.5) / steps


# Boxes by loops


class Box(NamedTuple):
    top: int
    bottom: int
    left: int
    right: int

    @property
    def area(self) -> int:
        return (self.bottom - self.top) * (self.right - self.left)


def boxes_inside(size: tuple[int, int], image: tuple[int, int]) -> list[list[Box]]:
    """Every box wholly inside the image, by its top-left pixel."""
    (h, w), (height, width) = size, image
    return [
        [Box(top, top + h, left, left + w) for left in range(width - w + 1)]
        for top in range(height - h + 1)
    ]


def boxes_clipped(size: tuple[int, int], image: tuple[int, int]) -> list[list[Box]]:
    """Cutout's boxes: one around every pixel, without what lies outside the image."""
    (h, w), (height, width) = size, image

    def around(y: int, x: int) -> Box:
        top, left = y - h // 2, x - w // 2
        return Box(max(top, 0), min(top + h, height), max(left, 0), min(left + w, width))

    return [[around(y, x) for x in range(width)] for y in range(height)]


BOXES = {"inside": boxes_inside, "clip": boxes_clipped}


def score(saliency: Tensor, box: Box) -> float:
    """Equation 1 for one box of one map (H, W), pixel by pixel in double precision."""
    rows, columns = range(box.top, box.bottom), range(box.left, box.right)
    return sum(float(saliency[y, x]) for y, x in itertools.product(rows, columns))


def box_of(mask: Tensor) -> Box:
    """The one box that a mask (H, W) is true in."""
    y, x = mask.nonzero(as_tuple=True)
    box = Box(int(y.min()), int(y.max()) + 1, int(x.min()), int(x.max()) + 1)
    assert int(mask.sum()) == box.area, "not a rectangle"
    return box


# Models with every habit. Their images are (B, 3, 8, 8).


class PooledLinear(nn.Module):
    """The mean over some axes and a linear layer: how every network here ends."""

    def __init__(self, *axes: int) -> None:
        super().__init__()
        self.axes = axes
        self.fc = nn.Linear(6, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean(self.axes))


def conv() -> nn.Conv2d:
    return nn.Conv2d(3, 6, 3, padding=1)


def network(*middle: nn.Module) -> nn.Sequential:
    return nn.Sequential(conv(), *middle, nn.Tanh(), PooledLinear(2, 3))


class Residual(nn.Module):
    """x + path(x): how stochastic depth is used."""

    def __init__(self, *path: nn.Module) -> None:
        super().__init__()
        self.path = nn.Sequential(*path)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.path(x)


class RegularisedBlock(nn.Module):
    """Dropout as a function in the middle of a block, in all of its spellings."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(self.conv(x), 0.5, self.training)
        x = F.dropout(x, p=0.5, training=self.training)
        x = F.feature_alpha_dropout(F.alpha_dropout(x, 0.3, self.training), 0.3, self.training)
        x = F.rrelu(F.dropout2d(x, training=self.training), training=self.training)
        return torch.dropout(x, 0.5, self.training)


class NormalisingBlock(nn.Module):
    """Batch normalisation as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 1)
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("var", torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(self.conv(x), self.mean, self.var, training=self.training)


class ShakeShakeBlock(nn.Module):
    """Two branches, mixed at random in training and half and half in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        alpha = torch.rand(len(x), 1, 1, 1) if self.training else 0.5
        return x + alpha * self.left(x) + (1 - alpha) * self.right(x)


class NoisyBlock(nn.Module):
    """A block that draws from every generator while it trains, and does not say so by its name."""

    def __init__(self) -> None:
        super().__init__()
        self.path = nn.Conv2d(6, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        path = timm.layers.drop_path(self.path(x), 0.5, self.training)
        path = torchvision.ops.stochastic_depth(path, 0.5, "row", self.training)
        if self.training:
            path = path * random.random() * np.random.rand()
        return x + path


class ShakeDrop(nn.Module):
    """A layer without children that scales its input at random in training."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (torch.empty(len(x), 1, 1, 1).uniform_(-1, 1) if self.training else 0.75)


class Attention(nn.Module):
    """Self-attention over pixels with dropout inside, by a module and by the bare function."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, dropout=0.5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).mT
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        p = 0.5 if self.training else 0.0
        tokens = tokens + F.scaled_dot_product_attention(tokens, tokens, tokens, dropout_p=p)
        return tokens.mT.reshape(x.shape)


class FeaturesInEval(nn.Module):
    """Logits in training, features in evaluation, as every torchreid model."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(), nn.BatchNorm2d(6), nn.Dropout(), nn.Tanh())
        self.classifier = nn.Linear(6, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x).mean((2, 3))
        return self.classifier(features) if self.training else features

    def logits(self, x: Tensor) -> Tensor:
        return self.classifier(self.body(x).mean((2, 3)))


class Wrapper(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def frozen_norm() -> nn.Module:
    model = network(nn.BatchNorm2d(6), nn.BatchNorm2d(6))
    model[1].eval()
    return model


def frozen_parameters() -> nn.Module:
    model = network(nn.BatchNorm2d(6), nn.Dropout())
    model[0].requires_grad_(False)
    return model


def attention_layer() -> nn.Module:
    return nn.TransformerEncoderLayer(64, 2, 16, dropout=0.5, batch_first=True)


def timm_vit(image: int = 8) -> nn.Module:
    return timm.models.VisionTransformer(
        img_size=image,
        patch_size=4,
        embed_dim=12,
        depth=2,
        num_heads=2,
        num_classes=NUM_CLASSES,
        drop_rate=0.3,
        attn_drop_rate=0.3,
        proj_drop_rate=0.3,
        drop_path_rate=0.5,
    )


def torchvision_swin() -> nn.Module:
    return torchvision.models.SwinTransformer(
        patch_size=[2, 2],
        embed_dim=6,
        depths=[1, 1],
        num_heads=[1, 2],
        window_size=[2, 2],
        dropout=0.3,
        attention_dropout=0.3,
        stochastic_depth_prob=0.5,
        num_classes=NUM_CLASSES,
    )


MODELS: dict[str, Callable[[], nn.Module]] = {
    "batch norm": lambda: network(nn.BatchNorm2d(6)),
    "batch norm without statistics": lambda: network(nn.BatchNorm2d(6, track_running_stats=False)),
    "instance norm": lambda: network(nn.InstanceNorm2d(6, track_running_stats=True)),
    "functional batch norm": lambda: network(NormalisingBlock()),
    "dropout": lambda: network(nn.Dropout(), nn.Dropout2d(), nn.AlphaDropout(0.3), nn.RReLU()),
    "functional dropout": lambda: network(RegularisedBlock()),
    "timm DropPath": lambda: network(Residual(nn.Conv2d(6, 6, 1), timm.layers.DropPath(0.5))),
    "torchvision StochasticDepth": lambda: network(
        Residual(nn.Conv2d(6, 6, 1), torchvision.ops.StochasticDepth(0.5, "row"))
    ),
    "Shake-Shake": lambda: network(ShakeShakeBlock()),
    "noise in a block": lambda: network(NoisyBlock()),
    "ShakeDrop": lambda: network(Residual(nn.Conv2d(6, 6, 1), ShakeDrop())),
    "spectral norm": lambda: network(
        nn.utils.parametrizations.spectral_norm(nn.Conv2d(6, 6, 1), n_power_iterations=3)
    ),
    "attention": lambda: network(Attention()),
    "transformer layer": lambda: nn.Sequential(
        conv(), nn.Flatten(2), attention_layer(), PooledLinear(2)
    ),
    "features in eval": FeaturesInEval,
    "features in eval, wrapped": lambda: Wrapper(FeaturesInEval()),
    "frozen batch norm": frozen_norm,
    "frozen parameters": frozen_parameters,
    "timm ViT": timm_vit,
    "torchvision Swin": torchvision_swin,
}


def make(name: str) -> nn.Module:
    """A model of that name that has been training: its buffers are not those of the start."""
    torch.manual_seed(1)
    model = MODELS[name]()
    with torch.no_grad():
        for seed in range(3):
            model(1 + 2 * randn(8, 3, 8, 8, seed=seed))
    return model


def evaluating(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """A copy of the model in evaluation, down to the logits."""
    model = copy.deepcopy(model).eval()
    inner = model.model if isinstance(model, Wrapper) else model
    return inner.logits if isinstance(inner, FeaturesInEval) else model


def state(model: nn.Module) -> Iterator[object]:
    """Everything that a map must leave as it was, in a form that `==` compares bit by bit."""
    yield torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()
    for name, module in model.named_modules():
        yield name, module.training, sorted(vars(module)), list(module._forward_hooks)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        yield name, id(tensor), tensor.requires_grad, tensor.tolist()
        yield None if tensor.grad is None else (id(tensor.grad), tensor.grad.tolist())


class Mean(nn.Module):
    """The mean over all pixels and a linear layer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, 5)

    def forward(self, features: Tensor) -> Tensor:
        return self.fc(features.mean((2, 3)))


def blocks(number: int, channels: int = 3) -> nn.Module:
    """Equal blocks in a row."""
    torch.manual_seed(0)
    parts = [
        nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.Tanh()) for _ in range(number)
    ]
    return nn.Sequential(*parts, Mean(channels))
