"""The preview page in a browser: its boxes are the library's, and its sliders move the pictures."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from browser import needs_browser, opened, said
from keepaugment import allowed_regions
from keepaugment.draws import draw_place
from previewing.cli import main
from previewing.images import levels
from previewing.pages import TEMPLATES

BOXES = (TEMPLATES / "boxes.js").read_text()


def with_script(page: Path, script: str) -> Path:
    """A copy of a page that runs a script once it is ready, and shows what it returns."""
    waiting = (
        "<script>(async () => { while (document.body.dataset.ready !== 'yes')"
        " await new Promise((go) => setTimeout(go, 20));"
        f" const said = await (async () => {{ {script} }})();"
        " const shown = document.createElement('pre'); shown.id = 'said';"
        " shown.textContent = JSON.stringify(said); document.body.append(shown); })()</script>"
    )
    copy = page.with_name("scripted.html")
    copy.write_text(page.read_text().replace("</body>", waiting + "</body>"))
    return copy


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of three generated images; one has a name that is not harmless."""
    folder = tmp_path_factory.mktemp("preview")
    (folder / "images").mkdir()
    noise = np.random.default_rng(0)
    for name in ("a.png", "b.png", "<b onclick=x>&.png"):
        pixels = noise.integers(0, 255, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / name)
    path = folder / "page.html"
    main([str(folder / "images"), "--model", "resnet8", "--out", str(path), "--device", "cpu"])
    return path


def maps_of(page: Path) -> list[Tensor]:
    """The maps that a page ships, (H, W) of whole numbers."""
    import base64

    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text())
    assert found
    data = json.loads(found[1])
    raw = [np.frombuffer(base64.b64decode(image["map"]), "<u2") for image in data["images"]]
    return [torch.tensor(one.astype(np.int64)).view(data["side"], data["side"]) for one in raw]


CASES = [
    (size, border, side, tau)
    for size in ((1, 1), (4, 4), (5, 3), (12, 10))
    for border in ("clip", "inside")
    for side in ("low", "high")
    for tau in (0.0, 0.37, 0.6, 1.0)
]


@needs_browser
def test_boxes_of_the_page_are_those_of_the_library(tmp_path: Path) -> None:
    """Every candidate, ties included, on maps with many equal values, and the box that is drawn."""
    generator = torch.Generator().manual_seed(0)
    smooth = (torch.rand(12, 10, generator=generator) * 1000).round() / 1000
    maps = [
        levels(smooth),
        levels((3 * smooth).floor()),
        levels(torch.ones(12, 10)),
        0 * levels(smooth),
    ]
    uniform = [0.0, 0.123456, 0.5, 1 - 2**-24]
    script = """
      const out = [];
      for (const map of maps) for (const [size, border, side, tau] of cases) {
        const boxes = candidateBoxes(size, 12, 10, border);
        const sums = boxSums(integralImage(map, 12, 10), boxes, 10);
        const allowed = allowedBoxes(sums, tau, side);
        out.push([allowed.join(""), uniform.map((u) => drawIndex(allowed, Math.fround(u)))]);
      }
      return out;"""  # fmt: skip
    values = json.dumps([one.flatten().tolist() for one in maps])
    page = tmp_path / "boxes.html"
    page.write_text(
        f"<body data-ready=yes><script>{BOXES}</script>"
        f"<script>const maps = {values}, cases = {json.dumps(CASES)};"
        f"const uniform = {uniform};</script></body>"
    )
    found = iter(said(opened(with_script(page, script))))
    for saliency in maps:
        for size, border, side, tau in CASES:
            allowed, _ = allowed_regions(
                saliency[None].float(), torch.zeros(1, 1, 12, 10), size,
                side=side, tau=tau, border=border,  # type: ignore[arg-type]
            )  # fmt: skip
            text, drawn = next(found)
            assert text == "".join("01"[int(one)] for one in allowed.flatten()), (
                size,
                border,
                side,
                tau,
            )
            places = [draw_place(allowed, torch.tensor([u]))[0].tolist() for u in uniform]
            assert drawn == [row * allowed.shape[2] + column for row, column in places]


