"""Policies on a batch against torchvision on single images, and against their published laws."""

import random
from collections import Counter
from statistics import NormalDist

import pytest
import timm.data.auto_augment as timm
import torch
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision import transforms as tv
from torchvision.transforms import autoaugment
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from keeppolicies.operations import ID, OPERATIONS, apply_operations
from keeppolicies.policies import POLICIES, AugMix, AutoAugment, RandAugment, TrivialAugment
from rounding import TORCHVISION, on_the_edge

BLENDS = [ID[name] for name in ("brightness", "color", "contrast", "sharpness")]
CPU = torch.device("cpu")
ALL = [AutoAugment, RandAugment, TrivialAugment, AugMix]


def noise(*shape):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def given(*rows):
    """A source of random numbers that gives these, whatever is asked for: (B, n)."""
    return lambda shape, device: torch.tensor(rows, dtype=torch.float32).reshape(shape)


def chi_square(counts, p):
    """Assert that counts (n,) are a sample from p (n,), five standard deviations wide."""
    expected = torch.as_tensor(p, dtype=torch.float64) * counts.sum()
    assert counts[expected == 0].sum() == 0
    counts, expected = counts[expected > 0], expected[expected > 0]
    freedom = len(counts) - 1
    assert ((counts - expected) ** 2 / expected).sum() < freedom + 5 * (2 * freedom) ** 0.5


VIEWS = {
    "alias",
    "detach",
    "expand",
    "select",
    "slice",
    "split",
    "split_with_sizes",
    "unsqueeze",
    "view",
}


class Calls(TorchDispatchMode):
    """Counts operations; as tensors may have no values within it, policies go a GPU's way."""

    def __init__(self):
        super().__init__()
        self.names = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))

    def kernels(self):
        return sum(count for name, count in self.names.items() if name not in VIEWS)


