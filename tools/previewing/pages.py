"""Pages that need nothing but a browser: templates filled, styles and scripts inlined."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"


def environment(*folders: Path) -> Environment:
    """The templates in some folders, and those that all pages share; every value is escaped."""
    loader = FileSystemLoader([*folders, TEMPLATES])
    made = Environment(
        loader=loader,
        autoescape=lambda name: not (name or "").endswith(".md"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["inlined"] = lambda name: Markup(loader.get_source(made, name)[0])
    return made


def render(template: str, folder: Path = TEMPLATES, **values: Any) -> str:
    """A page."""
    return environment(folder).get_template(template).render(**values)


def write(path: Path, page: str, what: str) -> None:
    """Write a page, and say what it shows and where it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    print(f"{what}: {path}")
