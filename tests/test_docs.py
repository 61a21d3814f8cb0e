"""What the documents name is there."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import keepaugment
import keepaugment.adapters
import keeppolicies
from classification.models import create_model

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
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
        elif re.fullmatch(r"(?!references/)\w+/[a-z0-9_/]+\.(py|md|json)", word):  # torchvision's
            places = [ROOT / word, ROOT / "tests" / word, ROOT / "core" / word]
            assert any(place.exists() for place in places), f"{page.name}: {word}"


@pytest.mark.parametrize("name", ["index.md", "use.md", "choosing.md"])
def test_the_code_of_a_page_runs(name: str) -> None:
    """On four random images, in bytes where a page normalises them, as large as it says."""
    text = (ROOT / "docs" / name).read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    model, labels = create_model("resnet8", 10), torch.arange(4)
    names = {"model": model, "pretrained": model, "cross_entropy": F.cross_entropy,
             "normalise": lambda images: images / 255}  # fmt: skip
    for block in blocks:
        side = 224 if "224" in block else 32
        pixels = torch.randint(256, (4, 3, side, side), dtype=torch.uint8)
        images = pixels if "normalise(" in block else pixels / 255
        named = {
            "dataset": labels, "whole_images": [(labels, images, labels)],
            "numbered": [(labels, None, images, labels)],
        }  # fmt: skip
        exec(block, names | named | {"loader": [(images, labels)]})


def test_the_recipes_of_extending_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files and commands as they are written, at a smoke budget."""
    text = (ROOT / "docs" / "extending.md").read_text()
    for name, code in re.findall(r"`(\w+\.py)`[^`]*:\n\n```python\n(.*?)```", text, re.DOTALL):
        (tmp_path / name).write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    mains = {"run_classification": "classification.cli", "run_noise": "noise"}
    commands = re.findall(r"^python (?:tools/)?(run_\w+)\.py (.*?)(?: +#.*)?$", text, re.MULTILINE)
    assert len(commands) == 6
    for number, (door, words) in enumerate(commands):
        main = importlib.import_module(mains[door]).main
        rest = ["--budget", "smoke", "--device", "cpu", "--out", str(number)]
        if "--help" in words:
            with pytest.raises(SystemExit, match="0"):
                main([*words.split(), *rest])
            assert "my.py:Stripe: height of the stripe" in " ".join(capsys.readouterr().out.split())
        else:
            main([*words.split(), *rest])
            assert (tmp_path / str(number) / "last.pt").exists()


def test_the_site_is_built_strictly(tmp_path: Path) -> None:
    """No dead link, no name in the API reference that is not there; no asset from elsewhere."""
    for package in ("mkdocs", "material", "mkdocstrings_handlers.python"):
        pytest.importorskip(package, reason="pip install -e '.[docs]'")
    words = ["mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    reference = "".join(page.read_text() for page in tmp_path.glob("api/*.html"))
    for package in (keepaugment, keeppolicies):
        for name in package.__all__:
            assert f'id="{package.__name__}.{name}"' in reference, name
    for name in keepaugment.adapters.__all__:
        assert re.search(rf'id="keepaugment\.adapters\.\w+\.{name}"', reference), name
    for page in tmp_path.rglob("*.html"):
        assert not re.search(r'<(script|img|link)[^>]* (src|href)="?https?:', page.read_text()), (
            page
        )


def test_the_notebook_runs() -> None:
    """As committed, without outputs, in a kernel of its own."""
    pytest.importorskip("ipykernel", reason="pip install -e '.[dev]'")
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(ROOT / "docs/examples/quick_look.ipynb", 4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    text = "".join(output.get("text", "") for output in outputs)
    assert float(re.findall(r"([\d.]+) % of the test digits right", text)[-1]) > 80
    kept = [int(share) for share in re.findall(r"(\d+) % of the importance kept", text)]
    assert kept[1] <= kept[2] < kept[3]
    assert any("image/png" in output.get("data", {}) for output in outputs)
