"""Chromium for the tests: Debian's, driven by Playwright, that holds every page to having no errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.chromium import CHROMIUM, MISSING, chromium

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason=MISSING)
__all__ = ("GRAVE", "PHONE", "WIDE", "Visitor", "chromium", "grave_findings", "needs_chromium")
WIDE, PHONE = (1280, 900), (360, 780)
GRAVE = ("serious", "critical")


class Visitor:
    """One person's browser: a context with a page, and what its console said.

    Args:
        browser: of `chromium`.
        base: URL of the service.
        size: of the window.
        theme: light or dark, as the system prefers.
        scripts: whether pages may run theirs.
        zone: time zone of the machine that it runs on.
    """

    def __init__(
        self,
        browser: Any,
        base: str,
        *,
        size: tuple[int, int] = WIDE,
        theme: str = "light",
        scripts: bool = True,
        zone: str = "UTC",
    ) -> None:
        self.base = base
        self.errors: list[str] = []
        self.context = browser.new_context(
            base_url=base,
            viewport={"width": size[0], "height": size[1]},
            color_scheme=theme,
            java_script_enabled=scripts,
            reduced_motion="reduce",
            timezone_id=zone,
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        # Violations of the policy are reported here as well.
        self.page.on("console", lambda said: self._note(said.type, said.text))
        self.page.on("pageerror", lambda error: self._note("error", str(error)))

    def _note(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.errors.append(f"{self.page.url}: {text}")

    def go(self, path: str) -> Any:
        """Open a page of the service."""
        self.page.goto(path, wait_until="load")
        return self.page

    def sign_in(self, token: str) -> None:
        """Through the form, as people do."""
        self.go("/console/login")
        self.page.get_by_label("Token").fill(token)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.wait_for_url("**/console/")

    def check(self, *, ignored: tuple[str, ...] = ()) -> None:
        """Hold the page that is open to what every page is held to.

        It has no error in the browser's console, no violation of its policy, nothing that axe calls serious or critical, and is
        no wider than the window.

        Args:
            ignored: parts of messages that are expected here.
        """
        found = grave_findings(self.page)
        assert not found, "\n".join(found)
        wrong = [text for text in self.errors if not any(part in text for part in ignored)]
        assert not wrong, "\n".join(wrong)
        width, window = self.page.evaluate(
            "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert width <= window, f"{self.page.url} is {width} wide in a window of {window}"

    def picture(self, path: Path, *, full: bool = False) -> None:
        """What is seen, as a PNG."""
        self.page.screenshot(path=path, full_page=full)

    def close(self) -> None:
        """End it."""
        self.context.close()


def grave_findings(page: Any) -> list[str]:
    """What axe calls serious or critical about a page, a line each."""
    from axe_playwright_python.sync_playwright import Axe

    response = Axe().run(page).response
    return [
        f"{page.url}: {violation['impact']} {violation['id']}: {node['html'][:200]} ({node['failureSummary'][:300]})"
        for violation in response["violations"]
        if violation["impact"] in GRAVE
        for node in violation["nodes"]
    ]
