"""The settings of a task, those of the kinds that it knows among them."""

from __future__ import annotations

from dataclasses import Field, fields
from importlib import import_module
from typing import Any

Setting = tuple[str, Field[Any], list[str]]
"""A setting's flag, its field, and the words that choose the kinds that have it."""
_NOT_TRIED = {"download", "compile"}  # the network; minutes


def settings_of(task: str) -> list[Setting]:
    """The settings of a task and of the kinds that it knows; alike in several kinds, once."""
    found: dict[Any, Setting] = {}

    def walk(config: Any, prefix: str, words: list[str]) -> None:
        for each in fields(config):
            flag, about = prefix + each.name.replace("_", "-"), each.metadata
            alike = (flag, about["range"], str(about["choices"]))
            if each.name not in _NOT_TRIED:
                found.setdefault(alike, (flag, each, words))
            for kind in about["kinds"][1:]:
                walk(kind, f"{flag}.", [*words, f"{flag}={kind.name}"])

    walk(import_module(f"{task}.config").Config, "--", [])
    return [*found.values()]
