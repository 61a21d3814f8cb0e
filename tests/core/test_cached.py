from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from small import rand, randn, seeded
from torch import Tensor

from keepaugment import (
    CachedSaliency,
    KeepCutout,
    SavedSaliency,
    ScaledView,
    TeacherSaliency,
    View,
    allowed_regions,
    box_agreement,
)
from keepaugment.stored import whole

CPU = torch.device("cpu")


class Given:
    """A map that hands out what it was given, and counts."""

    def __init__(self, saliency: Tensor) -> None:
        self.saliency = saliency
        self.calls = 0

    def __call__(self, images: Tensor, labels: Tensor | None) -> Tensor:
        self.calls += 1
        return self.saliency


def view(top: int, left: int, mirrored: bool, batch: int = 1) -> View:
    return View(*(torch.tensor([value] * batch) for value in (top, left, mirrored)))


def cut_out(images: Tensor, seen: View, padding: int = 4) -> Tensor:
    """The slow obvious way: views (B, H, W) of images (B, H, W), 0 beyond them."""
    height, width = images.shape[1:]
    padded = torch.nn.functional.pad(images, [padding] * 4)
    views = []
    for image, top, left, mirrored in zip(padded, *seen, strict=True):
        crop = image[padding + top :, padding + left :][:height, :width]
        views.append(crop.flip(1) if mirrored else crop)
    return torch.stack(views)


def stored(image_maps: Tensor, **options: int) -> CachedSaliency:
    """A cache that has seen whole images with these maps (N, H, W)."""
    number, height, width = image_maps.shape
    cache = CachedSaliency(Given(image_maps), number, (height, width), **options)
    cache.at(torch.arange(number), epoch=0)
    cache(torch.zeros(number, 3, height, width))
    return cache


def test_a_teachers_maps_are_taken_once_of_each_image_and_read_by_later_runs(
    tmp_path: Path,
) -> None:
    images, calls = rand(5, 3, 16, 16), []

    def brightness(seen: Tensor, targets: Tensor | None) -> Tensor:
        calls.append(targets)
        return seen.mean(1)

    order = torch.tensor([3, 0, 4, 2, 1])
    batches = [(index, images[index], None) for index in order.split(2)]
    maps = TeacherSaliency(brightness, batches, 5, (16, 16))
    assert calls == [None] * 3
    index, seen = torch.tensor([4, 1]), view(2, -1, True, 2)
    maps.at(index, seen)
    largest = images.mean(1).amax((1, 2), keepdim=True)
    expected = cut_out(images.mean(1) / largest * 255, View(*(v[:1].expand(5) for v in seen)))
    torch.testing.assert_close(maps(images[index]), expected[index], atol=0.51, rtol=0)
    maps.save(tmp_path / "maps.pt")
    saved = SavedSaliency(tmp_path / "maps.pt")
    saved.at(index, seen)
    assert saved(images[index]).equal(maps(images[index])) and len(calls) == 3
    with pytest.raises(ValueError, match="1 of 5 images are in no batch"):
        TeacherSaliency(brightness, batches[:2] + [(order[:1], images[:1], None)], 5, (16, 16))


def test_a_stored_map_has_the_means_of_cells_in_255ths_of_the_largest() -> None:
    saliency = torch.tensor([[[4.0, 4, 0, 0], [4, 4, 0, 1], [0, 0, 2, 2], [0, 0, 2, 2]]])
    cache = stored(saliency, size=2)
    assert cache.maps.tolist() == [[[255, 16], [0, 128]]]  # 0.25 / 4 and 2 / 4 of 255
    assert cache.maps.dtype == torch.uint8
    read = cache.read(torch.tensor([0]), whole(1, CPU), (4, 4))
    assert read[0].tolist() == [[255, 255, 16, 16]] * 2 + [[0, 0, 128, 128]] * 2


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("corner", [(0, 0), (-4, 3), (2, -1), (4, 4)])
def test_a_stored_map_follows_crop_and_flip(corner: tuple[int, int], mirrored: bool) -> None:
    maps = (rand(5, 8, 8) * 255).round()
    maps[:, 0, 0] = 255.0
    cache = stored(maps, size=8)
    seen = view(*corner, mirrored, batch=5)
    cache.at(torch.arange(5), seen, epoch=3)
    assert torch.equal(cache(torch.zeros(5, 3, 8, 8)), cut_out(maps, seen))


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_view_updates_what_it_shows(mirrored: bool) -> None:
    """The view lies 2 rows down and 4 columns right, so a fresh map says nothing of the rest."""
    before = torch.zeros(1, 8, 8)
    before[:, 0, 0], before[:, 7, 7] = 255.0, 100.0
    cache = stored(before, size=8)
    fresh = (rand(1, 8, 8) * 254).round() + 1
    fresh[:, 0, 2:6] = 255.0
    fresh[:, 5, 3:5] = 100.0  # of the one shown cell that was known, so nothing is scaled
    seen = view(2, 4, mirrored)
    cache.write(torch.tensor([0]), seen, fresh)
    inside = fresh.flip(2) if mirrored else fresh
    expected = before.clone()
    expected[:, 2:, 4:] = inside[:, :6, :4]
    assert torch.equal(cache.maps.float(), expected)
    assert torch.equal(cache.read(torch.tensor([0]), seen, (8, 8)), cut_out(expected, seen))


