"""What rounding may do to the pixels of an operation, and torchvision rounded in several ways.

torchvision finds the source of a pixel by a matrix product in 32 bits, and each processor's library
adds its terms as it likes. So pixels are compared but for those on the border between two values.
"""

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, _functional_tensor, autoaugment, v2

from keeppolicies.operations import OPERATIONS

SHARED = OPERATIONS[:15]  # the operations that torchvision has too
GEOMETRIC = OPERATIONS[1:6]
TORCHVISION = {name: name.title().replace("_", "") for name in SHARED}
TORCHVISION["autocontrast"] = "AutoContrast"
MARGIN = 1e-3  # pixels, or grey levels
WAYS = ("as here", "in 64 bits", "fused", "v2")
CASES = [  # what a grid does not need is not rounded with it
    (name, way) for name in SHARED for way in (WAYS if name in GEOMETRIC else (WAYS[0], WAYS[3]))
]


def round_grids(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have torchvision's first transforms compute their grids otherwise."""

    def grid(theta: Tensor, w: int, h: int, ow: int, oh: int) -> Tensor:
        x = torch.arange(ow).expand(oh, ow) + 0.5 - ow * 0.5
        y = torch.arange(oh)[:, None].expand(oh, ow) + 0.5 - oh * 0.5
        weights = (theta / torch.tensor([[0.5 * w], [0.5 * h]])).double()
        total = torch.zeros(1, oh, ow, 2, dtype=torch.float64)
        for weight, place in zip(weights.unbind(2), (x, y, torch.ones(oh, ow)), strict=True):
            total += weight * place[None, :, :, None]
            total = total.float().double() if way == "fused" else total  # each sum, no product
        return total.float()

    if way in ("in 64 bits", "fused"):
        monkeypatch.setattr(_functional_tensor, "_gen_affine_grid", grid)


def torchvisions(
    image: Tensor, name: str, magnitude: float, fill: list[float] | None = None, way: str = ""
) -> Tensor:
    """An operation on an image (C, H, W) by torchvision's first transforms or its second ones."""
    nearest, magnitude = InterpolationMode.NEAREST, float(magnitude)
    if way != "v2":
        return autoaugment._apply_op(image, TORCHVISION[name], magnitude, nearest, fill)
    magnitude /= 255 if name == "solarize" else 1
    return v2.RandAugment()._apply_image_or_video_transform(
        image, TORCHVISION[name], magnitude, nearest, {Tensor: fill}
    )


def sources(name: str, magnitude: float, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Where the middle of each pixel comes from: columns and rows (H, W), from the corner."""
    x, y = (torch.arange(n, dtype=torch.float64) + 0.5 for n in (width, height))
    x, y = x.expand(height, width), y[:, None].expand(height, width)
    if name == "rotate":
        angle = torch.as_tensor(magnitude).double().deg2rad()
        cosine, sine, right, down = angle.cos(), angle.sin(), x - width / 2, y - height / 2
        moved_x, moved_y = cosine * right - sine * down, sine * right + cosine * down
        return moved_x + width / 2, moved_y + height / 2
    moved = {
        "shear_x": (x + magnitude * y, y),
        "shear_y": (x, y + magnitude * x),
        "translate_x": (x - magnitude, y),
        "translate_y": (x, y - magnitude),
    }
    return moved[name]


def values(image: Tensor, name: str, magnitude: float) -> list[Tensor]:
    """What an operation truncates, (1 or C, H, W) each: grey levels, then blended ones."""
    pixels, found = image.double(), []
    degenerate = {"brightness": torch.zeros(1)}
    if name in ("color", "contrast"):
        weights = torch.tensor([0.2989, 0.587, 0.114]).double()[:, None, None]
        grey = (weights * pixels).sum(0, keepdim=True) if len(image) == 3 else pixels
        found = [grey]
        degenerate = {"color": (grey + MARGIN).floor(), "contrast": grey.floor().mean()}
    if name == "sharpness":
        degenerate = {"sharpness": pixels.clone()}
        inner = degenerate["sharpness"][:, 1:-1, 1:-1]
        if inner.numel():
            box = torch.nn.functional.avg_pool2d(pixels, 3, stride=1) * 9
            inner.copy_(((box + 4 * inner) / 13).round())
    if name == "autocontrast":
        low, high = (f(pixels, (1, 2), keepdim=True) for f in (torch.amin, torch.amax))
        return [(pixels - low) * 255 / (high - low)]
    return [*found, (1 + magnitude) * pixels - magnitude * degenerate[name]]


def on_the_edge(name: str, magnitude: float, height: int, width: int) -> Tensor:
    """Pixels (H, W) whose source is so close to the image's edge that rounding decides."""
    if name not in GEOMETRIC:
        return torch.zeros(height, width, dtype=torch.bool)
    x, y = sources(name, magnitude, height, width)
    return (torch.stack((x, x - width, y, y - height)).abs() < MARGIN).any(0)


def undecided(image: Tensor, name: str, magnitude: float) -> Tensor:
    """Pixels of an image (C, H, W) that rounding decides: (C, H, W)."""
    if name in GEOMETRIC:
        places: list[Tensor] = [*sources(name, magnitude, *image.shape[1:])]
    elif name in ("brightness", "color", "contrast", "sharpness", "autocontrast"):
        places = values(image, name, magnitude)
    else:  # whole numbers all the way
        return torch.zeros_like(image, dtype=torch.bool)
    close = [((place - place.round()).abs() < MARGIN).expand(image.shape) for place in places]
    return torch.stack(close).any(0)


def assert_equal_up_to_rounding(
    found: Tensor, expected: Tensor, images: Tensor, name: str, magnitudes: Tensor
) -> None:
    """Assert that batches (B, C, H, W) differ nowhere but where rounding decides, and there little.

    A shear, translation or rotation may take the neighbouring pixel, of few; others differ by 1.
    """
    rows = zip(images, magnitudes.tolist(), strict=True)
    free = torch.stack([undecided(image, name, magnitude) for image, magnitude in rows])
    differs = found != expected
    assert not (differs & ~free).any(), name
    if name in GEOMETRIC:
        assert differs.float().mean() < 0.01, name
    else:
        assert (found.int() - expected.int()).abs().max() <= 1, name
