"""The identity of a run, for a folder to tell whether it holds this one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from keepbench.files import digest
from keepbench.older import modern
from keepbench.own_network import source_files
from keepbench.settings import defaults, task_of, walk


def digests(config: Any) -> dict[str, str]:
    """Checksums of the files that a config's settings name, by setting.

    A `setting` says by `files` which these are: a network's code, weights, objects. Where none is
    there, the setting is left out.
    """
    found = {}
    for name, each, value in walk(config):
        kinds, files = each.metadata["kinds"], each.metadata["files"]
        files = source_files if kinds else files
        if files and (paths := [*files(value)]):
            found[name] = digest(part for path in paths for part in (path.name, path.read_bytes()))
    return found


def check_digests(then: Mapping[str, str], now: Mapping[str, str], what: str) -> None:
    """Raise ValueError if a file has changed since `what` was begun with it."""
    if changed := sorted(name for name in then.keys() & now.keys() if then[name] != now[name]):
        raise ValueError(
            f"{what} was begun with other files: what {', '.join(changed)} names has changed "
            "since; bring it back, or give another --out"
        )


class Identity:
    """A run's experiment, those settings that change its result, and their files.

    Raises:
        OSError: A file that a setting names cannot be read.
    """

    def __init__(self, experiment: str, config: Any) -> None:
        settings = {
            name: value for name, each, value in walk(config) if not each.metadata["may_change"]
        }
        self.settings = json.loads(json.dumps({"experiment": experiment, **settings}))
        self.task, self.defaults = task_of(config), defaults(config)
        self.files = digests(config)

    def compare(self, then: dict[str, Any], what: str) -> None:
        """Raise ValueError if experiment or settings of `what` are others.

        A setting that is newer than the run had its default's effect.
        """
        then = self.defaults | modern(self.task, then)
        differences = [
            f"{name}: {then.get(name)!r} then, {value!r} now"
            for name, value in sorted(self.settings.items())
            if then.get(name) != value
        ]
        if differences:
            raise ValueError(f"{what} was run otherwise ({'; '.join(differences)})")
