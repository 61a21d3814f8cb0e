"""Named experiments: every cell of the paper that needs a run, as differences from one another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from classification.config import Config
from classification.finetuning import FINETUNING
from classification.importance import Auto, Recycled, Teacher
from classification.methods import (
    AttentiveCutMix,
    CutMix,
    Cutout,
    GridMask,
    Keep,
    KeepCut,
    KeepMix,
    KeepPaste,
    ManifoldMixup,
    Mixup,
    MixupOrCutMix,
    RandomErasing,
)
from classification.teacher import RANDOM
from keepbench.experiments import Experiment
from keepbench.maps import Centre, Gradient, Inverted, Random, Shuffled
from keepbench.paper import (
    MAGNITUDES,
    cutout,
    figure_of,
    keep20,
    paste8,
    randaugment,
    tables_of,
)
from keepbench.policies import AugMix, AutoAugment, RandAugment, TrivialAugment

CHEAP = {
    "": (Gradient(), ""),
    "_low": (Gradient(scale=0.5), ""),
    "_early": (Gradient(), "layer1"),
    "_low_early": (Gradient(scale=0.5), "layer1"),
}
"""Section 3.1: low resolution, early loss, and both, which the paper leaves out."""

CIFAR = Config()  # Cutout's recipe (DeVries and Taylor) at 300 epochs and one cosine, section 4.1
CIFAR_ARCHS: dict[str, dict[str, Any]] = {
    "resnet18": {},
    "resnet110": {"arch": "resnet110"},
    "wrn28_10": {"arch": "wrn28_10", "dropout": 0.3},
}
AUTO = replace(CIFAR, policy=AutoAugment(), cut=Cutout(), clip=5.0)  # Cutout 16 is part of A
AUTO_ARCHS: dict[str, dict[str, Any]] = {
    "wrn28_10": {"arch": "wrn28_10"},
    "shake_shake": {"arch": "shake_shake_26_2x96d", "lr": 0.01, "weight_decay": 1e-3},
    "pyramidnet": {
        "arch": "pyramidnet272_a200_shakedrop",
        "lr": 0.05,
        "weight_decay": 5e-5,
        "batch_size": 64,
        "epochs": 1800,
    },
}
IMAGENET = Config(  # CutMix-PyTorch's recipe at 300 epochs, section 4.2
    dataset="images",
    data="data/imagenet",
    arch="resnet50",
    zero_init_last=False,
    image_size=224,
    jitter=True,
    batch_size=256,
    weight_decay=1e-4,
    schedule="step",
    workers=16,
)
DIGITS = replace(
    CIFAR, dataset="digits", data="", arch="resnet8", flip=False, epochs=12, batch_size=64
)

SMALL = replace(  # three minutes on a CPU core
    CIFAR, arch="resnet8", subset=5000, epochs=20, eval_every=10, channels_last=True
)

TRIAL = replace(  # 4,000 images: ten minutes on a CPU core
    CIFAR, arch="air32_64_128", epochs=60, batch_size=64, channels_last=True, flip_test=True,
    test_rest=True, occlusion=False, record=True, eval_every=1_000_000,
)  # fmt: skip

Table = dict[str, Experiment]


def _experiment(name: str, config: Config, table: str = "", trials: int = 1) -> Experiment:
    """An experiment with the paper's figure; `table` is of one that the paper leaves out."""
    return Experiment(config, tables_of(name) or table, figure_of(name), trials)


def _kept(plain: Config, keep: Keep, way: str = "") -> Config:
    """The Keep arm of a plain method, by one of the maps of `CHEAP`."""
    kind, head = CHEAP[way]
    return replace(plain, keep=replace(keep, map=kind), early_head=head)


def _arms(
    prefix: str,
    plain: Config,
    name: str,
    keep: Keep,
    cheap: list[str],
    *,
    table: str = "",
    trials: int,
) -> Table:
    """A plain method and its Keep arms, `cheap` ones as well."""
    configs = {f"{prefix}-{name}": plain}
    for way in cheap:
        configs[f"{prefix}-keep_{name}{way}"] = _kept(plain, keep, way)
    return {key: _experiment(key, config, table, trials) for key, config in configs.items()}


