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
from keepaugment.draws import Source, draw_place, uniform
from keepaugment.regions import (
    Border,
    Boxes,
    Side,
    Spare,
    allowed_boxes,
    box_sums,
    candidate_boxes,
    cross,
)


def _same_size(boxes: Boxes, place: Tensor) -> Tensor:
    """Whether a candidate is as high and as wide as the one at `place` (B, 2): (B, P, Q)."""
    start, stop = boxes.edges
    sides = (stop - start).expand(len(place), -1, -1)
    return cross(sides == sides.gather(2, place[:, :, None]), boxes.places)


def _allowed(
    saliency: Tensor | None,
    images: Tensor,
    size: Size,
    side: Side,
    tau: float,
    border: Border,
    match_area: bool,
    spare: Spare | None,
    u: Tensor | None,
) -> tuple[Tensor | None, Boxes]:
    """`allowed_regions`, or None if every candidate is allowed."""
    image_size = (images.shape[2], images.shape[3])
    check_size(size := whole_size(size), len(images), image_size)
    check_tau(tau)
    boxes = candidate_boxes(size, image_size, border=border, device=images.device)
    candidate = boxes.fit()
    if spare is not None:
        allows = spare.allows(boxes)
        candidate = allows if candidate is None else candidate & allows
    if saliency is None:
        return candidate, boxes
    check_saliency(saliency, images)
    if match_area:
        if u is None:
            raise ValueError("match_area draws a size: pass its uniform numbers u (B,)")
        alike = _same_size(boxes, draw_place(boxes.places if candidate is None else candidate, u))
        candidate = alike if candidate is None else candidate & alike
    allowed = allowed_boxes(box_sums(saliency, boxes)[0], tau, side, candidate)
    if spare is not None and candidate is not None:
        allowed &= candidate  # there may be none
    return allowed, boxes


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
        (B, P, Q) bool and the candidates, which have `edges`.
    """
    allowed, boxes = _allowed(saliency, images, size, side, tau, border, match_area, spare, u)
    if allowed is None:
        allowed = torch.ones(1, *boxes.places, dtype=torch.bool, device=images.device)
    return allowed.expand(len(images), -1, -1), boxes


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
    allowed, boxes = _allowed(saliency, images, size, side, tau, border, match_area, spare, u[:, 1])
    place = draw_place(boxes.places if allowed is None else allowed, u[:, 0])
    mask = boxes.mask(place)
    if spare is None or allowed is None:
        return mask
    return mask & allowed.any(2).any(1)[:, None, None, None]


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
