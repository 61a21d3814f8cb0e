"""RandAugment of torchvision in a loader's workers, and what matters pasted back on it.

    python torchvision_policy.py

Any policy of its transforms v2 that leaves the size will do. Crops and flips stand apart, for both
views share them.
"""

import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from example_data import MEAN, STD, write_digits
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.models import resnet18
from torchvision.transforms import v2

from keepaugment import KeepPaste, adapters  # keep


def main(folder: Path) -> None:
    torch.manual_seed(0)
    write_digits(folder)
    model = resnet18(num_classes=10)
    geometric = v2.Compose([v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()])
    policy = v2.RandAugment()
    scale = v2.ToDtype(torch.float32, scale=True)
    normalise = v2.Compose([v2.ToImage(), scale, v2.Normalize([MEAN] * 3, [STD] * 3)])
    transform = v2.Compose([geometric, policy, normalise])
    transform, paste = adapters.TwoViews(geometric, policy, normalise), KeepPaste(model)  # keep
    dataset = ImageFolder(folder, transform)
    loader = DataLoader(dataset, batch_size=32, shuffle=True, num_workers=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for images, labels in loader:
        images = paste(*images, labels)  # keep
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"loss {loss.item():.3f}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary))
