"""Maps without a pass of their own, from the gradients of earlier epochs.

python recycled_maps.py
"""

import torch
import torch.nn.functional as F
from example_data import digits
from torch.utils.data import DataLoader, StackDataset
from torchvision.models import resnet18

from keepaugment import KeepCutout, RecycledSaliency  # keep


def main() -> None:
    torch.manual_seed(0)
    dataset = digits(number=128)
    numbered = StackDataset(torch.arange(len(dataset)), dataset)
    loader = DataLoader(numbered, batch_size=64, shuffle=True)
    model = resnet18(num_classes=10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    recycled = RecycledSaliency(len(dataset), (32, 32))  # keep
    keep = KeepCutout(size=16, saliency=recycled)  # keep
    for _ in range(2):
        for index, (images, labels) in loader:
            recycled.at(index)  # keep
            images = keep(images, labels).requires_grad_()  # keep
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            recycled.take(images)  # keep
            optimizer.step()
    print(f"loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
