"""The page of the fleet in a browser: sound with clusters and without, on a phone and in the dark, with the keyboard alone."""

from __future__ import annotations

import time
from typing import Any

import pytest

from serving.fleet.state_files import open_state
from serving.fleet.status import ClusterStatus, PartitionStatus, write_status
from tests.console.browser import PHONE, WIDE, Visitor, needs_chromium
from tests.console.conftest import Console

pytestmark = [pytest.mark.slow, needs_chromium]


def test_the_fleet_is_sound_with_clusters_and_without(console: Console, browser: Any) -> None:
    visitor = Visitor(browser, console.url, size=PHONE)
    visitor.sign_in(console.reader)
    page = visitor.go("/console/fleet")
    assert page.get_by_text("No worker has said anything yet.").is_visible()
    visitor.check()
    visitor.close()
    files, now = open_state(console.service.settings.worker.state_url), time.time()
    for number, (trouble, ago) in enumerate((("", 0), ("The alert store cannot be written.", 0), ("", 900))):
        incidents = {"critical": 1, "high": 12, "low": 3}
        one = ClusterStatus(
            f"a-cluster-with-a-long-name-{number}.eu-central-1", now - ago, 4e3, now, 10, 9, incidents, 2
        )
        write_status(
            files,
            PartitionStatus("audit", number, f"worker-{number}:1", now - ago, "m 7", 5, trouble, [one]),
        )
    for theme, size in (("light", WIDE), ("dark", PHONE)):
        visitor = Visitor(browser, console.url, theme=theme, size=size)
        visitor.sign_in(console.reader)
        page, until = visitor.go("/console/fleet"), time.monotonic() + 30
        while not page.get_by_role("row").count() and time.monotonic() < until:  # it was read a moment ago
            time.sleep(1)
            page.reload()
        assert page.get_by_role("row").count() == 4
        visitor.check()
        visitor.close()


def test_a_key_leads_to_the_fleet(console: Console, browser: Any) -> None:
    visitor = Visitor(browser, console.url)
    visitor.sign_in(console.reader)
    visitor.page.keyboard.press("g")
    visitor.page.keyboard.press("f")
    visitor.page.wait_for_url("**/console/fleet")
    visitor.close()
