"""Settings: frozen dataclasses whose fields hold what flags, checks and reports need.

A setting is a plain value, or one of several kinds that have settings of their own, such as a
method or a map: a `Kind`, made by `one_of`. By name, settings are flat: "cut" is "cutout", and
"cut.size" is 16. So they stand in flags, in `run.json` and in reports.
"""

from __future__ import annotations

import difflib
import unicodedata
from abc import ABC
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import Field, dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from keepbench.own_network import find_function, in_words, is_function, refuse_code, source_files

Config = TypeVar("Config")
Code = Literal["run", "refuse", "leave"]
"""Treatment of a class of the user's own: its file is run to find it, or it is refused, as a
stranger may have named it, or it is left alone and has the settings that are given, no others."""

ROLES = {
    "": "settings",
    "map": "early heads, by which maps may be taken",
    "file": "files, the same wherever they lie",
    "neutral": "data, seed, speed and records; no part of what an experiment is",
}
"""Purposes of plain settings, as headings of `--help`."""
_TYPES = {bool: "true or false", int: "a whole number", float: "a number", str: "printable text"}


@dataclass(frozen=True, kw_only=True)
class Kind(ABC):
    """One of the kinds that a setting can be, with settings of its own."""

    name: ClassVar[str]
    """As flags and `run.json` have it; of a class that a user brings, its path."""
    title: ClassVar[str] = ""
    """As its authors write it."""

    def __post_init__(self) -> None:
        """Refuse settings out of range."""
        check(self)


@dataclass(frozen=True, kw_only=True)
class Method(Kind):
    """An augmentation."""

    keeps: ClassVar[bool] = True
    """It has a Keep arm."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Its settings that leave it nothing to do at 0."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The known names most like a wrong one, as the end of an error message."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.4)
    return f"; did you mean {', '.join(near)}?" if near else ""


def setting(
    default: Any,
    help: str,
    *,
    choices: Sequence[Any] | None = None,
    range: str = "",
    role: str = "",
    may_change: bool = False,
    shared: bool = False,
    files: Callable[[str], Iterable[Path]] | None = None,
) -> Any:
    """A field of a config dataclass: its default and what `--help`, `check` and reports need.

    Args:
        default: its value, of the setting's type.
        help: for `--help`, without default and range.
        choices: its possible values; None for any.
        range: of a number, an interval such as "[0, 1)".
        role: one of `ROLES`.
        may_change: it changes no result, so it may differ when a run is resumed; such a setting is
            neutral.
        shared: a number of all processes together, each of which takes an equal share.
        files: the files that a value names, whose digest a run's folder holds.
    """
    help += ", over all processes" if shared else ""
    role = "neutral" if may_change else role
    assert role in ROLES, role
    about: dict[str, Any] = {"help": help, "choices": choices, "range": range, "role": role}
    about |= {"may_change": may_change, "shared": shared, "files": files, "kinds": ()}
    return field(default=default, metadata=about)


def one_of(
    kinds: Sequence[type[Kind]], help: str, *, default: Kind | None = None, required: bool = False
) -> Any:
    """A field that is one of some kinds, or another class of their common base, or none.

    Args:
        kinds: a base class, then its kinds.
        help: for `--help`.
        default: its value; None is none.
        required: it cannot be none.
    """
    about = {**setting(default, help).metadata, "kinds": tuple(kinds), "required": required}
    return field(default=default, metadata=about)


def named(value: Kind | None) -> str:
    """The name of a kind; "" is none."""
    return "" if value is None else value.name


def walk(config: Any, prefix: str = "") -> Iterator[tuple[str, Field[Any], Any]]:
    """All settings of a config: name, field and value, kinds by their names."""
    for each in fields(config):
        name, value = prefix + each.name, getattr(config, each.name)
        if not each.metadata["kinds"]:
            yield name, each, value
            continue
        yield name, each, named(value)
        if value is not None:
            yield from walk(value, f"{name}.")


def flat(config: Any) -> dict[str, Any]:
    """All settings of a config by name, as `run.json` has them."""
    return {name: value for name, _, value in walk(config)}


def with_role(config: Any, role: str) -> set[str]:
    """The names of a config's settings in a role."""
    return {name for name, each, _ in walk(config) if each.metadata["role"] == role}