@needs_browser
def test_large_scores_round_as_in_the_library(tmp_path: Path) -> None:
    """Sums above 2**24 lose bits in float32: the page must lose the same."""
    generator = torch.Generator().manual_seed(1)
    saliency = levels(0.5 + torch.rand(96, 96, generator=generator) / 1000)
    page = tmp_path / "large.html"
    page.write_text(
        f"<body data-ready=yes><script>{BOXES}</script>"
        f"<script>const map = {saliency.flatten().tolist()};</script></body>"
    )
    script = """const boxes = candidateBoxes([64, 64], 96, 96, "clip");
      return allowedBoxes(boxSums(integralImage(map, 96, 96), boxes, 96), 0.6, "low").join("");"""
    allowed, _ = allowed_regions(
        saliency[None].float(), torch.zeros(1, 1, 96, 96), 64, side="low", tau=0.6, border="clip"
    )
    assert said(opened(with_script(page, script))) == "".join(
        "01"[int(one)] for one in allowed.flatten()
    )


FIGURES = """
  return [...document.querySelectorAll("article")].map((article) => Object.fromEntries(
    [...article.querySelectorAll("figure")].map((figure) => [
      figure.closest("[data-group]").dataset.group + "/" + figure.dataset.title,
      { ...figure.dataset, picture: figure.firstChild.toDataURL(),
        alt: figure.firstChild.getAttribute("aria-label") }])));"""


@needs_browser
def test_a_slider_changes_the_pictures(page: Path) -> None:
    script = f"""
      const look = () => {{ {FIGURES} }};
      const before = look();
      const slider = document.getElementById("tau");
      slider.value = "0.1";
      slider.dispatchEvent(new Event("input"));
      for (let n = 0; n < 3; n++) await new Promise((go) => setTimeout(go, 100));
      return [before, look(), document.getElementById("tau-shown").textContent];"""
    before, after, shown = said(opened(with_script(page, script)))
    assert shown == "0.10"
    for old, new in zip(before, after, strict=True):
        for title in ("Cutout/KeepCutout", "Cutout/centres KeepCutout allows"):
            assert old[title]["picture"] != new[title]["picture"]
        for title in (
            "Cutout/Cutout",
            "RandAugment/RandAugment",
            "What the network looks at/image",
        ):
            assert old[title]["picture"] == new[title]["picture"]
        allowed = "Cutout/centres KeepCutout allows"
        assert int(new[allowed]["allowed"]) < int(old[allowed]["allowed"])
        assert all(figure["alt"] for figure in old.values())


@needs_browser
def test_figures_of_the_page_are_sums_of_the_map(page: Path) -> None:
    """Settings come from the address; boxes are allowed ones and the meter says what is left."""
    images = said(opened(with_script(page, FIGURES), "#tau=0.3&size=9&draw=2&magnitude=24"))
    for saliency, figures in zip(maps_of(page), images, strict=True):
        allowed, boxes = allowed_regions(
            saliency[None].float(), torch.zeros(1, 1, 32, 32), 9, side="low", tau=0.3, border="clip"
        )
        assert int(figures["Cutout/centres KeepCutout allows"]["allowed"]) == int(allowed.sum())
        for title in ("Cutout/Cutout", "Cutout/KeepCutout", "CutMix/KeepCutMix"):
            top, bottom, left, right = map(int, figures[title]["box"].split(","))
            share = saliency[top:bottom, left:right].sum().item() / saliency.sum().item()
            assert float(figures[title]["kept"]) == pytest.approx(1 - share)
            assert float(figures[title]["area"]) == (bottom - top) * (right - left) / 1024
        top, bottom, left, right = map(int, figures["Cutout/KeepCutout"]["box"].split(","))
        (first_row, first_column), (last_row, last_column) = (edge[0] for edge in boxes.edges)
        row = (first_row == top) & (last_row == bottom)
        column = (first_column == left) & (last_column == right)
        assert allowed[0][row][:, column].any()
        plain, keep = figures["RandAugment/RandAugment"], figures["RandAugment/KeepRandAugment"]
        assert float(keep["kept"]) >= float(plain["kept"])
        assert float(keep["area"]) <= float(plain["area"])


