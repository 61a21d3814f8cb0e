"""Rectangles on a batch of images: their scores, the quantile of the scores, one box per image.

B = batch, (H, W) = image size, (P, Q) = candidate positions, rows before columns everywhere.
Equation 1 and the Remark of KeepAugment (Gong et al., CVPR 2021, https://arxiv.org/abs/2011.11778).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from keepaugment.checks import Size, check_saliency, check_size, check_tau, readable, whole_size

Border = Literal["inside", "clip"]
Side = Literal["low", "high"]

NO_BOX = 2**63 - 1
"""The sum of a box that is no candidate: above all others."""
_BITS = 40  # of a map's fixed point, fewer for images of more than 2**21 pixels
_MILLION = 1_000_000  # tau in whole millionths, so that ranks are integers


class Boxes(NamedTuple):
    """Edges of the candidate boxes: rows [top, bottom), each (B or 1, P), columns (B or 1, Q)."""

    top: Tensor
    bottom: Tensor
    left: Tensor
    right: Tensor

    def select(self, index: Tensor) -> Boxes:
        """The box number `index` (B,) of the P x Q candidates, as edges (B, 1)."""
        row, column = index // self.left.shape[1], index % self.left.shape[1]

        def pick(edges: Tensor, position: Tensor) -> Tensor:
            return edges.expand(len(index), -1).gather(1, position[:, None])

        return Boxes(*(pick(e, row) for e in self[:2]), *(pick(e, column) for e in self[2:]))

    def mask(self, image_size: tuple[int, int]) -> Tensor:
        """True inside one selected box per image: (B, 1, H, W)."""
        y, x = (torch.arange(length, device=self.top.device) for length in image_size)
        rows = (y >= self.top) & (y < self.bottom)
        columns = (x >= self.left) & (x < self.right)
        return rows[:, None, :, None] & columns[:, None, None, :]


def _edges(
    side: int | Tensor, length: int, border: Border, device: torch.device
) -> tuple[Tensor, Tensor]:
    """First and past-the-last pixel of every candidate on one axis: (positions,) or (B, ...)."""
    if border == "clip":
        start = torch.arange(length, device=device) - side // 2
        return start.clamp(0, length), (start + side).clamp(0, length)
    last = length if isinstance(side, Tensor) else length - side + 1
    start = torch.arange(last, device=device)
    return start, start + side


class Spare(NamedTuple):
    """Objects of which no region may hide too many pixels.

    Attributes:
        boxes: (B, N, 4) int64, the pixels around each object: [left, right) and [top, bottom) as
            left, top, right, bottom.
        limit: (B, N) how many of them a region may cover.
    """

    boxes: Tensor
    limit: Tensor

    def allows(self, boxes: Boxes) -> Tensor:
        """Which candidate boxes cover no more: (B, P, Q) bool. One object at a time, for memory."""
        left, top, right, bottom = (edge[:, :, None] for edge in self.boxes.unbind(2))
        rows, columns = (
            (torch.minimum(stop[:, None], last) - torch.maximum(start[:, None], first)).clamp(min=0)
            for start, stop, first, last in (
                (boxes.top, boxes.bottom, top, bottom),
                (boxes.left, boxes.right, left, right),
            )
        )
        shape = (len(self.boxes), rows.shape[2], columns.shape[2])
        allowed = torch.ones(shape, dtype=torch.bool, device=rows.device)
        for n in range(rows.shape[1]):
            allowed &= rows[:, n, :, None] * columns[:, n, None] <= self.limit[:, n, None, None]
        return allowed


def candidate_boxes(
    size: Size, image_size: tuple[int, int], *, border: Border = "inside", device: torch.device
) -> Boxes:
    """Every place a box of `size` may take.

    `border="inside"`: the boxes wholly inside the image, P = H - h + 1 and Q = W - w + 1; with a
    size per image P = H and Q = W, and a box that reaches beyond the image is no candidate.
    `border="clip"`: Cutout's law, a box around every pixel, clipped at the border, P = H, Q = W.
    A centre c spans [c - h // 2, c - h // 2 + h).
    """
    if border not in ("inside", "clip"):
        raise ValueError(f"border must be 'inside' or 'clip', found {border!r}")
    height: int | Tensor
    width: int | Tensor
    if isinstance(size, Tensor):
        height, width = size[:, :1], size[:, 1:]
    else:
        height, width = (size, size) if isinstance(size, int) else size
    rows = _edges(height, image_size[0], border, device)
    columns = _edges(width, image_size[1], border, device)
    return Boxes(*(edges if edges.ndim == 2 else edges[None] for edges in (*rows, *columns)))


def _window_sums(values: Tensor, start: Tensor, stop: Tensor) -> Tensor:
    """Sums of values (B, N, L) over windows [start, stop), (1 or B, P), of axis 2: (B, N, P)."""
    total = F.pad(values.cumsum(2), (1, 0))
    shape = (*values.shape[:2], start.shape[1])
    stop = stop.clamp(max=values.shape[2])  # no candidate; its score becomes NaN
    return total.gather(2, stop[:, None].expand(shape)) - total.gather(
        2, start[:, None].expand(shape)
    )


def _scaled(values: Tensor, exponent: Tensor) -> Tensor:
    """Float `values` times 2 ** `exponent`, in place; in two steps: the power may be no float."""
    half = exponent // 2
    one = torch.ones_like(half, dtype=values.dtype)
    return values.mul_(torch.ldexp(one, half)).mul_(torch.ldexp(one, exponent - half))


def _sums(saliency: Tensor, boxes: Boxes) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of a map (B, H, W) in boxes, as whole multiples (B, P, Q) int64 of a power of two.

    Integer sums are exact in any order: equal boxes tie, and a CPU and a GPU agree on every box.

    Returns:
        The sums; the power's exponent (B, 1, 1); and which boxes lie in the image (1 or B, P, Q).
    """
    height, width = saliency.shape[1:]
    bits = min(_BITS, 62 - (height * width).bit_length())  # no sum reaches 2**62
    values = saliency.to(torch.float32, copy=True)
    exponent = torch.frexp(values.abs().amax((1, 2), keepdim=True)).exponent - bits
    sums = _window_sums(_scaled(values, -exponent).long(), boxes.left, boxes.right)
    sums = _window_sums(sums.transpose(1, 2), boxes.top, boxes.bottom).transpose(1, 2)
    fits = (boxes.bottom <= height)[:, :, None] & (boxes.right <= width)[:, None, :]
    return sums, exponent, fits


def box_sums(saliency: Tensor, boxes: Boxes) -> Tensor:
    """Eq. 1 for candidate boxes, to be compared within an image: (B, P, Q) int64.

    The unit is the image's own. `NO_BOX` where a box of a size per image reaches beyond the image.
    """
    sums, _, fits = _sums(saliency, boxes)
    return sums.masked_fill(~fits, NO_BOX)


def region_scores(saliency: Tensor, size: Size, *, border: Border = "inside") -> Tensor:
    """Eq. 1 for every candidate box: the sum of saliency inside it.

    Args:
        saliency: (B, H, W), finite.
        size: of the boxes, in pixels: an int, (h, w), or a (B, 2) tensor with a size per image.
        border: "inside" scores the boxes wholly inside the image, "clip" a box around every pixel,
            clipped at the border (Cutout's law).

    Returns:
        (B, H - h + 1, W - w + 1) by top-left pixel for "inside", (B, H, W) by centre for "clip",
        float32, infinite where a sum is beyond its range. A size per image with "inside" gives
        (B, H, W), NaN where the box does not fit.

    Raises:
        ValueError: A size that does not fit in the image, or a map that is not finite (B, H, W).
    """
    check_saliency(saliency)
    image_size = (saliency.shape[1], saliency.shape[2])
    check_size(size := whole_size(size), len(saliency), image_size)
    boxes = candidate_boxes(size, image_size, border=border, device=saliency.device)
    sums, exponent, fits = _sums(saliency, boxes)
    return _scaled(sums.float(), exponent).masked_fill_(~fits, torch.nan)


def _of_rank(sums: Tensor, rank: Tensor) -> Tensor:
    """The sum (B, 1) of `rank` (B, 1) among each image's sums (B, n)."""
    if readable(rank) and len(rank) and bool((rank == rank[0]).all()):
        return sums.kthvalue(int(rank[0]) + 1, dim=1, keepdim=True).values  # faster than sorting
    return sums.sort(dim=1).values.gather(1, rank)


def allowed_boxes(sums: Tensor, tau: float, side: Side) -> Tensor:
    """The boxes at or below ("low") or at or above ("high") the tau-quantile of their own image.

    The quantile is exact, and never empty: the smallest sum is never above it, the largest never
    below it. Between two sums the quantile interpolates, so "low" ends at the sum of rank
    floor(tau (n - 1)) of the image's n candidates and "high" begins at ceil(tau (n - 1)).

    Args:
        sums: (B, P, Q) int64 of `box_sums`; `NO_BOX` is no candidate.
        tau: the quantile, in [0, 1], exact to a millionth.
        side: "low" for Selective-Cut, "high" for Selective-Paste.

    Returns:
        (B, P, Q) bool.
    """
    check_tau(tau)
    candidate = sums != NO_BOX
    last = (candidate.flatten(1).sum(1, keepdim=True) - 1).clamp(min=0)
    millionths = last * round(tau * _MILLION)
    rank = millionths // _MILLION if side == "low" else -(-millionths // _MILLION)
    limit = _of_rank(sums.flatten(1), rank)[:, :, None]
    return candidate & (sums <= limit if side == "low" else sums >= limit)


def draw_index(allowed: Tensor, u: Tensor) -> Tensor:
    """One of the allowed candidates (B, P, Q) of each image, uniformly: its number, (B,) int64.

    Args:
        allowed: bool, at least one true per image.
        u: (B,) uniform numbers in [0, 1).
    """
    count = allowed.flatten(1).cumsum(1)
    rank = torch.minimum((u * count[:, -1]).long(), count[:, -1] - 1)
    return (count <= rank[:, None]).sum(1)
