"""Pictures of a Keep method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor


def tint(images: Tensor, allowed: Tensor) -> Tensor:
    """Colour images (B, C, H, W) uint8 green where `allowed` (B, H, W), else red with stripes."""
    green, red, dark = torch.tensor([[0.0, 160.0, 70.0], [200.0, 0.0, 60.0], [30.0, 0.0, 10.0]])
    height, width = images.shape[2:]
    period = max(4, round(width / 16))
    along = torch.arange(height)[:, None] + torch.arange(width)
    striped = (along % period < period / 4)[..., None]
    colour = torch.where(allowed[..., None], green, torch.where(striped, dark, red))
    colour = colour.permute(0, 3, 1, 2)
    return (0.6 * images.float().expand(-1, 3, -1, -1) + 0.4 * colour).byte()


def draw_panels(columns: Mapping[str, Tensor], names: Sequence[str]) -> Figure:
    """A row per image and a column per step of a method.

    Args:
        columns: by title, images (B, 1 or 3, H, W) uint8 or maps (B, H, W).
        names: of the B rows.

    Returns:
        The figure; `savefig` writes it.
    """
    height, width = next(iter(columns.values())).shape[-2:]
    panel = 1.6 * height / width
    figure = Figure(figsize=(1.6 * len(columns), panel * len(names) + 0.3), layout="constrained")
    axes = figure.subplots(len(names), len(columns), squeeze=False)
    for row, name in enumerate(names):
        for axis, (title, batch) in zip(axes[row], columns.items(), strict=True):
            if batch.ndim == 3:
                axis.imshow(batch[row], cmap="inferno")
            else:
                axis.imshow(batch[row].expand(3, -1, -1).permute(1, 2, 0))
            axis.set(xticks=[], yticks=[])
            if row == 0:
                axis.set_title(title, fontsize=8)
        axes[row][0].set_ylabel(name, fontsize=8)
    return figure
