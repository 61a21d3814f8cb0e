"""Calls in forked processes, which inherit what this one has imported: a run starts in 0.1 s."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import re
import resource
import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keepbench.leaving import INTERRUPTED

_ASKING = {signal.SIGINT, signal.SIGTERM}
_FORK = multiprocessing.get_context("fork")
_MEMORY = 8 * 2**30  # bytes that a process may address beyond what it starts with


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        code: exit code; the negative number of the signal that killed it; None if it had to be
            killed because it ran past its limit.
        output: what it printed, stdout and stderr.
        opened: the first watched path that it opened; "" if none.
        forbidden: the first action of it that runs other programs or asks the network; "" if none.
    """

    code: int | None
    output: str
    opened: str = ""
    forbidden: str = ""

    @property
    def errors(self) -> list[str]:
        """The lines that say why it ended, also argparse's."""
        lines = (line.strip() for line in self.output.splitlines())
        return [line for line in lines if line.startswith("error: ") or ": error: " in line]

    @property
    def traceback(self) -> bool:
        """Whether a Python error came through to the user; not one that Python itself ignored.

        A second Ctrl-C may come while Python is in a callback whose errors it only prints.
        """
        came = re.sub(r"Exception ignored in: .*\nTraceback \(most", "", self.output)
        return "Traceback (most recent call last)" in came

    @property
    def last(self) -> str:
        """The last line that it printed."""
        return (self.output.strip().splitlines() or [""])[-1][:300]


TASKS = ("classification", "semisup_uda", "reid", "detection")
_LATER = ("sklearn.datasets", "torch._dynamo", "torchreid.reid")  # what runs import when at work


def preload() -> None:
    """Import what forked processes would each have to import."""
    for name in (*(f"{task}.cli" for task in TASKS), *_LATER):
        with suppress(ImportError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(name)


_FORBIDDEN = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.getaddrinfo")
_ASKED = ("git", "uname")  # for what run.json says of commit and hardware


@dataclass
class _Watch:
    """An audit hook: notes the first watched file that is opened, and forbidden actions."""

    watched: tuple[str, ...]
    found: dict[str, str] = field(default_factory=dict)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], (str, bytes)):
            path = os.fsdecode(arguments[0])
            if any(part in path for part in self.watched):
                self.found.setdefault("opened", path)
        elif event in _FORBIDDEN and arguments[0] not in _ASKED:
            self.found.setdefault("forbidden", f"{event} {arguments[0]!r}"[:200])


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + _MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


class Fork:
    """A call in a process of its own, in a process group of its own.

    Args:
        call: what is called.
        log: file that gets what it prints.
        environment: variables set for it.
        watched: parts of paths; the first one opened is noted.
    """

    def __init__(
        self,
        call: Callable[[], Any],
        log: Path,
        environment: Mapping[str, str] | None = None,
        watched: tuple[str, ...] = (),
    ) -> None:
        self.log, self.notes = log, log.with_name(log.name + ".notes")
        self.notes.unlink(missing_ok=True)
        self.since = log.stat().st_size if log.exists() else 0
        sys.stdout.flush()
        sys.stderr.flush()
        arguments = (call, {**(environment or {})}, _Watch(watched))
        self.process = _FORK.Process(target=self._run, args=arguments)
        signal.pthread_sigmask(signal.SIG_BLOCK, _ASKING)  # until the call begins
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _ASKING)
        with suppress(OSError):  # the child does so, too: whoever is first
            os.setpgid(self.process.pid or 0, 0)

    def _run(self, call: Callable[[], Any], environment: Mapping[str, str], watch: _Watch) -> None:
        with suppress(OSError):
            os.setpgid(0, 0)
        file = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        for number in (1, 2):
            os.dup2(file, number)
        sys.stdout, sys.stderr = (open(n, "w", closefd=False, errors="replace") for n in (1, 2))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.environ |= environment
        _limit_memory()
        sys.addaudithook(watch)
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _ASKING)
        except KeyboardInterrupt:
            os._exit(INTERRUPTED)
        try:
            call()
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            if watch.found:
                self.notes.write_text(json.dumps(watch.found))
            sys.stdout.flush()

    @property
    def alive(self) -> bool:
        """Whether it is at work."""
        return self.process.is_alive()

    def send(self, number: int, *, group: bool = False) -> None:
        """Send a signal to it, or to its whole group as Ctrl-C in a terminal does."""
        assert self.process.pid
        try:
            (os.killpg if group else os.kill)(self.process.pid, number)
        except ProcessLookupError:
            pass

    def wait(self, limit: float) -> Ended:
        """Wait for its end, at most `limit` seconds; then it is killed with all its children."""
        self.process.join(limit)
        code = self.process.exitcode
        if code is None:
            self.send(signal.SIGKILL, group=True)
            self.process.join()
        written = self.log.read_bytes()[self.since :] if self.log.exists() else b""
        notes = json.loads(self.notes.read_text()) if self.notes.exists() else {}
        return Ended(code, written.decode(errors="replace"), **notes)


def called(
    call: Callable[[], Any], log: Path, limit: float = 30.0, watched: tuple[str, ...] = ()
) -> Ended:
    """Call something in a process of its own and wait for its end."""
    log.unlink(missing_ok=True)
    return Fork(call, log, watched=watched).wait(limit)
