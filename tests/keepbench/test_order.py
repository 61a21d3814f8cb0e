"""Which images a step trains on."""

from __future__ import annotations

import pytest
import torch

from keepbench.order import CHUNK, EpochBatches, Stream, even_subset, mixed_seed, seed_noise

CPU = torch.device("cpu")


def test_mixed_seeds_are_fixed_and_differ() -> None:
    assert mixed_seed(1, 2, 3) == mixed_seed(1, 2, 3)
    assert len({mixed_seed(a, b) for a in range(30) for b in range(30)}) == 900
    torch.Generator().manual_seed(mixed_seed(0))


def test_noise_follows_from_its_seed() -> None:
    draws = []
    for seed in (1, 1, 2**64 - 1):
        seed_noise(seed, CPU)
        draws.append(torch.rand(3))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_a_subset_is_even_and_of_its_seed() -> None:
    labels = [0] * 20 + [1] * 3 + [2] * 5
    chosen = even_subset(labels, 7, seed=0)
    assert chosen == sorted(set(chosen)) == even_subset(labels, 7, seed=0)
    assert sorted([labels[index] for index in chosen].count(label) for label in range(3)) == [
        2,
        2,
        3,
    ]
    assert chosen != even_subset(labels, 7, seed=1)
    assert even_subset(labels, 0, seed=0) == list(range(28))
    with pytest.raises(ValueError, match="29 images was asked for, the set has 28"):
        even_subset(labels, 29, seed=0)


@pytest.mark.parametrize("num_images", [40, 41, 43, 47])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_processes_share_the_images_of_each_step(num_images: int, world_size: int) -> None:
    settings = {"num_images": num_images, "batch_size": 8, "seed": 1, "epoch": 2}
    whole = list(EpochBatches(**settings))
    parts = [
        list(EpochBatches(**settings, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    assert len({len(part) for part in parts}) == 1  # or DistributedDataParallel would wait for ever
    for part, step in zip(zip(*parts, strict=True), whole, strict=False):
        assert sorted(sum(part, [])) == sorted(step)
        assert max(map(len, part)) - min(map(len, part)) <= 1
    seen = sorted(sum((sum(part, []) for part in parts), []))
    left_out = num_images % 8 if num_images % 8 < world_size else 0
    assert len(seen) == len(set(seen)) == num_images - left_out
    assert sorted(sum(whole, [])) == list(range(num_images))


def test_an_epoch_goes_on_in_its_middle_and_has_its_own_order() -> None:
    whole = EpochBatches(num_images=22, batch_size=5, seed=1)
    assert [whole.images_in(step) for step in range(whole.steps)] == [5, 5, 5, 5, 2]
    for start in range(6):
        rest = EpochBatches(num_images=22, batch_size=5, seed=1, start=start)
        assert list(rest) == list(whole)[start:] and len(rest) == 5 - start
    for change in ({"seed": 2}, {"seed": 1, "epoch": 1}):
        assert list(EpochBatches(num_images=22, batch_size=5, **change)) != list(whole)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 4, "rank": 2, "world_size": 2}, "rank"),
        ({"batch_size": 4, "world_size": 3}, "multiple of 3"),
        ({"batch_size": 16, "world_size": 16}, "too few"),
        ({"batch_size": 4, "start": 4}, "start"),
    ],
)
def test_steps_are_checked(settings: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        EpochBatches(num_images=12, **settings)


@pytest.mark.parametrize(("num_images", "batch_size"), [(10, 4), (3, 7), (5, 5), (1, 3)])
def test_a_stream_shows_every_image_before_any_again(num_images: int, batch_size: int) -> None:
    stream = Stream(name=0, num_images=num_images, batch_size=batch_size)
    batches = list(stream.steps(0, 2 * num_images, CPU))
    numbers = torch.cat([batch.numbers for batch in batches])
    positions = torch.cat([batch.positions for batch in batches])
    assert torch.equal(positions, torch.arange(len(numbers)))
    for shuffle in numbers.split(num_images):
        assert sorted(shuffle.tolist()) == list(range(num_images))


def test_a_stream_goes_on_anywhere() -> None:
    stream = Stream(name=1, num_images=11, batch_size=4, seed=5)
    whole = list(stream.steps(0, CHUNK + 9, CPU))
    part = list(stream.steps(CHUNK - 3, CHUNK + 9, CPU))
    assert len(whole) == CHUNK + 9 and len(part) == 12
    for a, b in zip(whole[CHUNK - 3 :], part, strict=True):
        assert torch.equal(a.numbers, b.numbers) and torch.equal(a.positions, b.positions)


def test_processes_share_a_streams_step() -> None:
    (whole,) = Stream(name=0, num_images=9, batch_size=6).steps(3, 4, CPU)
    for rank in range(2):
        own = Stream(name=0, num_images=9, batch_size=6, rank=rank, world_size=2)
        (part,) = own.steps(3, 4, CPU)
        assert torch.equal(part.numbers, whole.numbers[rank::2])
        assert torch.equal(part.positions, whole.positions[rank::2])
    with pytest.raises(ValueError, match="6 images does not divide by 4"):
        Stream(name=0, num_images=9, batch_size=6, world_size=4)


def test_streams_differ_by_seed_and_name() -> None:
    orders = [
        tuple(Stream(name=name, num_images=50, batch_size=5, seed=seed).numbers(0, 50).tolist())
        for name in (0, 1)
        for seed in (0, 1)
    ]
    assert len(set(orders)) == 4