def test_only_the_images_of_the_batch_are_updated() -> None:
    cache = CachedSaliency(Given(rand(2, 4, 4) + 0.1), 5, (4, 4), size=4)
    cache.at(torch.tensor([3, 1]), epoch=0)
    cache(torch.zeros(2, 1, 4, 4))
    assert (cache.maps.flatten(1).amax(1) > 0).tolist() == [False, True, False, True, False]
    assert torch.equal(cache.maps[3].float(), (rand(2, 4, 4)[0] + 0.1).div_(
        (rand(2, 4, 4)[0] + 0.1).max()).mul_(255).round())  # fmt: skip


def test_when_maps_are_computed() -> None:
    cache = CachedSaliency(Given(rand(1, 4, 4)), 1, (4, 4), every=20)
    assert [e for e in range(70) if cache.refresh_due(e)] == [0, 1, 2, 4, 8, 16, 20, 40, 60]
    always = CachedSaliency(Given(rand(1, 4, 4)), 1, (4, 4), every=1)
    assert all(always.refresh_due(epoch) for epoch in range(5))


def test_a_fresh_map_is_given_as_it_is_and_a_stored_one_asks_no_network() -> None:
    source = Given(randn(2, 32, 32).abs())
    cache = CachedSaliency(source, 9, (32, 32), every=5)
    images = torch.zeros(2, 3, 32, 32)
    for epoch, calls in ((0, 1), (3, 1), (5, 2), (6, 2)):
        cache.at(torch.tensor([7, 0]), epoch=epoch)
        saliency = cache(images)
        assert source.calls == calls
        assert torch.equal(saliency, source.saliency) == cache.refresh_due(epoch)


def test_an_image_without_a_map_is_cut_as_by_the_plain_method() -> None:
    cache = CachedSaliency(Given(rand(1)), 4, (8, 8))
    cache.at(torch.tensor([2]), epoch=3)
    images = torch.zeros(1, 1, 8, 8)
    allowed, _ = allowed_regions(cache(images), images, 3, side="low", border="clip")
    assert allowed.all()


@pytest.mark.parametrize(
    ("length", "size", "most"), [(32, 16, 256), (64, 16, 256), (224, 32, 1024)]
)
def test_the_memory_of_an_image(length: int, size: int, most: int) -> None:
    cache = CachedSaliency(Given(rand(1)), 3, (length, length))
    assert cache.maps.shape == (3, size, size)
    assert cache.maps.nbytes == 3 * most
    assert CachedSaliency(Given(rand(1)), 3, (9, 40)).maps.shape == (3, 9, 9)


def test_sides_that_do_not_divide_and_autocast() -> None:
    """Every pixel lies in a cell, and bfloat16 does not round what is stored."""
    maps = rand(2, 30, 23) + 0.5
    cache = stored(maps)
    with torch.autocast("cpu", torch.bfloat16):
        other = stored(maps)
        read = other.read(torch.arange(2), whole(2, CPU), (30, 23))
    assert torch.equal(cache.maps, other.maps)
    assert read.dtype == torch.float32 and (read > 0).all()


def test_boxes_of_a_stored_map_agree_with_those_of_its_source() -> None:
    """Heavy-tailed maps, as gradients are: the cells are small against the box."""
    smooth = torch.nn.functional.avg_pool2d(randn(16, 1, 40, 40).abs() ** 3, 9, 1)[:, 0]
    cache = stored(smooth)
    read = cache.read(torch.arange(16), whole(16, CPU), (32, 32))
    assert box_agreement(read, smooth, 16).mean() > 0.9
    assert box_agreement(read, smooth.roll(1, 0), 16).mean() < 0.7


