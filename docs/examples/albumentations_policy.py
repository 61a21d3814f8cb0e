"""Augmentations of albumentations in a loader's workers, and what matters pasted back on them.

    python albumentations_policy.py

Version 2.0 draws alike in all workers of a loader and in all epochs, unless its transforms stand in
`TwoViews`, which seeds them in each worker.
"""

import tempfile
from pathlib import Path

import albumentations as A
import numpy as np
import torch
import torch.nn.functional as F
from albumentations.pytorch import ToTensorV2
from example_data import MEAN, STD, write_digits
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.models import resnet18

from keepaugment import KeepPaste, adapters  # keep

GEOMETRIC = A.Compose([A.Pad(4), A.RandomCrop(32, 32), A.HorizontalFlip()])
POLICY = A.SomeOf([A.ColorJitter(p=1.0), A.Solarize(p=1.0), A.Affine(shear=(-15, 15), p=1.0)], n=2)
NORMALISE = A.Compose([A.Normalize([MEAN] * 3, [STD] * 3), ToTensorV2()])
PLAIN = A.Compose([GEOMETRIC, POLICY, NORMALISE])


def plain(image):  # a PIL image
    return PLAIN(image=np.asarray(image))["image"]


def main(folder: Path) -> None:
    torch.manual_seed(0)
    write_digits(folder)
    model = resnet18(num_classes=10)
    transform = plain
    transform, paste = adapters.TwoViews(GEOMETRIC, POLICY, NORMALISE), KeepPaste(model)  # keep
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
