"""RandAugment of timm in a loader's workers, and what matters pasted back on it.

    python timm_policy.py

timm's whole transform comes in these three parts, too, if it is asked to be separate:
`TwoViews(*create_transform(32, is_training=True, auto_augment="rand-m9-mstd0.5", separate=True))`.
"""

import tempfile
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from example_data import MEAN, STD, write_digits
from timm.data import RandomResizedCropAndInterpolation, create_dataset, rand_augment_transform
from torch.utils.data import DataLoader
from torchvision import transforms

from keepaugment import KeepPaste, adapters  # keep


def main(folder: Path) -> None:
    torch.manual_seed(0)
    write_digits(folder)
    model = timm.create_model("resnet18", num_classes=10)
    geometric = RandomResizedCropAndInterpolation(32, scale=(0.5, 1.0))
    policy = rand_augment_transform("rand-m9-mstd0.5", {})
    normalise = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize([MEAN] * 3, [STD] * 3)]
    )
    transform = transforms.Compose([geometric, policy, normalise])
    transform, paste = adapters.TwoViews(geometric, policy, normalise), KeepPaste(model)  # keep
    dataset = create_dataset("", folder, transform=transform)
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
