"""Give every flag of every task nonsense, alone and together, made from the settings themselves.

What is no value of a setting must be refused in one sentence, before data are read and anything is
written. What is one may train, or be refused in one sentence for what it contradicts.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import Field
from functools import partial
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

from keepbench.older import RENAMED
from keepbench.own_network import is_function
from stressing import trials
from stressing.cases import Case, Outcome
from stressing.forks import TASKS, Ended, called
from stressing.kills import main_of, write_data
from stressing.kinds import settings_of

LIMIT = 8.0  # seconds; what is still at work then was accepted
TOGETHER = 150  # combinations for each command
_CHEAP = "--device cpu --epochs 1"
BASES = {
    "classification": [
        f"digits-resnet8-keep_cutout_low_early --budget smoke {_CHEAP}",
        f"digits-resnet8-keep_cutmix --budget smoke {_CHEAP}",
        "imagenet-resnet50-keep_cutmix_low --budget smoke --device cpu --data {folder}/tree "
        "--arch resnet8 --image-size 32 --test-size 32 --epochs 1 --warmup 1",
    ],
    "semisup_uda": [f"digits-uda-keep_randaugment-20 --budget smoke {_CHEAP}"],
    "reid": [
        f"toy-resnet18-keep_erasing_low --budget smoke --data {{folder}}/people {_CHEAP} "
        "--warmup 0 --sheet 0"
    ],
    "detection": ["toy-faster_rcnn_fpn-r18-random --budget smoke"],
}
"""Commands that end in seconds, without --out."""

_NO_KINDS = [":", "os:system", "os:no_such_thing", "/no/such/file.py:Kind", "no_such:Kind"]
"""Texts that look like a class of the user's own and are none."""
NAMES = {"arch", "optimizer", "early_head", "unlabelled", "weights"}
"""Texts that must name something that there is."""
_CROWD = {"workers", "gpus"}  # their largest values would start hundreds of processes
_TEXTS = [
    "",
    " ",
    "\x1b[31m",
    "a\nb",
    "\udcff",
    "\0",
    "x" * 70_000,
    "../..",
    "/dev/zero",
    "-",
    "%s",
]
_NUMBERS = [
    "nan", "inf", "-inf", "-1", "-0.0", "0", "1e-320", "1e308", "-1e308", "9" * 400, "1e400",
    "2147483648", "18446744073709551616", "0.5", "1,5", "1_0", "١", "0x10", "true", "None", "[]",
    "", " ", "\x1b[31m", "\udcff", "abc", "1;2", "+", "1e", "--1",
]  # fmt: skip
_COMMON = {
    "--device": ["", "tpu", "cuda:99", "cpu:-1", "meta:x", "\0", "\x1b[2J", "9"],
    "--budget": ["", "Smoke", "\0", "paper "],
    "--out": ["/dev/null", "/dev/null/x", "x" * 5000],
    "--experiment": ["x"],
    "--resume": ["yes"],
    "--list": ["1"],
}
_AGAIN = ("not finite", "were skipped", "out of memory", "diverged")  # what only training shows


def _kind(each: Field[Any]) -> type:
    """A setting's type."""
    return str if each.metadata["kinds"] else type(each.default)


def _interval(each: Field[Any]) -> tuple[float, float, bool, bool]:
    """A setting's range: lowest, highest, and whether these are in it."""
    text = each.metadata["range"]
    if not text:
        return float("-inf"), float("inf"), True, True
    low, high = text[1:-1].split(",")
    return float(low), float(high), text[0] == "[", text[-1] == "]"


def is_value(each: Field[Any], text: str) -> bool | None:
    """Whether a text is a value of a setting; None if nothing tells."""
    kind, choices, kinds = _kind(each), each.metadata["choices"], each.metadata["kinds"]
    if kinds:
        if text in [kind.name for kind in kinds[1:]] or not text:
            return bool(text) or not each.metadata["required"]
        return None if is_function(text) else False
    if kind is bool:
        return False
    if kind is str:
        if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text):
            return False
        return text in choices if choices else None
    try:
        value = kind(text)
    except ValueError:
        return False
    low, high, lowest, highest = _interval(each)
    inside = (low <= value if lowest else low < value) and (
        value <= high if highest else value < high
    )
    return inside and (not choices or value in choices)


def nonsense(each: Field[Any]) -> list[str]:
    """Texts for a flag: nonsense of its kind, and the ends of its range from both sides."""
    kind, choices = _kind(each), each.metadata["choices"]
    if kind is bool:
        return ["", "maybe", "1", "\0"]
    if each.metadata["kinds"]:
        return [*_TEXTS, *_NO_KINDS, *(kind.name.upper() for kind in each.metadata["kinds"][1:])]
    if kind is str:
        wrong = ["no_such_thing", "/no/such/file", "hf-hub:a/b"] if each.name in NAMES else []
        return _TEXTS + wrong + [str(choice).upper() + "?" for choice in choices or [""]][:3]
    low, high, _, _ = _interval(each)
    step = 1 if kind is int else 1e-9
    ends = [value for end in (low, high) for value in (end - step, end, end + step)]
    most = 64 if each.name in _CROWD else float("inf")
    usual = [str(kind(end)) for end in ends if abs(end) < 1e15 and end <= most]
    return _NUMBERS + usual


