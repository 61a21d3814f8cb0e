"""The network of Bag of Tricks: a residual network, the mean over pixels, BNNeck, a classifier.

Luo et al., CVPRW 2019, arXiv:1903.07071; `modeling/baseline.py` of reid-strong-baseline.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from urllib.error import URLError

import timm
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import ResNet

from keepbench import weights as files
from keepbench.settings import nearest
from keepbench.weights import Weights
from reid.config import ARCHS


class Output(NamedTuple):
    """The network's output.

    Attributes:
        logits: (B, K), of the people to train on.
        raw: (B, D), the feature that triplet and centre loss see.
        feature: (B, D), the feature that people are compared by, after the neck if there is one.
    """

    logits: Tensor
    raw: Tensor
    feature: Tensor


class ReidModel(nn.Module):
    """Images (B, 3, H, W) to an `Output`, the same in training and evaluation.

    Args:
        arch: one of `reid.config.ARCHS`.
        num_classes: people to train on.
        last_stride: stride of the last stage.
        stem_relu: activation after the stem's normalisation; Bag of Tricks' code has none.
        neck: BNNeck, a batch normalisation whose shift stays 0, before a classifier without bias.
    """

    def __init__(
        self,
        arch: str,
        num_classes: int,
        *,
        last_stride: int = 1,
        stem_relu: bool = False,
        neck: bool = True,
    ) -> None:
        super().__init__()
        if arch not in ARCHS:
            raise ValueError(f"no backbone {arch!r}{nearest(arch, ARCHS)}")
        self.backbone: ResNet = torchvision.models.get_model(arch, weights=None)
        width = self.backbone.fc.in_features
        self.backbone.fc = nn.Identity()
        set_last_stride(self.backbone, last_stride)
        if not stem_relu:
            self.backbone.relu = nn.Identity()
        self.neck: nn.Module = nn.BatchNorm1d(width) if neck else nn.Identity()
        self.classifier = nn.Linear(width, num_classes, bias=not neck)
        if isinstance(self.neck, nn.BatchNorm1d):
            self.neck.bias.requires_grad_(False)
            nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(self, images: Tensor) -> Output:
        """Logits and both features."""
        raw = self.backbone(images)
        feature = self.neck(raw)
        return Output(self.classifier(feature), raw, feature)

    def logits(self, images: Tensor) -> Tensor:
        """Logits (B, K) alone: what a saliency map is taken of."""
        return self(images).logits


def set_last_stride(network: ResNet, stride: int) -> None:
    """Give the last stage of a torchvision ResNet a stride, without new parameters."""
    first = network.layer4[0]
    strided = first.conv2 if hasattr(first, "conv3") else first.conv1
    strided.stride = first.downsample[0].stride = (stride, stride)


def read_weights(source: str, arch: str, *, download: bool = False) -> Weights:
    """A backbone's pretrained weights, by the names of torchvision's ResNet.

    Args:
        source: "torchvision" (ImageNet V1, as Bag of Tricks), "timm:NAME" for timm's of that name
            (`timm:resnet50.a1_in1k`), or the file of a state dict or of a checkpoint of one of our
            classification runs, whose averaged weights are taken if it has them.
        arch: the backbone's name.
        download: fetch torchvision's or timm's if they are not here.

    Raises:
        ValueError: They cannot be had.
    """
    if source == "torchvision":
        weights = torchvision.models.get_model_weights(arch)["IMAGENET1K_V1"]
        here = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
        if not (download or here.is_file()):
            raise _not_here(f"torchvision's weights of {arch}")
        try:
            return Weights("", weights.get_state_dict(progress=False, check_hash=True))
        except (OSError, URLError, RuntimeError) as error:
            raise _unreachable(f"torchvision's weights of {arch}", error) from None
    if source.startswith("timm:"):
        name = source.removeprefix("timm:")
        if not download:  # timm's cache does not tell what it holds
            raise _not_here(f"timm's {name}, in its cache or beyond,")
        try:
            return Weights("", timm.create_model(name, pretrained=True).state_dict())
        except Exception as error:  # huggingface_hub raises many kinds
            raise _unreachable(f"timm's {name}", error) from None
    return files.read_weights(Path(source).expanduser())


def _not_here(what: str) -> ValueError:
    return ValueError(f"{what} need --download; or give --weights FILE or --weights none")


def _unreachable(what: str, error: Exception) -> ValueError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ValueError(f"{what} cannot be had ({reason}); give --weights FILE or --weights none")


def load_backbone(model: ReidModel, weights: Weights) -> None:
    """Put pretrained weights into the backbone, their classifier left out.

    Raises:
        ValueError: A weight is missing, has another shape, or has no place.
    """
    given = {name: value for name, value in weights.tensors.items() if not name.startswith("fc.")}
    try:
        files.load_weights(model.backbone, Weights("", given))
    except ValueError as error:
        raise ValueError(
            f"the weights are not the backbone's: {error}; is --arch the network they were trained "
            "in, at ImageNet's size?"
        ) from None
