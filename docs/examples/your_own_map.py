"""Importance of your own, here how much an image varies around each pixel.

python your_own_map.py
"""

import torch
import torch.nn.functional as F
from example_data import digits
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.models import resnet18

from keepaugment import KeepCutout  # keep


def contrast(images: Tensor, labels: Tensor | None) -> Tensor:
    """Standard deviation in 5 x 5 pixels: images (B, C, H, W) -> (B, H, W)."""
    grey = images.mean(1, keepdim=True)
    mean, square = (F.avg_pool2d(x, 5, 1, padding=2) for x in (grey, grey**2))
    return (square - mean**2).clamp(min=0).sqrt()[:, 0]


def main() -> None:
    torch.manual_seed(0)
    loader = DataLoader(digits(), batch_size=64, shuffle=True)
    model = resnet18(num_classes=10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    keep = KeepCutout(size=16, saliency=contrast)  # keep
    for images, labels in loader:
        images = keep(images, labels)  # keep
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
