"""Files of settings by name: YAML, or a run's `run.json`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar

import yaml

from keepbench.older import RENAMED, modern
from keepbench.settings import changed, task_of

Config = TypeVar("Config")

_LARGEST = 1_000_000  # bytes


class _Yaml(yaml.SafeLoader):
    """YAML in which 1e-4 is a number, as in JSON, and no name comes twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        found = super().construct_mapping(node, deep)
        if len(found) < len(node.value):
            names = [key.value for key, _ in node.value]
            twice = next((name for name in names if names.count(name) > 1), "")
            raise ValueError(f"a name comes twice: {twice}")
        return found


_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    [*"-+0123456789"],
)


def _load(path: Path) -> Any:
    with open(path, "rb") as file:
        text = file.read(_LARGEST + 1)  # of a pipe or a device no size is known
    if len(text) > _LARGEST:
        raise ValueError(f"it has more than {_LARGEST:,} bytes, which no file of settings has")
    try:
        return yaml.load(text, _Yaml)
    except (AttributeError, LookupError, TypeError) as error:  # values that are not as their tags
        raise ValueError(f"it is no YAML: {error!r}") from None


def read_settings(path: Path, config: Config) -> Config:
    """A config with the settings that a file has by name: YAML, or a run's `run.json`.

    Raises:
        ValueError: The file cannot be read, or a setting cannot be what it is there.
    """
    try:
        found, task = _load(path), task_of(config)
        if is_run := isinstance(found, dict) and "experiment" in found:
            found = found.get("settings")
        if not isinstance(found, dict) or {*map(type, found)} - {str}:
            raise ValueError("it has no settings by name")
        names = {} if is_run else RENAMED.get(task, {})
        for name, value in found.items():
            if name in names:
                raise ValueError(f"{name} is {names[name]} now")
            if not isinstance(value, (bool, int, float, str)):
                raise ValueError(
                    f"{name} must be a plain value, found a {type(value).__name__}; settings are "
                    "flat, such as keep.map.scale, and '' is none"
                )
        return changed(config, modern(task, found) if is_run else found, code="refuse")
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"--config {path}: {reason}") from None
