"""A loop in the form of torchvision's references/classification/train.py.

    python torchvision_references.py

There the third line goes into `train_one_epoch`, after both are on their device, the second before
the loop over batches; `--mixup-alpha`, `--cutmix-alpha` and `--random-erase` stay 0.
"""

import tempfile
from pathlib import Path

import torch
from example_data import write_digits
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.models import get_model
from torchvision.transforms import v2

from keepaugment import KeepCutMix  # keep


def train_one_epoch(model, criterion, optimizer, data_loader, device):
    model.train()
    keep = KeepCutMix(model, num_classes=len(data_loader.dataset.classes))  # keep
    for image, target in data_loader:
        image, target = image.to(device), target.to(device)
        image, target = keep(image, target)  # keep
        loss = criterion(model(image), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"loss {loss.item():.3f}")


def main(folder: Path) -> None:
    torch.manual_seed(0)
    write_digits(folder)
    transform = v2.Compose(
        [
            v2.PILToTensor(),
            v2.RandomCrop(32, padding=4),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.3,) * 3, (0.37,) * 3),
        ]
    )
    loader = DataLoader(ImageFolder(folder, transform), batch_size=32, shuffle=True)
    model = get_model("resnet18", num_classes=10)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    train_one_epoch(model, criterion, optimizer, loader, torch.device("cpu"))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary))
