"""The settings of every task: ranges, budgets, stored runs, the command line and `--help`."""

from __future__ import annotations

import importlib
import json
import math
import runpy
from collections.abc import Iterator
from dataclasses import Field, fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detection import detectron
from keepbench.command import flags, parse, read
from keepbench.identity import Identity
from keepbench.run import Run, RunRecord
from keepbench.settings import Kind, changed, differences, flat, from_flat, walk
from runs import CPU

ROOT = Path(__file__).parents[1]
TASKS = ("classification", "semisup_uda", "reid", "detection")
CONFIGS = {task: importlib.import_module(f"{task}.config").Config for task in TASKS}
EXPERIMENTS = {task: importlib.import_module(f"{task}.experiments") for task in TASKS}


def settings_of(holder: type) -> Iterator[tuple[type, Field[Any]]]:
    """The plain settings of a config or kind, and of all kinds that it may have, with their own."""
    for each in fields(holder):  # type: ignore[arg-type]
        if not each.metadata["kinds"]:
            yield holder, each
        for kind in each.metadata["kinds"][1:]:
            yield from settings_of(kind)


HOLDERS = [each for task in TASKS for each in settings_of(CONFIGS[task])]
SETTINGS = list({(holder, each.name): (holder, each) for holder, each in HOLDERS}.values())
KINDS = {(h, each.name): each for h, _ in SETTINGS for each in fields(h) if each.metadata["kinds"]}
VALUES: dict[type, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: st.integers(-2, 400),
    float: st.floats(-0.5, 2.0, allow_nan=False),
    str: st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12),
}
NONSENSE: dict[type, list[Any]] = {
    bool: [None, 0, 1, "true", math.nan],
    int: [None, "3", True, 1.0, math.nan, math.inf, -1, 0, -(10**9), 10**10],
    float: [None, "0.1", True, math.nan, math.inf, -math.inf, -1.0, -1e-9, 0.0, 1e10],
    str: [None, 3, True, math.nan, ["a"], b"a", "a\0b", "a\nb", "\x1b[2J", "\ud800"],
}
WITHOUT = ("dropout", "momentum", "weight_decay", "smoothing", "warmup")
PARTS_OF_LOSS = ("early_weight", "weight", "margin")
NEVER = ("p", "erase_p")
ALL = ("tau", "agreement", "confidence")  # regions, maps, images
SEEDS = ("seed", "split_seed")
MEANT = dict.fromkeys((*WITHOUT, *PARTS_OF_LOSS, *NEVER, *ALL, *SEEDS), (0,)) | {
    "magnitude": (0,),
    "lr": (0, 1e10),  # diverges, which ends a run
}
"""Values at the edge of nonsense that mean something, where no help text says which."""


def means_something(each: Field[Any], value: Any) -> bool:
    if type(value) is not type(each.default) or isinstance(value, (bool, str)):
        return False
    return value in MEANT.get(each.name, ()) or f"{value:g} = " in each.metadata["help"]


@pytest.mark.parametrize(
    ("holder", "each"), SETTINGS, ids=lambda x: x.name if isinstance(x, Field) else x.__name__
)
def test_nonsense_is_refused_by_name(holder: type, each: Field[Any]) -> None:
    config = holder()
    nonsense = NONSENSE[type(each.default)] + (["nonsense"] if each.metadata["choices"] else [])
    for value in nonsense:
        if means_something(each, value):
            assert getattr(replace(config, **{each.name: value}), each.name) == value
            continue
        with pytest.raises(ValueError, match=f"^{each.name} must be .*, found "):
            replace(config, **{each.name: value})


@pytest.mark.parametrize(("holder", "name"), KINDS, ids=lambda x: getattr(x, "__name__", x))
def test_what_is_no_kind_is_refused_by_name(holder: type, name: str) -> None:
    each, config = KINDS[holder, name], holder()
    for value in (
        "cutout",
        1,
        object,
        each.metadata["kinds"][-1],
        *[None] * each.metadata["required"],
    ):
        with pytest.raises(ValueError, match=f"^{name} must be a .*, found "):
            replace(config, **{name: value})


def test_a_setting_is_described_in_one_place() -> None:
    for holder, each in SETTINGS:
        kind, about = get_type_hints(holder)[each.name], each.metadata
        assert type(each.default) is kind and about["help"], each.name
        number = kind in (int, float)
        assert number == bool(about["range"] or (number and about["choices"])), each.name


def test_a_kind_has_a_name_of_its_own_and_is_of_the_settings_type() -> None:
    for (holder, name), each in KINDS.items():
        hint, (base, *kinds) = get_type_hints(holder)[name], each.metadata["kinds"]
        assert base in (get_args(hint) or (hint,)) and issubclass(base, Kind)
        assert all(issubclass(kind, base) for kind in kinds)
        assert len({kind.name for kind in kinds}) == len(kinds) and each.metadata["help"]


@pytest.mark.parametrize("task", TASKS)
def test_every_experiment_exists_at_every_budget_and_fits_its_images(task: str) -> None:
    for experiment in EXPERIMENTS[task].EXPERIMENTS.values():
        for budget in EXPERIMENTS[task].BUDGETS.values():
            config = budget(experiment.config)
            if task in ("classification", "semisup_uda") and config.dataset != "images":
                config.check_image_size((32, 32))


