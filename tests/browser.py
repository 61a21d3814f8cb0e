"""Pages opened in a Chromium without a window."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((path for name in _NAMES if (path := shutil.which(name))), None)
needs_browser = pytest.mark.skipif(not BROWSER, reason=f"no browser: none of {', '.join(_NAMES)}")


def opened(page: Path, settings: str = "") -> str:
    """The page's elements after its scripts have run."""
    assert BROWSER
    command = [
        *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
        *(f"--user-data-dir={page.parent / 'browser'}", "--allow-file-access-from-files"),
        "--virtual-time-budget=1000000",  # passes at once where nothing waits
        page.as_uri() + settings,
    ]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def framed(page: Path, width: int) -> Path:
    """A page that holds another in so many pixels, and says what that one says."""
    outer = page.with_name("framed.html")
    outer.write_text(
        f'<body><iframe src="{page.as_uri()}" style="width:{width}px;height:900px"></iframe>'
        "<script>const frame = document.querySelector('iframe');"
        "const wait = setInterval(() => {"
        " const said = frame.contentDocument?.getElementById('said');"
        " if (said) { clearInterval(wait); document.body.append(document.importNode(said, true)); }"
        "}, 20);</script></body>"
    )
    return outer


def said(dom: str) -> Any:
    """What a page's script wrote as JSON into the element `said`."""
    found = re.search(r'<pre id="said">(.*?)</pre>', dom, re.DOTALL)
    assert found, "the page did not get ready"
    return json.loads(html.unescape(found[1]))