def find_kind(name: str, kinds: Sequence[type[Kind]]) -> type[Kind]:
    """A kind by its name, or the class that FILE.py:CLASS or MODULE:CLASS is.

    Raises:
        ValueError: There is none, or its class has not their common base.
    """
    base, *known = kinds
    for kind in known:
        if kind.name == name:
            return kind
    if not is_function(name):
        raise ValueError(
            f"must be one of {', '.join(repr(kind.name) for kind in known)}, found {name!r}"
        )
    found: Any = find_function(name)
    if found in known:
        return found
    if not isinstance(found, type) or not issubclass(found, base) or found is base:
        raise ValueError(f"must be a subclass of {base.__module__}.{base.__name__}, found {name}")
    lost = [key for key, value in vars(found).items() if isinstance(value, Field)]
    if lost:
        raise ValueError(f"{name} has {lost[0]}, so it needs @dataclass(frozen=True, kw_only=True)")
    bare = [each.name for each in fields(found) if "kinds" not in each.metadata]
    if bare:
        raise ValueError(f"{name} has {bare[0]}, which must be a keepbench.settings.setting")
    plain = [each for each in fields(found) if not each.metadata["kinds"]]
    if odd := [each.name for each in plain if type(each.default) not in _TYPES]:
        raise ValueError(f"{name} has {odd[0]}, whose default must be {', '.join(_TYPES.values())}")
    needs = getattr(found, "needs", ())
    if strange := {*needs} - {each.name for each in plain}:
        raise ValueError(f"{name} has needs={needs}, but no setting {strange.pop()}")
    found.name = name
    return found


def _left(name: str, base: type[Kind], given: Mapping[str, Any]) -> Kind:
    """A class of the user's own by its path and settings, whose file is not run."""
    own, known = [], {each.name for each in fields(base)}
    for key in (each for each in given if each not in known):
        inner = {k.removeprefix(f"{key}."): v for k, v in given.items() if k.startswith(f"{key}.")}
        if inner:
            own.append((key, Kind, one_of((Kind,), "", default=_left(given[key], Kind, inner))))
        elif "." not in key:
            own.append((key, type(given[key]), setting(given[key], "")))
    space = dict.fromkeys(base.__abstractmethods__)  # nothing of it is called
    kind: Any = make_dataclass(
        "Left", own, bases=(base,), namespace=space, frozen=True, kw_only=True
    )
    kind.name = name
    return kind()


def _switched(
    value: Kind | None, name: Any, kinds: Sequence[type[Kind]], given: Mapping[str, Any], code: Code
) -> Kind | None:
    """Another kind with its own defaults, but for what was set of the one before, if it suits."""
    if not isinstance(name, str):
        raise ValueError(f"must be a name, '' for none, found {name!r}")
    if name == named(value):
        return value
    if not name:
        return None
    if code == "refuse":
        refuse_code(name)
    if code == "leave" and is_function(name):
        return _left(name, kinds[0], given)
    kind = find_kind(name, kinds)
    try:
        new = kind()
    except ValueError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise ValueError(f"{name} cannot be made: {in_words(error)}") from error
    own = {each.name for each in fields(new)}
    for each in fields(value) if value is not None else ():
        was = getattr(value, each.name)
        if each.name in own and was != each.default:
            with suppress(ValueError):
                new = replace(new, **{each.name: was})
    return new


def changed(
    config: Config, given: Mapping[str, Any], *, prefix: str = "", code: Code = "run"
) -> Config:
    """A config with some settings changed, which are given by name.

    A setting that becomes another kind keeps what was set of the kind before, where it has it.

    Args:
        config: of any values.
        given: the settings.
        prefix: of their names, in messages.
        code: what becomes of classes of the user's own. Where they are left, each setting is
            checked alone, for how they suit each other may be theirs to say.

    Raises:
        ValueError: A setting is unknown, or cannot be what it is set to.
    """
    values, unknown = {}, dict(given)
    for each in fields(config):  # type: ignore[arg-type]
        name, inner = each.name, f"{each.name}."
        own = {k[len(inner) :]: unknown.pop(k) for k in given if k.startswith(inner)}
        if not each.metadata["kinds"]:
            unknown |= {inner + k: v for k, v in own.items()}
            if name in unknown:
                values[name] = unknown.pop(name)
                if code == "refuse" and each.metadata["files"] is source_files:
                    refuse_code(values[name])
            continue
        value = getattr(config, name)
        if name in unknown:
            try:
                value = _switched(value, unknown.pop(name), each.metadata["kinds"], own, code)
            except ValueError as error:
                raise ValueError(f"{prefix}{name} {error}") from None
        if own and value is None:
            raise ValueError(
                f"{prefix}{inner}{next(iter(own))} needs {prefix}{name}, which is none"
            )
        if own:
            value = changed(value, own, prefix=prefix + inner, code=code)
        values[name] = value
    if unknown:
        known = [each.name for each in fields(config)]  # type: ignore[arg-type]
        wrong = next(iter(unknown))
        kind = f" of {config.name}" if isinstance(config, Kind) else ""
        raise ValueError(
            f"{prefix}{wrong} is no setting{kind}{nearest(wrong, known)}"
            + (f" (it has {', '.join(known) or 'none'})" if kind else "")
        )
    try:
        if code == "leave":
            new = copy(config)
            vars(new).update(values)  # which no frozen dataclass forbids
            check(new)
            return new
        return replace(config, **values)  # type: ignore[type-var]
    except ValueError as error:
        raise ValueError(f"{prefix}{error}") from None


