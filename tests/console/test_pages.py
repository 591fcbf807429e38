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


@pytest.mark.parametrize("scripts", [True, False])
def test_on_a_phone_the_pages_are_behind_one_button_in_one_row(
    console: Console, browser: Any, scripts: bool
) -> None:
    visitor = Visitor(browser, console.url, size=PHONE, scripts=scripts)
    visitor.sign_in(console.admin)
    page = visitor.go("/console/rules")
    assert page.locator(".side").bounding_box()["height"] < 64
    menu = page.get_by_role("button", name="Menu")
    places = page.get_by_role("navigation", name="Console").get_by_role("link")
    assert places.count() == 0
    menu.focus()
    page.keyboard.press("Enter")
    assert places.count() > 8
    if scripts:  # axe is one
        visitor.check()
    page.keyboard.press("Escape")
    assert places.count() == 0
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.locator(":focus").inner_text() == "Overview", "the first page follows its button"
    places.get_by_text("Incidents").click()
    page.wait_for_url("**/console/incidents")
    visitor.close()
    wide = Visitor(browser, console.url)
    wide.sign_in(console.admin)
    page = wide.page
    assert page.get_by_role("button", name="Menu").count() == 0
    assert page.get_by_role("navigation", name="Console").get_by_role("link").count() > 8
    wide.close()
