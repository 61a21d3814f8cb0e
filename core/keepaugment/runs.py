"""A run's folder, and command-line flags made from a config's fields.

A folder explains itself: `run.json` says what was run, by which command, code and hardware,
`metrics.jsonl` has a line per epoch, `last.pt` resumes it and `previous.pt` is the one before.
Checkpoints hold tensors, numbers and text only, and reading one never runs code from the file.
"""

from __future__ import annotations

import argparse
import ctypes
import difflib
import json
import math
import os
import platform
import shlex
import subprocess
import sys
import weakref
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import torch

try:
    import fcntl
except ImportError:  # Windows has no advisory locks: two processes in one folder go unnoticed
    fcntl = None  # type: ignore[assignment]

Config = TypeVar("Config")


def nearest(name: str, known: Mapping[str, Any] | list[str]) -> str:
    """The known names most like a wrong one, as the end of an error message."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.4)
    return f"; did you mean {', '.join(near)}?" if near else ""


def setting(
    default: Any, help: str, choices: list[Any] | None = None, *, free: bool = False
) -> Any:
    """A field of a config dataclass, and what its flag says.

    Args:
        default: its value.
        help: for `--help`.
        choices: its possible values; None for any.
        free: it may change when a run goes on, since it changes no result.
    """
    return field(default=default, metadata={"help": help, "choices": choices, "free": free})


def add_flags(parser: argparse._ArgumentGroup, config: type) -> None:
    """Add a flag for every field of a dataclass; its metadata may hold `help` and `choices`."""
    types = get_type_hints(config)
    for each in fields(config):
        kind, flag = types[each.name], "--" + each.name.replace("_", "-")
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": each.metadata.get("help")}
        if kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options["type"] = next(k for k in (*get_args(kind), kind) if k is not type(None))
            options["choices"] = each.metadata.get("choices")
            options["metavar"] = None if options["choices"] else each.name.upper()
        parser.add_argument(flag, **options)


def chosen(arguments: argparse.Namespace, config: Config) -> Config:
    """The config with the fields that were given on the command line."""
    names = {each.name for each in fields(config)}  # type: ignore[arg-type]
    given = {name: value for name, value in vars(arguments).items() if name in names}
    return replace(config, **given)  # type: ignore[type-var]


@dataclass(frozen=True)
class Experiment:
    """A named run, and the cell of the paper that it belongs to.

    Attributes:
        config: a dataclass with every setting, at the paper's budget.
        table: of the paper, or figure, or "control"; "" if none.
        paper: the paper's figure, in %; "" if it has none.
        trials: runs with different seeds that the paper averages, or that we propose.
    """

    config: Any
    table: str = ""
    paper: str = ""
    trials: int = 1


def parse(
    experiments: Mapping[str, Experiment],
    description: str,
    argv: list[str] | None = None,
    *,
    budgets: Mapping[str, Callable[[Any], Any]],
    cost: Callable[[Any], str],
) -> tuple[str, Any, argparse.Namespace]:
    """Read `EXPERIMENT [--setting value ...]` from the command line.

    Args:
        experiments: by name, their configs of one type.
        description: for `--help`.
        argv: the words; None takes the command's own.
        budgets: what `--budget` makes of a config, by name; "paper" is the default.
        cost: of a config, in words, for `--list`.

    Returns:
        The experiment's name, its config with the budget and the settings given, and the other
        arguments: `out` (the run's folder), `device`, `resume` and `budget`. Exits after `--list`
        and on a wrong word.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("experiment", nargs="?", help="see --list")
    parser.add_argument("--list", action="store_true", help="print the experiments and stop")
    parser.add_argument(
        "--budget", choices=[*budgets], default="paper", help="smoke takes seconds; paper is all"
    )
    parser.add_argument("--out", type=Path, help="folder of the run; runs/EXPERIMENT/seed-N if not")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps; auto takes a GPU")
    parser.add_argument("--resume", action="store_true", help="go on with the run in the folder")
    settings = parser.add_argument_group("settings, in place of the experiment's own")
    add_flags(settings, type(next(iter(experiments.values())).config))
    arguments = parser.parse_args(argv)
    name = arguments.experiment
    if arguments.list:
        print("\n".join(_listing(experiments, cost)))
        parser.exit()
    if name not in experiments:
        wrong = f" {name!r}{nearest(name, experiments)}" if name else " given"
        sys.exit(f"error: no experiment{wrong} (--list prints all)")
    try:
        config = chosen(arguments, budgets[arguments.budget](experiments[name].config))
    except ValueError as error:
        sys.exit(f"error: {error}")
    parts = [name] if arguments.budget == "paper" else [name, arguments.budget]
    arguments.out = arguments.out or Path("runs", *parts, f"seed-{config.seed}")
    return name, config, arguments


def _listing(experiments: Mapping[str, Experiment], cost: Callable[[Any], str]) -> Iterator[str]:
    """A line per experiment, by table."""
    yield f"{'experiment':52s} {'table':8s} {'paper':>6s} {'seeds':>5s} {'cost':>18s}  settings"
    for name, each in sorted(experiments.items(), key=lambda item: (item[1].table or "~", item[0])):
        yield (
            f"{name:52s} {each.table or '-':8s} {each.paper or '-':>6s} {each.trials:5d} "
            f"{cost(each.config):>18s}  {differences(each.config)}"
        )


def differences(config: Any) -> str:
    """What a config sets otherwise than its class, as flags."""
    changed = {f.name: v for f in fields(config) if (v := getattr(config, f.name)) != f.default}
    return " ".join(f"{name}={value}" for name, value in changed.items())


def keep_freed_memory() -> None:
    """Have glibc keep this process's freed memory for later tensors; elsewhere nothing changes.

    It gives tensors above 32 MiB, such as those of a ResNet-18's first stage for 128 CIFAR images,
    back to the system at once, which then clears every page anew in each step.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt, trim_threshold, mmap_max = ctypes.CDLL(None).mallopt, -1, -4  # see malloc.h
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, -1)


def find_device(name: str) -> torch.device:
    """A device by name, to compute on; "auto" takes an accelerator if there is one.

    On a CPU the process keeps its freed memory from then on (`keep_freed_memory`).

    Raises:
        ValueError: The device is not there.
    """
    if name == "auto":
        device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    else:
        try:
            device = torch.device(name)
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"no device {name!r} here: {str(error).splitlines()[0]}") from None
    if device.type == "cpu":
        keep_freed_memory()
    return device


def commit(folder: Path) -> str | None:
    """The commit of the code in `folder`, with "+changes" if files differ; None outside git."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def hardware(device: torch.device) -> str:
    """The processor or accelerator that a run computes on, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].split(":", 1)[1].strip() if lines else name
    return f"{name or platform.machine()}, {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    """Python's and the main packages' versions."""
    found = {"python": platform.python_version()}
    for name in ("keepaugment", "torch", "torchvision", "timm"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _write_whole(path: Path, write: Any) -> None:
    """Write a file whole or not at all: beside it, flushed to the disk, then renamed."""
    beside = path.with_name(path.name + ".part")
    with open(beside, "wb") as file:
        try:
            write(file)
        except RuntimeError as error:  # torch.save hides the reason, such as a full disk
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def _lock(folder: Path) -> int:
    """Hold a folder until the descriptor is closed or the process ends, however it ends.

    Raises:
        ValueError: Another process holds it.
    """
    descriptor = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
    try:
        if fcntl:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ValueError(f"another process is at work in {folder}; give another --out") from None
    except OSError:  # a file system without locks
        pass
    return descriptor


def _write_text(path: Path, text: str) -> None:
    _write_whole(path, lambda file: file.write(text.encode()))


class Run:
    """A run's folder, open for writing by this process alone until it is closed (`with Run(...)`).

    A field of the config whose metadata has `free` may differ when a run goes on.

    Args:
        folder: made if it is not there.
        experiment: the name of what is run.
        config: a dataclass with every setting.
        device: what the run computes on.
        resume: go on with the run in the folder; without one there, begin.
        budget: how much was asked for, so that a short run never poses as the paper's.

    Raises:
        ValueError: The folder holds a run and `resume` is off, its settings are others, or another
            process is at work in it.
        OSError: The folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        experiment: str,
        config: Any,
        device: torch.device,
        *,
        resume: bool,
        budget: str = "paper",
    ) -> None:
        self.folder = Path(folder)
        self.metrics = self.folder / "metrics.jsonl"
        record = self.folder / "run.json"
        settings = asdict(config)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.close = weakref.finalize(self, os.close, _lock(self.folder))
        try:
            if record.exists():
                free = {each.name for each in fields(config) if each.metadata.get("free")}
                self._check_same(_read_record(record), experiment, settings, resume, free)
            else:
                self._describe(record, experiment, budget, settings, device)
        except BaseException:
            self.close()
            raise

    def _describe(
        self,
        record: Path,
        experiment: str,
        budget: str,
        settings: dict[str, Any],
        device: torch.device,
    ) -> None:
        script = Path(sys.argv[0]).name
        about = {
            "experiment": experiment,
            "budget": budget,
            "settings": settings,
            "command": shlex.join(["python", f"tools/{script}", *sys.argv[1:]]),
            "commit": commit(Path(__file__).parent),
            "versions": versions(),
            "hardware": hardware(device),
        }
        _write_text(record, json.dumps(about, indent=2) + "\n")

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _check_same(
        self,
        about: dict[str, Any],
        experiment: str,
        settings: dict[str, Any],
        resume: bool,
        free: set[str],
    ) -> None:
        if not resume:
            raise ValueError(
                f"{self.folder} already holds a run of {about['experiment']}; "
                "give --resume to go on with it, or another --out"
            )
        now = json.loads(json.dumps({"experiment": experiment, **settings}))
        then = {"experiment": about["experiment"], **about["settings"]}
        differences = [
            f"{name}: {then.get(name)!r} then, {now.get(name)!r} now"
            for name in sorted({*now, *then} - free)
            if now.get(name) != then.get(name)
        ]
        if differences:
            raise ValueError(f"{self.folder} was run otherwise ({'; '.join(differences)})")

    def log(self, **row: Any) -> None:
        """Add a line to `metrics.jsonl` and see it onto the disk."""
        with open(self.metrics, "a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def rows(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`."""
        return read_rows(self.metrics)

    def save(self, state: dict[str, Any]) -> None:
        """Write a checkpoint of plain tensors, numbers and text; the one before it is kept."""
        last, new = self.folder / "last.pt", self.folder / "new.pt"
        _write_whole(new, lambda file: torch.save(state, file))
        if last.exists():
            os.replace(last, self.folder / "previous.pt")
        os.replace(new, last)

    def load(self) -> dict[str, Any] | None:
        """The newest readable checkpoint, and drop the metrics of epochs after it; None if new.

        Raises:
            ValueError: Checkpoints are there, but none can be read.
        """
        names = ("new.pt", "last.pt", "previous.pt")  # "new" if killed between two renames
        paths = [path for name in names if (path := self.folder / name).exists()]
        damaged = []
        for path in paths:
            try:
                state = load_checkpoint(path)
            except ValueError as error:
                print(f"{error}; going on with the one before", file=sys.stderr)
                damaged.append(path)
                continue
            for path in damaged:  # or the next checkpoint would push the readable one out
                os.replace(path, path.with_suffix(".damaged"))
            kept = [row for row in self.rows() if _epoch(row) <= state["epoch"]]
            _write_text(self.metrics, "".join(json.dumps(row) + "\n" for row in kept))
            return state
        if paths:
            raise ValueError(f"no checkpoint in {self.folder} can be read; give another --out")
        if self.metrics.exists():
            self.metrics.unlink()
        return None


def _read_record(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_text())
        return {"experiment": about["experiment"], "settings": dict(about["settings"])}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); give another --out") from None


def _epoch(row: Any) -> float:
    """The epoch of a row; of one that is damaged, beyond all."""
    epoch = row.get("epoch") if isinstance(row, dict) else None
    return epoch if isinstance(epoch, (int, float)) else math.inf


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`, without a last one that was cut off."""
    rows = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _check_sums(path: Path) -> None:
    """Raise ValueError if a file in a zip archive, as torch.save writes, fails its checksum."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise ValueError(f"the checksum of {damaged} in it is wrong")


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of plain tensors, numbers and text onto the CPU.

    Raises:
        ValueError: The file is damaged, or holds other objects (which are not loaded).
    """
    try:
        _check_sums(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"there is no checkpoint {path}") from None
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"checkpoint {path} cannot be read: {reason}") from error
