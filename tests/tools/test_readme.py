"""README: its code runs, its commands are known, what it links to is there."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.optim import SGD

import keepaugment
from classification.models import create_model
from evidence.catalogue import TASKS, load
from evidence.statistics import p_value
from runs import ROOT
from trialling.plan import read_plan
from trialling.results import read_trial

README = (ROOT / "README.md").read_text()
FENCES = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
SHELL = "\n".join(code for language, code in FENCES if language == "sh").splitlines()
COMMANDS = [words for line in SHELL if (words := shlex.split(line, comments=True))]
CODE = [code for language, code in FENCES if language == "python"]
FAST = (
    "run_semisup_uda.py --list",
    "run_table.py 1 --budget smoke --dry-run",
    "report.py results",
    "preview.py sample --model resnet18",
)


def called(words: list[str]) -> tuple[str, list[str]]:
    """The tool of a command and what it is given; "" if it runs none."""
    place = next((n for n, word in enumerate(words) if word.startswith("tools/")), None)
    return ("", words) if place is None else (words[place], words[place + 1 :])


def run(tool: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a tool's door in this process."""
    monkeypatch.setattr(sys, "argv", [tool, *arguments])
    runpy.run_path(str(ROOT / tool), run_name="__main__")


def help_of(
    tool: str, first: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    with pytest.raises(SystemExit) as left:
        run(tool, [*first, "--help"], monkeypatch)
    assert not left.value.code
    return capsys.readouterr().out


def test_every_fence_says_its_language() -> None:
    assert {language for language, _ in FENCES} == {"sh", "python", "bibtex"}
    assert README.count("```") == 2 * len(FENCES)
    assert len(COMMANDS) > 10 and len(CODE) == 2


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_commands_name_tools_experiments_and_flags_that_exist(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tool, given = called(words)
    if words[0] == "make":
        targets = re.findall(r"^([a-z0-9]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert words[1] in targets
    elif words[0] == "pip":
        extra = re.search(r"\.\[(\w+)\]", words[-1])
        if extra:
            assert f"\n{extra[1]} = [" in (ROOT / "pyproject.toml").read_text()
        else:
            assert (ROOT / words[-1] / "pyproject.toml").is_file()
    else:
        first = given[:1] if "-" in given[0] and not given[0].startswith("-") else []
        if first:
            assert load().find(first[0], ""), f"no experiment {first[0]}"
        cut = given.index("--") if "--" in given else len(given)
        said = help_of(tool, first, monkeypatch, capsys)
        flags = [word for word in given[:cut] if word.startswith("--")]
        assert all(re.search(rf"{flag}\b", said) for flag in flags)
        if further := [word for word in given[cut + 1 :] if word.startswith("--")]:
            task = "tools/" + TASKS["classification"].script
            said = help_of(task, ["cifar10-resnet18-cutout"], monkeypatch, capsys)
            assert all(re.search(rf"{flag}\b", said) for flag in further)


@pytest.mark.parametrize("command", FAST)
def test_fast_commands_run(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"python tools/{command}" in README
    tool, *words = command.split()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").symlink_to(ROOT / "results")
    try:
        run(f"tools/{tool}", words, monkeypatch)
    except SystemExit as left:
        assert not left.code


@pytest.mark.parametrize("code", CODE)
def test_code_trains(code: str) -> None:
    model = create_model("resnet8", 10)
    loader = [(torch.randn(2, 3, 32, 32), torch.tensor([1, 2]))]
    names = {"model": model, "loader": loader, "cross_entropy": cross_entropy, "SGD": SGD}
    exec(code, names)
    loss = names["loss"]
    assert isinstance(loss, torch.Tensor) and loss.isfinite() and loss.requires_grad


def anchors(text: str) -> set[str]:
    """What links may name after a #."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_names_and_links_lead_somewhere() -> None:
    for name in re.findall(r"`(Keep\w+|\w+Saliency|Cutout|RandomErasing|CutMix)\(", README):
        assert hasattr(keepaugment, name), name
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        place = ROOT / file if file else ROOT / "README.md"
        assert place.exists(), target
        assert not anchor or anchor in anchors(place.read_text()), target


def test_the_table_of_results_is_that_of_the_runs() -> None:
    """Each row of the first table has the figures of docs/results.md, rounded."""
    rows = re.findall(r"([+-][\d.]+) \[([+-][\d.]+), ([+-][\d.]+)\]", README)
    number, apart = r"([+-]?\d+\.\d+)", r"[^\d+-]{1,6}"  # as "+1.03 | -3.24 to 5.29"
    text = (ROOT / "docs" / "results.md").read_text()
    found = re.findall(f"(?={apart.join([number] * 3)})", text)
    known = [tuple(round(float(each), 1) for each in row) for row in found]
    assert rows
    for row in rows:
        assert any(
            all(abs(float(a) - b) < 0.11 for a, b in zip(row, other, strict=True))
            for other in known
        ), row


@pytest.mark.parametrize("folder", sorted((ROOT / "results").glob("trial-*")), ids=lambda f: f.name)
def test_trials_in_the_docs_are_computed_from_their_bits(folder: Path) -> None:
    text = (ROOT / "docs" / "results.md").read_text()
    trial = read_trial(read_plan(folder), folder)
    assert trial.findings or not trial.finished
    for each in trial.findings:
        low, high = each.estimate.low, each.estimate.high
        said = f"[{low:+.2f}, {high:+.2f}] | {each.n} | {p_value(each.p_holm)} | {each.verdict}"
        assert f"{each.contrast.name} | {each.difference:+.2f} {said}" in text