def test_agreement_by_hand() -> None:
    """Boxes of one pixel, tau 0.5 of 5: the three smallest, or the three largest, are allowed."""
    first = torch.tensor([[[0.0, 1, 2, 3, 4]], [[0, 1, 2, 3, 4]], [[0, 1, 2, 3, 4]]])
    second = torch.tensor([[[0.0, 10, 20, 30, 40]], [[4, 3, 2, 1, 0]], [[0, 1, 3, 2, 4]]])
    assert box_agreement(first, second, 1, tau=0.5).tolist() == pytest.approx([1, 1 / 5, 2 / 4])
    assert box_agreement(first, second, 1, tau=0.5, side="high").tolist() == pytest.approx(
        [1, 1 / 5, 1]
    )


def test_maps_that_know_nothing_of_each_other_agree_by_chance() -> None:
    first, second = rand(64, 32, 32), rand(64, 32, 32, seed=1)
    assert box_agreement(first, second, 1).mean() == pytest.approx(0.36 / 0.84, abs=0.01)
    assert box_agreement(first, second, 1, side="high").mean() == pytest.approx(0.25, abs=0.01)


def test_a_saved_cache_goes_on() -> None:
    cache = stored(rand(3, 8, 8))
    other = CachedSaliency(Given(rand(1)), 3, (8, 8))
    other.load_state_dict(cache.state_dict())
    for each in (cache, other):
        each.at(torch.tensor([2, 0]), view(1, -2, True, batch=2), epoch=3)
    images = torch.zeros(2, 1, 8, 8)
    assert torch.equal(cache(images), other(images))
    with pytest.raises(ValueError, match=r"\(3, 8, 8\) do not fit \(4, 8, 8\)"):
        CachedSaliency(Given(rand(1)), 4, (8, 8)).load_state_dict(cache.state_dict())


def test_a_keep_method_cuts_by_stored_maps() -> None:
    """The left half matters: with boxes of half the length, a cut lies in the right half."""
    saliency = torch.zeros(6, 16, 16)
    saliency[:, :, :8] = 1.0
    cache = stored(saliency)
    keep = KeepCutout(size=8, tau=0.3, saliency=cache, border="inside", generator=seeded())
    for mirrored in (False, True):
        cache.at(torch.arange(6), view(0, 0, mirrored, batch=6), epoch=3)
        removed = keep(torch.ones(6, 1, 16, 16)) == 0
        kept = removed.flip(3) if mirrored else removed
        assert not kept[..., :4].any() and removed.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_images": 0}, "none may be below 1"),
        ({"every": 0}, "none may be below 1"),
        ({"size": 9}, "maps of 9 x 9"),
    ],
)
def test_settings_are_checked(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CachedSaliency(Given(rand(1)), **{"num_images": 3, "image_size": (8, 8), **options})


def test_numbers_are_needed_first() -> None:
    cache = CachedSaliency(Given(rand(1)), 3, (8, 8))
    with pytest.raises(ValueError, match="maps of 2 images were asked for, the numbers of none"):
        cache(torch.zeros(2, 1, 8, 8))
    cache.at(torch.arange(3), epoch=0)
    with pytest.raises(ValueError, match="the numbers of 3 are known; call at"):
        cache(torch.zeros(2, 1, 8, 8))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int16, torch.int32])
def test_an_index_of_any_whole_kind(dtype: torch.dtype) -> None:
    caches = [CachedSaliency(Given(rand(2, 8, 8)), 5, (8, 8)) for _ in range(2)]
    for cache, kind in zip(caches, (dtype, torch.int64), strict=True):
        cache.at(torch.tensor([4, 1], dtype=kind), epoch=0)
        cache(torch.zeros(2, 1, 8, 8))
    assert torch.equal(caches[0].maps, caches[1].maps)


def test_numbers_and_views_that_are_not_the_images() -> None:
    cache = CachedSaliency(Given(rand(2, 8, 8)), 5, (8, 8))
    for wrong in ([0, 5], [0, -1]):
        with pytest.raises(ValueError, match=r"index must be in \[0, 5\), found"):
            cache.at(torch.tensor(wrong), epoch=0)
    with pytest.raises(ValueError, match=r"a view of 2 images is that many numbers, found \(1,\)"):
        cache.at(torch.tensor([0, 1]), view(0, 0, False), epoch=0)
    cache.at(torch.tensor([2, 2]), epoch=0)
    with pytest.warns(UserWarning, match="several times in the batch: the map of only one"):
        cache(torch.zeros(2, 1, 8, 8))
    cache.at(torch.tensor([2, 2]), epoch=3)  # reads
    cache(torch.zeros(2, 1, 8, 8))


