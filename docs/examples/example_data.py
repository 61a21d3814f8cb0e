"""What the examples train on: scikit-learn's handwritten digits, and drawn shapes with boxes."""

from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import TensorDataset
from torchvision.transforms.v2 import functional as F

MEAN, STD = 0.3, 0.37  # of the digits' pixels in [0, 1]


def digit_pixels(number: int = 256, size: int = 32) -> tuple[Tensor, Tensor]:
    """Digits (N, 3, size, size) as bytes, and their labels (N,)."""
    found = load_digits()
    small = torch.tensor(found.images[:number] / 16 * 255).byte()
    pixels = F.resize(small[:, None].expand(-1, 3, -1, -1), [size, size])
    return pixels, torch.tensor(found.target[:number])


def digits(number: int = 256, size: int = 32) -> TensorDataset:
    """Digits as networks take them, (3, size, size) and normalised, with their labels."""
    pixels, labels = digit_pixels(number, size)
    return TensorDataset((pixels / 255 - MEAN) / STD, labels)


def write_digits(folder: Path, number: int = 128) -> None:
    """A folder of images for each class, as ImageFolder reads it."""
    for index, (pixels, label) in enumerate(zip(*digit_pixels(number), strict=True)):
        path = folder / str(int(label)) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        F.to_pil_image(pixels).save(path)


def shapes(number: int = 16, size: int = 96) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Squares (class 1) and discs (2) on noise: images (3, S, S), boxes (2, 4) XYXY, classes (2,).

    Pixels are bytes.
    """
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    found = []
    for _ in range(number):
        image = torch.randint(0, 90, (3, size, size), generator=generator, dtype=torch.uint8)
        boxes = []
        for half in (0, size // 2):  # one on the left, one on the right
            side = int(torch.randint(size // 5, size // 2, (), generator=generator))
            top = int(torch.randint(0, size - side, (), generator=generator))
            left = half + int(torch.randint(0, size // 2 - side + 1, (), generator=generator))
            boxes.append([left, top, left + side, top + side])
            across, down = columns - left - side / 2, rows - top - side / 2
            inside = (across.abs() < side / 2) & (down.abs() < side / 2)
            if half:
                inside = across**2 + down**2 < (side / 2) ** 2
            image[1 if half else 0, inside] = 255
        found.append((image, torch.tensor(boxes, dtype=torch.float32), torch.tensor([1, 2])))
    return found