def _some_value(each: Field[Any], random: Random) -> str:
    """A value of a setting that a cheap run can have."""
    kind, choices = _kind(each), each.metadata["choices"]
    if kinds := each.metadata["kinds"]:
        choices = ["", *(kind.name for kind in kinds[1:])]
    if choices:
        return str(random.choice(list(choices)))
    if kind is str:
        return random.choice(["", str(each.default), "resnet20", "layer1", "train"])
    low, high, lowest, _ = _interval(each)
    if kind is int:
        largest = int(min(high, 2 if each.name in _CROWD else 48))
        return str(random.choice([int(low), int(low) + 1, random.randint(int(low), largest)]))
    ends = [low] if lowest else []
    return str(random.choice([*ends, low + random.random() * (min(high, 2.0) - low)]))


def _call(task: str, words: list[str]) -> Callable[[], None]:
    """A task's command line; detection's ends where its process would begin."""
    main = main_of(task)
    if task != "detection":
        return partial(main, words)

    def accepted(*arguments: Any, **options: Any) -> None:
        sys.exit(0)

    def call() -> None:
        import_module("detection.train").train_process = accepted  # type: ignore[attr-defined]
        main(words)

    return call


def judge(ended: Ended, sense: bool | None, out: Path) -> tuple[str, str]:
    """What came of words, and the fault in it; "" if there is none.

    Args:
        ended: the process that got them.
        sense: whether all are values of their settings; None if nothing tells.
        out: the run's folder.
    """
    begun = (out / "run.json").exists()
    if ended.traceback:
        return "tracebacks", "a traceback"
    if ended.forbidden:
        return "other programs or network", ended.forbidden
    if ended.code is None:
        return ("at work when their time was over", "") if sense is not False else (
            "accepted or hung", "nothing was refused in time")  # fmt: skip
    if ended.code == 0:
        return ("accepted", "") if sense is not False else ("accepted", "accepted in silence")
    if ended.code not in (1, 2) or len(ended.errors) != 1:
        return "ended otherwise", f"exit code {ended.code}, {len(ended.errors)} error lines"
    if sense is False:
        late = "after reading " + ended.opened if ended.opened else ""
        late = "after writing" if out.exists() else late
        return ("refused late", f"refused only {late}") if late else ("refused at once", "")
    if begun and not any(word in ended.output for word in _AGAIN):
        return "refused in training", "refused only when the run had begun"
    return ("ended in training" if begun else "possible values refused"), ""


def try_words(
    task: str, base: str, words: list[str], sense: bool | None, data: Path, _: Random, folder: Path
) -> Outcome:
    """Give words to a task, which works in `folder`, and judge what comes of it."""
    data, folder = data.resolve(), folder.resolve()
    out = folder / "run"
    everything = [*base.format(folder=data).split(), "--out", str(out), *words]
    watched = (str(data), "digits.csv")

    def call() -> None:
        os.chdir(folder)  # a path that a flag names lies there, not where the tool was called
        _call(task, everything)()

    ended = called(call, folder / "log", LIMIT, watched)
    verdict, fault = judge(ended, sense, out)
    counts = Counter([verdict, f"tried on {task}"])
    shown = " ".join(word if len(word) < 80 else f"{word[:60]}…({len(word)})" for word in words)
    said = f"{fault}: {task} {base} {shown!r}: {ended.last!r}"
    if "traceback" in fault:
        said += "\n" + ended.output[-1200:]
    return Outcome(counts, [said] if fault else [])


def _alone(task: str, base: str, data: Path) -> Iterator[Case]:
    """Every flag with every nonsense."""
    for flag, each, chosen in settings_of(task):
        for text in nonsense(each):
            sense = is_value(each, text)
            if text in _NO_KINDS or (each.name in NAMES and "no" in text):
                sense = False
            run = partial(try_words, task, base, [*chosen, f"{flag}={text}"], sense, data)
            yield Case(f"flags {task} {base.split()[0]} {flag}={text[:40]!r}", run)
    former = {f"--{name.replace('_', '-')}": ["1"] for name in RENAMED.get(task, {})}
    for flag, texts in (_COMMON | former).items():
        for text in texts:
            run = partial(try_words, task, base, [f"{flag}={text}"], False, data)
            yield Case(f"flags {task} {base.split()[0]} {flag}={text[:40]!r}", run)


def _draw(task: str, base: str, data: Path, random: Random, folder: Path) -> Outcome:
    """Several settings at once, most of them possible values."""
    words, senses = [], []
    for flag, each, chosen in random.sample(settings_of(task), random.randint(2, 7)):
        words += chosen
        if _kind(each) is bool:
            words.append(random.choice([flag, flag.replace("--", "--no-", 1)]))
            continue
        wild = random.random() < 0.1
        text = random.choice(nonsense(each)) if wild else _some_value(each, random)
        words.append(f"{flag}={text}")
        senses.append(is_value(each, text))
    sense = False if False in senses else None
    return try_words(task, base, words, sense, data, random, folder)


def prepare(folder: Path, seed: int) -> Callable[[], Iterator[Case]]:
    """Write data: all cases."""
    write_data(folder)

    def cases() -> Iterator[Case]:
        yield from trials.cases()
        for task in TASKS:
            for base in BASES[task]:
                yield from _alone(task, base, folder)
        for number in range(TOGETHER):
            for task in TASKS:
                for base in BASES[task]:
                    run = partial(_draw, task, base, folder)
                    yield Case(f"flags {task} {base.split()[0]} together {number}", run)

    return cases