@pytest.mark.parametrize(
    "policy",
    [
        *ALL,
        lambda: RandAugment(space="original"),
        lambda: RandAugment(space="timm", interpolation="bilinear"),
        lambda: AugMix(space="original", interpolation="bilinear"),
    ],
)
def test_nothing_loops_over_images_or_waits_for_the_device(policy):
    policy = policy()
    policy(noise(2, 3, 16, 16))  # fills the caches of tables
    counts = []
    for batch in (2, 7):
        with Calls() as calls:
            policy(noise(batch, 3, 16, 16))
        counts.append(calls.names)
    assert counts[0] == counts[1]
    assert not {"_local_scalar_dense", "nonzero", "masked_select", "bincount"} & set(counts[0])


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("size", [(32, 32), (40, 56)], ids=str)
def test_autoaugment_decides_as_torchvisions(policy, size, monkeypatch):
    """Of the same numbers the same operations and magnitudes; test_operations has their pixels."""
    theirs = tv.AutoAugment(tv.AutoAugmentPolicy(policy))
    done, rows, expected = [], [], []
    monkeypatch.setattr(autoaugment, "_apply_op", lambda image, *op, **_: done.append(op) or image)
    probs = torch.rand(100, 2, generator=torch.Generator().manual_seed(3))
    probs[:50] = 0.01  # both operations, unless their probability is 0
    for i in range(100):
        signs = torch.tensor([i // 25 % 2, i // 50])
        rows.append([(i % 25 + 0.5) / 25, *probs[i].tolist(), *(0.25 + 0.5 * signs).tolist()])
        theirs.get_params = lambda n, i=i, signs=signs: (i % 25, probs[i], signs)
        theirs(noise(3, *size))
        whole = [(name, float(int(m)) if "Translate" in name else m) for name, m, *_ in done]
        expected.append(whole)
        done.clear()
    drawn = AutoAugment(policy, generator=given(*rows)).draw(100, size, CPU)
    for operations, magnitudes, known in zip(*drawn[:2], expected, strict=True):
        chosen = zip(operations.tolist(), magnitudes.tolist(), strict=True)
        assert [(TORCHVISION[OPERATIONS[op]], m) for op, m in chosen if op] == known


@pytest.mark.parametrize(
    ("policy", "most"), [(TrivialAugment(), 150), (RandAugment(2), 250), (AutoAugment(), 250)]
)
def test_a_gpu_launches_few_kernels(policy, most):
    images = noise(4, 3, 16, 16)
    policy(images)  # fills the caches of tables
    with Calls() as calls:
        policy(images)
    assert calls.kernels() <= most


@pytest.mark.parametrize("policy", ALL[:3])
def test_a_policy_applies_what_it_draws_one_after_the_other(policy):
    images = noise(60, 3, 20, 28)
    twins = [policy(fill=7, generator=torch.Generator().manual_seed(4)) for _ in range(2)]
    decisions = twins[0].draw(60, (20, 28), CPU)
    expected = images
    for operation, magnitude in zip(*(part.unbind(1) for part in decisions[:2]), strict=True):
        expected = apply_operations(expected, operation, magnitude, fill=7)
    assert torch.equal(twins[1](images), expected) and not torch.equal(expected, images)


@pytest.mark.parametrize(
    ("policy", "theirs", "bins", "chosen"),
    [
        (RandAugment(1, 9), tv.RandAugment(), (31, (40, 56)), [9]),
        (RandAugment(1, 4, num_magnitude_bins=5), tv.RandAugment(), (5, (40, 56)), [4]),
        (TrivialAugment(), tv.TrivialAugmentWide(), (31,), range(31)),
        (AugMix(3, 1, 1), tv.AugMix(all_ops=False), (10, (40, 56)), range(3)),
        (AugMix(10, 1, 1, all_ops=True), tv.AugMix(), (10, (40, 56)), range(10)),
    ],
)
def test_operations_and_magnitudes_are_those_of_torchvision(policy, theirs, bins, chosen):
    space = theirs._augmentation_space(*bins)
    rows, expected = [], []
    for index, (name, (levels, signed)) in enumerate(space.items()):
        for order, level in enumerate(chosen):
            for u in (0.25, 0.75):
                numbers = [(index + 0.5) / len(space), (order + 0.5) / len(chosen), u]
                if isinstance(policy, RandAugment):
                    numbers = [numbers[0], u]
                rows.append([0.5] * 4 * isinstance(policy, AugMix) + numbers)
                magnitude = levels[level].item() if levels.ndim else 0.0
                magnitude = float(int(magnitude)) if "Translate" in name else magnitude
                expected.append((name, -magnitude if signed and u < 0.5 else magnitude))
    policy.generator = given(*rows)
    drawn = policy.draw(len(rows), (40, 56), CPU)
    operation, magnitude = (drawn[0] if isinstance(policy, AugMix) else drawn)[:2]
    found = [TORCHVISION[OPERATIONS[i]] for i in operation.flatten()]
    assert list(zip(found, magnitude.flatten().tolist(), strict=True)) == expected


def test_one_magnitude_for_all_sub_policies():
    decisions = AutoAugment(magnitude=24).draw(3000, (32, 32), CPU)
    row = tv.RandAugment()._augmentation_space(31, (32, 32))
    for name in ("Rotate", "TranslateX", "ShearY", "Color", "Posterize", "Solarize"):
        ours = next(key for key, value in TORCHVISION.items() if value == name)
        strengths = decisions.magnitude[decisions.operation == ID[ours]].abs().unique()
        level = row[name][0][24].item()
        assert strengths.tolist() == [int(level) if "Translate" in name else level]


def test_original_magnitudes_of_autoaugment():
    def strength(sub_policy, layer):
        u = given([(sub_policy + 0.5) / 25, 0.0, 0.0, 0.75, 0.75])
        policy = AutoAugment(magnitudes="original", generator=u)
        return round(policy.draw(1, (32, 32), CPU).magnitude[0, layer].item(), 5)

    assert strength(1, 0) == 6.0  # rotate, 2 of 10 of 30 degrees
    assert strength(1, 1) == 9.0  # translate, 9 of 10 of 10 pixels
    assert strength(3, 0) == 0.24  # shear, 8 of 10 of 0.3
    assert strength(5, 1) == 2.0  # posterize, 4 - int(2.8) bits
    assert strength(20, 0) == 128.0  # solarize, 256 - 128
    assert strength(9, 1) == 0.0  # sharpness, 0.1 + 1.8 / 2 is the identity


def test_original_magnitudes_of_randaugment():
    def strengths(magnitude):
        u = given(*[[(i + 0.5) / 16, 0.75, 0.5, 0.5] for i in range(16)])
        policy = RandAugment(1, magnitude, space="original", generator=u)
        drawn = policy.draw(16, (32, 32), CPU)
        names = [OPERATIONS[i] for i in drawn.operation[:, 0]]
        return dict(zip(names, (drawn.magnitude[:, 0] * 1000).round().tolist(), strict=True))

    half, strong = strengths(15), strengths(24)
    assert len(half) == 16 and "identity" not in half
    assert half["color"] == half["sharpness"] == 0.0
    assert strong["translate_x"] == 80_000 and half["translate_y"] == 50_000
    assert (half["posterize"], strong["posterize"]) == (2000, 3000)  # the stronger, the weaker
    assert (half["solarize"], strong["solarize"]) == (128_000, 204_800)
    assert strong["solarize_add"] == 88_000 and strong["cutout_abs"] == 32_000
    assert strengths(0)["posterize"] == 1000


def test_original_randaugment_draws_where_to_cut():
    u = given([13.5 / 16, 0.75, 0.0, 0.99])  # cutout_abs at the upper right corner, 32 wide
    cut = RandAugment(1, 24, space="original", generator=u)(torch.zeros(1, 3, 32, 32).byte())
    assert cut[0, 0].count_nonzero(dim=0).tolist() == [0] * 15 + [32] * 17


TIMM = {"autocontrast": "AutoContrast", "solarize_add": "SolarizeAdd"} | {
    name: name.title().replace("_", "") + "Rel" * ("translate" in name)
    for name in ("equalize", "invert", "rotate", "shear_x", "shear_y", "translate_x", "translate_y")
}  # fmt: skip
TIMM |= {
    name: name.title() + "Increasing"
    for name in ("posterize", "solarize", "color", "contrast", "brightness", "sharpness")
}


def timm_ops():
    fills = {"img_mean": (9, 9, 9), "interpolation": Image.Resampling.BILINEAR}
    return timm.rand_augment_transform("rand-m6-mstd0.5-inc1", fills).ops


@pytest.mark.parametrize("u", [0.25, 0.75])  # the sign
@pytest.mark.parametrize("noise_u", [0.02, 0.4, 0.97])
def test_an_operation_of_timms_randaugment_is_timms(u, noise_u, monkeypatch):
    ops = {op.name: op for op in timm_ops()}
    rows = [[(i + 0.5) / 15, u, 0.4, noise_u] for i in range(15)]
    ours = RandAugment(
        1, 18, space="timm", fill=9, interpolation="bilinear", generator=given(*rows)
    )
    operation, strength = (part[:, 0] for part in ours.draw(15, (40, 56), CPU)[:2])
    assert {TIMM[OPERATIONS[i]] for i in operation} == set(ops)
    images = noise(15, 3, 40, 56)
    magnitude = 6 + 0.5 * NormalDist().inv_cdf(noise_u)
    monkeypatch.setattr(random, "gauss", lambda mean, deviation: magnitude)
    for image, i, m, found in zip(images, operation, strength, ours(images), strict=True):
        op = ops[TIMM[OPERATIONS[i]]]
        turns = "translate" in OPERATIONS[i]  # theirs moves the other way
        monkeypatch.setattr(random, "random", lambda minus=turns: 0.3 if (u > 0.5) ^ minus else 0.6)
        op.prob = 1.0
        expected = pil_to_tensor(op(to_pil_image(image))).int()
        difference = (found.int() - expected).abs()
        assert not ((difference > 1) & ~on_the_edge(OPERATIONS[i], m, 40, 56)).any(), op.name
        assert (difference > 0).float().mean() < 0.01 or i in BLENDS, op.name


def test_the_law_of_timms_randaugment():
    ours = RandAugment(2, 18, space="timm", generator=torch.Generator().manual_seed(6))
    drawn = ours.draw(30_000, (32, 32), CPU)
    p = [0.5 + 0 * i if i == 0 else 0.5 / 15 for i in range(16)] + [0.0]
    chi_square(drawn.operation.flatten().bincount(minlength=17), p)
    turned = drawn.magnitude[drawn.operation == ID["rotate"]].abs() / 30
    assert turned.mean().item() == pytest.approx(0.6, abs=0.005)
    assert turned.std().item() == pytest.approx(0.05, abs=0.003)


def test_the_magnitudes_of_augmix_own_code():
    """Levels are uniform in [0.1, 3] of 10; of all but shears the whole number counts."""
    policy = AugMix(space="original", generator=torch.Generator().manual_seed(6))
    (operation, magnitude, _), _ = policy.draw(20_000, (32, 40), CPU)

    def law(name, base, reach, signs=1):
        found = magnitude[operation == ID[name]]
        low, high = 0.01 * abs(reach), 0.3 * abs(reach)
        steps = range(int(high) + 1)
        shares = [(min(high, k + 1) - max(low, k)) / (high - low) for k in steps]
        values = base + torch.tensor(steps) * (1 if reach > 0 else -1)
        found = found.abs() if signs == 2 else found
        chi_square(torch.stack([(found == v).sum() for v in values]), shares)

    law("posterize", 4, -4)
    law("solarize", 256, -256)
    law("rotate", 0, 30, signs=2)
    law("translate_x", 0, 40 / 3, signs=2)
    law("translate_y", 0, 32 / 3, signs=2)
    sheared = magnitude[operation == ID["shear_x"]]
    assert 0.003 <= sheared.abs().min() < 0.0033 and 0.0897 < sheared.abs().max() <= 0.09
    chi_square(torch.stack([(sheared < 0).sum(), (sheared > 0).sum()]), [0.5, 0.5])


@pytest.mark.parametrize("space", ["torchvision", "original"])
@pytest.mark.parametrize(
    ("all_ops", "depth", "alpha"), [(False, -1, 1), (True, 2, 1), (True, 1, 3)]
)
def test_augmix_against_loops(all_ops, depth, alpha, space):
    images = noise(24, 3, 20, 28)
    settings = dict(depth=depth, alpha=alpha, all_ops=all_ops, space=space)
    ours = AugMix(**settings, generator=torch.Generator().manual_seed(5))
    twin = AugMix(**settings, generator=torch.Generator().manual_seed(5))
    (operation, magnitude, _), weights = twin.draw(24, (20, 28), CPU)
    for i, result in enumerate(ours(images)):
        expected = weights[i, 0] * images[i]
        for chain in range(3):
            image = images[i : i + 1]
            for op, m in zip(operation[i, chain], magnitude[i, chain], strict=True):
                image = apply_operations(image, op[None], m[None])
            expected += weights[i, 1 + chain] * image[0]
        assert torch.equal(result, expected if space == "original" else expected.to(torch.uint8))


def test_the_law_of_randaugment_and_trivialaugment():
    for policy in (
        RandAugment(generator=torch.Generator().manual_seed(6)),
        TrivialAugment(generator=torch.Generator().manual_seed(6)),
    ):
        drawn = policy.draw(14_000, (32, 32), CPU)
        chi_square(drawn.operation.flatten().bincount(minlength=14), [1 / 14] * 14)
        turned = drawn.magnitude[drawn.operation == ID["rotate"]].unique(return_counts=True)
        signs = 2 if isinstance(policy, RandAugment) else 61  # bin 0 has one sign: 0 twice
        p = [1 / 2] * 2 if signs == 2 else [1 / 62] * 30 + [2 / 62] + [1 / 62] * 30
        assert len(turned[0]) == signs
        chi_square(turned[1], p)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_law_of_autoaugment(policy):
    ours = AutoAugment(policy, generator=torch.Generator().manual_seed(7))
    drawn = ours.draw(50_000, (32, 32), CPU)
    theirs = tv.AutoAugment(tv.AutoAugmentPolicy(policy)).policies
    for layer in range(2):
        p = torch.zeros(len(OPERATIONS), dtype=torch.float64)
        for sub_policy in theirs:
            name, probability, _ = sub_policy[layer]
            index = [TORCHVISION.get(key) for key in OPERATIONS].index(name)
            p[index] += probability / 25
            p[0] += (1 - probability) / 25
        chi_square(drawn.operation[:, layer].bincount(minlength=len(OPERATIONS)), p)


def test_the_law_of_augmix():
    ten = [0.1] * 10
    for alpha, beta_cdf in ((1, lambda x: x), (2, lambda x: 3 * x**2 - 2 * x**3)):
        policy = AugMix(alpha=alpha, generator=torch.Generator().manual_seed(8))
        decisions, weights = policy.draw(20_000, (32, 32), CPU)
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(20_000))
        chi_square((beta_cdf(weights[:, 0]) * 10).long().clamp(max=9).bincount(minlength=10), ten)
        if alpha == 1:  # one of three of a Dirichlet(1, 1, 1) is Beta(1, 2)
            share = weights[:, 1:] / (1 - weights[:, :1])
            for chain in range(3):
                uniform = 1 - (1 - share[:, chain]) ** 2
                chi_square((uniform * 10).long().clamp(max=9).bincount(minlength=10), ten)
        depth = (decisions.operation > 0).sum(dim=2)
        chi_square(depth.flatten().bincount(minlength=4), [0, 1 / 3, 1 / 3, 1 / 3])


@pytest.mark.parametrize("policy", ALL)
def test_a_seed_decides_the_result(policy):
    images = noise(16, 3, 32, 32)
    results = [
        policy(fill=3, generator=torch.Generator().manual_seed(seed))(images) for seed in (1, 1, 2)
    ]
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])
    assert torch.equal(images, noise(16, 3, 32, 32))