def _table1() -> Table:
    rows: Table = {}
    for arch, change in CIFAR_ARCHS.items():
        plain = replace(CIFAR, cut=Cutout(), **change)
        rows |= _arms(
            f"cifar10-{arch}", plain, "cutout", KeepCut(), list(CHEAP), table="1", trials=3
        )
    for arch, change in AUTO_ARCHS.items():
        rows |= _arms(
            f"cifar10-{arch}", replace(AUTO, **change), "autoaugment", KeepPaste(), list(CHEAP),
            table="1", trials=1 if arch == "pyramidnet" else 3,
        )  # fmt: skip
    return rows


def _table2() -> Table:
    rows: Table = {}
    for length in (8, 12, 20, 24):
        plain = replace(CIFAR, cut=Cutout(size=length))
        rows |= _arms("cifar10-resnet18", plain, f"cutout{length}", KeepCut(), [""], trials=5)
    return rows


def _rand(magnitude: int) -> Config:
    """RandAugment over AutoAugment's operations, N = 3, magnitude of 30 (SETTINGS, reading A)."""
    return replace(AUTO, arch="wrn28_10", policy=RandAugment(magnitude=magnitude))


def _table3() -> Table:
    rows: Table = {}
    for magnitude in MAGNITUDES:
        rows |= _arms(
            "cifar10-wrn28_10", _rand(magnitude), f"randaugment_m{magnitude}", KeepPaste(),
            ["", "_low"], table="3", trials=5,
        )  # fmt: skip
    return rows


def _table4() -> Table:
    changes: dict[str, dict[str, Any]] = {
        "gridmask": {"policy": None, "cut": GridMask()},
        "augmix": {
            "policy": AugMix(space="original", fill="black"),
            "interpolation": "bilinear",
            "cut": None,
        },
        "attentive_cutmix": {"policy": None, "cut": None, "mix": AttentiveCutMix()},
    }
    configs = {
        f"cifar10-{arch}-{name}": replace(replace(AUTO, **AUTO_ARCHS[arch]), **change)
        for arch in ("wrn28_10", "shake_shake")
        for name, change in changes.items()
    }
    return {name: _experiment(name, config, trials=5) for name, config in configs.items()}


def _table5() -> Table:
    plain: dict[str, dict[str, Any]] = {
        "vanilla": {},
        "dropout": {"regulariser": "dropout"},
        "droppath": {"regulariser": "droppath"},
        "manifold_mixup": {"mix": ManifoldMixup()},
        "mixup": {"mix": Mixup(alpha=0.2)},
        "dropblock": {"regulariser": "dropblock", "smoothing": 0.1, "zero_init_last": True},
        "randaugment": {"policy": RandAugment(num_ops=2)},
        "random_erasing": {"cut": RandomErasing(p=0.5)},
    }
    kept: dict[str, tuple[dict[str, Any], Keep]] = {
        "autoaugment": ({"policy": AutoAugment(policy_set="imagenet")}, KeepPaste(size=40)),
        "cutmix": ({"mix": CutMix()}, KeepMix()),
    }
    rows: Table = {}
    for arch in ("resnet50", "resnet101"):
        base = replace(IMAGENET, arch=arch)
        for method, change in plain.items():
            name = f"imagenet-{arch}-{method}"
            if figure_of(name):  # two are ResNet-50's alone
                rows[name] = _experiment(name, replace(base, **change))
        for method, (change, keep) in kept.items():
            rows |= _arms(
                f"imagenet-{arch}", replace(base, **change), method, keep, list(CHEAP),
                table="5", trials=1,
            )  # fmt: skip
    return rows


def _table8() -> Table:
    base = replace(IMAGENET, epochs=360)
    configs = {
        "imagenet-resnet50-cutmix-360": replace(base, mix=CutMix()),
        "imagenet-resnet50-autoaugment-360": replace(
            base, policy=AutoAugment(policy_set="imagenet")
        ),
    }
    return {name: _experiment(name, config) for name, config in configs.items()}


def _figures() -> Table:
    """The sweeps of Figures 2 and 3, whose values stand only in the pictures."""
    wide = replace(CIFAR, **CIFAR_ARCHS["wrn28_10"])
    configs: dict[str, Config] = {}
    for length in (0, 4, 8, 12, 20, 24):
        configs[cutout("wrn28_10", length)] = replace(wide, cut=Cutout(size=length))
    for magnitude in (3, 9, 15, 21):
        configs[randaugment(magnitude)] = _rand(magnitude)
    for tau in (0.2, 0.4, 0.6, 0.8):
        configs[keep20(tau)] = replace(wide, cut=Cutout(size=20), keep=KeepCut(tau=tau))
    for tau in (0.0, 0.2, 0.4, 0.6, 0.8):
        configs[paste8(tau)] = replace(_rand(15), keep=KeepPaste(size=8, tau=tau))
    return {name: _experiment(name, config) for name, config in configs.items()}