def _process(rank: int, folder: str) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    cache = CachedSaliency(Given(rand(2, 8, 8, seed=rank) + 0.1), 5, (8, 8))
    cache.maps += 7  # of an epoch before
    cache.at(torch.tensor([rank, 2 + rank]), epoch=0)
    cache(torch.zeros(2, 1, 8, 8))
    cache.merge()
    torch.save(cache.state_dict(), f"{folder}/{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_two_processes_have_one_cache(tmp_path: Path) -> None:
    """Images 0 and 2 are seen by the first, 1 and 3 by the second, 4 by none."""
    mp.spawn(_process, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt")["maps"] for rank in (0, 1))
    assert torch.equal(first, second)
    expected = torch.full((5, 8, 8), 7, dtype=torch.uint8)
    for rank in (0, 1):
        expected[rank::2][:2] = stored(rand(2, 8, 8, seed=rank) + 0.1).maps
    assert torch.equal(first, expected)


def scaled(top: float, left: float, height: float, width: float, mirrored: bool) -> ScaledView:
    numbers = (torch.tensor([float(value)]) for value in (top, left, height, width))
    return ScaledView(*numbers, torch.tensor([mirrored]))


def test_a_scaled_crop_by_hand() -> None:
    """The lower right quarter of an image of 4 x 4 pixels at three times its size, mirrored."""
    saliency = torch.zeros(1, 4, 4)
    saliency[0, 2:, 2:] = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    seen = scaled(2, 2, 2, 2, mirrored=True)
    assert seen.rows(4).tolist() == [[2.25, 2.75, 3.25, 3.75]]
    assert seen.columns(4).tolist() == [[3.75, 3.25, 2.75, 2.25]]
    quarter = torch.tensor([[102, 51], [255, 153]]).float()
    read = stored(saliency).read(torch.tensor([0]), seen, (6, 6))
    assert torch.equal(read[0], quarter.repeat_interleave(3, 0).repeat_interleave(3, 1))


def test_the_whole_image_scaled_is_the_whole_image() -> None:
    saliency, index = rand(1, 8, 8), torch.tensor([0])
    cache = stored(saliency)
    everything, plain = scaled(0, 0, 8, 8, mirrored=False), whole(1, CPU)
    assert torch.equal(cache.read(index, everything, (8, 8)), cache.read(index, plain, (8, 8)))
    before = cache.maps.clone()
    cache.write(index, everything, saliency)
    assert torch.equal(cache.maps, before)


def test_maps_of_overlapping_crops_become_one() -> None:
    """Each crop's map has a scale of its own, which the cells that both show bring together."""
    saliency, index = rand(1, 8, 8) + 0.1, torch.tensor([0])
    saliency[:, 0, 0] = 2.0  # the largest, in one crop only
    cache = CachedSaliency(Given(saliency), 1, (8, 8), size=8)
    cache.write(index, scaled(0, 0, 8, 5, mirrored=False), 7 * saliency[:, :, :5])
    cache.write(index, scaled(0, 3, 8, 5, mirrored=True), 0.2 * saliency[:, :, 3:].flip(2))
    expected = 255 * saliency / saliency.max()
    assert (cache.maps.float() - expected).abs().max() <= 3  # of 255, by rounding twice
    cache.write(index, scaled(0, 0, 8, 8, mirrored=False), torch.zeros(1, 8, 8))
    assert cache.maps.sum() == 0  # a map without any importance leaves none


def test_a_negative_map_is_refused_and_one_that_begins_at_0_is_kept() -> None:
    """Of bytes that begin at 0 nothing would be left, and every box be allowed."""
    darkness = -rand(2, 8, 8)
    with pytest.raises(ValueError, match="must not be negative, found -0.*saliency.amin"):
        stored(darkness, size=8)
    with pytest.raises(ValueError, match="must not be negative"):
        TeacherSaliency(Given(darkness), [(torch.arange(2), rand(2, 3, 8, 8), None)], 2, (8, 8))
    shifted = darkness - darkness.amin((1, 2), keepdim=True)
    cache = stored(shifted, size=8)
    cache.at(torch.arange(2), epoch=3)
    shares = cache(rand(2, 3, 8, 8)) / 255
    torch.testing.assert_close(
        shares, shifted / shifted.amax((1, 2), keepdim=True), atol=0.5 / 255, rtol=0.0
    )
