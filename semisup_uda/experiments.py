"""Named experiments: Table 9, its twins in other methods, and its controls.

    python tools/run_semisup_uda.py cifar10-uda-keep_randaugment-250 --data FOLDER --seed 1

The recipe is that of UDA's code: WRN-28-2, 500,000 steps of 64 labelled and 448 unlabelled images,
tested every 1000. `--budget short` is a tenth of these steps.

The network is `wrn28_2` of `classification.models`: ReLU, BatchNorm momentum 0.1 and eps 1e-5 as in
UDA's. Where a block changes shape, its shortcut convolves the normalised input, as in the Wide
ResNet paper, and not the raw one as in UDA's. FixMatch's ports have LeakyReLU(0.1) and BatchNorm
momentum 0.001 instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from keepbench.experiments import Experiment
from keepbench.maps import Centre, Gradient, Inverted, Random, Shuffled
from keepbench.paper import figure_of, tables_of
from keepbench.policies import RandAugment
from semisup_uda.config import Config, KeepPaste

UDA = Config()
FIXMATCH = replace(UDA, method="fixmatch", confidence=0.95)
SUPERVISED = replace(UDA, method="supervised")

Table = dict[str, Experiment]


def _labels(base: Config, number: int) -> Config:
    """As many labels: the first in file order, as UDA; 40, FixMatch's number, from all classes."""
    return replace(base, labels=number, split="balanced" if number == 40 else "first")


def _table9() -> Table:
    """UDA, FixMatch and supervised training, with 4000, 2500, 250 and 40 labels."""
    rows: Table = {}
    for number in (4000, 2500, 250, 40):
        for method, base in (("uda", UDA), ("fixmatch", FIXMATCH)):
            plain = _labels(base, number)
            for arm, keep in (("", None), ("keep_", KeepPaste())):
                name = f"cifar10-{method}-{arm}randaugment-{number}"
                config = replace(plain, keep=keep)
                rows[name] = Experiment(config, tables_of(name), figure_of(name), 3)
        rows[f"cifar10-supervised-{number}"] = Experiment(_labels(SUPERVISED, number), trials=3)
    return rows


def _controls() -> Table:
    """Is it the saliency, the resolution, the policy, or only the images that have labels?"""
    keep = replace(_labels(UDA, 250), keep=KeepPaste())
    half = {"scale": 0.5}
    maps = {"random": Random(), "shuffled": Shuffled(**half), "inverted": Inverted(**half),
            "centre": Centre()}  # fmt: skip
    changes: dict[str, dict[str, Any]] = {
        "keep_randaugment-250-full": {"keep": KeepPaste(map=Gradient())},
        "keep_randaugment-250-tau0": {"keep": KeepPaste(tau=0.0)},
        **{f"keep_randaugment-250-{name}": {"keep": KeepPaste(map=m)} for name, m in maps.items()},
        "randaugment-250-labelled_only": {"keep": None, "unlabelled": "labelled"},
        "randaugment-250-balanced": {"keep": None, "split": "balanced"},
        "keep_randaugment-250-balanced": {"split": "balanced"},
        "randaugment_torchvision-250": {"keep": None, "policy": RandAugment(num_ops=2)},
        "keep_randaugment_torchvision-250": {"policy": RandAugment(num_ops=2)},
        **{f"randaugment-250-tsa_{s}": {"keep": None, "tsa": s} for s in ("linear", "log", "exp")},
    }
    return {
        f"cifar10-uda-{name}": Experiment(replace(keep, **change), "control", "", 3)
        for name, change in changes.items()
    }


SMALL = Config(  # minutes on two CPU cores, where channels_last saves a third
    arch="resnet8", subset=10_000, test_subset=2000, labels=250, split="balanced", ratio=3,
    batch_size=32, lr=0.1, epochs=10, steps=150, ema=0.99, channels_last=True,
)  # fmt: skip
DIGITS = Config(  # less than a minute
    dataset="digits", data="", arch="resnet8", labels=20, split="balanced", flip=False, padding=2,
    ratio=4, batch_size=8, lr=0.1, epochs=5, steps=60, ema=0.9, cutout=8,
    channels_last=True,
)  # fmt: skip


def _small() -> Table:
    """The same methods where a CPU suffices to see that unlabelled images help."""
    rows: Table = {}
    bases = (("cifar10_small", SMALL, 16), ("cifar10_small", replace(SMALL, labels=1000), 16))
    for prefix, base, pasted in (*bases, ("digits", DIGITS, 8)):
        keep = KeepPaste(size=pasted)
        arms = {
            "supervised": {"method": "supervised"},
            "uda-labelled_only": {"unlabelled": "labelled"},
            "uda-randaugment": {},
            "uda-keep_randaugment": {"keep": keep},
            "fixmatch-randaugment": {"method": "fixmatch", "confidence": 0.95},
            "fixmatch-keep_randaugment": {
                "method": "fixmatch", "confidence": 0.95, "keep": keep,
            },
        }  # fmt: skip
        for name, change in arms.items():
            config = replace(base, **change)  # type: ignore[arg-type]
            table = "small" if prefix == "cifar10_small" else ""
            rows[f"{prefix}-{name}-{base.labels}"] = Experiment(config, table, "", 3)
    return rows


EXPERIMENTS = {**_small(), **_controls(), **_table9()}
"""Everything; `python tools/run_semisup_uda.py --list` prints it with the paper's figures."""


def _smoke(config: Config) -> Config:
    """A few steps on a few images: seconds on two CPU cores for every experiment."""
    return replace(
        config,
        subset=20,
        test_subset=10,
        labels=10,
        split="balanced",
        epochs=2,
        steps=2,
        batch_size=2,
        ratio=2,
    )


def _short(config: Config) -> Config:
    """A tenth of the steps, with weights averaged over as many fewer."""
    return replace(config, epochs=max(1, config.epochs // 10), ema=min(config.ema, 0.999))


BUDGETS: dict[str, Callable[[Config], Config]] = {
    "smoke": _smoke,
    "short": _short,
    "paper": lambda config: config,
}