def _controls() -> Table:
    """Is it the saliency? Arms that differ from a Keep arm in one respect."""
    plain = replace(CIFAR, cut=Cutout())
    arms = {
        "cifar10-resnet18-none": CIFAR,
        "cifar10-resnet18-keep_cutout-match_area": replace(plain, keep=KeepCut(match_area=True)),
        "cifar10-resnet18-cutout-early_loss": replace(plain, early_head="layer1"),
        "cifar10-resnet18-cutout-equal_time_low": replace(plain, epochs=360),
        "cifar10-resnet18-cutout-equal_time": replace(plain, epochs=600),
        "cifar10-wrn28_10-keep_autoaugment-tau0": replace(
            AUTO, arch="wrn28_10", keep=KeepPaste(tau=0.0)
        ),
        "cifar10-wrn28_10-keep_randaugment_m24-tau0": replace(_rand(24), keep=KeepPaste(tau=0.0)),
    }
    for kind in (Random(), Shuffled(), Inverted(), Centre()):
        arms[f"cifar10-resnet18-keep_cutout-{kind.name}"] = replace(plain, keep=KeepCut(map=kind))
    return {name: Experiment(config, "control", "", 3) for name, config in arms.items()}


def _small() -> Table:
    """Is it the saliency? The same question where a CPU can answer it with several seeds."""
    plain = replace(SMALL, cut=Cutout())
    keep = _kept(plain, KeepCut(), "_low_early")
    arms = {
        "none": SMALL,
        "cutout": plain,
        "keep_cutout_low_early": keep,
        "keep_cutout_low_early-match_area": _kept(plain, KeepCut(match_area=True), "_low_early"),
        "keep_cutout_low_early-random": replace(keep, keep=KeepCut(map=Random())),
        "keep_cutout_low_early-inverted": replace(keep, keep=KeepCut(map=Inverted(scale=0.5))),
    }
    return {
        f"cifar10_small-{name}": Experiment(config, "small", "", 3) for name, config in arms.items()
    }


def _beyond() -> Table:
    """Further methods on CIFAR-10, small networks for CPUs, and today's ImageNet recipes."""
    rows: Table = {}
    for arch in ("resnet18", "resnet20"):
        base = replace(CIFAR, arch=arch)
        methods: dict[str, tuple[dict[str, Any], Keep]] = {
            "random_erasing": ({"cut": RandomErasing(p=0.5)}, KeepCut()),
            "cutmix": ({"mix": CutMix(p=0.5)}, KeepMix()),
            "trivialaugment": ({"policy": TrivialAugment(), "cut": Cutout()}, KeepPaste()),
            "randaugment": (
                {"policy": RandAugment(magnitude=15), "cut": Cutout()}, KeepPaste(),
            ),
            "autoaugment": ({"policy": AutoAugment(), "cut": Cutout()}, KeepPaste()),
            "cutout": ({"cut": Cutout()}, KeepCut()),
        }  # fmt: skip
        for name, (change, keep) in methods.items():
            rows |= _arms(
                f"cifar10-{arch}", replace(base, **change), name, keep, list(CHEAP),
                trials=3,
            )  # fmt: skip
        rows[f"cifar10-{arch}-none"] = Experiment(base, "", "", 3)
    plain = replace(CIFAR, cut=Cutout())
    stored = replace(plain, keep=KeepCut(map=Gradient(scale=0.5), cache=20))
    rows["cifar10-resnet18-keep_cutout_cached"] = Experiment(stored, "", "", 3)
    for arch, change in CIFAR_ARCHS.items():
        recycled = replace(plain, keep=KeepCut(map=Recycled()), **change)
        rows[f"cifar10-{arch}-keep_cutout_recycled"] = Experiment(recycled, "", "", 3)
    auto = replace(plain, keep=KeepCut(map=Auto()), early_head="layer1")
    rows["cifar10-resnet18-keep_cutout_auto"] = Experiment(auto, "", "", 3)
    modern = {"v2": V2, "a3": A3}
    for name, config in modern.items():
        rows |= _arms(
            "imagenet-resnet50", config, name, KeepMix(), ["", "_low", "_low_early"], trials=1
        )
    digits: dict[str, tuple[dict[str, Any], Keep]] = {
        "cutout": ({"cut": Cutout()}, KeepCut()),
        "cutmix": ({"mix": CutMix()}, KeepMix()),
    }
    for name, (change, keep) in digits.items():
        rows |= _arms(
            "digits-resnet8", replace(DIGITS, **change), name, keep, list(CHEAP),
            trials=1,
        )  # fmt: skip
    rows["digits-resnet8-none"] = Experiment(DIGITS)
    plain = replace(DIGITS, cut=Cutout())
    auto = replace(plain, keep=KeepCut(map=Auto()), early_head="layer1")
    rows["digits-resnet8-keep_cutout_auto"] = Experiment(auto)
    recycled = replace(plain, keep=KeepCut(map=Recycled()))
    rows["digits-resnet8-keep_cutout_recycled"] = Experiment(recycled)
    return rows


