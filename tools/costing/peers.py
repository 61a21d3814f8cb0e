"""Policies and cuts beside those that a user would take instead.

The command line of `tools/benchmark_peers.py`. Each library gets images as its users have them: a
batch of tensors, tensors one by one, Pillow's images or NumPy's. All take turns in one process and
on one thread, so that a machine that is shared slows them alike; figures are medians, and ratios
those of the same turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from timm.data.auto_augment import auto_augment_transform, rand_augment_transform
from timm.data.mixup import Mixup
from timm.data.random_erasing import RandomErasing as TimmErasing
from torch import Tensor
from torchvision.transforms import v2
from tqdm import tqdm

from costing.timing import synchronise
from keepaugment import (
    CutMix,
    Cutout,
    KeepCutMix,
    KeepCutout,
    KeepPaste,
    KeepRandomErasing,
    RandomErasing,
)
from keepaugment.cutting import size_in
from keepbench.machine import find_device, hardware
from keeppolicies import AugMix, AutoAugment, RandAugment, TrivialAugment

Row = dict[str, Any]
Call = Callable[[], object]
Arms = dict[tuple[str, str], Call]
"""Calls, by the name of the work and the library's."""

OURS = "keepaugment"
PLAIN = {"KeepCutout": "Cutout", "KeepRandomErasing": "Random Erasing", "KeepCutMix": "CutMix"}
"""Each Keep arm's plain one."""

BATCHES = ((32, 224), (128, 32))
_CLASSES = 10
_AREA, _RATIO = (0.02, 0.4), (0.3, 1 / 0.3)  # of erased boxes