def from_flat(kind: type[Config], settings: Mapping[str, Any]) -> Config:
    """The config whose settings `flat` gives; those that are missing have their defaults.

    Raises:
        ValueError: A setting is unknown, cannot be what it is, or names code.
    """
    return changed(kind(), settings, code="refuse")


def task_of(config: Any) -> str:
    """The package whose settings a config has."""
    return type(config).__module__.partition(".")[0]


def is_within(value: float, interval: str) -> bool:
    """Whether a number lies in an interval such as "[0, 1)"; NaN lies in none."""
    low, high = map(float, interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    return above and (value <= high if interval[-1] == "]" else value < high)


def is_a(value: Any, kind: type) -> bool:
    """Whether a value is of a setting's type; a whole number is a number, too."""
    if kind is str:  # control characters and half surrogates break terminals, paths and JSON
        return isinstance(value, str) and not {"Cc", "Cs"} & set(map(unicodedata.category, value))
    return type(value) is kind or (kind is float and type(value) is int)


def check(config: Any) -> None:
    """Raise ValueError for a setting of a wrong type, out of its range or none of its choices."""
    for each in fields(config):
        value, about = getattr(config, each.name), each.metadata
        kind, choices, interval = type(each.default), about["choices"], about["range"]
        if about["kinds"]:
            base = about["kinds"][0]
            if isinstance(value, base) or (value is None and not about["required"]):
                continue
            possible = f"a {base.__name__}" + ("" if about["required"] else " or None")
        elif not is_a(value, kind):
            possible = _TYPES[kind]
        elif choices and value not in choices:
            possible = f"one of {', '.join(map(repr, choices))}"
        elif interval and not is_within(value, interval):
            possible = f"in {interval}"
        else:
            continue
        raise ValueError(f"{each.name} must be {possible}, found {value!r}")


def check_keep(config: Any, **used: bool) -> None:
    """Raise ValueError for a Keep arm of a method that changes nothing, so that it keeps nothing.

    Args:
        config: its `keep` is the switch.
        **used: by a setting's name, whether its value leaves the method something to do.
    """
    if config.keep and not all(used.values()):
        found = flat(config)
        idle = [f"{name}={found[name]!r}" for name, does in used.items() if not does]
        raise ValueError(f"keep={config.keep.name} has nothing to keep from ({', '.join(idle)})")


def check_shared(config: Any, processes: int) -> None:
    """Raise ValueError for a setting that cannot be shared out equally among processes."""
    for name, each, value in walk(config):
        if each.metadata["shared"] and value % processes:
            raise ValueError(
                f"{name}={value} does not divide by {processes} processes; take a multiple"
            )


def check_kinds(config: Any, settings: Mapping[str, Any]) -> None:
    """Raise ValueError for settings by name whose type is not that of the config's."""
    for name, each, value in walk(config):
        kind = str if each.metadata["kinds"] else type(each.default)
        if not is_a(settings.get(name, value), kind):
            raise ValueError(f"its setting {name} is not {_TYPES[kind]}: {settings[name]!r}")


def check_lengths(image_size: tuple[int, int], **lengths: int) -> None:
    """Raise ValueError for a setting in pixels that is longer than images (H, W) have room for.

    A crop's `padding` stays below the shorter side, or a crop could miss the whole image.
    """
    for name, length in lengths.items():
        most = min(image_size) - (name == "padding")
        if length > most:
            size = "x".join(map(str, image_size))
            raise ValueError(f"{name} must be at most {most} for {size} images, found {length}")


def defaults(config: Any) -> dict[str, Any]:
    """The defaults of all settings that a config has, by name; of a kind, those where it is one."""
    return dict(_defaults(config, type(config)(), ""))


def _defaults(config: Any, usual: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for each in fields(config):
        name, own, value = prefix + each.name, getattr(usual, each.name), getattr(config, each.name)
        yield name, named(own) if each.metadata["kinds"] else own
        if each.metadata["kinds"] and value is not None:
            kind = type(value)
            yield from _defaults(value, own if type(own) is kind else kind(), f"{name}.")


def differences(config: Any) -> str:
    """The settings that are not their defaults, as flags."""
    usual = defaults(config)
    return " ".join(f"{n}={value}" for n, value in flat(config).items() if value != usual[n])