V2 = replace(  # torchvision's "new recipe" (2021, references/classification); see docs/errata.md
    IMAGENET, jitter=False, epochs=600, batch_size=1024, optimizer="momentum", lr=0.5,
    weight_decay=2e-5, norm_decay=False, bias_decay=True, schedule="torchvision", warmup=5,
    smoothing=0.1, policy=TrivialAugment(fill="black"), interpolation="bilinear",
    cut=RandomErasing(p=0.1, law="torchvision"), mix=MixupOrCutMix(alpha=0.2),
    # 0.99998 for a batch of one image and one epoch, as its script adjusts it
    ema=1 - (1 - 0.99998) * 1024 * 32 / 600, ema_every=32,
    image_size=176, test_size=224, test_resize=232,
)  # fmt: skip
A3 = replace(  # timm's, procedure A3 of ResNet strikes back (Wightman et al., 2021); errata, too
    IMAGENET, jitter=False, zero_init_last=True, epochs=100, batch_size=2048, optimizer="lamb",
    lr=8e-3, weight_decay=0.02, norm_decay=False, schedule="timm", warmup=5, loss="bce",
    policy=RandAugment(space="timm", num_ops=2, magnitude=18), interpolation="random",
    mix=MixupOrCutMix(alpha=0.1), image_size=160, test_size=224, test_resize=235,
)  # fmt: skip


def _all() -> Table:
    rows = {
        "trial": Experiment(TRIAL),
        **{name: Experiment(config, "", "", 3) for name, config in FINETUNING.items()},
        **_small(),
        **_beyond(),
        **_figures(),
        **_controls(),
        **_table8(),
        **_table5(),
    }
    return rows | {**_table4(), **_table3(), **_table2(), **_table1()}


EXPERIMENTS = _all()
"""Every cell of Tables 1-5 and 8 and Figures 2 and 3, the controls, and some beyond the paper.

`python tools/run_classification.py --list` prints them with the paper's figures.
"""


def _smoke(config: Config) -> Config:
    """A few steps on a few images: seconds on two CPU cores for every experiment.

    Nothing is downloaded: networks begin, and teachers stay, with random weights.
    """
    large = config.dataset == "images"
    cut, mix, keep = config.cut, config.mix, config.keep
    if large and isinstance(cut, Cutout):
        cut = replace(cut, size=32)
    if isinstance(mix, AttentiveCutMix):
        mix = replace(mix, attention="random")  # its pretrained network would be downloaded
    if isinstance(keep, KeepPaste):
        keep = replace(keep, size=min(keep.size, 16))
    if keep and isinstance(keep.map, Teacher):
        keep = replace(keep, map=replace(keep.map, weights=RANDOM))
    side = 64 if large else 0
    return replace(
        config, epochs=2, subset=8, test_subset=4, test_rest=False, batch_size=4, workers=0,
        warmup=min(config.warmup, 1), image_size=side, test_size=side, test_resize=0, weights="",
        cut=cut, mix=mix, keep=keep,
    )  # fmt: skip


def _short(config: Config) -> Config:
    """A tenth of the epochs on a fifth of CIFAR, or of an ImageNet-like set."""
    return replace(config, epochs=max(1, config.epochs // 10), subset=config.subset or 10_000)


BUDGETS: dict[str, Callable[[Config], Config]] = {
    "smoke": _smoke,
    "short": _short,
    "paper": lambda config: config,
}
