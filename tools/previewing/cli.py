"""The command line of `tools/preview.py`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from keepbench.leaving import exit_with_message
from keepbench.machine import find_device
from keepbench.processes import Processes
from previewing.affinity import METHODS, make_arms, measure, trained_on, with_diversity
from previewing.affinity_page import affinity_plots, table_of
from previewing.images import read_pictures
from previewing.networks import load_network
from previewing.pages import render, write
from previewing.panels import preview_data
from previewing.runs import read_run, trained

EXAMPLES = """
examples:
  preview.py sample --model resnet18 --pretrained
  preview.py photos/ --model runs/cifar10-resnet18-keep_cutout/seed-0 --data data
  preview.py cat.jpg --model weights.pt --arch resnet50 --tau 0.4 --label 281
  preview.py --affinity runs/cifar10-resnet18-none/seed-0 --method cutout --strengths 8 16 24
"""


def make_parser() -> argparse.ArgumentParser:
    """The flags, by what is asked for."""
    parser = argparse.ArgumentParser(
        description="KeepAugment on one's own images, without training.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("images", nargs="*", metavar="IMAGES", help="files, folders, or 'sample': two photographs")
    add("--out", type=Path, help="the page; preview.html or affinity.html if not")
    add("--data", help="folder of a run's data set, in place of the one it was run with")
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps; auto takes a GPU")
    add("--tau", type=float, default=0.6, help="quantile of importance")
    add("--seed", type=int, default=0, help="of policies, and of what affinity is measured on")

    group = parser.add_argument_group("look at images")
    add = group.add_argument
    add("--model", help="name of timm's or ours (resnet18 is timm's, cifar_resnet18 ours), run "
        "folder, checkpoint, file of weights, or MODULE:FUNCTION")  # fmt: skip
    add("--arch", help="the model that a state dict file belongs to, as training names it")
    add("--pretrained", action="store_true", help="fetch timm's weights")
    add("--image-size", type=int, help="side of the images in pixels; the network's own if not")
    add("--label", type=int, help="class that maps explain; each image's most likely if not")
    add("--size", type=int, help="length of the box at first")
    add("--scale", type=float, default=1.0, help="of the copy that maps are taken of")
    add("--most", type=int, default=8, help="images on the page")

    group = parser.add_argument_group("measure affinity and diversity")
    add = group.add_argument
    add("--affinity", type=Path, metavar="RUN", help="a run that was trained on clean images")
    add("--method", choices=[*METHODS], default="cutout")
    add("--strengths", type=int, nargs="+", default=[8, 12, 16, 20, 24],
        help="of Cutout its lengths in pixels, of policies magnitudes of 30")  # fmt: skip
    add("--num-ops", type=int, default=3, help="of RandAugment")
    add("--paste-size", type=int, default=16, help="length of the pasted region")
    add("--limit", type=int, default=0, help="measure on as many test images; 0 is all")
    add("--diversity", type=Path, nargs="+", default=[], metavar="RUN",
        help="runs that were trained with these augmentations")  # fmt: skip
    return parser


def _check_preview(arguments: argparse.Namespace) -> None:
    if not arguments.model:
        raise ValueError("say whose map to show: --model NAME, a run's folder or a checkpoint")
    if not 0.0 <= arguments.tau <= 1.0:
        raise ValueError(f"--tau must be a quantile in [0, 1], found {arguments.tau}")
    if arguments.most < 1 or (arguments.image_size is not None and arguments.image_size < 8):
        raise ValueError("--most must be at least 1, --image-size at least 8")


def _preview(arguments: argparse.Namespace) -> None:
    _check_preview(arguments)
    device = find_device(arguments.device)
    network = load_network(
        arguments.model,
        arch=arguments.arch,
        pretrained=arguments.pretrained,
        scale=arguments.scale,
        data=arguments.data,
        device=device,
    )
    side = arguments.image_size or network.size
    if arguments.size is not None and not 1 <= arguments.size <= side:
        raise ValueError(f"--size must be in 1..{side} pixels, found {arguments.size}")
    pictures = read_pictures(arguments.images or ["sample"], side, arguments.most)
    data = preview_data(
        network,
        pictures,
        label=arguments.label,
        tau=arguments.tau,
        length=arguments.size,
        seed=arguments.seed,
        device=device,
    )
    if network.warning:
        print(f"warning: {network.warning}", file=sys.stderr)
    page = render("preview.html", data=data, about=network.about, warning=network.warning)
    write(arguments.out or Path("preview.html"), page, f"{len(pictures.names)} images")


def _affinity(arguments: argparse.Namespace) -> None:
    run = read_run(arguments.affinity, arguments.data)
    law = METHODS[arguments.method]
    settings = {
        "keep.tau": arguments.tau, "keep.size": arguments.paste_size,
        "policy.num_ops": arguments.num_ops,
    }  # fmt: skip
    arms = list(make_arms(run.config, law, arguments.strengths, **settings))
    trainer = trained(run, Processes(find_device(arguments.device)))
    rows = measure(trainer, arms, law, arguments.seed, arguments.limit)
    notes: list[str] = []
    if arguments.diversity:
        rows, notes = with_diversity(rows, arms, run, arguments.diversity)
    strength = "length" if law.strength == "cut.size" else "magnitude"
    heads, table = table_of(rows, strength)
    clean = f"{rows[0].accuracy - rows[0].affinity:.2f} %"
    warnings = [text for text in (trained_on(run.config),) if text]
    for line in [heads, *table]:
        print("  ".join(f"{cell:>16s}" for cell in line))
    print(*warnings, f"clean accuracy: {clean}", *notes, sep="\n")
    page = render(
        "affinity.html",
        method=arguments.method,
        about=f"Run {run.record.experiment} ({run.config.arch}) after {trainer.epoch} epochs",
        warnings=warnings,
        plots=affinity_plots(rows, strength),
        heads=heads,
        table=table,
        clean=clean,
        notes=notes,
    )
    write(arguments.out or Path("affinity.html"), page, f"affinity of {arguments.method}")


def main(argv: list[str] | None = None) -> None:
    """Write the page that was asked for."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    looks = bool(arguments.images or arguments.model)
    if looks == (arguments.affinity is not None):
        parser.error("give either IMAGES and --model, or --affinity")
    with exit_with_message():
        if looks:
            _preview(arguments)
        else:
            _affinity(arguments)
