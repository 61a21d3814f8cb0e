"""The table of networks as a page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from sweeping.checks import BATCH, COLUMNS, YES, Row

_TOP = """\
# Networks

The smallest network of each of {families} families of timm and of torchvision, with random
weights, on {batch} images of the smallest size that it takes (and takes halved, if it can) out of
32, 64 and its own. Written by `make sweep`; {where}.

{tallies}

"""
_LEGEND = """
Input is the side of the images in pixels, (set) if the network was made for it; stage is where
`early_stage` puts the early head, and the share of the network's operations up to there. A star
marks networks that return more than logits in training: their map is of `lambda x: model(x)[0]`.

"""


def _said(row: Row, column: str) -> str:
    """A reason without what differs between networks that have it in common."""
    reason = row[column].replace(row["class"], "the network")
    return re.sub(r"\s+", " ", reason)


def _reasons(rows: Sequence[Row]) -> dict[tuple[str, str], int]:
    """Numbers of the reasons that are not "yes", by column and words, the commonest first."""
    found: dict[tuple[str, str], int] = {}
    for row in rows:
        for column in COLUMNS:
            if row[column] != YES:
                key = column, _said(row, column)
                found[key] = found.get(key, 0) + 1
    ordered = sorted(found, key=lambda key: -found[key])
    return {key: number for number, key in enumerate(ordered, 1)}


def _tallies(rows: Sequence[Row]) -> Iterator[str]:
    yield f"| column | what holds | of {len(rows)} networks | refused in words | fails |"
    yield "|---|---|---|---|---|"
    for column, words in COLUMNS.items():
        held = sum(row[column] == YES for row in rows)
        refused = sum(row[column].startswith("refused") for row in rows)
        yield f"| {column} | {words} | {held} | {refused} | {len(rows) - held - refused} |"


def _table(rows: Sequence[Row], numbers: dict[tuple[str, str], int]) -> Iterator[str]:
    yield "| network | million parameters | input | stage | " + " | ".join(COLUMNS) + " |"
    yield "|---" * (len(COLUMNS) + 4) + "|"
    for row in rows:
        cells = [
            "yes" if row[column] == YES else f"[{numbers[column, _said(row, column)]}]"
            for column in COLUMNS
        ]
        star = "*" if row["picked"] else ""
        about = [f"{row['library']} {row['network']}{star}", f"{row['parameters'] / 1e6:.1f}"]
        stage = f"{row['stage']}, {row['share']:.0%}" if "stage" in row else ""
        size = f"{row['size']} (set)" if row["options"] else str(row["size"])
        yield "| " + " | ".join([*about, size, stage, *cells]) + " |"


def _where(rows: Sequence[Row]) -> str:
    places = {f"{row['machine']}, {row['versions']}" for row in rows}
    commits = {row["commit"] for row in rows}
    return f"{'; '.join(sorted(places))}; commit {', '.join(sorted(commits))}"


def page(rows: Sequence[Row]) -> str:
    """The page (Markdown) of rows, those of networks that could not be run at its end."""
    ran = [row for row in rows if "error" not in row]
    numbers = _reasons(ran)
    top = _TOP.format(
        families=len(rows), batch=BATCH, where=_where(rows), tallies="\n".join(_tallies(ran))
    )
    lines = [*_table(ran, numbers), _LEGEND.rstrip("\n"), ""]
    lines += [f"{number}. {column}: {words}" for (column, words), number in numbers.items()]
    failed = [row for row in rows if "error" in row]
    if failed:
        lines += ["", "Networks that cannot be made or run here at all:", ""]
        lines += [f"- {row['library']} {row['network']}: {row['error']}" for row in failed]
    return top + "\n".join(lines) + "\n"
