"""Rectangles on a batch of images: their scores, the quantile of the scores, one box per image.

B = batch, (H, W) = image size, (P, Q) = candidate places, rows before columns everywhere.
Equation 1 and the Remark of KeepAugment (Gong et al., CVPR 2021, https://arxiv.org/abs/2011.11778).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from keepaugment.checks import Size, check_saliency, check_size, check_tau, whole_size

Border = Literal["inside", "clip"]
Side = Literal["low", "high"]

_NO_BOX = 2**63 - 1  # above all sums, as ~_NO_BOX is below them
_BITS = 40  # of a map's fixed point, fewer for images of more than 2**21 pixels
_EXPONENT = 0x7FF << 52  # where a float64 has its exponent
_MILLION = 1_000_000  # tau in whole millionths, so that ranks are integers


def pair(rows: int, columns: int, device: torch.device) -> int | Tensor:
    """Rows and columns, (2, 1), or the number of both; made there: a GPU waits for copies."""
    if rows == columns:
        return rows
    return torch.linspace(rows, columns, 2, dtype=torch.int64, device=device)[:, None]


def cross(axes: Tensor, shape: tuple[int, int]) -> Tensor:
    """Where both the row and the column, axes (B, 2, n) bool, are true: (B, *shape) bool."""
    rows = axes[:, 0, : shape[0], None].expand(-1, -1, shape[1])
    return rows.contiguous() & axes[:, 1, None, : shape[1]]  # a CPU is slow if it repeats both


@dataclass
class Boxes:
    """The candidates: a box of one size for each place of an image (see `candidate_boxes`)."""

    size: tuple[int, int] | Tensor
    image_size: tuple[int, int]
    border: Border
    device: torch.device
    _edges: tuple[Tensor, Tensor] | None = None

    @property
    def places(self) -> tuple[int, int]:
        """Rows P and columns Q of places."""
        if self.border == "clip" or isinstance(self.size, Tensor):
            return self.image_size
        return self.image_size[0] - self.size[0] + 1, self.image_size[1] - self.size[1] + 1

    def _span(self, place: Tensor) -> tuple[Tensor, Tensor]:
        size = self.size
        sides = size[:, :, None] if isinstance(size, Tensor) else pair(*size, self.device)
        start = place - sides // 2 if self.border == "clip" else place
        return start, start + sides

    @property
    def edges(self) -> tuple[Tensor, Tensor]:
        """First and past-the-last row (0) and column (1) of boxes, clipped: (1 or B, 2, n)."""
        if self._edges is None:
            place = torch.arange(max(self.places), device=self.device)
            start, stop = self._span(place.expand(1, 2, -1))
            stop = stop.clamp(max=pair(*self.image_size, self.device))
            self._edges = start.clamp(min=0), stop
        return self._edges

    def fit(self) -> Tensor | None:
        """Which boxes lie in the image, the others being no candidates: (B, P, Q); None: all."""
        if self.border == "clip" or not isinstance(self.size, Tensor):
            return None
        return cross(self.edges[1] - self.edges[0] == self.size[:, :, None], self.places)

    def mask(self, place: Tensor) -> Tensor:
        """True inside the box at `place` (B, 2) of each image: (B, 1, H, W)."""
        start, stop = self._span(place[:, :, None])
        pixel = torch.arange(max(self.image_size), device=self.device)
        return cross((pixel >= start) & (pixel < stop), self.image_size)[:, None]


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
        start, stop = (edge[:, None] for edge in boxes.edges)
        first, last = (corner.flip(2)[..., None] for corner in self.boxes.split(2, 2))
        covered = (torch.minimum(stop, last) - torch.maximum(start, first)).clamp(min=0)
        rows, columns = boxes.places
        allowed = covered.new_ones(len(covered), rows, columns, dtype=torch.bool)
        for n in range(covered.shape[1]):
            area = covered[:, n, 0, :rows, None] * covered[:, n, 1, None, :columns]
            allowed &= area <= self.limit[:, n, None, None]
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
    if not isinstance(size, Tensor):
        size = (size, size) if isinstance(size, int) else (size[0], size[1])
    return Boxes(size, image_size, border, device)


def _from(total: Tensor, axis: int, edges: int | Tensor, number: int) -> Tensor:
    """`number` entries of an axis from a first on; or those at `edges` (1 or B, n >= number)."""
    if isinstance(edges, int):
        return total.narrow(axis, edges, number)
    shape = [*total.shape]
    shape[axis] = number
    return total.gather(axis, edges[:, :number].unsqueeze(3 - axis).expand(shape))


def box_sums(saliency: Tensor, boxes: Boxes) -> tuple[Tensor, Tensor]:
    """Eq. 1 for candidate boxes: the sums of a map (B, H, W) in them.

    Integer sums are exact in any order: equal boxes tie, and a CPU and a GPU agree on every box.

    Returns:
        (B, P, Q) int64, of which a unit is a power of two, each image's own: (B, 1, 1) float64,
        negative for a map of zeros. Of a box beyond the border, what is in the image.
    """
    (height, width), size, clip = boxes.image_size, boxes.size, boxes.border == "clip"
    bits = min(_BITS, 62 - (height * width).bit_length())  # no sum reaches 2**62
    values, zeros = saliency.detach().float(), (1, 0, 1, 0)
    largest = values.abs().amax((1, 2), keepdim=True).double()
    unit = ((largest.view(torch.int64) & _EXPONENT) - ((bits - 1) << 52)).view(torch.float64)
    starts: Any = (0, 0)  # of windows that follow each other
    stops: Any = size
    if isinstance(size, Tensor):
        stops = boxes.edges[1].unbind(1)
        starts = boxes.edges[0].unbind(1) if clip else starts
    elif clip:  # with so many zeros around that none is clipped
        h, w = size
        zeros = (1 + w // 2, (w - 1) // 2, 1 + h // 2, (h - 1) // 2)
    sums = F.pad(values, zeros) / unit
    for axis in (1, 0):
        total, number = sums.cumsum(axis + 1, dtype=torch.int64), boxes.places[axis]
        start, stop = (_from(total, axis + 1, e[axis], number) for e in (starts, stops))
        sums = stop - start
    return sums, unit


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
    sums, unit = box_sums(saliency, boxes)
    scores, fit = (sums.float() * unit.abs()).float(), boxes.fit()
    return scores if fit is None else scores.masked_fill_(~fit, torch.nan)


def allowed_boxes(sums: Tensor, tau: float, side: Side, candidate: Tensor | None = None) -> Tensor:
    """The boxes at or below ("low") or at or above ("high") the tau-quantile of their own image.

    The quantile is exact, and never empty: the smallest sum is never above it, the largest never
    below it. Between two sums the quantile interpolates, so "low" ends at the sum of rank
    floor(tau (n - 1)) of the image's n candidates and "high" begins at ceil(tau (n - 1)).

    Args:
        sums: (B, P, Q) int64 of `box_sums`.
        tau: the quantile, in [0, 1], exact to a millionth.
        side: "low" for Selective-Cut, "high" for Selective-Paste.
        candidate: (B, P, Q) bool, at least one true per image; None: all.

    Returns:
        (B, P, Q) bool.
    """
    check_tau(tau)
    low, millionths = side == "low", round(tau * _MILLION)
    share = millionths if low else _MILLION - millionths  # on the allowed side, but for the limit
    most, ordered = (sums.shape[1] * sums.shape[2] - 1) * share // _MILLION, sums.flatten(1)
    if candidate is not None:
        # What is no candidate goes beyond the disallowed sums. Numbers beyond the allowed ones make
        # the limit's rank the same in all images, so that the host knows it: `most`.
        beyond = _NO_BOX if low else ~_NO_BOX
        sums = torch.where(candidate, sums, beyond)
        rank = (candidate.flatten(1).sum(1, keepdim=True) - 1) * share // _MILLION
        missing = (torch.arange(-most, 0, device=sums.device) + rank) >> 63  # -1, as many; then 0
        ordered = torch.cat((sums.flatten(1), missing ^ beyond), 1)
    allowed = ordered.topk(most + 1, largest=not low, sorted=False).values
    if low:
        return sums <= allowed.amax(1)[:, None, None]
    return sums >= allowed.amin(1)[:, None, None]
