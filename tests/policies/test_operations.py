"""Operations on a batch against torchvision and Pillow on single images."""

import pytest
import torch
from PIL import ImageDraw
from torch.utils._python_dispatch import BaseTorchDispatchMode
from torchvision import transforms as tv
from torchvision.transforms.autoaugment import _apply_op
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from keeppolicies.operations import ID, OPERATIONS, apply_operations
from rounding import (
    CASES,
    GEOMETRIC,
    TORCHVISION,
    WAYS,
    assert_equal_up_to_rounding,
    on_the_edge,
    round_grids,
    torchvisions,
)


def noise(*shape, low=0, high=256, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, shape, dtype=torch.uint8, generator=generator)


def pictures(height, width, channels=3):
    """Noise, faint noise, a ramp to each side, a constant, and two values only: (5, C, H, W)."""
    x = torch.linspace(0, 255, width).expand(height, width)
    y = torch.linspace(255, 40, height)[:, None].expand(height, width)
    ramp = torch.stack((x, y, (x + y) / 2))[:channels].to(torch.uint8)
    plain = noise(channels, height, width)
    faint = noise(channels, height, width, low=90, high=120)
    flat = torch.full_like(ramp, 77)
    return torch.stack((plain, faint, ramp, flat, (plain > 200).to(torch.uint8) * 199))


def magnitudes(name, height, width):
    """Every magnitude that a policy of torchvision can give an operation.

    Of a translation it takes the whole pixels.
    """
    spaces = [
        tv.AutoAugment()._augmentation_space(10, (height, width)),
        tv.RandAugment()._augmentation_space(31, (height, width)),
        tv.TrivialAugmentWide()._augmentation_space(31),
        tv.AugMix()._augmentation_space(10, (height, width)),
    ]
    rows = [space[TORCHVISION[name]] for space in spaces if TORCHVISION[name] in space]
    values = torch.cat([row.float().reshape(-1) for row, _ in rows]).unique()
    values = values.trunc() if "translate" in name else values
    return torch.cat((values, -values)) if rows[0][1] else values


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (224, 224)], ids=str)
@pytest.mark.parametrize(("name", "way"), CASES)
def test_an_operation_is_torchvisions(name, size, way, monkeypatch):
    round_grids(way, monkeypatch)
    images = pictures(*size)
    levels = magnitudes(name, *size)
    if size[0] > 50:  # one picture, a sixth of the magnitudes
        images, levels = images[:1], levels[::6]
    batch = images.repeat_interleave(len(levels), dim=0)
    level = levels.repeat(len(images))
    found = apply_operations(batch, torch.full((len(batch),), ID[name]), level)
    expected = [torchvisions(i, name, m, way=way) for i, m in zip(batch, level, strict=True)]
    assert_equal_up_to_rounding(found, torch.stack(expected), batch, name, level)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", [(1, 20, 28), (3, 2, 5), (3, 1, 1), (3, 300, 9)], ids=str)
def test_odd_shapes_are_torchvisions_too(shape, way, monkeypatch):
    round_grids(way, monkeypatch)
    for name in (name for name, tried in CASES if tried == way):
        level = magnitudes(name, *shape[1:])
        images = noise(len(level), *shape)
        found = apply_operations(images, torch.full((len(level),), ID[name]), level)
        expected = [torchvisions(i, name, m, way=way) for i, m in zip(images, level, strict=True)]
        assert_equal_up_to_rounding(found, torch.stack(expected), images, name, level)


@pytest.mark.parametrize("fill", [0, 128, (125, 123, 114)])
@pytest.mark.parametrize("name", GEOMETRIC)
def test_fill_is_what_torchvision_fills(name, fill):
    images = noise(2, 3, 32, 32)
    level = torch.tensor([0.3, -0.7]) * (1 if "shear" in name else 30)
    channels = [float(f) for f in fill] if isinstance(fill, tuple) else [float(fill)] * 3
    expected = [torchvisions(i, name, m, channels) for i, m in zip(images, level, strict=True)]
    found = apply_operations(images, torch.full((2,), ID[name]), level, fill=fill)
    assert_equal_up_to_rounding(found, torch.stack(expected), images, name, level)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 33, 47)], ids=str)
