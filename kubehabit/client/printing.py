"""Pages printed to PDF by a browser of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from data.errors import KubehabitError

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge")
_SECONDS = 300


def print_to_pdf(page: Path) -> Path:
    """Print a page of HTML to a PDF beside it, readable by its owner only; returns its path.

    Raises:
        KubehabitError: there is no Chromium, or it fails.
    """
    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if browser is None:
        raise KubehabitError(
            f"There is no Chromium on the PATH to print with: open {page} in a browser and print it to PDF there."
        )
    pdf = page.with_suffix(".pdf")
    with tempfile.TemporaryDirectory() as profile:
        options = ["--headless", "--disable-gpu", "--no-pdf-header-footer", f"--user-data-dir={profile}"]
        # Chromium refuses to start as root with its sandbox. The page runs no script and loads nothing.
        options += ["--no-sandbox"] if os.geteuid() == 0 else []
        command = [browser, *options, f"--print-to-pdf={pdf}", page.absolute().as_uri()]
        try:
            done = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise KubehabitError(f"{browser} did not print {page} within {_SECONDS} seconds.") from error
    if done.returncode or not pdf.exists():
        raise KubehabitError(
            f"{browser} could not print {page} (exit status {done.returncode}): open it in a browser and print it there."
        )
    pdf.chmod(0o600)
    return pdf
