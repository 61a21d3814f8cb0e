"""Lay odd files before every reader: each is read rightly, refused by name, or left out and said.

Readers print a digest of what they read, which tells right from silently different.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch
from PIL import Image

from classification.image_trees import load_folders
from classification.models import create_model
from detection import toy as shapes
from detection.data import open_split
from detection.pickles import read_pickle, write_pickle
from detection.sources import open_source
from diagnosing.case import prepare_case
from keepbench.files import digest
from keepbench.leaving import exit_with_message
from keepbench.order import EpochBatches
from keepbench.processes import Processes
from keepbench.run import Run
from keepbench.small_images import load_data
from keepbench.weights import read_weights
from previewing.images import read_pictures
from previewing.networks import load_network
from reid import model as reid_model
from reid import toy as people
from reid.config import Config
from reid.data import open_data
from reid.market import described
from reporting.cli import main as report
from runs import write_tree
from semisup_uda.data import read_unlabelled
from stressing import zoo
from stressing.cases import Case, Outcome
from stressing.forks import Ended, called
from stressing.kills import TREE, main_of, result
from stressing.zoo import ANY, LEFT_OUT, REFUSED, SAME, UNSAID, Animal

LIMIT = 30.0  # seconds
CPU = torch.device("cpu")
_SHORT = "--subset 16 --test-subset 8 --epochs 3 --device cpu"
_RUN = f"digits-resnet8-keep_cutout_low_early {_SHORT} --batch-size 8 --out"
_RUNS = {
    "classification": f"digits-resnet8-keep_cutout_low_early {_SHORT} --batch-size 8 --ema 0.9",
    "semisup_uda": f"digits-uda-keep_randaugment-20 {_SHORT} --labels 10 --batch-size 4 --ratio 2 "
    "--steps 2",
    "reid": "toy-resnet18-keep_erasing_low --data {people} --subset 3 --test-subset 3 --epochs 3 "
    "--device cpu --num-ids 2 --num-instances 2 --eval-every 1 --sheet 0 --workers 0",
}
_DIFFERENT = "silently different"


@dataclass(frozen=True)
class Reader:
    """What reads files.

    Attributes:
        name: in words.
        write: writes healthy files into a folder.
        target: the file in it that is replaced.
        animals: odd files, given random numbers and the healthy file.
        read: reads the folder and gives what stands for its content.
        fates: what may come of any file; None takes what each animal says.
        whole: a refusal may name the folder, or another file in it, instead.
    """

    name: str
    write: Callable[[Path], Any]
    target: str
    animals: Callable[[Random, bytes], Iterator[Animal]]
    read: Callable[[Path], Any]
    fates: frozenset[str] | None = None
    whole: bool = False


def _bytes_of(*tensors: torch.Tensor) -> list[bytes]:
    return [each.detach().contiguous().numpy().tobytes() for each in tensors]


def _tree(root: Path) -> list[bytes]:
    data, found = load_folders(root, size=32), []
    for batch in data.train_batches(
        EpochBatches(num_images=data.num_train, batch_size=4), CPU, workers=1
    ):
        found += _bytes_of(batch.images, batch.labels)
    for images, labels in data.test_batches(CPU, 0, 0, 1):
        found += _bytes_of(images, labels)
    return found


def _small(root: Path) -> list[Any]:
    return list(load_data("folder", str(root)).contents())


def _unlabelled(root: Path) -> list[bytes]:
    return _bytes_of(read_unlabelled(root / "train", (3, 40, 40)))


def _pedestrians(root: Path) -> list[bytes]:
    config = Config(data=str(root), height=64, width=32, num_ids=2, num_instances=2, workers=0)
    data = open_data(config, Processes(CPU))
    print("\n".join(described(data.listing)))
    return _bytes_of(data.images, data.labels, data.query.pixels, data.gallery.pixels)


def _pictures(root: Path) -> list[bytes]:
    return _bytes_of(read_pictures([str(root / "train")], 32, 1000).pixels)


def _coco(root: Path) -> list[str]:
    boxes = root / "annotations" / "instances_train2017.json"
    split = open_split(boxes, root / "train2017", root / "copy.json", bad_boxes="clip")
    return [json.dumps(split.content)]


def _read_weights(root: Path) -> list[Any]:
    found = read_weights(_only(root)).tensors
    return [*found, *_bytes_of(*found.values())]


def _export(root: Path) -> list[Any]:
    found = open_source(_only(root)).weights
    return [*found, *_bytes_of(*found.values())]


def _pickle(root: Path) -> list[Any]:
    found = read_pickle(_only(root))
    return [*found, *_bytes_of(*found.values())]


def _preview(root: Path) -> list[bytes]:
    network = load_network(str(_only(root)), arch="resnet8", device=CPU)
    return _bytes_of(network.logits(torch.ones(1, 3, 32, 32)))


def _doctor(root: Path) -> list[bytes]:
    words = argparse.Namespace(
        model="resnet8", weights=_only(root), classes=10, channels=3, output="", device="cpu",
        size=32, images=[], batch_size=2, download=False,
    )  # fmt: skip
    case = prepare_case(words)
    return _bytes_of(case.logits(case.images))


def _attention(root: Path) -> None:
    words = "digits-resnet8-none --budget smoke --device cpu --mix attentive_cutmix".split()
    words += ["--out", str(root / "run"), "--mix.attention", str(_only(root))]
    main_of("classification")(words)


def _reid_weights(root: Path) -> list[Any]:
    found = reid_model.read_weights(str(_only(root)), "resnet18", download=False).tensors
    return [*found, *_bytes_of(*found.values())]


def _only(root: Path) -> Path:
    """The file of weights in a folder."""
    return next(path for path in map(Path, _names(root)) if path.name.startswith("weights"))


def _names(root: Path) -> list[str]:
    return [os.path.join(root, name) for name in sorted(os.listdir(root))]


def _resume(root: Path) -> list[str]:
    task, *words = (root / "words").read_text().split()
    main_of(task)([*words, "--out", str(root), "--resume"])
    return [repr(sorted(result(root).items()))]


def _report(root: Path) -> list[str]:
    report([str(root), "--out", str(root.with_name("report"))])
    text = (root.with_name("report") / "report.json").read_text()
    return ["counted" if str(root / "good") in text or '"digits-resnet8' in text else "not counted"]


def _two_epochs(task: str, words: list[str]) -> None:
    """A run of three epochs that was stopped after the second was saved."""
    whole = Run.save

    def save(run: Run, state: dict[str, Any]) -> None:
        whole(run, state)
        if state["epoch"] == 2:
            sys.exit(0)

    Run.save = save  # type: ignore
    main_of(task)(words)


def _stopped(root: Path, task: str = "classification", previous: bool = True) -> None:
    data = root.with_name(f"{root.name}-people")
    if task == "reid":
        _write_people(data)
    words = _RUNS[task].format(people=data)
    arguments = [*words.split(), "--out", str(root)]
    called(partial(_two_epochs, task, arguments), root.with_name(f"{root.name}.log"), 60)
    (root / "words").write_text(f"{task} {words}")
    if not previous:
        (root / "previous.pt").unlink()


def _finished(root: Path) -> None:
    for seed, name in enumerate(("good", "odd")):
        words = [*_RUN.split(), str(root / name), "--seed", str(seed)]
        called(partial(main_of("classification"), words), root.with_name(f"{name}.log"), 60)


def _write_people(root: Path) -> None:
    people.write_toy(root, num_train=3, num_test=3, cameras=2, images=3, strangers=2)


def _write_coco(root: Path) -> None:
    shapes.write_toy(root, train=4, test=2)


def _write_weights(root: Path, arch: str = "resnet8", ending: str = ".pt") -> None:
    state = create_model(arch, 10).state_dict()
    if arch == "resnet18":  # by name only, for readers that look at no shape
        state = {name: value.reshape(-1)[:3] for name, value in state.items()}
    path = root / f"weights{ending}"
    root.mkdir()
    if ending == ".pkl":
        write_pickle(path, {name: value.float() for name, value in state.items()})
    elif ending == ".safetensors":
        from safetensors.torch import save_file

        save_file({name: value.contiguous() for name, value in state.items()}, str(path))
    else:
        torch.save(state, path)


def _lenient(unseen: str, random: Random, healthy: bytes) -> Iterator[Animal]:
    """Files of weights for a reader that cannot tell damage of some kind from other weights."""
    for animal in zoo.checkpoints(random, healthy):
        more = {ANY} if animal.name.startswith(unseen) else set()
        yield Animal(animal.name, animal.put, animal.fates | more)


def readers() -> list[Reader]:
    """All readers."""
    no_checksum = partial(_lenient, "a bit flipped")
    no_shapes = partial(_lenient, "weights: other shapes")
    resumed: dict[str, Any] = {"read": _resume, "fates": frozenset((SAME, REFUSED)), "whole": True}
    images, weights = zoo.images, zoo.checkpoints
    photo = "bounding_box_train/0001_c{}s1_000001_00.jpg"
    resnet18, pkl, safe = (
        partial(_write_weights, arch="resnet18"),
        partial(_write_weights, ending=".pkl"),
        partial(_write_weights, ending=".safetensors"),
    )
    tree = partial(write_tree, parts={"train": 3, "val": 2}, **TREE)
    small = partial(write_tree, parts={"train": 3, "test": 2}, **TREE)
    return [
        Reader("image tree", tree, "train/a/1.png", images, _tree),
        Reader("small images", small, "train/a/1.png", images, _small),
        Reader("unlabelled images", tree, "train/a/1.png", images, _unlabelled),
        Reader("pedestrians", _write_people, photo, images, _pedestrians),
        Reader("pictures of preview", tree, "train/a/1.png", images, _pictures),
        Reader("COCO images", _write_coco, "train2017/000000000002.png", images, _coco),
        Reader("COCO boxes", _write_coco, "annotations/instances_train2017.json",
               zoo.documents, _coco, whole=True),
        Reader("weights", _write_weights, "weights.pt", no_shapes, _read_weights),
        Reader("safetensors", safe, "weights.safetensors", no_checksum, _read_weights),
        Reader("export", resnet18, "weights.pt", no_shapes, _export),
        Reader("backbone .pkl", pkl, "weights.pkl", no_checksum, _pickle),
        Reader("preview --model", _write_weights, "weights.pt", weights, _preview),
        Reader("doctor --weights", _write_weights, "weights.pt", weights, _doctor),
        Reader("--mix.attention", _write_weights, "weights.pt", weights, _attention,
               frozenset((REFUSED,))),
        Reader("reid --weights", resnet18, "weights.pt", no_shapes, _reid_weights),
        Reader("--resume, last.pt", _stopped, "last.pt", zoo.states, **resumed),
        *(
            Reader(f"--resume of {task}, last.pt alone",
                   partial(_stopped, task=task, previous=False), "last.pt", zoo.states, **resumed)
            for task in _RUNS
        ),
        Reader("--resume, run.json", _stopped, "run.json", zoo.documents, **resumed),
        Reader("--resume, metrics.jsonl", _stopped, "metrics.jsonl", zoo.lines, **resumed),
        Reader("report, run.json", _finished, "odd/run.json", zoo.documents, _report,
               frozenset((SAME,))),
        Reader("report, metrics.jsonl", _finished, "odd/metrics.jsonl", zoo.lines, _report,
               frozenset((SAME,))),
    ]  # fmt: skip


def _read(reader: Reader, root: Path) -> None:
    """Read a folder as a command would, and print the digest of what was read."""
    with exit_with_message():
        content = reader.read(root)
        print(f"\ndigest: {digest(content)}")


def fate(ended: Ended, same: str, without: str, names: Sequence[str]) -> str:
    """What came of a file: a fate, or what is wrong."""
    found = re.findall(r"^digest: (\w+)$", ended.output, re.MULTILINE)
    if ended.traceback:
        return "a traceback"
    if ended.code is None:
        return "a hang"
    if ended.code == 0 and found:
        if found[0] == same:
            return SAME
        if found[0] != without:
            return _DIFFERENT
        return LEFT_OUT if "left out" in ended.output else UNSAID
    if ended.code == 1 and len(ended.errors) == 1:
        named = any(each in ended.errors[0] for each in names)
        return REFUSED if named else "refused without its name"
    return f"exit code {ended.code} with {len(ended.errors)} errors"


def _try(
    reader: Reader, animal: Animal, healthy: Path, digests: tuple[str, str], _: Random, folder: Path
) -> Outcome:
    """Lay a file before a reader."""
    root = folder / "data"
    shutil.copytree(healthy, root, symlinks=True)
    target = root / reader.target
    content, stem = target.read_bytes(), target.stem
    target.unlink()
    path = Path(os.path.join(target.parent, animal.rename(stem, target.suffix)))
    animal.put(path, content)
    ended = called(partial(_read, reader, root), folder / "log", LIMIT, ())
    names = [stem, str(root)] if reader.whole else [stem]
    come = fate(ended, *digests, names)
    allowed = animal.fates if reader.fates is None else reader.fates
    fine = come in allowed or (ANY in allowed and come in (SAME, _DIFFERENT))
    if zoo.canary_of(path).exists() or ended.forbidden:
        come, fine = f"code was run {ended.forbidden}", False
    counts = Counter([come if fine else f"FAULT: {come}", f"files before {reader.name}"])
    about = f"{come}: {animal.name} before {reader.name}, may be {', '.join(sorted(allowed))}"
    said = ended.output[-900:] if come == "a traceback" else ended.last
    return Outcome(counts, [] if fine else [f"{about}: {said!r}"])


def _digest_of(reader: Reader, root: Path) -> str:
    """What a reader makes of healthy files, or of those without the target."""
    ended = called(partial(_read, reader, root), root.with_name(root.name + ".read"), 60)
    found = re.findall(r"^digest: (\w+)$", ended.output, re.MULTILINE)
    return found[0] if found else ""


def _grey(path: Path) -> None:
    """Make an image a grey PNG, which more formats can hold without loss."""
    Image.open(path).convert("L").convert("RGB").save(path, "PNG")


def prepare(folder: Path, seed: int, wanted: str = "") -> Callable[[], Iterator[Case]]:
    """Write healthy files and read them, for readers whose name holds `wanted`: all cases."""
    cases = []
    for number, reader in enumerate(each for each in readers() if wanted in each.name):
        healthy = folder / f"healthy-{number}"
        reader.write(healthy)
        if "{}" in reader.target:
            target = next(healthy.glob(reader.target.replace("{}", "*")))
            reader = Reader(**vars(reader) | {"target": str(target.relative_to(healthy))})
        target = healthy / reader.target
        if reader.animals is zoo.images:
            _grey(target)
        copies = [folder / f"{kind}-{number}" for kind in ("whole", "without")]
        for copy in copies:
            shutil.copytree(healthy, copy)
        (copies[1] / reader.target).unlink()
        digests = _digest_of(reader, copies[0]), _digest_of(reader, copies[1])
        if not digests[0] and reader.fates != frozenset((REFUSED,)):
            raise ValueError(f"{reader.name} does not read healthy files")
        for animal in reader.animals(Random(f"{seed} {reader.name}"), target.read_bytes()):
            run = partial(_try, reader, animal, healthy, digests)
            cases.append(Case(f"files {reader.name}: {animal.name}", run))
    return lambda: iter(cases)
