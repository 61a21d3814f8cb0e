"""A loop of Hugging Face's accelerate: accelerate launch accelerate_loop.py, or python."""

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from example_data import digits
from torch.utils.data import DataLoader
from torchvision.models import resnet18

from keepaugment import KeepCutout  # keep


def main() -> None:
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True)
    model = resnet18(num_classes=10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    loader = DataLoader(digits(), batch_size=64, shuffle=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    keep = KeepCutout(model, size=16)  # keep
    for images, labels in loader:
        images = keep(images, labels)  # keep
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
    accelerator.print(f"loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