@pytest.mark.parametrize("name", GEOMETRIC)
def test_bilinear_pixels_are_pillows(name, shape):
    level = magnitudes(name, *shape[1:])
    images = pictures(*shape[1:], channels=shape[0])
    batch, level = images.repeat_interleave(len(level), dim=0), level.repeat(len(images))
    operation = torch.full((len(batch),), ID[name])
    found = apply_operations(batch, operation, level, fill=99, interpolation="bilinear")
    expected = []
    for image, m in zip(batch, level.tolist(), strict=True):
        mode = tv.InterpolationMode.BILINEAR
        expected.append(_apply_op(to_pil_image(image), TORCHVISION[name], m, mode, [99.0]))
    difference = (found.int() - torch.stack([*map(pil_to_tensor, expected)]).int()).abs()
    assert (difference > 0).float().mean() < 0.01  # our 32 bits and its 64 are truncated
    at_edge = torch.stack([on_the_edge(name, m, *shape[1:]) for m in level.tolist()])
    assert not ((difference > 1).any(1) & ~at_edge).any()


def test_a_batch_of_all_operations_is_its_images():
    operation = torch.arange(len(OPERATIONS)).repeat(3)
    images = noise(len(operation), 3, 24, 40)
    magnitude = torch.rand(len(operation), generator=torch.Generator().manual_seed(1)) * 5
    position = torch.rand(len(operation), 2, generator=torch.Generator().manual_seed(2))
    whole = apply_operations(images, operation, magnitude, fill=9, position=position)
    for i in range(len(operation)):
        part = slice(i, i + 1)
        alone = apply_operations(
            images[part], operation[part], magnitude[part], fill=9, position=position[part]
        )
        assert torch.equal(whole[part], alone), OPERATIONS[operation[i]]


@pytest.mark.parametrize("shape", [(1, 20, 28), (3, 2, 5), (3, 33, 47), (3, 300, 400)], ids=str)
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_a_gpus_way_and_a_cpus_are_one(shape, interpolation):
    """Within any dispatch mode tensors may have no values, as on a GPU that must not wait."""
    operation = torch.arange(len(OPERATIONS)).repeat(2)
    magnitude = torch.rand(len(operation), generator=torch.Generator().manual_seed(1)) * 5
    position = torch.rand(len(operation), 2, generator=torch.Generator().manual_seed(2))
    images = noise(len(operation), *shape)
    settings = {"fill": 9, "interpolation": interpolation}
    for given in ({}, {"position": position}):
        own = apply_operations(images, operation, magnitude, **settings, **given)
        with BaseTorchDispatchMode():
            same = apply_operations(images, operation, magnitude, **settings, **given)
        assert torch.equal(own, same)


def test_solarize_add_by_hand():
    images = torch.tensor([0, 100, 127, 128, 255], dtype=torch.uint8).expand(1, 3, 1, 5)
    found = apply_operations(images, torch.tensor([ID["solarize_add"]]), torch.tensor([110.0]))
    assert found[0, 0, 0].tolist() == [110, 210, 237, 128, 255]


def test_cutout_is_the_rectangle_that_pillow_draws():
    position = torch.rand(40, 2, generator=torch.Generator().manual_seed(4))
    side = torch.linspace(0, 40, 40)
    images = noise(40, 3, 24, 36)
    operation = torch.full((40,), ID["cutout_abs"])
    found = apply_operations(images, operation, side, position=position)
    for image, result, at, v in zip(images, found, position.tolist(), side.tolist(), strict=True):
        top, left = (int(max(0, u * n - v / 2)) for u, n in zip(at, (24, 36), strict=True))
        drawn = to_pil_image(image)
        box = (left, top, min(36, left + v), min(24, top + v))
        ImageDraw.Draw(drawn).rectangle(box, (125, 123, 114))
        assert torch.equal(result, pil_to_tensor(drawn))


def test_wrong_decisions_are_refused():
    with pytest.raises(ValueError, match=r"must be \(2,\), found \(1,\) and \(2,\)"):
        apply_operations(noise(2, 3, 8, 8), torch.zeros(1).long(), torch.zeros(2))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_compiled_in_one_graph():
    compiled = torch.compile(apply_operations, fullgraph=True)
    operation = torch.arange(len(OPERATIONS)).repeat(10)
    images = pictures(33, 47).repeat(34, 1, 1, 1)  # each operation with each picture, twice
    magnitude = torch.rand(len(operation), generator=torch.Generator().manual_seed(9)) * 5
    position = torch.rand(len(operation), 2, generator=torch.Generator().manual_seed(10))
    arguments = (images, operation, magnitude)
    assert torch.equal(
        compiled(*arguments, fill=5, position=position),
        apply_operations(*arguments, fill=5, position=position),
    )
