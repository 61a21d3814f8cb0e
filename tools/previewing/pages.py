"""Pages that need nothing but a browser: templates filled, styles and scripts inlined."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_FOLDER = Path(__file__).parent / "templates"


def inlined(name: str) -> Markup:
    """A style or a script of ours, as it is."""
    return Markup((_FOLDER / name).read_text())


def render(template: str, **values: Any) -> str:
    """A page; every value is escaped."""
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(inlined=inlined, **values)