class Images:
    """A batch in the forms that the libraries take."""

    def __init__(self, number: int, length: int, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(0)
        shape = (number, 3, length, length)
        pixels = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        self.pillow = [v2.functional.to_pil_image(image) for image in pixels]
        self.numpy = [image.permute(1, 2, 0).contiguous().numpy() for image in pixels]
        self.pixels = pixels.to(device)
        self.shares = self.pixels.float() / 255
        self.normal = torch.randn(shape, generator=generator).to(device)
        self.map = torch.rand(number, length, length, generator=generator).to(device)
        self.labels = torch.randint(_CLASSES, (number,), generator=generator).to(device)
        self.device = device

    def saliency(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """A map that is there already, so that boxes alone are timed."""
        return self.map


def _on(function: Callable[..., object], *inputs: Tensor) -> Call:
    return lambda: function(*inputs)


def _each(function: Callable[[Any], object], samples: Any) -> Call:
    return lambda: [function(sample) for sample in samples]


def our_arms(images: Images) -> Arms:
    """This project's."""
    given, pixels, normal, labels = images.saliency, images.pixels, images.normal, images.labels
    erasing: dict[str, Any] = {"p": 1.0, "scale": _AREA, "ratio": _RATIO}
    work = {
        "RandAugment(2, 9)": _on(RandAugment(2, 9), pixels),
        "TrivialAugment": _on(TrivialAugment(), pixels),
        "AutoAugment": _on(AutoAugment("imagenet"), pixels),
        "AugMix": _on(AugMix(), pixels),
        "Cutout": _on(Cutout(), normal),
        "Random Erasing": _on(RandomErasing(**erasing), normal),
        "CutMix": _on(CutMix(_CLASSES), normal, labels),
        "KeepCutout": _on(KeepCutout(saliency=given), normal, labels),
        "KeepRandomErasing": _on(KeepRandomErasing(saliency=given, **erasing), normal, labels),
        "KeepCutMix": _on(KeepCutMix(None, _CLASSES, saliency=given), normal, labels),
        "KeepPaste": _on(KeepPaste(saliency=given), normal, normal, labels),
    }
    return {(name, OURS): call for name, call in work.items()}


def torchvision_arms(images: Images) -> Arms:
    """Torchvision v2's: image by image, for on a batch it takes one decision for all."""
    erase = v2.RandomErasing(1.0, _AREA, _RATIO, inplace=True)
    mix, copies = v2.CutMix(num_classes=_CLASSES), images.normal.clone()
    work = {
        "RandAugment(2, 9)": _each(v2.RandAugment(2, 9), images.pixels),
        "TrivialAugment": _each(v2.TrivialAugmentWide(), images.pixels),
        "AutoAugment": _each(v2.AutoAugment(), images.pixels),
        "AugMix": _each(v2.AugMix(), images.pixels),
        "Random Erasing": _each(erase, copies),
        "CutMix": _on(mix, images.normal, images.labels),
    }
    return {(name, "torchvision"): call for name, call in work.items()}


def timm_arms(images: Images) -> Arms:
    """Timm's: policies on Pillow's images, half of whose operations are left out; cuts in place."""
    erase = TimmErasing(
        1.0, *_AREA, _RATIO[0], _RATIO[1], mode="const", device=str(images.device)
    )  # fmt: skip
    mix = Mixup(mixup_alpha=0.0, cutmix_alpha=1.0, num_classes=_CLASSES)
    copies = images.normal.clone()
    work = {
        "RandAugment(2, 9)": _each(rand_augment_transform("rand-m9-n2", {}), images.pillow),
        "AutoAugment": _each(auto_augment_transform("original", {}), images.pillow),
        "Random Erasing": _on(erase, copies),
        "CutMix": _on(mix, copies, images.labels),
    }
    return {(name, "timm"): call for name, call in work.items()}


def kornia_arms(images: Images) -> Arms:
    """Kornia's, on a batch."""
    from kornia import augmentation as kornia

    mix = kornia.RandomCutMixV2(p=1.0, data_keys=["input", "class"])
    erase = kornia.RandomErasing(scale=_AREA, ratio=_RATIO, p=1.0)
    work = {
        "RandAugment(2, 9)": _on(kornia.auto.RandAugment(n=2, m=9), images.shares),
        "TrivialAugment": _on(kornia.auto.TrivialAugment(), images.shares),
        "AutoAugment": _on(kornia.auto.AutoAugment("imagenet"), images.shares),
        "Random Erasing": _on(erase, images.normal),
        "CutMix": _on(mix, images.normal, images.labels),
    }
    return {(name, "kornia"): call for name, call in work.items()}


def albumentations_arms(images: Images) -> Arms:
    """Albumentations', image by image."""
    import albumentations

    erase = albumentations.Erasing(scale=_AREA, ratio=_RATIO, p=1.0)
    side = size_in(images.normal, None)
    cut = albumentations.CoarseDropout((1, 1), (side, side), (side, side), p=1.0)
    work = {"Random Erasing": erase, "Cutout": cut}

    def named(function: Callable[..., object]) -> Callable[[Any], object]:
        return lambda image: function(image=image)

    return {(name, "albumentations"): _each(named(f), images.numpy) for name, f in work.items()}


def all_arms(images: Images) -> Arms:
    """Every library's, of those that are installed."""
    arms = our_arms(images) | torchvision_arms(images) | timm_arms(images)
    for name, optional in {"kornia": kornia_arms, "albumentations": albumentations_arms}.items():
        try:
            arms |= optional(images)
        except ImportError as error:
            print(f"without {name}: {error}", file=sys.stderr)
    return arms


def milliseconds(call: Call, device: torch.device) -> float:
    """Time of a call: of a CPU its own, not that of the machine's other processes."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    synchronise(device)
    start = clock()
    call()
    synchronise(device)
    return 1000 * (clock() - start)


def measure(arms: Arms, repeats: int, device: torch.device) -> dict[tuple[str, str], list[float]]:
    """Milliseconds of each arm in each of `repeats` turns, in a new random order each turn."""
    generator, names = torch.Generator().manual_seed(0), list(arms)
    times: dict[tuple[str, str], list[float]] = {name: [] for name in names}
    for call in arms.values():
        call()
    for _ in tqdm(range(repeats), unit="turn", disable=None):
        for number in torch.randperm(len(names), generator=generator).tolist():
            times[names[number]].append(milliseconds(arms[names[number]], device))
    return times


def rows_of(
    times: dict[tuple[str, str], list[float]],
    batch: int,
    version: Callable[[str], str] = metadata.version,
) -> Iterator[Row]:
    """A row for each arm.

    `ms` is the median of a batch. `ours` is how many times as long ours takes, the median over the
    turns; of a Keep arm `above_plain_ms` is what it takes above its plain one, of an image.
    """
    for (work, library), turns in times.items():
        ours = [own / other for own, other in zip(times[work, OURS], turns, strict=True)]
        row = {
            "work": work, "library": library, "version": version(library),
            "ms": statistics.median(turns), "ours": statistics.median(ours),
        }  # fmt: skip
        if work in PLAIN:
            pairs = zip(turns, times[PLAIN[work], OURS], strict=True)
            row["above_plain_ms"] = statistics.median(keep - plain for keep, plain in pairs) / batch
        yield row


def table(rows: list[Row]) -> Iterator[str]:
    """Lines: a work each, ours in milliseconds of a batch, then how many times the others' that is.

    Above 1 we lose.
    """
    libraries = [*dict.fromkeys(row["library"] for row in rows if row["library"] != OURS)]
    cells = {(row["work"], row["library"]): row for row in rows}
    first = rows[0]
    yield f"{first['batch_size']} of {first['image_size']} pixels; times as long as"
    yield f"{'':18s}{'ms':>9s}" + "".join(f"{name:>16s}" for name in libraries) + "  above plain"
    for work in dict.fromkeys(row["work"] for row in rows):
        ours = cells[work, OURS]
        line = f"{work:18s}{ours['ms']:9.2f}"
        for library in libraries:
            found = cells.get((work, library))
            line += f"{found['ours']:16.2f}" if found else f"{'-':>16s}"
        above = ours.get("above_plain_ms")
        yield line + (f"  {above:.4f} ms an image" if above is not None else "")


def main(argv: list[str] | None = None) -> None:
    """Measure, print a table for each size of images, and write `--json`."""
    parser = argparse.ArgumentParser(description="Time policies and cuts beside other libraries'.")
    parser.add_argument(
        "--batches", nargs="+", default=[f"{number}x{length}" for number, length in BATCHES],
        help="images and their length in pixels, such as 32x224",
    )  # fmt: skip
    parser.add_argument("--repeats", type=int, default=9, help="turns of each")
    parser.add_argument(
        "--device", default="cpu", help="cpu, cuda, ...; others stay where they can"
    )
    parser.add_argument("--json", type=Path, help="write a list of rows into this file")
    words = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows: list[Row] = []
    try:
        device = find_device(words.device)
        sizes = [tuple(map(int, each.split("x"))) for each in words.batches]
        if any(len(size) != 2 or min(size) < 8 for size in sizes):
            raise ValueError("fewer than 8 images or pixels")
    except ValueError as error:
        sys.exit(f"error: {error}; --batches takes such as 32x224")
    print(f"{hardware(device)}; torch {torch.__version__}")
    for number, length in sizes:
        arms = all_arms(Images(number, length, device))
        shared = {
            "batch_size": number, "image_size": length, "repeats": words.repeats,
            "device": hardware(device), "torch": torch.__version__,
        }  # fmt: skip
        measured = measure(arms, words.repeats, device)
        new = [row | shared for row in rows_of(measured, number)]
        rows += new
        print("\n".join(["", *table(new)]))
        if words.json:
            words.json.write_text(json.dumps(rows, indent=2) + "\n")
