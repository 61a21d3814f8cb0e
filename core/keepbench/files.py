"""Files of a run: written whole, set aside instead of deleted, held by one process."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from keepbench.progress import say

try:
    import fcntl
except ImportError:  # Windows has no advisory locks: two processes in one folder go unnoticed
    fcntl = None  # type: ignore[assignment]


_DIGITS = 300  # of a whole number: one of more is no float


def _integer(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def parse_json(content: str | bytes, kind: type = dict) -> Any:
    """A JSON object, or another `kind`, that anybody may have written.

    Raises:
        ValueError: It is none, or cannot be computed with or written again as UTF-8.
    """
    try:
        text = content.decode() if isinstance(content, bytes) else content
        value = json.loads(text, parse_int=_integer)
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, kind):
        raise ValueError(f"it is no JSON {'object' if kind is dict else kind.__name__}")
    return value


@contextmanager
def _holding_ctrl_c() -> Iterator[None]:
    """Hear Ctrl-C at the end: torch's writer aborts the process when it is left in the middle."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[Any] = []
    before = signal.signal(signal.SIGINT, lambda *about: came.append(about))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        for about in came:
            if callable(before):
                before(*about)


def write_whole(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write a file whole or not at all: beside it, flushed to the disk, then renamed."""
    beside = path.with_name(path.name + ".part")
    with _holding_ctrl_c():
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


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    write_whole(path, lambda file: file.write(text.encode()))


def set_aside(path: Path) -> Path:
    """Rename a file to the first of `name.1`, `name.2`, ... that is not there."""
    aside = next(
        beside
        for number in itertools.count(1)
        if not (beside := path.with_name(f"{path.name}.{number}")).exists()
    )
    os.replace(path, aside)
    return aside


_held: set[tuple[int, int]] = set()  # lock files of this process, which its own lock never meets


class FolderLock:
    """Holds a folder until it is closed or this process ends, however it ends.

    The lock belongs to this process alone, not to its children: a reader that outlives it for a
    moment does not keep the folder.

    Raises:
        ValueError: Another process, or another `Run` in this one, holds it.
    """

    def __init__(self, folder: Path) -> None:
        self.descriptor = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
        about = os.fstat(self.descriptor)
        self.file = (about.st_dev, about.st_ino)
        try:
            if self.file in _held:
                raise BlockingIOError
            if fcntl:
                fcntl.lockf(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            if self.file not in _held:  # closing any of its files would drop this process's lock
                os.close(self.descriptor)
            raise ValueError(
                f"another process is at work in {folder}; give another --out"
            ) from None
        except OSError as error:
            say(f"{folder} cannot be locked ({error}); use it from one process")
        _held.add(self.file)

    def close(self) -> None:
        """Let the folder go."""
        _held.discard(self.file)
        os.close(self.descriptor)


def digest(parts: Iterable[str | bytes]) -> str:
    """A checksum of texts and bytes in their order."""
    total = hashlib.blake2b(digest_size=16)
    for part in parts:
        content = part.encode(errors="surrogateescape") if isinstance(part, str) else part
        total.update(len(content).to_bytes(8, "little"))
        total.update(content)
    return total.hexdigest()


def file_at(place: str) -> list[Path]:
    """The file at a place, if there is one; a folder may be called as a word that is no place."""
    path = os.path.expanduser(place)
    return [Path(path)] if os.path.isfile(path) else []


def files_at(place: str) -> list[Path]:
    """The file at a place, or all files below a folder; none if nothing is there."""
    folder = Path(os.path.expanduser(place))
    below = sorted(folder.rglob("*")) if place and os.path.isdir(folder) else []
    return file_at(place) or [path for path in below if path.is_file()]
