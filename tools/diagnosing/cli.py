"""The command line of `tools/doctor.py`."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from classification.auto_map import KINDS, LEAST, Choice, choose
from diagnosing.advice import FAILED, remarks, training_loop
from diagnosing.case import Case, prepare_case, recycled_maps
from diagnosing.checks import (
    Finding,
    check_aspects,
    check_evaluation,
    check_head,
    check_situations,
    check_training,
    step_gradients,
)
from diagnosing.compiled_and_parallel import check_compiled, check_distributed
from keepaugment.early_stage import EARLY_SHARES, stages
from keepaugment.no_trace import MapWarning
from keepbench.flops import flop_table
from keepbench.machine import bfloat16, hardware

_SLOW = ("compile", "ddp")


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Prove on your own model that maps leave no trace, and price every kind of map."
    )
    add = parser.add_argument
    add("model", help="MODULE:FACTORY, FILE.py:FACTORY, or a name of timm's or ours (resnet18 is "
        "timm's, cifar_resnet18 ours)")  # fmt: skip
    add("--size", type=int, default=0, help="side of images in pixels; 32 or 224 if not given")
    add("--channels", type=int, default=3, help="of images")
    add("--classes", type=int, default=10, help="of a model by name")
    add("--output", default="", help="number or name of the logits in what the model returns")
    add("--weights", type=Path, help="file of weights; the average if it has one")
    add("--download", action="store_true", help="fetch the description of a hub's network")
    add("--images", nargs="+", default=[], help="files or folders; if not, two photographs' parts")
    add("--batch-size", type=int, default=8, help="images to look at, at least 2")
    add("--agreement", type=float, default=LEAST, help="with full maps, that is asked for")
    add("--box", type=int, default=0, help="side of the boxes; half the image's if not given")
    add("--device", default="auto", help="cpu, cuda, ...")
    add("--backend", default="", help="of torch.compile; aot_eager on a CPU, inductor elsewhere")
    add("--without", nargs="+", default=[], choices=_SLOW, help="slow checks to leave out")
    return parser.parse_args(argv)


def findings(case: Case, backend: str, without: list[str]) -> Iterator[Finding]:
    """All checks, one after the other."""
    subject, model, images, labels = case.subject, case.model, case.images, case.labels
    yield from check_aspects(model, case.kinds, images, labels)
    yield from check_situations(model, case.logits, images, labels)
    yield from check_evaluation(model, case.logits, images, labels)
    for bf16 in (False, True):
        yield check_training(model, subject.logits, images, labels, bf16=bf16)
    if case.head:
        yield check_head(case.logits, case.head, images, labels)
    else:
        yield Finding("an early head learns", "skip", "there is no stage for one")
    backend = backend or ("aot_eager" if images.device.type == "cpu" else "inductor")
    if "compile" in without:
        yield Finding("torch.compile", "skip", "left out by --without compile")
    else:
        yield check_compiled(subject, model, images, labels, backend)
    if "ddp" in without:
        yield Finding("DistributedDataParallel", "skip", "left out by --without ddp")
    else:
        yield check_distributed(subject, images, labels)


def _shown_stages(case: Case) -> Iterator[str]:
    """Layers as deep in the model as the chosen one, or the outermost."""
    depth = case.stage.name.count(".") if case.stage else 0
    yield "layers, and the share of the forward pass's operations that is done after each:"
    done = 0.0
    for stage in stages(case.model, case.images[:1]):
        if stage.name.count(".") == depth and stage.share > done:
            done = stage.share
            mark = "  <- for an early head" if stage == case.stage else ""
            yield f"  {stage.share:4.0%}  {stage.name}  {tuple(stage.shape[1:])}{mark}"
    if case.stage is None:
        yield f"  none ends after {EARLY_SHARES[0]:.0%} to {EARLY_SHARES[2]:.0%} of them"


def _flops(case: Case) -> str:
    """Parameters and operations of each layer, as deep as the stage that was chosen."""
    depth = case.stage.name.count(".") + 1 if case.stage else 1
    try:
        return flop_table(case.model, case.images[:1], depth)
    except Exception as refused:  # a model may not be traced, in many ways
        reason = (str(refused).splitlines() or [type(refused).__name__])[0]
        return f"fvcore cannot count the operations of this model: {reason}"


def _step_ms(case: Case) -> float:
    """Milliseconds that a plain forward and backward pass takes per image."""
    times = []
    for _ in range(4):
        start = time.perf_counter()
        step_gradients(case.model, case.logits, case.images, case.labels)
        if case.images.device.type != "cpu":
            torch.accelerator.synchronize(case.images.device)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[1:]) / len(case.images)


def _priced(case: Case, box: int, min_agreement: float) -> Choice:
    """Cost and agreement of every kind of map."""
    others = {kind: case.kinds[kind] for kind in case.kinds if kind == "attention"}
    return choose(
        case.logits,
        case.head,
        case.images,
        case.labels,
        boxes={"size": box},
        min_agreement=min_agreement,
        others=others,
        stored=recycled_maps(case, box),
    )


def examine(words: argparse.Namespace) -> bool:
    """Examine a model and print the report: whether no check failed.

    Raises:
        ValueError: A model or images that cannot be used.
    """
    warnings.simplefilter("ignore", MapWarning)  # a finding tells of it
    case = prepare_case(words)
    size = case.images.shape[3]
    million = sum(parameter.numel() for parameter in case.model.parameters()) / 1e6
    print(
        f"{words.model}: {type(case.model).__name__}, {million:.2f} million parameters, "
        f"{case.classes} classes, {case.subject.weights_in_words()}; "
        f"{len(case.images)} images of {size} pixels; "
        f"{hardware(case.images.device)}; torch {torch.__version__}\n"
    )
    if case.images.device.type == "cpu":
        print(bfloat16() + "\n")
    print("\n".join(_shown_stages(case)) + "\n")
    print(_flops(case) + "\n")
    passed = True
    for finding in findings(case, words.backend, words.without):
        print(f"{finding.verdict}  {finding.check}: {finding.reason}", flush=True)
        passed &= finding.verdict != "FAIL"
    box = words.box or size // 2
    choice = _priced(case, box, words.agreement)
    print(f"\nmaps, for boxes of {box} pixels at tau 0.6; map_ms is of an image")
    print("\n".join(choice.table()))
    print(f"a plain training pass takes {_step_ms(case):.3f} ms of an image\n")
    print("\n".join(remarks(choice, case.stage)) + "\n")
    scale, early = KINDS[choice.kind]
    stage = case.stage if early else None
    print(training_loop(case.subject, stage, case.classes, box, half=scale < 1))
    print("\nno check failed" if passed else FAILED)
    return passed


def main(argv: list[str] | None = None) -> None:
    """Examine a model; the exit status is 1 if a check failed."""
    try:
        passed = examine(_arguments(argv))
    except ValueError as error:
        sys.exit(f"error: {error}")
    sys.exit(0 if passed else 1)
