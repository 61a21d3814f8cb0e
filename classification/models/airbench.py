"""The network of Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (arXiv 2404.00498).

Shape, initialisation and normalisation are those of https://github.com/KellerJordan/cifar10-airbench.
One thing differs: its first convolution is set to whiten patches of the training images and frozen;
ours is drawn and trained like the others, for a model knows no data when it is made.
"""

from __future__ import annotations

from torch import Tensor, nn

from classification.models.layers import chain, conv3x3


class Scaled(nn.Module):
    """Logits times a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return x * self.factor


def _conv(in_chans: int, out_chans: int) -> nn.Conv2d:
    """A 3x3 convolution whose first channels pass the input on."""
    conv = conv3x3(in_chans, out_chans)
    nn.init.dirac_(conv.weight[:in_chans].detach())
    return conv


def _norm(chans: int) -> nn.BatchNorm2d:
    """BatchNorm with a bias only, and quick statistics."""
    norm = nn.BatchNorm2d(chans, eps=1e-12, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm


def _group(in_chans: int, out_chans: int) -> nn.Sequential:
    """Map (B, in_chans, H, W) to (B, out_chans, H // 2, W // 2)."""
    return chain(
        conv1=_conv(in_chans, out_chans),
        pool=nn.MaxPool2d(2),
        norm1=_norm(out_chans),
        gelu1=nn.GELU(),
        conv2=_conv(out_chans, out_chans),
        norm2=_norm(out_chans),
        gelu2=nn.GELU(),
    )


def airbench(widths: tuple[int, int, int], num_classes: int, *, in_chans: int = 3) -> nn.Sequential:
    """Three groups of two convolutions; (64, 256, 256) are airbench94's channels.

    The model maps images (B, in_chans, H, W) of at least 17 pixels a side to logits
    (B, num_classes). Its last maximum is over all pixels, 3x3 of images of 32x32.
    """
    stem = nn.Conv2d(in_chans, 8 * in_chans, 2)  # as many as 2x2 patches have values, and negated
    nn.init.zeros_(stem.bias)  # type: ignore[arg-type]
    chans = (8 * in_chans, *widths)
    return chain(
        stem=stem,
        gelu=nn.GELU(),
        **{f"layer{n + 1}": _group(chans[n], chans[n + 1]) for n in range(3)},
        pool=nn.AdaptiveMaxPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(widths[2], num_classes, bias=False),
        scale=Scaled(1 / 9),
    )
