"""How well a gallery is ranked: CMC, mean average precision by two rules, and mINP.

The protocol is Market-1501's, single query (Zheng et al., ICCV 2015): for each query the gallery is
ranked by distance; images of its person by its own camera, and junk (person -1), are taken out
first. Two rules of average precision are in use. The official code joins the points of the
precision-recall curve by straight lines (the trapezoid rule); most later code, torchreid's and Bag
of Tricks' included, takes the mean precision at the right answers (the common rule), whose figures
are a little higher or lower. mINP is from Ye et al., 2020, arXiv:2001.04193.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from reid.torchreid_import import torchreid

CHUNK = 256  # queries ranked at a time: some 300 MB in a gallery of 16,000
RANKS = (1, 5, 10)
SCORES = (*(f"rank{rank}" for rank in RANKS), "mAP", "mAP_official", "mINP")
JUNK = -1


class Seen(NamedTuple):
    """Who is in images, and who took them: both (N,) int64, on one device."""

    people: Tensor
    cameras: Tensor


def cosine_distances(query: Tensor, gallery: Tensor) -> Iterator[Tensor]:
    """1 - cosine between features (Q, D) and (G, D), as blocks (at most CHUNK, G) of its rows."""
    query, gallery = (F.normalize(features.float(), dim=1) for features in (query, gallery))
    for block in query.split(CHUNK):
        yield 1 - block @ gallery.T


def ranked(distances: Tensor, query: Seen, gallery: Seen) -> tuple[Tensor, Tensor, Tensor]:
    """The gallery in each query's order of distance.

    Args:
        distances: (Q, G).
        query: (Q,) of each.
        gallery: (G,) of each.

    Returns:
        (Q, G) numbers of gallery images, nearest first, equals in the gallery's order; whether each
        is a right answer; whether it counts at all.
    """
    order = distances.argsort(dim=1, stable=True)
    people, cameras = gallery.people[order], gallery.cameras[order]
    same = people == query.people[:, None]
    counts = ~(same & (cameras == query.cameras[:, None])) & (people != JUNK)
    return order, same & counts, counts


def _sums(right: Tensor, counts: Tensor) -> Tensor:
    """Sums over queries of what `retrieval_scores` averages, from `ranked`."""
    place = counts.cumsum(1)  # from 1, among what counts
    found = right.cumsum(1)
    number = found[:, -1]
    answered, number = number > 0, number.clamp(min=1)
    precision = found.double() / place.clamp(min=1)
    # where the curve stood one place before: 1 at its beginning, as in the official code
    before = torch.where(place > 1, (found - 1).double() / (place - 1).clamp(min=1), 1.0)
    first = torch.where(right, place, right.shape[1] + 1).amin(1)
    last = torch.where(right, place, 1).amax(1)
    values = [
        *(first <= rank for rank in RANKS),
        (precision * right).sum(1) / number,
        ((precision + before) / 2 * right).sum(1) / number,
        number.double() / last,
        torch.ones_like(answered),
    ]
    return torch.stack([(value.double() * answered).sum() for value in values])


def average_precisions(distances: Iterable[Tensor], query: Seen, gallery: Seen) -> Tensor:
    """The average precision of each query that has a right answer, whose mean is mAP: (n,) float64.

    Arguments as of `retrieval_scores`.
    """
    done, found = 0, []
    for block in distances:
        asked = Seen(*(values[done : done + len(block)] for values in query))
        _, right, counts = ranked(block, asked, gallery)
        number = right.sum(1)
        precision = right.cumsum(1).double() / counts.cumsum(1).clamp(min=1)
        found.append(((precision * right).sum(1) / number.clamp(min=1))[number > 0])
        done += len(block)
    return torch.cat(found)


@torch.no_grad()
def retrieval_scores(distances: Iterable[Tensor], query: Seen, gallery: Seen) -> dict[str, float]:
    """How well the gallery is ranked.

    Args:
        distances: blocks (any number, G) of the rows of the (Q, G) matrix, in order.
        query: who is in the Q queries.
        gallery: who is in the G images.

    Returns:
        "rank1", "rank5", "rank10", "mAP" (the common rule), "mAP_official" (the trapezoid rule) and
        "mINP", all in % and means over the queries that have a right answer; "queries", how many
        these are.

    Raises:
        ValueError: No query has a right answer.
    """
    total = torch.zeros(len(RANKS) + 4, dtype=torch.float64, device=gallery.people.device)
    done = 0
    for block in distances:
        asked = Seen(*(values[done : done + len(block)] for values in query))
        _, right, counts = ranked(block, asked, gallery)
        total += _sums(right, counts)
        done += len(block)
    *sums, queries = total.tolist()
    if not queries:
        raise ValueError("no query has a right answer by another camera in the gallery")
    means = {name: 100 * value / queries for name, value in zip(SCORES, sums, strict=True)}
    return {**means, "queries": queries}


def reranked_distances(query: Tensor, gallery: Tensor) -> Iterator[Tensor]:
    """k-reciprocal re-ranking (Zhong et al., CVPR 2017) with k1 20, k2 6, lambda 0.3, by torchreid.

    torchreid squares the distances it is given and Bag of Tricks gives squared ones to code that
    does not, so Euclidean distances of normalised features give the same. Needs memory and time
    with the square of all images: some 10 GB for Market-1501.
    """
    features = F.normalize(torch.cat((query, gallery)).float(), dim=1).cpu()
    matrix = (2 - 2 * features @ features.T).clamp(min=0).sqrt_().numpy()
    number = len(query)
    new = torchreid().utils.re_ranking(
        matrix[:number, number:], matrix[:number, :number], matrix[number:, number:]
    )
    for block in torch.from_numpy(new).split(CHUNK):
        yield block.to(gallery.device)


def nearest(
    query: Tensor, gallery: Tensor, asked: Seen, seen: Seen, number: int
) -> tuple[Tensor, Tensor]:
    """The nearest gallery images of each query that count, and whether they are right: (Q, n)."""
    parts = []
    for block, rows in zip(
        cosine_distances(query, gallery), torch.arange(len(query)).split(CHUNK), strict=True
    ):
        some = Seen(*(values[rows.to(values.device)] for values in asked))
        order, right, counts = ranked(block, some, seen)
        kept = (~counts).long().argsort(dim=1, stable=True)[:, :number]
        parts.append((order.gather(1, kept), right.gather(1, kept)))
    orders, rights = zip(*parts, strict=True)
    return torch.cat(orders), torch.cat(rights)
