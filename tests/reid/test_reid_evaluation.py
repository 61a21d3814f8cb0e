from __future__ import annotations

import pytest
import torch
from torch import Tensor

from reid.evaluation import (
    SCORES,
    Seen,
    cosine_distances,
    nearest,
    ranked,
    reranked_distances,
    retrieval_scores,
)


def seen(people: list[int], cameras: list[int]) -> Seen:
    return Seen(torch.tensor(people), torch.tensor(cameras))


def random_case(seed: int, queries: int = 30, gallery: int = 80) -> tuple[Tensor, Seen, Seen]:
    generator = torch.Generator().manual_seed(seed)

    def who(number: int) -> Seen:
        return Seen(
            torch.randint(0, 12, (number,), generator=generator),
            torch.randint(0, 3, (number,), generator=generator),
        )

    distances = torch.rand(queries, gallery, generator=generator)
    return distances, who(queries), who(gallery)


# The gallery in order of distance to the query, person 1 by camera 1:
# wrong, the same camera, right, junk, wrong, right, so what counts is wrong, right, wrong, right.
DISTANCES = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]])
QUERY = seen([1], [1])
GALLERY = seen([2, 1, 1, -1, 0, 1], [1, 1, 2, 2, 3, 3])


def test_a_worked_example() -> None:
    scores = retrieval_scores([DISTANCES], QUERY, GALLERY)
    assert scores["rank1"] == 0 and scores["rank5"] == scores["rank10"] == 100
    # right at places 2 and 4: precisions 1/2 and 2/4; one place before they are 0 and 1/3
    assert scores["mAP"] == pytest.approx(100 * (1 / 2 + 2 / 4) / 2)
    assert scores["mAP_official"] == pytest.approx(
        100 * ((1 / 2 + 0) / 2 + (2 / 4 + 1 / 3) / 2) / 2
    )
    assert scores["mINP"] == pytest.approx(100 * 2 / 4)
    assert scores["queries"] == 1


def test_a_perfect_ranking_scores_everything() -> None:
    distances = (GALLERY.people != 1).float()[None]
    scores = retrieval_scores([distances], QUERY, GALLERY)
    assert all(scores[name] == 100 for name in SCORES)


def test_ranked_says_what_is_right_and_what_counts() -> None:
    order, right, counts = ranked(DISTANCES.flip(1), QUERY, Seen(*(v.flip(0) for v in GALLERY)))
    assert order.tolist() == [[5, 4, 3, 2, 1, 0]]
    assert right.tolist() == [[False, False, True, False, False, True]]
    assert counts.tolist() == [[True, False, True, False, True, True]]


def compute_ap(good: set[int], junk: set[int], order: list[int]) -> float:
    """Average precision as Market-1501's own code computes it, image by image."""
    old_recall, old_precision, ap, hits, place = 0.0, 1.0, 0.0, 0, 0
    for number in order:
        if number in junk:
            continue
        hits += number in good
        recall, precision = hits / len(good), hits / (place + 1)
        ap += (recall - old_recall) * (old_precision + precision) / 2
        old_recall, old_precision = recall, precision
        place += 1
        if hits == len(good):
            break
    return ap


@pytest.mark.parametrize("seed", range(3))
def test_the_official_rule_is_the_official_codes(seed: int) -> None:
    distances, query, gallery = random_case(seed)
    values = []
    for row, person, camera in zip(distances, *query, strict=True):
        same, by_it = gallery.people == person, gallery.cameras == camera
        good = {*(same & ~by_it).nonzero()[:, 0].tolist()}
        junk = {*(same & by_it).nonzero()[:, 0].tolist()}
        if good:
            values.append(compute_ap(good, junk, row.argsort().tolist()))
    scores = retrieval_scores([distances], query, gallery)
    assert scores["mAP_official"] == pytest.approx(100 * sum(values) / len(values))


@pytest.mark.parametrize("seed", range(3))
def test_it_agrees_with_torchreid(seed: int) -> None:
    pytest.importorskip("torchreid", reason="the comparison is with torchreid")
    from reid.torchreid_import import torchreid

    features = torch.randn(300, 16, generator=torch.Generator().manual_seed(seed))
    _, query, gallery = random_case(seed, 60, 240)
    distances = list(cosine_distances(features[:60], features[60:]))
    theirs = torchreid().metrics
    matrix = theirs.compute_distance_matrix(features[:60], features[60:], "cosine")
    torch.testing.assert_close(torch.cat(distances), matrix)
    cmc, mean_ap = theirs.evaluate_rank(
        matrix.numpy(), *(values.numpy() for values in (query.people, gallery.people)),
        *(values.numpy() for values in (query.cameras, gallery.cameras)), use_cython=False,
    )  # fmt: skip
    scores = retrieval_scores([matrix], query, gallery)  # of one matrix: rounding orders near ties
    assert scores["mAP"] == pytest.approx(100 * mean_ap, abs=1e-9)
    ranks = [scores[name] for name in ("rank1", "rank5", "rank10")]
    assert ranks == pytest.approx([100 * float(cmc[rank - 1]) for rank in (1, 5, 10)], abs=1e-4)


@pytest.mark.parametrize("size", [1, 7, 30])
def test_blocks_of_any_size_give_the_same(size: int) -> None:
    distances, query, gallery = random_case(0)
    whole = retrieval_scores([distances], query, gallery)
    assert retrieval_scores(distances.split(size), query, gallery) == pytest.approx(whole)


def test_a_query_without_an_answer_stays_out_of_the_means() -> None:
    two = seen([1, 9], [1, 1])
    scores = retrieval_scores([DISTANCES.expand(2, -1)], two, GALLERY)
    assert scores == retrieval_scores([DISTANCES], QUERY, GALLERY)
    with pytest.raises(ValueError, match="no query has a right answer"):
        retrieval_scores([DISTANCES], seen([9], [1]), GALLERY)


def test_junk_costs_nothing() -> None:
    without = [0, 2, 4, 5]
    fewer = Seen(*(values[without] for values in GALLERY))
    assert retrieval_scores([DISTANCES[:, without]], QUERY, fewer) == retrieval_scores(
        [DISTANCES], QUERY, GALLERY
    )


def test_reranking_helps_by_common_neighbours() -> None:
    pytest.importorskip("torchreid", reason="the re-ranking is torchreid's")
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(12, 8, generator=generator)
    who = torch.arange(360) % 12
    features = centres[who] + 1.1 * torch.randn(360, 8, generator=generator)
    query, gallery = Seen(who[:60], who[:60] * 0), Seen(who[60:], who[60:] * 0 + 1)
    plain = retrieval_scores(cosine_distances(features[:60], features[60:]), query, gallery)
    again = retrieval_scores(reranked_distances(features[:60], features[60:]), query, gallery)
    assert again["mAP"] > plain["mAP"] + 3


def test_the_nearest_leave_out_what_does_not_count() -> None:
    angles = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    features = torch.stack((angles.cos(), angles.sin()), dim=1)
    order, right = nearest(features[:1], features[1:], QUERY, GALLERY, 3)
    assert order.tolist() == [[0, 2, 4]]
    assert right.tolist() == [[False, True, False]]
