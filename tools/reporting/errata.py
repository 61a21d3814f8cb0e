"""The table of docs/errata.md, by the table or figure of the paper that a line is about."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PATH = Path(__file__).resolve().parents[2] / "docs" / "errata.md"


@dataclass(frozen=True)
class Erratum:
    """One line: where in the paper, what is odd, and what this code does."""

    where: str
    what: str
    ours: str


def read(path: Path = PATH) -> list[Erratum]:
    """The lines of the first table; none if the file is not there."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = [re.split(r"(?<!\\)\|", line.strip())[1:-1] for line in lines if line.startswith("|")]
    whole = [[cell.strip() for cell in row] for row in rows if len(row) == 3]
    return [Erratum(*row) for row in whole[2:]]  # after the head and its rule


def about(errata: list[Erratum], name: str) -> list[Erratum]:
    """Those whose `where` names a table or figure, as "Table 1" or "Figure 3"."""
    kind, number = name.split()
    pattern = re.compile(rf"\b{kind}s? (\d+\w?, )*{number}[a-z]?\b")
    return [each for each in errata if pattern.search(each.where)]


def general(errata: list[Erratum]) -> list[Erratum]:
    """Those that belong to no single table or figure."""
    return [each for each in errata if not re.search(r"\b(Table|Figure)s? \d", each.where)]
