"""Any settings that a task takes come back from its command line and from a run's folder."""

from __future__ import annotations

import importlib
import json
import types
from dataclasses import asdict, fields
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepbench.settings import differences, parse

TASKS = ("classification", "semisup_uda", "reid", "detection")
VALUES: dict[type, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: st.integers(-2, 400),
    float: st.floats(-0.5, 2.0, allow_nan=False),
    str: st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12),
}


def changes(config: type) -> st.SearchStrategy[dict[str, Any]]:
    """Some fields of a config with values of their type, or of their choices."""
    kinds = get_type_hints(config)
    each = {}
    for field in fields(config):
        kind = kinds[field.name]
        if isinstance(kind, types.UnionType):
            kind = get_args(kind)[0]
        choices = field.metadata.get("choices")
        each[field.name] = st.sampled_from(choices) if choices else VALUES[kind]
    return st.fixed_dictionaries({}, optional=each).map(lambda c: dict(list(c.items())[:3]))


def words_of(change: dict[str, Any]) -> list[str]:
    flags = {name: "--" + name.replace("_", "-") for name in change}
    return [
        word if value is True else word.replace("--", "--no-", 1) if value is False
        else f"{word}={value}"
        for word, value in zip(flags.values(), change.values(), strict=True)
    ]  # fmt: skip


@pytest.mark.parametrize("task", TASKS)
@given(data=st.data())
def test_settings_come_back(task: str, data: st.DataObject) -> None:
    experiments = importlib.import_module(f"{task}.experiments")
    name = data.draw(st.sampled_from(sorted(experiments.EXPERIMENTS)))
    base = experiments.EXPERIMENTS[name].config
    change = data.draw(changes(type(base)))
    try:
        expected = type(base)(**{**asdict(base), **change})
    except ValueError as refused:
        with pytest.raises(SystemExit, match="^error: ") as error:
            parse(experiments.EXPERIMENTS, "", [name, *words_of(change)],
                  budgets=experiments.BUDGETS, cost=differences)  # fmt: skip
        assert str(refused) in str(error.value)
        return
    _, config, _ = parse(
        experiments.EXPERIMENTS, "", [name, *words_of(change)],
        budgets=experiments.BUDGETS, cost=differences,
    )  # fmt: skip
    assert config == expected
    assert type(base)(**json.loads(json.dumps(asdict(config)))) == config
