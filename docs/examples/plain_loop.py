"""A loop of your own, on one process or on many.

python plain_loop.py
torchrun --nproc_per_node 2 plain_loop.py
"""

import os

import torch
import torch.distributed as dist
import torch.nn.functional as F
from example_data import digits
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, RandomSampler
from torchvision.models import resnet18

from keepaugment import KeepCutout  # keep


def main() -> None:
    torch.manual_seed(0)
    parallel = "RANK" in os.environ  # started by torchrun
    if parallel:
        dist.init_process_group("gloo")
    dataset = digits()
    sampler = DistributedSampler(dataset) if parallel else RandomSampler(dataset)
    loader = DataLoader(dataset, batch_size=64, sampler=sampler)
    model = resnet18(num_classes=10)
    if parallel:
        model = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    keep = KeepCutout(model, size=16)  # keep
    for images, labels in loader:
        images = keep(images, labels)  # keep
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"loss {loss.item():.3f}")
    if parallel:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
