"""What the documents name is there."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
PACKAGES = "keepaugment|keeppolicies|keepbench|classification|semisup_uda|reid|detection"


def words(page: Path) -> list[str]:
    """The code spans of a page."""
    return re.findall(r"`([^`\n]+)`", page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_that_a_page_names_exist(page: Path) -> None:
    """`file.py::test`, or `test_x` after such a one: in any test file."""
    tests = {path: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    for word in words(page):
        file, _, name = word.rpartition("::")
        if name.startswith("test_") and not name.endswith(".py"):
            found = [p for p, text in tests.items() if f"def {name}(" in text]
            assert any(str(p).endswith(file) for p in found), f"{page.name}: {word}"
        elif re.fullmatch(r"[\w/]*test_\w+\.py", word):
            assert any(str(p).endswith(word) for p in tests), f"{page.name}: {word}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_and_files_that_a_page_names_exist(page: Path) -> None:
    for word in words(page):
        if match := re.fullmatch(rf"((?:{PACKAGES})(?:\.[a-z_]+)*)(?:\.(\w+))?", word):
            module, name = match[1], match[2]
            spec = None
            for end in range(module.count(".") + 1):  # the last parts may be names in the module
                try:
                    spec = importlib.util.find_spec(module.rsplit(".", end)[0] if end else module)
                except ModuleNotFoundError:
                    continue
                if spec:
                    break
            assert spec and spec.origin, f"{page.name}: {word}"
            last = name or (module.rsplit(".", end)[1] if end else "")
            assert not last or last in Path(spec.origin).read_text(), f"{page.name}: {word}"
        elif re.fullmatch(r"(tools|core|docs|tests|\w+)/[a-z0-9_/]+\.(py|md|json)", word):
            places = [ROOT / word, ROOT / "tests" / word, ROOT / "core" / word]
            assert any(place.exists() for place in places), f"{page.name}: {word}"
