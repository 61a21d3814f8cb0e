"""Methods, Keep and maps as settings: what each builds, and classes of the user's own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.data import auto_augment
from torch import Tensor, nn

import keepaugment
import keeppolicies
from classification import comparisons
from classification.auto_map import AutoSaliency
from classification.cli import main
from classification.config import Config
from classification.data import open_data
from classification.importance import Auto, Recycled
from classification.methods import (
    AttentiveCutMix,
    Blend,
    CutMix,
    Cutout,
    GridMask,
    KeepCut,
    KeepMix,
    KeepPaste,
    ManifoldMixup,
    Mixup,
    MixupOrCutMix,
    RandomErasing,
)
from keepbench.files import digest
from keepbench.maps import Centre, Gradient, Inverted, Map, Random, Scene, Shuffled
from keepbench.own_policy import Own, Timm
from keepbench.policies import AugMix, AutoAugment, Policy, RandAugment, TrivialAugment
from keepbench.run import RunRecord
from runs import CPU

NOISE = torch.Generator()
KEEP = keepaugment.Keep(keepaugment.CentreSaliency(), 0.3, match_area=True)


class Net(nn.Module):
    """Stages by the names that manifold mixup looks for."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1, self.layer2 = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 5, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer2(self.layer1(images)).mean((2, 3))


NET = Net()
BLEND = Blend(5, NET, NOISE, CPU.device, (0.5,) * 3, (0.2,) * 3, False)


def has(made: Any, kind: type, **values: Any) -> bool:
    """Whether it is of a kind, with these values."""
    return type(made) is kind and {name: getattr(made, name) for name in values} == values


def test_cuts_are_what_they_say() -> None:
    made = Cutout(size=8, p=0.5).build(KEEP, NOISE, False)
    assert has(made, keepaugment.Cutout, size=8, p=0.5, keep=KEEP, generator=NOISE)
    original, torchvisions = (
        RandomErasing(p=0.5, law=law).build(KEEP, NOISE, True)
        for law in ("original", "torchvision")
    )
    inside = replace(KEEP, match_area=False)  # its boxes lie inside, so their area is its own
    kind = keepaugment.RandomErasing
    assert has(original, kind, p=0.5, scale=(0.02, 0.4), ratio=(0.3, 1 / 0.3), log_ratio=False)
    assert has(torchvisions, kind, scale=(0.02, 0.33), ratio=(0.3, 3.3), log_ratio=True)
    assert original.keep == torchvisions.keep == inside
    small, large = (GridMask().build(None, NOISE, large) for large in (False, True))
    assert has(small, comparisons.GridMask, d=(24, 32), ratio=0.4, rotate=1)
    assert has(large, comparisons.GridMask, d=(96, 223), ratio=0.6, rotate=360, ramp_epochs=240)


def test_mixes_are_what_they_say() -> None:
    (cutmix,) = CutMix(alpha=0.3, p=0.4).build(KEEP, BLEND)
    assert has(cutmix, keepaugment.CutMix, alpha=0.3, p=0.4, num_classes=5, keep=KEEP)
    mixup, cutmix = MixupOrCutMix(alpha=0.2, p=0.4).build(KEEP, BLEND)
    assert has(mixup, comparisons.Mixup, alpha=0.2, num_classes=5)
    assert has(cutmix, keepaugment.CutMix, alpha=1.0, p=0.4, keep=KEEP)
    (mixup,) = Mixup(alpha=0.3).build(None, BLEND)
    assert has(mixup, comparisons.Mixup, alpha=0.3, generator=NOISE)
    (manifold,) = ManifoldMixup(alpha=0.3).build(None, BLEND)
    assert has(manifold, comparisons.ManifoldMixup, alpha=0.3, num_places=3)
    manifold.remove()


def test_attention_is_a_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def create_model(name: str, classes: int) -> nn.Module:
        assert (name, classes) == ("resnet50", 1000)
        return Net()

    monkeypatch.setattr("classification.methods.create_model", create_model)
    torch.save(NET.state_dict(), tmp_path / "net.pt")
    read = AttentiveCutMix(attention=str(tmp_path / "net.pt")).network(False)
    assert isinstance(read, Net) and torch.equal(read.layer1.weight, NET.layer1.weight)
    other = AttentiveCutMix(attention="random").network(False)
    assert isinstance(other, Net) and not torch.equal(other.layer1.weight, NET.layer1.weight)
    assert AttentiveCutMix().network(True) == "resnet50"


