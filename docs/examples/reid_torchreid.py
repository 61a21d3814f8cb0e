"""An engine of torchreid, on drawn persons: python reid_torchreid.py."""

import tempfile
from pathlib import Path

import torch
import torchreid
from PIL import Image

from keepaugment import KeepRandomErasing, adapters  # keep


def drawn_persons(folder: Path) -> list[tuple[str, int, int]]:
    """Eight persons, seen by two cameras: (file, person, camera)."""
    generator = torch.Generator().manual_seed(0)
    files = []
    for person in range(8):
        colour = torch.randint(80, 256, (2, 1, 1, 3), generator=generator).byte()
        for camera in range(2):
            pixels = torch.randint(0, 80, (64, 32, 3), generator=generator).byte()
            pixels[12:36, 8:24], pixels[36:60, 10:22] = colour
            files.append((str(folder / f"{person}_{camera}.png"), person, camera))
            Image.fromarray(pixels.numpy()).save(files[-1][0])
    return files


class Drawn(torchreid.data.ImageDataset):
    def __init__(self, root: str = "", **options) -> None:
        files = drawn_persons(Path(root))
        super().__init__(files, files[::2], files[1::2], **options)


class Engine(
    adapters.KeepEngine,  # keep
    torchreid.engine.ImageSoftmaxEngine,
):
    pass


def main(folder: str) -> None:
    torch.manual_seed(0)
    torchreid.data.register_image_dataset("drawn", Drawn)
    data = torchreid.data.ImageDataManager(
        folder, "drawn", height=64, width=32, batch_size_train=8, batch_size_test=8, workers=0,
        transforms=[], use_gpu=False,
    )  # fmt: skip
    model = torchreid.models.build_model("osnet_x0_25", data.num_train_pids, pretrained=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    engine = Engine(
        data, model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 1), use_gpu=False,
        step=KeepRandomErasing(model),  # keep
    )  # fmt: skip
    engine.run(folder, max_epoch=1, print_freq=1, ranks=[1])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(temporary)
