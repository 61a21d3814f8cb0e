"""timm's models and loader on a folder of images; the same lines go into its `train.py`.

    python timm_training.py [FOLDER]
    torchrun --nproc_per_node 2 timm_training.py [FOLDER]

FOLDER holds a folder for each class; without one, digits are written into a temporary folder.
"""

import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import timm
import torch
from example_data import write_digits
from timm.data import create_dataset, create_loader
from timm.utils import init_distributed_device
from torch.nn.parallel import DistributedDataParallel

from keepaugment import KeepCutMix, adapters  # keep


def main(folder: Path) -> None:
    torch.manual_seed(0)
    arguments = SimpleNamespace(device="cpu")
    device = init_distributed_device(arguments)
    dataset = create_dataset("", folder)
    classes = len(dataset.reader.class_to_idx)
    model = timm.create_model("resnet18", num_classes=classes)
    if arguments.distributed:
        model = DistributedDataParallel(model)
    loader = create_loader(
        dataset, input_size=(3, 32, 32), batch_size=32, is_training=True, num_workers=0,
        use_prefetcher=False, distributed=arguments.distributed, device=device,
    )  # fmt: skip
    mix = adapters.KeepMixup(KeepCutMix(model, classes), classes)  # keep
    loader = adapters.KeepLoader(loader, mix)  # keep
    criterion = torch.nn.CrossEntropyLoss()  # takes class weights, too
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for images, targets in loader:
        loss = criterion(model(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"loss {loss.item():.3f}")
    if arguments.distributed:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        if not sys.argv[1:]:
            write_digits(Path(temporary))
        main(Path(sys.argv[1] if sys.argv[1:] else temporary))
