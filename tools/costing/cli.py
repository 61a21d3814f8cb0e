"""Cost of the maps: the command line of `tools/benchmark_cost.py`.

Tables 6 and 7 of KeepAugment (Gong et al., CVPR 2021, https://arxiv.org/abs/2011.11778), measured
on this machine and counted in floating-point operations.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import _dynamo as dynamo
from tqdm import tqdm

from classification.config import Config
from classification.models import create_model
from costing.methods import (
    METHODS,
    Setting,
    count_flops,
    method_config,
    random_data,
)
from costing.report import Row, model_table, paper_ratio, paper_tables
from costing.timing import WARM_UP, Arm, medians, take_turns
from keepbench.flops import flop_table
from keepbench.machine import find_device, hardware

STEPS = {"cpu": 1}  # of a turn; elsewhere 20, so that the host may run ahead as in training
CLASSES = 10
_COMPILING = dynamo.config.patch(
    recompile_limit=256,  # all arms compile the same code: more than 8 variants,
    fail_on_recompile_limit_hit=True,  # and none may run uncompiled, unnoticed
    skip_nnmodule_hook_guards=False,  # only some arms' models have a head's hook
)

Plan = dict[str, tuple[Config, float]]
"""Methods' configs, and the operations that a step of each takes per image."""


def measure(
    arch: str,
    plan: Plan,
    setting: Setting,
    device: torch.device,
    repeats: int,
    bar: tqdm[Any],
) -> list[Row]:
    """Time a model's methods side by side: a row for each.

    Args:
        arch: the model.
        plan: "plain" among its methods.
        setting: what they share.
        device: that they run on.
        repeats: turns.
        bar: counts operations, warm-up included.
    """
    data = random_data(2 * setting.batch_size, setting.length(arch), CLASSES, device)
    arms = {}
    flops = {method: number for method, (_, number) in plan.items()}
    for method, (config, _) in plan.items():
        arms[method] = Arm(config, data, device)
        bar.update(WARM_UP * flops[method])
    steps = STEPS.get(device.type, 20)
    times = take_turns(arms, repeats, steps, lambda method: bar.update(flops[method]))
    shared = {
        "device": hardware(device),
        "repeats": repeats,
        **asdict(setting),
        "image_size": setting.length(arch),
    }
    return [
        {
            "model": arch,
            "method": method,
            **medians(turns, times["plain"]),
            "gflop": flops[method] / 1e9,
            "flop_ratio": flops[method] / flops["plain"],
            "paper_ratio": paper_ratio(arch, method),
            "peak_mib": arms[method].peak_mib,
            "waits": arms[method].waits(),
            **shared,
        }
        for method, turns in times.items()
    ]


def _plan(arch: str, methods: list[str], setting: Setting) -> Plan:
    """A model's plan, without methods that the model does not take; the plain one must be.

    A transformer, for instance, may take images of one size alone, so none of half the size.
    """
    plan: Plan = {}
    for method in ["plain", *(method for method in methods if method != "plain")]:
        try:
            config = method_config(arch, method, setting)
            plan[method] = (config, count_flops(config, setting.length(arch)))
        except ValueError as error:
            if method == "plain" or method not in METHODS:
                raise
            print(f"{arch} without {method}: {error}", file=sys.stderr)
    return plan


def benchmark(
    archs: list[str],
    methods: list[str],
    setting: Setting,
    device: torch.device,
    repeats: int,
) -> Iterator[list[Row]]:
    """Time methods on models, one model after the other: its rows.

    Raises:
        ValueError: An unknown model or method, or a model that a method does not suit.
    """
    plans = {arch: _plan(arch, methods, setting) for arch in archs}
    work = [(WARM_UP + repeats) * flops for plan in plans.values() for _, flops in plan.values()]
    with tqdm(total=sum(work), unit="FLOP", unit_scale=setting.batch_size, disable=None) as bar:
        for arch in archs:
            bar.set_description(arch)
            yield measure(arch, plans[arch], setting, device, repeats, bar)
            gc.collect()  # the arms hold each other in circles
            if setting.compile:
                torch.compiler.reset()


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time a training step of each method.")
    parser.add_argument(
        "--models", nargs="+", default=["resnet18", "resnet110", "wrn28_10"],
        help="ours at 32 pixels, or any of timm's at 224",
    )  # fmt: skip
    parser.add_argument("--methods", nargs="+", default=[*METHODS], help=", ".join(METHODS))
    parser.add_argument("--batch-size", type=int, default=128, help="images in a step")
    parser.add_argument("--size", type=int, default=0, help="length of images instead, in pixels")
    parser.add_argument("--repeats", type=int, default=10, help="turns of each method")
    parser.add_argument("--device", default="auto", help="cpu, cuda, ...")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16 (autocast)")
    parser.add_argument("--channels-last", action="store_true", help="memory layout")
    parser.add_argument("--compile", action="store_true", help="torch.compile, for all methods")
    parser.add_argument("--json", type=Path, help="write a list of rows into this file")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Measure, print a table for each model and those of the paper, and write `--json`."""
    words = _arguments(argv)
    setting = Setting(
        batch_size=words.batch_size, size=words.size, bf16=words.bf16,
        channels_last=words.channels_last, compile=words.compile,
    )  # fmt: skip
    rows: list[Row] = []
    try:
        device = find_device(words.device)
        print(f"{hardware(device)}; torch {torch.__version__}; images of random bytes")
        with _COMPILING:
            for of_model in benchmark(words.models, words.methods, setting, device, words.repeats):
                rows += of_model
                arch, length = of_model[0]["model"], of_model[0]["image_size"]
                network, image = create_model(arch, CLASSES), torch.zeros(1, 3, length, length)
                lines = ["", *model_table(of_model), "", flop_table(network, image)]
                tqdm.write("\n".join(lines))
                if words.json:
                    words.json.write_text(json.dumps(rows, indent=2) + "\n")
    except ValueError as error:
        sys.exit(f"error: {error}")
    print("\n".join(["", *paper_tables(rows)]))
