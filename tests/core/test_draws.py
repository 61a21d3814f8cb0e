from __future__ import annotations

import pytest
import torch
from scipy import stats

from keepaugment import KeepCutout, RandomSaliency
from keepaugment.draws import SampleDraws, mix, uniform

CPU = torch.device("cpu")


def test_mix_is_splitmix64() -> None:
    """The first numbers of SplitMix64 seeded with 1234567, as its authors publish them."""
    state = torch.arange(1, 6) * -7046029254386353131 + 1234567
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423,
                4593380528125082431, 16408922859458223821]  # fmt: skip
    assert [value % 2**64 for value in mix(state).tolist()] == expected


def test_a_generator_and_none_are_torch_own() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4, 2)
    torch.manual_seed(3)
    assert torch.equal(uniform(None, (4, 2), CPU), expected)
    assert torch.equal(uniform(torch.Generator().manual_seed(3), (4, 2), CPU), expected)


def draw(
    seed: int, epoch: int, index: list[int], shape: tuple[int, ...], call: int = 1
) -> torch.Tensor:
    draws = SampleDraws(seed)
    draws.at(epoch, torch.tensor(index))
    for _ in range(call):
        numbers = uniform(draws, (len(index), *shape), CPU)
    return numbers


def test_a_sample_has_its_numbers_in_any_batch() -> None:
    whole = draw(1, 2, list(range(100)), (3, 2))
    assert torch.equal(draw(1, 2, [42], (3, 2))[0], whole[42])
    assert torch.equal(draw(1, 2, [99, 7], (3, 2)), whole[[99, 7]])


def test_numbers_can_be_asked_for_again() -> None:
    draws = SampleDraws(0)
    draws.at(0, torch.arange(3))
    first, second = draws((3, 2), CPU), draws((3, 2), CPU)
    draws.again()
    assert torch.equal(draws((3, 2), CPU), first)
    assert torch.equal(draws((3, 2), CPU), second)
    assert not (first == second).any()


def test_numbers_stay_what_runs_of_old_were_drawn_with() -> None:
    """Key plus count times the golden ratio, scrambled: by hand, in Python's whole numbers."""
    golden, most = 0x9E3779B97F4A7C15, 2**64

    def scrambled(number: int) -> int:
        return mix(torch.tensor([(number + 2**63) % most - 2**63]))[0].item() % most

    key = scrambled(scrambled(3 * 2**32 + 7) + 6 * golden)  # seed 3, epoch 7, sample 5
    expected = [scrambled(key + ((2 << 32) + n) * golden) for n in (1, 2, 3)]  # the second call
    numbers = draw(3, 7, [5], (3,), call=2)
    assert [n * 2**24 for n in numbers[0].tolist()] == [bits >> 40 for bits in expected]


def test_seed_epoch_sample_and_call_all_matter() -> None:
    first = draw(0, 1, [5], (8,))
    for other in (draw(1, 1, [5], (8,)), draw(0, 2, [5], (8,)), draw(0, 1, [6], (8,)),
                  draw(0, 1, [5], (8,), call=2)):  # fmt: skip
        assert not (first == other).any()


def test_numbers_are_uniform_and_independent() -> None:
    numbers = draw(0, 0, list(range(2000)), (20,))
    assert 0 <= numbers.min() and numbers.max() < 1
    assert stats.kstest(numbers.flatten().numpy(), "uniform").pvalue > 0.001
    correlation = torch.corrcoef(numbers.T) - torch.eye(20)
    assert correlation.abs().max() < 0.1  # between the numbers of an image
    assert torch.corrcoef(numbers[:50]).triu(1).abs().max() < 0.9  # and between images
    epochs = torch.stack([draw(0, epoch, [3], (1,))[0, 0] for epoch in range(2000)])
    assert stats.kstest(epochs.numpy(), "uniform").pvalue > 0.001


def test_an_augmentation_is_replayed_from_its_sample_number() -> None:
    draws = SampleDraws(7)
    keep = KeepCutout(saliency=RandomSaliency(draws), size=8, generator=draws)
    images = torch.randn(16, 3, 20, 20)
    draws.at(3, torch.arange(16))
    batch = keep(images)
    draws.at(3, torch.tensor([11]))
    assert torch.equal(keep(images[11:12])[0], batch[11])


def test_a_batch_that_was_not_announced_is_refused() -> None:
    draws = SampleDraws(0)
    with pytest.raises(ValueError, match="4 images were asked for, none are known"):
        draws((4, 1), CPU)
    draws.at(0, torch.arange(3))
    with pytest.raises(ValueError, match="4 images were asked for, 3 are known"):
        draws((4, 1), CPU)


def test_an_image_that_is_several_times_in_a_batch_is_told_of() -> None:
    draws = SampleDraws(0)
    with pytest.warns(UserWarning, match="several times in the batch: it gets the same draws"):
        draws.at(0, torch.tensor([3, 1, 3]))
    for wrong in (torch.tensor([0.5]), torch.tensor(3), torch.tensor([True]), [3]):
        with pytest.raises(ValueError, match="index must be"):
            draws.at(0, wrong)  # type: ignore[arg-type]


def test_seeds_and_any_whole_numbers() -> None:
    for seed in (-1, 2**31):
        with pytest.raises(ValueError, match="seed must be in"):
            SampleDraws(seed)
    draws = SampleDraws(2**31 - 1)
    draws.at(1, torch.tensor([200, 7]))
    expected = draws((2, 3), CPU)
    for dtype in (torch.uint8, torch.int32):
        draws.at(1, torch.tensor([200, 7], dtype=dtype))
        assert torch.equal(draws((2, 3), CPU), expected)
