"""Selective-Cut and Selective-Paste: Algorithm 1 of KeepAugment on a batch.

A region is drawn uniformly from the candidates on the right side of the tau-quantile of their
scores, all at once: what the paper's `repeat ... until` does, without the repetition. No map means
that every candidate is allowed: that is the plain method.
"""

from __future__ import annotations

import torch
from torch import Tensor

from keepaugment.checks import (
    Size,
    check_augmented,
    check_fill,
    check_images,
    check_saliency,
    check_size,
    check_tau,
    whole_size,
)
from keepaugment.draws import Source, uniform
from keepaugment.regions import (
    NO_BOX,
    Border,
    Boxes,
    Side,
    Spare,
    allowed_boxes,
    box_sums,
    candidate_boxes,
    draw_index,
)


def _same_size(boxes: Boxes, index: Tensor) -> Tensor:
    """Whether a candidate is as high and as wide as the one numbered `index` (B,): (B, P, Q)."""
    drawn = boxes.select(index)
    height = (boxes.bottom - boxes.top) == (drawn.bottom - drawn.top)
    width = (boxes.right - boxes.left) == (drawn.right - drawn.left)
    return height[:, :, None] & width[:, None, :]


def allowed_regions(
    saliency: Tensor | None,
    images: Tensor,
    size: Size,
    *,
    side: Side,
    tau: float = 0.6,
    border: Border = "inside",
    match_area: bool = False,
    spare: Spare | None = None,
    u: Tensor | None = None,
) -> tuple[Tensor, Boxes]:
    """Decide which boxes may be chosen: the candidates and, for each, whether it is allowed.

    Args:
        saliency: (B, H, W), or None to allow every candidate.
        images: (B, C, H, W); only their shape and device matter.
        size: of the box, as in `region_scores`.
        side: "low" allows scores at or below the tau-quantile, "high" at or above it.
        tau: the quantile.
        border: the candidates, as in `region_scores`.
        match_area: first draw a candidate regardless of the map, then allow only boxes of its
            clipped size, by the quantile among these. The cut area then follows exactly the plain
            method's law; otherwise sums favour the smaller boxes that the border clips.
        spare: objects: boxes that hide too much of one are no candidates. Then there may be none.
        u: (B,) uniform numbers for the draw of `match_area`.

    Returns:
        (B, P, Q) bool and the candidates' edges.
    """
    image_size = (images.shape[2], images.shape[3])
    check_size(size := whole_size(size), len(images), image_size)
    check_tau(tau)
    boxes = candidate_boxes(size, image_size, border=border, device=images.device)
    if saliency is None:
        rows, columns = boxes.bottom <= image_size[0], boxes.right <= image_size[1]
        fits = (rows[:, :, None] & columns[:, None, :]).expand(len(images), -1, -1)
        return (fits if spare is None else fits & spare.allows(boxes)), boxes
    check_saliency(saliency, images)
    sums = box_sums(saliency, boxes)
    if spare is not None:
        sums = sums.masked_fill(~spare.allows(boxes), NO_BOX)
    if match_area:
        if u is None:
            raise ValueError("match_area draws a size: pass its uniform numbers u (B,)")
        index = draw_index(sums != NO_BOX, u)
        sums = sums.masked_fill(~_same_size(boxes, index), NO_BOX)
    return allowed_boxes(sums, tau, side), boxes


def choose_region(
    saliency: Tensor | None,
    images: Tensor,
    size: Size,
    *,
    side: Side,
    tau: float = 0.6,
    border: Border = "inside",
    match_area: bool = False,
    spare: Spare | None = None,
    generator: Source = None,
) -> Tensor:
    """Draw one region per image, uniformly among its allowed boxes: a (B, 1, H, W) bool mask.

    The arguments are those of `allowed_regions`. Where `spare` leaves no box there is no region.
    """
    u = uniform(generator, (len(images), 2), images.device)
    allowed, boxes = allowed_regions(
        saliency,
        images,
        size,
        side=side,
        tau=tau,
        border=border,
        match_area=match_area,
        spare=spare,
        u=u[:, 1],
    )
    mask = boxes.select(draw_index(allowed, u[:, 0])).mask((images.shape[2], images.shape[3]))
    return mask if spare is None else mask & allowed.any(2).any(1)[:, None, None, None]


def selective_cut(
    images: Tensor,
    saliency: Tensor,
    *,
    size: Size,
    tau: float = 0.6,
    border: Border = "inside",
    fill: float | Tensor = 0.0,
    match_area: bool = False,
    generator: Source = None,
) -> Tensor:
    """Cut one region per image that is not important (Algorithm 1a, Eq. 2).

    Args:
        images: (B, C, H, W), floating point.
        saliency: (B, H, W), any scale.
        size: of the region, in pixels: an int, (h, w), or a (B, 2) tensor with a size per image.
        tau: the region's score is at or below this quantile of the scores of all candidates of its
            image; 1 cuts like the plain method.
        border: "inside", or "clip" for Cutout's law.
        fill: what the region becomes: a number or a tensor that broadcasts to the images.
        match_area: keep the plain method's law of the cut area (see `allowed_regions`).
        generator: where the draw comes from (see `keepaugment.draws.Source`).

    Returns:
        (B, C, H, W): new images.

    Raises:
        ValueError: A size that does not fit, a tau outside [0, 1], a map that is not finite or not
            of the images' shape, a fill that does not broadcast, integer images.
    """
    check_images(images)
    check_fill(fill, images)
    mask = choose_region(
        saliency,
        images,
        size,
        side="low",
        tau=tau,
        border=border,
        match_area=match_area,
        generator=generator,
    )
    fill = fill.to(images.dtype) if isinstance(fill, Tensor) else float(fill)
    return torch.where(~mask, images, fill)  # the first decides on the memory format


def selective_paste(
    images: Tensor,
    augmented: Tensor,
    saliency: Tensor,
    *,
    size: Size,
    tau: float = 0.6,
    generator: Source = None,
) -> Tensor:
    """Paste an important region of each image on its augmented version (Algorithm 1b, Eq. 3).

    Args:
        images: (B, C, H, W), floating point, what the map explains.
        augmented: (B, C, H, W), the same images augmented, in the same frame.
        saliency: (B, H, W), any scale.
        size: of the region, as in `selective_cut`; it lies wholly inside the image.
        tau: the region's score is at or above this quantile of the scores of all candidates of its
            image; 0 pastes a random region.
        generator: where the draw comes from.

    Returns:
        (B, C, H, W): new images.

    Raises:
        ValueError: As `selective_cut`, and if the two batches differ in shape or kind.
    """
    check_images(images)
    check_augmented(augmented, images)
    mask = choose_region(saliency, images, size, side="high", tau=tau, generator=generator)
    return torch.where(mask, images, augmented)
