"""Crop and flip on a batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from keepaugment.draws import Source, uniform
from keepaugment.stored import View


def draw_view(
    batch: int,
    device: torch.device,
    *,
    padding: int = 4,
    flip: bool = True,
    generator: Source = None,
) -> View:
    """Decide how images are cropped and flipped: a random crop of padded images, half mirrored.

    Args:
        batch: number of images.
        device: of the result.
        padding: pixels on every side, 0 for no crop.
        flip: mirror each image left to right with probability one half.
        generator: where random numbers come from.
    """
    u = uniform(generator, (batch, 3), device)
    top, left = ((u[:, :2] * (2 * padding + 1)).long() - padding).unbind(1)
    return View(top, left, (u[:, 2] < 0.5) & flip)


def show(images: Tensor, view: View, padding: int) -> Tensor:
    """Views of images (B, C, H, W) of any type, black beyond them: (B, C, H, W), new.

    `padding` is as much as a view reaches beyond an image, in pixels.
    """
    rows, columns = view.rows(images.shape[2]) + padding, view.columns(images.shape[3]) + padding
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    padded = F.pad(images, [padding] * 4)
    return padded[batch, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def _reflected(index: Tensor, length: int) -> Tensor:
    """Positions beyond an axis of `length` pixels, mirrored at its first or last pixel."""
    index = index.abs()
    return torch.where(index >= length, 2 * (length - 1) - index, index)


def reflect_crop(images: Tensor, view: View) -> Tensor:
    """Views of images (B, C, H, W) of any type, continued by reflection: (B, C, H, W), new.

    A view may reach at most H - 1 and W - 1 pixels beyond its image.
    """
    rows = _reflected(view.rows(images.shape[2]), images.shape[2])
    columns = _reflected(view.columns(images.shape[3]), images.shape[3])
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    views = images[batch, :, rows[:, :, None], columns[:, None, :]]
    return views.permute(0, 3, 1, 2).contiguous()
