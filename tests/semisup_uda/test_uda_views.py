from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from keepaugment import SampleDraws, View
from keepbench.clock import Clock
from keepbench.policies import Policy
from keepbench.small_images import ImageSet, StoredData
from keepbench.views import reflect_crop
from keeppolicies.operations import ID
from semisup_uda.config import Config, KeepPaste
from semisup_uda.policy import POLICIES, UDARandAugment
from semisup_uda.views import Views

CPU = torch.device("cpu")
EVERY = torch.arange(12)
BASE = Config(padding=2, cutout=0, keep=KeepPaste(size=4))


def peak(images: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
    """A map that is large in the lower right quarter, asked as UDA asks: without labels."""
    assert labels is None
    saliency = torch.zeros(len(images), *images.shape[2:])
    saliency[:, images.shape[2] // 2 :, images.shape[3] // 2 :] = 1.0
    return saliency


def make_views(config: Config, side: int = 16) -> tuple[Views, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (12, 3, side, side), generator=generator, dtype=torch.uint8)
    images = ImageSet(pixels, torch.arange(12) % 2, ["a", "b"])
    data = StoredData(images, images, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    return Views(config, data, peak, SampleDraws(0), SampleDraws(1), Clock(CPU)), pixels


def test_a_crop_continues_by_reflection() -> None:
    """A row 0 1 2 3 goes on as 2 1 | 0 1 2 3 | 2 1: its ends are not repeated."""
    row = torch.arange(4).view(1, 1, 1, 4).expand(3, 1, 4, 4)
    zero = torch.zeros(3, dtype=torch.int64)
    view = View(zero, torch.tensor([-2, 0, 2]), torch.tensor([False, True, False]))
    crop = reflect_crop(row, view)
    assert crop[:, 0, 0].tolist() == [[2, 1, 0, 1], [3, 2, 1, 0], [2, 3, 2, 1]]
    down = reflect_crop(row.transpose(2, 3), View(view.left, zero, zero.bool()))
    assert down[:, 0, :, 0].tolist() == [[2, 1, 0, 1], [0, 1, 2, 3], [2, 3, 2, 1]]


def test_a_crop_against_padding() -> None:
    images = torch.rand(20, 3, 9, 7)
    top, left = (torch.randint(-4, 5, (20,)) for _ in range(2))
    found = reflect_crop(images, View(top, left, torch.arange(20) % 2 == 0))
    padded = torch.nn.functional.pad(images, (4, 4, 4, 4), mode="reflect")
    for number in range(20):
        y, x = int(top[number]) + 4, int(left[number]) + 4
        expected = padded[number, :, y : y + 9, x : x + 7]
        expected = expected.flip(2) if number % 2 == 0 else expected
        assert torch.equal(found[number], expected)


def test_all_crops_and_flips_occur() -> None:
    views, pixels = make_views(replace(BASE, padding=1))
    same = views.weak(pixels[:1].expand(360, -1, -1, -1), 0, torch.arange(360)).weak
    assert len(same.flatten(1).unique(dim=0)) == 18  # 3 x 3 places, two ways round


def test_both_views_have_one_crop_and_flip() -> None:
    """Without a policy and Cutout, the strong view is the clean one."""
    views, pixels = make_views(replace(BASE, policy=None, keep=None))
    weak, strong = (see(pixels, 1, EVERY) for see in (views.weak, views.strong))
    assert torch.equal(weak.weak, strong.weak) and torch.equal(weak.clean, strong.clean)
    assert torch.equal(strong.strong, strong.clean)
    assert torch.equal(weak.clean, views.inputs(weak.weak))
    assert float(strong.pasted) == 0.0


@pytest.mark.parametrize("policy", POLICIES[1:-2])  # those of one's own have tests of theirs
def test_what_is_pasted_is_the_clean_view_where_the_map_is_high(policy: type[Policy]) -> None:
    keep = KeepPaste(size=4, tau=1.0)
    config = replace(BASE, policy=policy(), cutout=12, keep=keep)
    (keeping, pixels), (plain, _) = make_views(config), make_views(replace(config, keep=None))
    kept, strong = (views.strong(pixels, 1, EVERY) for views in (keeping, plain))
    assert torch.equal(kept.clean, strong.clean)
    changed = (kept.strong != strong.strong).any(1)
    assert changed.any()
    expected = torch.where(changed[:, None], kept.clean, strong.strong)
    assert torch.equal(expected, kept.strong)
    assert not changed[:, :8].any() and not changed[:, :, :8].any()  # only the lower right
    rows, columns = changed.any(2), changed.any(1)
    assert int(rows.sum(1).max()) <= 4 and int(columns.sum(1).max()) <= 4
    assert float(kept.pasted) == pytest.approx(float(changed.float().mean()))


def test_cutout_is_the_mean_colour_and_comes_before_the_paste() -> None:
    views, pixels = make_views(replace(BASE, policy=None, keep=None, cutout=6))
    values = views.strong(pixels, 1, EVERY)
    cut = (values.strong == 0).all(1)
    assert torch.equal(values.strong, torch.where(cut[:, None], 0.0, values.clean))
    assert 9 <= int(cut.sum((1, 2)).min()) and int(cut.sum((1, 2)).max()) == 36


def test_a_view_does_not_depend_on_its_batch() -> None:
    views, pixels = make_views(BASE)
    whole = views.strong(pixels, 1, EVERY)
    alone = views.strong(pixels[5:7], 1, torch.arange(5, 7))
    for name in ("weak", "clean", "strong"):
        assert torch.equal(getattr(alone, name), getattr(whole, name)[5:7])
    other = views.strong(pixels, 0, EVERY)  # the other stream
    assert not torch.equal(other.weak, whole.weak)


def test_the_law_of_the_policy() -> None:
    """Fifteen operations, each applied half of the time, at nine levels."""
    generator = torch.Generator().manual_seed(0)
    draw = UDARandAugment(generator=generator).draw(40_000, (32, 32), CPU)
    assert draw.operation.shape == (40_000, 2)
    counts = draw.operation.flatten().bincount(minlength=len(ID)) / 80_000
    never = {"solarize_add"}
    for name, index in ID.items():
        p = 0.5 if name == "identity" else 0.0 if name in never else 0.5 / 15
        assert float(counts[index]) == pytest.approx(p, abs=0.004), name
    together = (draw.operation == ID["invert"]).all(1).float().mean()
    assert float(together) == pytest.approx((0.5 / 15) ** 2, abs=5e-4)

    def magnitudes(name: str) -> list[float]:
        values = draw.magnitude[draw.operation == ID[name]].unique().tolist()
        return [round(value, 3) for value in values]

    assert magnitudes("rotate") == [*range(-27, 0, 3), *range(3, 30, 3)]
    assert magnitudes("translate_x") == [*range(-9, 0), *range(1, 10)]
    assert magnitudes("color") == [round(0.18 * k - 0.9, 3) for k in range(1, 10)]  # unsigned
    assert magnitudes("posterize") == [1, 2, 3, 4]
    assert magnitudes("cutout_abs") == [*range(1, 18, 2)]


def test_the_policys_cutout_has_twice_the_level() -> None:
    draws = SampleDraws(0)
    policy = UDARandAugment(fill=0, generator=draws)
    draws.at(0, torch.arange(4000))
    decisions = policy.draw(4000, (32, 32), CPU)
    draws.at(0, torch.arange(4000))
    images = policy(torch.full((4000, 1, 32, 32), 7, dtype=torch.uint8))
    only = (decisions.operation == ID["cutout_abs"])[:, 0] & (decisions.operation[:, 1] == 0)
    area = (images[only] == 125).sum((1, 2, 3))
    side = decisions.magnitude[only][:, 0] + 1
    assert int(only.sum()) > 30
    assert (area <= side**2).all()
    assert (area == side**2).float().mean() > 0.5  # but at the lower and right border
