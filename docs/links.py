"""Links out of docs/, which a repository's pages follow and a site cannot, as plain names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Write `[text](../results/x.json)` as text and `results/x.json`, which must be there."""

    def name(link: re.Match[str]) -> str:
        text, path = link.groups()
        target = (ROOT / "docs" / page.file.src_uri).parent / path
        if (ROOT / "docs") in target.resolve().parents:
            return link[0]
        if not target.exists():
            raise FileNotFoundError(f"{page.file.src_uri}: no {path}")
        place = target.resolve().relative_to(ROOT)
        return f"`{place}`" if text.strip("`/") == str(place) else f"{text} (`{place}`)"

    return re.sub(r"(?<!!)\[([^]]+)\]\((\.\./[^)#\s]+)\)", name, markdown)
