"""What every page of the console is held to: no errors, nothing axe calls serious, in both themes and on a phone."""

from __future__ import annotations

from typing import Any

import pytest

from tests.console.browser import PHONE, WIDE, Visitor, needs_chromium
from tests.console.conftest import Console

pytestmark = [pytest.mark.slow, needs_chromium]


def pages(console: Console) -> list[str]:
    """A page of each kind, those with most on them."""
    alerts = console.get("/v1/alerts?limit=500")["alerts"]
    busiest = max(alerts, key=lambda alert: alert["actionCount"])
    incidents = [
        console.get(f"/v1/incidents/{one['id']}") for one in console.get("/v1/incidents")["incidents"]
    ]
    largest = max(incidents, key=lambda incident: len(incident["graph"]["nodes"]))
    return [
        "/console/",
        "/console/alerts",
        "/console/alerts?q=no-such-thing&since=whenever",
        f"/console/alerts/{busiest['id']}",
        "/console/incidents?state=",
        f"/console/incidents/{largest['id']}",
        f"/console/event?auditID={busiest['auditIDs'][0]}",
        "/console/exceptions",
        "/console/glossary",
    ]


@pytest.mark.parametrize(
    ("theme", "size"), [("light", WIDE), ("dark", WIDE), ("light", PHONE), ("dark", PHONE)]
)
def test_every_page_is_sound_in_both_themes_and_on_a_phone(
    console: Console, browser: Any, theme: str, size: tuple[int, int]
) -> None:
    visitor = Visitor(browser, console.url, theme=theme, size=size)
    visitor.go("/console/login")
    visitor.check()
    visitor.sign_in(console.admin)
    for path in pages(console):
        page = visitor.go(path)
        # What is folded away is held to the same.
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        visitor.check(ignored=("422",))
    visitor.go("/console/alerts/no-such-alert")
    visitor.check(ignored=("404", "422"))
    visitor.close()