@needs_browser
def test_what_may_not_be_cut_is_striped_and_the_page_says_when_it_draws(page: Path) -> None:
    script = """
      const grey = new Uint8ClampedArray(4 * pixels).fill(255);
      const marks = new Float64Array(pixels);
      const lights = (rgba) => [...new Set(rgba.filter((_, n) => n % 4 === 0))].length;
      const shades = [lights(tint(grey, marks)), lights(tint(grey, marks.fill(1)))];
      const status = document.getElementById("status"), before = status.textContent;
      document.getElementById("draw").click();
      const during = status.textContent;
      while (status.textContent) await new Promise((go) => setTimeout(go, 20));
      return [shades, before, during, document.querySelector(".keep figcaption").textContent];"""
    shades, before, during, caption = said(opened(with_script(page, script)))
    assert shades == [2, 1]  # red has dark stripes, green has none
    assert (before, during) == ("", "drawing …")
    assert re.search(r"\d+\s%\sof importance kept,\n\d+\s%\sof pixels changed", caption)
    text = page.read_text()
    assert text.index('id="images"') < text.index('id="fidelity"')


@needs_browser
def test_names_are_shown_as_text(page: Path) -> None:
    script = """return [document.querySelectorAll("article b[onclick]").length,
      [...document.querySelectorAll("article h2")].map((title) => title.textContent)];"""
    assert said(opened(with_script(page, script))) == [
        0,
        ["<b onclick=x>&.png", "a.png", "b.png"],
    ]


@needs_browser
def test_no_page_may_load_anything(page: Path) -> None:
    """The policy stands before all else in the one base of every page, and the browser obeys it."""
    pages = {each.name: each for each in TEMPLATES.parents[1].glob("*/templates/*.html")}
    for name in pages.keys() - {"base.html", "contrast.html", "parts.html"}:
        assert pages[name].read_text().startswith('{% extends "base.html" %}'), name
    script = (
        "return await new Promise((go) => {"
        " document.addEventListener('securitypolicyviolation', (e) => go(e.effectiveDirective));"
        " document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/a.png'})); })"
    )
    assert said(opened(with_script(page, script))) == "img-src"


def test_a_page_loads_nothing_and_warns_of_random_weights(page: Path) -> None:
    text = page.read_text()
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", text)
    assert "RANDOM" in text and 'role="alert"' in text
    assert "<b onclick" not in text


def test_the_sample_needs_no_file(tmp_path: Path) -> None:
    path = tmp_path / "sample.html"
    main(
        [
            "sample",
            "--model",
            "resnet8",
            "--image-size",
            "48",
            "--out",
            str(path),
            "--device",
            "cpu",
        ]
    )
    assert "china" in path.read_text() and "flower" in path.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--model", "resnet8"], "no image or folder"),
        (["sample"], "--model"),
        (["sample", "--model", "resnet9999"], "nearest"),
        (["sample", "--model", "resnet8", "--tau", "1.5"], "--tau"),
        (["sample", "--model", "resnet8", "--size", "33"], "--size"),
        (["sample", "--model", "resnet8", "--label", "10"], "--label"),
        (["sample", "--model", "resnet8", "--pretrained"], "no pretrained"),
        (["--affinity", "nowhere"], "run.json"),
    ],
)
def test_errors_say_what_to_do(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="error: .*" + re.escape(message)):
        main([*arguments, "--device", "cpu"])
    assert not list(tmp_path.iterdir())