def test_keep_is_what_it_says() -> None:
    centre = KEEP.saliency
    assert KeepCut(tau=0.3, match_area=True).build(centre, NOISE) == KEEP
    assert KeepMix(tau=0.3, p=0.4).build(centre, NOISE) == replace(KEEP, match_area=False, p=0.4)
    paste = KeepPaste(tau=0.2, size=9).build(centre, NOISE)
    assert has(paste, keepaugment.KeepPaste, size=9, generator=NOISE)
    assert paste.keep == keepaugment.Keep(centre, 0.2)


@pytest.mark.parametrize(
    ("kind", "passes"),
    [
        (Gradient(scale=0.5), 0.5), (Shuffled(scale=0.5), 0.5), (Inverted(), 2), (Random(), 0),
        (Centre(), 0), (Auto(), 2), (Recycled(), 0),
    ],
)  # fmt: skip
def test_maps_are_what_they_say(kind: Map, passes: float) -> None:
    """A gradient map is a forward and a backward pass, of a quarter of the pixels at half scale."""
    data = open_data(Config(dataset="digits", subset=7), CPU.device)
    made: Any = kind.build(Scene(NET, NOISE, data=data, device=CPU.device))
    wanted = {"auto": AutoSaliency, "recycled": keepaugment.RecycledSaliency}
    names = ("Gradient", "Shuffled", "Inverted", "Random", "Centre")
    wanted |= {name.lower(): getattr(keepaugment, f"{name}Saliency") for name in names}
    assert type(made) is wanted[kind.name] and kind.passes == passes
    if isinstance(kind, Gradient):
        source = getattr(made, "saliency", made)
        assert has(source, keepaugment.GradientSaliency, model=NET, scale=kind.scale)
    if isinstance(kind, Random | Shuffled):
        assert made.generator is NOISE
    if isinstance(kind, Recycled):
        assert made.maps.shape[0] == 7


@pytest.mark.parametrize(
    ("policy", "kind", "values"),
    [
        (AutoAugment(policy_set="svhn"), "AutoAugment", {"policy": "svhn", "magnitude": None}),
        (AutoAugment(magnitude=0, space="original"), "AutoAugment",
         {"magnitude": 0, "magnitudes": "original"}),
        (RandAugment(num_ops=2, magnitude=5, space="timm"), "RandAugment",
         {"num_ops": 2, "magnitude": 5, "space": "timm"}),
        (TrivialAugment(), "TrivialAugment", {}),
        (AugMix(space="original"), "AugMix", {"space": "original"}),
    ],
)  # fmt: skip
def test_policies_are_what_they_say(policy: Policy, kind: str, values: dict[str, Any]) -> None:
    mean = (0.2, 0.4, 0.6)
    made = policy.build(mean, NOISE, "bilinear")
    common = {"fill": [51, 102, 153], "generator": NOISE, "interpolation": "bilinear"}
    assert has(made, getattr(keeppolicies, kind), **values, **common)
    assert replace(policy, fill="black").build(mean, NOISE).fill == 0  # type: ignore[attr-defined]


