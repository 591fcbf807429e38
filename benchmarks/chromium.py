"""Debian's Chromium, driven by Playwright: for the console's tests, benchmark and pictures."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MISSING = "There is no Chromium here. On Debian: apt-get install chromium"


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser without a window."""
    from playwright.sync_api import sync_playwright

    if CHROMIUM is None:
        raise SystemExit(MISSING)
    with sync_playwright() as playwright:
        # As root, as in a container, Chromium's own sandbox cannot be had; what it opens here is ours.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()