RECORDS = sorted(ROOT.glob("results/**/run.json"))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: str(path.parent.relative_to(ROOT)))
def test_stored_runs_have_settings_of_today(path: Path) -> None:
    about = json.loads(path.read_text())
    task = next(task for task in TASKS if f"tools/run_{task}.py" in about["command"])
    record = RunRecord.read(path.parent)
    found = flat(record.config(CONFIGS[task]))
    assert record.settings.items() <= found.items()
    same = about["settings"].items() & found.items()
    assert about["settings"].keys() & found.keys() == {name for name, _ in same}


@pytest.mark.parametrize("task", TASKS)
def test_flags_and_run_json_make_every_experiment_of_another(task: str) -> None:
    """Of the one before it in the list, of the last, and with a budget's settings of its own."""
    module = EXPERIMENTS[task]
    experiments, names = module.EXPERIMENTS, list(module.EXPERIMENTS)
    for before, name in zip([names[-1], *names], names, strict=False):
        config = experiments[name].config
        assert from_flat(type(config), json.loads(json.dumps(flat(config)))) == config
        smoke = module.BUDGETS["smoke"](config)
        for base, made in ((before, config), (names[-1], config), (name, smoke)):
            words = [base, *flags(made, experiments[base].config)]
            assert read(experiments, words, budgets=module.BUDGETS)[:2] == (base, made), words


def changes(config: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Up to three settings by name, with values of their type, or of their choices or kinds."""
    each = {}
    for name, field, _ in walk(config):
        kinds, choices = field.metadata["kinds"][1:], field.metadata["choices"]
        if kinds:
            choices = [kind.name for kind in kinds] + [""] * (field.default is None)
        each[name] = st.sampled_from(choices) if choices else VALUES[type(field.default)]
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
    module = EXPERIMENTS[task]
    name = data.draw(st.sampled_from(sorted(module.EXPERIMENTS)))
    base = module.EXPERIMENTS[name].config
    change = data.draw(changes(base))
    try:
        expected = changed(base, change)
    except ValueError as refused:
        with pytest.raises(SystemExit, match="^error: ") as error:
            parse(module.EXPERIMENTS, "", [name, *words_of(change)],
                  budgets=module.BUDGETS, cost=differences)  # fmt: skip
        assert str(refused) in str(error.value)
        return
    _, config, _ = parse(
        module.EXPERIMENTS, "", [name, *words_of(change)],
        budgets=module.BUDGETS, cost=differences,
    )  # fmt: skip
    assert config == expected
    assert from_flat(type(base), json.loads(json.dumps(flat(config)))) == config


@pytest.mark.parametrize("tool", sorted(path.name for path in ROOT.glob("tools/*.py")))
def test_every_tool_has_help(
    tool: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [tool, "--help"])
    try:
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(ROOT / "tools" / tool), run_name="__main__")
    except ModuleNotFoundError as error:
        pytest.skip(f"{tool} needs a package that is not installed: {error}")
    assert stop.value.code in (0, None)
    assert capsys.readouterr().out.startswith(f"usage: {tool}")


READERS = {
    "classification": ("digits-resnet8-cutout", "open_data", "--arch"),
    "semisup_uda": ("digits-uda-randaugment-20", "open_images", "--arch"),
    "reid": ("toy-resnet18-keep_erasing_low", "open_data", "--weights"),
    "detection": ("toy-faster_rcnn_fpn-r18-random", "open_data", "--backbone"),
}
"""By task, an experiment, the function of its `train` that reads data, and a flag for a name."""


@pytest.mark.parametrize("task", TASKS)
def test_what_cannot_be_used_is_refused_before_data_are_read(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if task == "detection" and not detectron.is_installed():
        pytest.skip("Detectron2 is optional (make detectron2)")
    name, reader, flag = READERS[task]
    monkeypatch.setattr(f"{task}.train.{reader}", lambda *words: pytest.fail("data were read"))
    config = EXPERIMENTS[task].BUDGETS["smoke"](EXPERIMENTS[task].EXPERIMENTS[name].config)
    other = {"run": json.dumps(Identity(name, replace(config, seed=5)).settings), "epoch": 1}

    def refused(folder: Path, message: str, *words: str) -> None:
        main = importlib.import_module(f"{task}.cli").main
        with pytest.raises(SystemExit, match=message):
            main([name, "--budget", "smoke", "--device", "cpu", "--out", str(folder), *words])

    run = tmp_path / "run"
    Run(run, name, config, CPU.device, resume=False, budget="smoke").close()
    refused(run, "already holds a run")
    refused(run, "seed: 0 then, 1 now", "--resume", "--seed", "1")
    (run / "metrics.jsonl").write_text('{"epoch": 7.0, "iteration": 3}\n')
    refused(run, "no checkpoint to go on from", "--resume")
    last = "model_final.pth" if task == "detection" else "last.pt"
    if task == "detection":
        (run / "last_checkpoint").write_text(last)
    torch.save(other, run / last)
    refused(run, f"{last} was run otherwise .seed: 5 then, 0 now", "--resume")
    (run / "run.json").unlink()
    refused(run, "but no run.json", "--resume")
    (tmp_path / "file").touch()
    refused(tmp_path / "file" / "run", "file is no folder")
    refused(tmp_path / "run\udcff", "must be printable text")
    refused(tmp_path / "new", "no_such_thing", flag, "no_such_thing")
    assert not (tmp_path / "new").exists()