OWN = """
from dataclasses import dataclass

import keepaugment
from classification.methods import Cut, Keep, Mix
from keepaugment.stored import GivenMaps
from keepbench.maps import Map
from keepbench.policies import Policy
from keepbench.settings import setting


@dataclass(frozen=True, kw_only=True)
class Stripe(Cut):
    size: float = setting(0.5, "share of the columns", range="(0, 1)")  # Cutout's is a number

    def build(self, keep, generator, large):
        return Stripes(round(32 * self.size))


class Stripes:
    def __init__(self, columns):
        self.columns = columns

    def mask(self, images, labels):
        print("mine", self.columns)
        mask = images[:, :1] == float("inf")
        mask[..., : self.columns] = True
        return mask

    def __call__(self, images, mask):
        return images.masked_fill(mask, 0.0)


@dataclass(frozen=True, kw_only=True)
class Turned(Mix):
    share: float = setting(0.5, "of the other image", range="[0, 1]")

    def build(self, keep, blend):
        def mix(images, labels):
            print("mine", self.share)
            return images.lerp(images.flip(0), self.share), labels

        return [mix]


@dataclass(frozen=True, kw_only=True)
class Dark(Policy):
    by: int = setting(2, "divisor", range="[1, 255]")

    def make(self, **common):
        return lambda images: print("mine", self.by) or images // self.by


class Far(GivenMaps):
    def __call__(self, images, targets=None):
        maps = super().__call__(images, targets)
        print("mine", int(maps.unique()))
        return maps


@dataclass(frozen=True, kw_only=True)
class Depth(Map):
    level: int = setting(1, "of all pixels", range="[0, 255]")

    def source(self, scene):
        maps = Far(scene.data.num_train, scene.data.image_size, device=scene.device)
        maps.maps.fill_(self.level)
        return maps


@dataclass(frozen=True, kw_only=True)
class Strict(Keep):
    stage = "cut"
    above: float = setting(0.5, "what is kept", range="[0, 1]")

    def build(self, saliency, generator):
        print("mine", self.above)
        return keepaugment.Keep(saliency, self.above)
"""
WORDS = [
    "digits-resnet8-cutout", "--subset", "40", "--test-subset", "8", "--batch-size", "20",
    "--padding", "0", "--epochs", "1", "--no-occlusion", "--device", "cpu",
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "kind", "setting", "value", "others", "said"),
    [
        ("cut", "Stripe", "size", 0.25, [], ["mine 8"] * 2),
        ("mix", "Turned", "share", 0.25, [], ["mine 0.25"] * 2),
        ("policy", "Dark", "by", 3, [], ["mine 3"] * 2),
        ("keep.map", "Depth", "level", 7, ["--keep", "cut"], ["mine 7"] * 2),
        ("keep", "Strict", "above", 0.25, [], ["mine 0.25"]),  # when it is built
    ],
)
def test_a_class_of_the_users_own_trains(
    name: str, kind: str, setting: str, value: float, others: list[str], said: list[str],
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Two steps from the command line; a folder that names it runs nothing."""
    own, out = tmp_path / "own.py", tmp_path / "run"
    own.write_text(OWN)
    words = [*WORDS, "--out", str(out), *others, f"--{name}", f"{own}:{kind}"]
    words += [f"--{name}.{setting}", str(value)]
    main(words)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("mine")] == said
    about = json.loads((out / "run.json").read_text())
    assert about["settings"][name] == f"{own}:{kind}"
    assert about["settings"][f"{name}.{setting}"] == value
    assert about["files"] == {name: digest([own.name, own.read_bytes()])}
    if name == "cut":
        (row,) = RunRecord.read(out).rows
        assert row["changed_area"] == 0.25
    code = f"{own}:{kind} is code, which is not run because a file says so"
    with pytest.raises(ValueError, match=code):
        RunRecord.read(out).config(Config)
    with pytest.raises(SystemExit, match=code):
        main([*WORDS, "--config", str(out / "run.json"), "--out", str(tmp_path / "new")])
    own.write_text(OWN + "\n")
    with pytest.raises(SystemExit, match=f"what {name} names has changed"):
        main([*words, "--resume"])


KIND = "@dataclass(frozen=True, kw_only=True)\nclass C"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("C = 3", "cut must be a subclass of classification.methods.Cut, found .*:C"),
        ("class C: pass", "cut must be a subclass of classification.methods.Cut"),
        ("class D(Cut): pass", "cut .*:C cannot be called: .*no attribute 'C'"),
        ("@dataclass\nclass C(Cut): pass", "cut .*cannot inherit non-frozen"),
        (
            "class C(Cut):\n w: int = setting(3, 'w')",
            "cut .*:C has w, so it needs @dataclass",
        ),
        ("@dataclass(frozen=True)\nclass C(Cut):\n w: int = 3", "cut .*:C has w, which must be"),
        (f"{KIND}(Cut): pass", "cut .*:C cannot be made: .*abstract.*build"),
        (
            f"{KIND}(Mix):\n def build(self, keep, blend): return [lambda images: images]",
            "a mix is built as a list of functions of images and labels, found",
        ),
        (f"{KIND}(Policy): pass", "policy=.*:C has neither make nor build"),
        (
            f"{KIND}(Keep):\n def build(self, saliency, generator): return saliency",
            "keep=.*:C must have a stage, cut or policy or mix, found ''",
        ),
    ],
)
def test_a_class_that_is_no_kind_is_refused(code: str, message: str, tmp_path: Path) -> None:
    start = (
        "from dataclasses import dataclass\nfrom keepbench.settings import setting\n"
        "from classification.methods import Cut, Keep, Mix\nfrom keepbench.policies import Policy\n"
    )
    own = tmp_path / "own.py"
    own.write_text(f"{start}{code}\n")
    name = next((each for each in ("keep", "mix", "policy") if f"({each.title()})" in code), "cut")
    with pytest.raises(SystemExit, match=message):
        main([*WORDS, "--out", str(tmp_path / "run"), f"--{name}", f"{own}:C"])


OBEYING = """
from dataclasses import dataclass
import keepaugment
import torch
from classification.methods import Cut, Mix

class Inner:
    def __init__(self, cut):
        self.cut, self.mask = cut, cut.mask

    def __call__(self, images, mask):
        return self.cut(images, mask=mask)

@dataclass(frozen=True, kw_only=True)
class Hidden(Cut):
    def build(self, keep, generator, large):
        return Inner(keepaugment.Cutout(8, generator=generator, keep=keep))

@dataclass(frozen=True, kw_only=True)
class Deaf(Mix):
    keeps = True

    def build(self, keep, blend):
        return [keepaugment.CutMix(blend.classes, generator=blend.generator, keep=keep)]

@dataclass(frozen=True, kw_only=True)
class Obeying(Mix):
    keeps = True

    def build(self, keep, blend):
        made = keepaugment.CutMix(
            blend.classes, generator=blend.generator, keep=keep, labels=blend.labels
        )
        return [lambda images, labels: (images, labels), made]

buffer, buffers = (torch.zeros(*size, 1, 8, 8, dtype=torch.uint8) for size in ((), (2,)))
def buffered(image):
    return buffer.copy_(image)
def all_buffered(images):
    return buffers.copy_(images)
"""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cut", "Hidden", "--keep.rising"], "keep.rising is obeyed by none of the cut's Inner"),
        (
            ["mix", "Deaf", "--keep.labels", "importance"],
            "keep.labels=importance is obeyed by none of the mix's CutMix: .*blend.labels",
        ),
        (["mix", "Deaf", "--keep.rising"], ""),
        (["mix", "Obeying", "--keep.rising", "--keep.labels", "importance"], ""),
    ],
)
def test_a_setting_that_a_users_class_does_not_obey_is_refused(
    words: list[str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(OBEYING)
    stage, kind, *others = words
    given = [*WORDS, "--out", str(tmp_path / "run"), f"--{stage}", f"{tmp_path}/own.py:{kind}"]
    given += ["--keep", stage, "--keep.map", "centre", *others]
    if not message:
        main(given)
        return
    with pytest.raises(SystemExit, match=message):
        main(given)


@pytest.mark.parametrize("name", ["buffered", "all_buffered"])
def test_a_transform_that_returns_one_buffer_gives_each_image_and_batch_its_own(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(OBEYING)
    draws = keepaugment.SampleDraws(0)
    policy = Own(transform=f"{tmp_path}/own.py:{name}").build((0.5,), draws)
    draws.at(0, torch.arange(2))
    images = torch.arange(2).byte()[:, None, None, None].expand(2, 1, 8, 8)
    first, second = policy(images), policy(images + 2)
    assert first.equal(images) and second.equal(images + 2)


def test_a_keep_that_keeps_nothing_is_refused() -> None:
    plain = Config(cut=Cutout(), mix=CutMix(), policy=RandAugment())
    for keep in (KeepCut(p=0.0), KeepMix(p=0.0)):
        with pytest.raises(ValueError, match="keep.p=0.0 keeps nothing"):
            replace(plain, keep=keep)
    for keep in (KeepCut(tau=1.0), KeepMix(p=0.0, labels="importance"), KeepPaste(tau=0.0)):
        assert replace(plain, keep=keep).keep == keep


@pytest.mark.parametrize("words", ["n0", "m9-p0", "m9-p0.0"])
def test_a_policy_of_timms_that_changes_nothing_is_refused(words: str) -> None:
    with pytest.raises(ValueError, match=f"config='rand-{words}' changes nothing"):
        Timm(config=f"rand-{words}")


def test_a_set_of_operations_that_timm_does_not_know_is_refused() -> None:
    for word in ("typo", "tfoo", "t9", "t3"):
        with pytest.raises(ValueError, match=f"{word}.*sets of operations are tweights, t3a, t3aw"):
            Timm(config=f"rand-m9-{word}")
    with pytest.raises(ValueError, match="no policy of timm: 'tweights'"):
        Timm(config="augmix-tweights")
    usual = auto_augment.rand_augment_choices("")
    for word in ("weights", "3a", "3aw"):
        assert auto_augment.rand_augment_choices(word) is not usual
        Timm(config=f"rand-m9-t{word}")


def test_a_users_class_has_its_flags_in_help(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.py").write_text(OWN)
    with pytest.raises(SystemExit):
        main([WORDS[0], "--cut", f"{tmp_path}/own.py:Stripe", "--help"])
    assert "Stripe: share of the columns" in " ".join(capsys.readouterr().out.split())
