from __future__ import annotations

import io

import pytest

from keepbench.progress import printable, progress_bar


def test_escape_sequences_of_a_files_name_are_shown() -> None:
    assert printable("a\x1b[2J\udcff\tb\nc\u00e9") == "a\\x1b[2J\\udcff\\tb\ncé"


def test_a_log_gets_lines_instead_of_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr("keepbench.progress.LOG_EVERY", 0.0)
    assert list(progress_bar([1, 2, 3], desc="reading")) == [1, 2, 3]
    lines = stream.getvalue().splitlines()
    assert lines[-1].startswith("reading: 100%") and not any("\r" in line for line in lines)