@pytest.mark.parametrize("policy", ALL)
def test_empty_and_grey_batches(policy):
    assert policy()(noise(0, 3, 8, 8)).shape == (0, 3, 8, 8)
    assert policy()(noise(4, 1, 8, 8)).shape == (4, 1, 8, 8)


@pytest.mark.parametrize("policy", ALL)
def test_wrong_images_are_refused(policy):
    with pytest.raises(ValueError, match="found torch.float32; apply policies before normalising"):
        policy()(torch.rand(2, 3, 8, 8))
    with pytest.raises(ValueError, match=r"found shape \(3, 8, 8\)"):
        policy()(noise(3, 8, 8))
    with pytest.raises(ValueError, match=r"found shape \(2, 4, 8, 8\)"):
        policy()(noise(2, 4, 8, 8))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AutoAugment("cifar100"), "one of cifar10, imagenet, svhn, found 'cifar100'"),
        (lambda: AutoAugment(magnitudes="tf"), "one of torchvision, original, found 'tf'"),
        (lambda: AutoAugment(magnitude=31), "magnitude must be in 0..30, found 31"),
        (lambda: RandAugment(space="uda"), "space must be one of torchvision, original"),
        (lambda: RandAugment(0), "num_ops must be at least 1, found 0"),
        (lambda: RandAugment(2, 31), "magnitude must be in 0..30, found 31"),
        (lambda: TrivialAugment(num_magnitude_bins=1), "num_magnitude_bins must be at least 2"),
        (lambda: AugMix(space="timm"), "space must be one of torchvision, original"),
        (lambda: TrivialAugment(interpolation="bicubic"), "nearest or bilinear, found 'bicubic'"),
        (lambda: AugMix(severity=11), "severity must be in 1..10"),
        (lambda: AugMix(alpha=0.5), "alpha must be a positive whole number, found 0.5"),
        (lambda: RandAugment(fill=(1, 2))(noise(1, 3, 8, 8)), "fill must be 1 or 3 numbers"),
        (lambda: RandAugment(fill=300)(noise(1, 3, 8, 8)), "fill must be 1 or 3 numbers"),
    ],
)
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("policy", ALL)
def test_a_fake_call_leaves_no_fake_tables(policy):
    size = (24, 25)  # that nothing else has asked for
    with FakeTensorMode():
        policy()(torch.empty(2, 3, *size, dtype=torch.uint8))
    assert type(policy()(noise(2, 3, *size))) is torch.Tensor
    with FakeTensorMode():  # nor real ones where they would be refused
        policy()(torch.empty(2, 3, *size, dtype=torch.uint8))


@pytest.mark.parametrize("policy", [RandAugment(), TrivialAugment(), AutoAugment(), AugMix()])
def test_images_keep_their_memory_format(policy: AutoAugment | AugMix) -> None:
    images = torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8)
    for layout in (torch.contiguous_format, torch.channels_last):
        found = policy(images.contiguous(memory_format=layout))
        assert found.is_contiguous(memory_format=layout)
