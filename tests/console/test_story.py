"""An analyst's way through the console, with Chromium, on a recorded campaign of attacks."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.console.browser import PHONE, Visitor, needs_chromium
from tests.console.conftest import Console

pytestmark = [pytest.mark.slow, needs_chromium]


def busiest_incident(console: Console) -> dict[str, Any]:
    """An open incident with most in its graph, of those of one story."""
    found = [
        console.get(f"/v1/incidents/{one['id']}")
        for one in console.get("/v1/incidents?state=open&limit=200")["incidents"]
    ]
    return max(found, key=lambda incident: len(incident["graph"]["nodes"]))  # type: ignore[no-any-return]


def test_from_the_alert_at_night_to_the_closed_incident(console: Console, browser: Any) -> None:
    visitor = Visitor(browser, console.url)
    page = visitor.go("/console/")
    assert page.url.endswith("/console/login?next=%2Fconsole%2F")
    visitor.sign_in(console.admin)
    visitor.go("/console/alerts")
    page.get_by_text("Live", exact=True).wait_for()

    # New alerts are announced, and nothing moves until they are asked for.
    shown = page.locator(".row").first.get_attribute("data-id")
    known = console.alerts()
    raised = console.send_until(len(known) + 1)
    page.locator("#new").wait_for()
    assert page.locator(".row").first.get_attribute("data-id") == shown
    page.keyboard.press("n")
    page.locator(f'.row[data-id="{raised[0]}"]').wait_for()
    first = page.locator(".row").first.get_attribute("data-id")
    assert first == raised[0]
    assert first not in known
    assert not page.locator("#new").is_visible()
    visitor.check()

    # The page of an alert says in one line each who, what, since when, how bad, and what next.
    incident = busiest_incident(console)
    alert = incident["alerts"][0]
    page = visitor.go(f"/console/alerts/{alert['id']}")
    gist = page.locator(".gist dt").all_inner_texts()
    assert gist == ["Who", "What", "Since when", "Severity", "What next"]
    assert page.locator("h1").inner_text().rstrip(".") in alert["sentence"]
    assert page.locator(".command code").all_inner_texts() == [
        check["command"]
        for kind in ("look", "contain")
        for check in console.get(f"/v1/alerts/{alert['id']}")["checks"]
        if check["kind"] == kind and check["command"]
    ]
    assert not page.get_by_text("reconstruction error").is_visible()
    page.get_by_label("malicious").check()
    page.get_by_label("Note").fill("Not her: she is on leave.")
    page.get_by_label("Your name").fill("on call")
    page.get_by_role("button", name="Save verdict").click()
    page.get_by_text("The next training of the model learns from it").wait_for()
    assert "Not her: she is on leave." in page.locator("aside").inner_text()

    # From there to the incident: where it began, the timeline, the picture, and the same in a table.
    page.get_by_role("link", name="part of incident").click()
    page.wait_for_url(f"**/console/incidents/{incident['id']}")
    visitor.check()
    assert incident["source"]["auditID"] in page.locator("section[aria-labelledby=source]").inner_text()
    deeds = page.locator(".moment:not(.consequence) .cite a.id code").all_inner_texts()
    assert deeds[:40] == [one["auditID"] for one in incident["timeline"]][: len(deeds[:40])]
    if incident["consequences"]:
        assert page.locator(".moment.consequence").count()
    drawn = page.locator("svg.graph .box .name").all_text_contents()
    assert len(drawn) >= len({node["kind"] for node in incident["graph"]["nodes"]})
    assert page.locator("svg.graph title").first.text_content() == "How it spread"
    page.get_by_text("The same as a table").click()
    assert page.locator("section[aria-labelledby=spread] tbody tr").count() == len(incident["graph"]["edges"])

    # The evidence is a file.
    with page.expect_download() as download:
        page.get_by_role("button", name="JSON file").click()
    path = download.value.path()
    assert download.value.suggested_filename == f"evidence-{incident['id']}.json"
    assert json.loads(path.read_bytes())
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV table").click()
    assert download.value.suggested_filename == f"evidence-{incident['id']}.csv"

    page.get_by_text("Close it", exact=True).click()
    close = page.locator("form[action$='/close']")
    close.get_by_label("malicious").check()
    close.get_by_label("Note").fill("Token revoked.")
    close.get_by_role("button", name="Close the incident").click()
    page.get_by_text("Later alerts of the same people").wait_for()
    after = console.get(f"/v1/incidents/{incident['id']}")
    assert after["state"] == "closed"
    assert after["trail"][-1]["caller"] == "on-call"
    visitor.go("/console/?state=closed")
    assert page.locator(f'.row[data-id="{alert["id"]}"]').count() == 1

    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/console/login")
    visitor.check()
    assert visitor.go("/console/incidents").url.endswith("/console/login?next=%2Fconsole%2Fincidents")
    visitor.close()


def test_everything_can_be_done_with_the_keyboard(console: Console, browser: Any) -> None:
    visitor = Visitor(browser, console.url)
    page = visitor.go("/console/login")
    page.keyboard.type(console.reader)  # the field has the focus
    page.keyboard.press("Enter")
    page.wait_for_url("**/console/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("g")
    page.keyboard.press("a")
    page.wait_for_url("**/console/alerts")
    ids = [row.get_attribute("data-id") for row in page.locator(".row").all()]
    for key, at in (("j", 0), ("j", 1), ("j", 2), ("k", 1)):
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.closest('li').dataset.id") == ids[at]
    ring = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert ring == "solid", "the row that has the focus must be seen to have it"
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/console/alerts/{ids[1]}")
    page.go_back()
    page.keyboard.press("/")
    page.keyboard.type("Secret")
    page.keyboard.press("Enter")
    page.wait_for_url("**/console/alerts?q=Secret**")
    assert all("secret" in row.lower() for row in page.locator(".row").all_inner_texts())
    page.keyboard.press("?")
    assert page.get_by_role("dialog").is_visible()
    visitor.check()
    page.keyboard.press("Escape")
    assert not page.get_by_role("dialog").is_visible()
    page.keyboard.press("g")
    page.keyboard.press("i")
    page.wait_for_url("**/console/incidents")
    visitor.check()
    visitor.close()


def test_words_are_explained_on_focus_and_on_tap_and_put_away_with_escape(
    console: Console, browser: Any
) -> None:
    for size in ((1280, 900), PHONE):
        visitor = Visitor(browser, console.url, size=size)
        visitor.sign_in(console.reader)
        page = visitor.go("/console/alerts")
        word = page.locator(".term", has_text=re.compile("^principal")).first
        tip = word.locator(".tip")
        assert not tip.is_visible()
        word.focus()
        assert tip.inner_text() == console.get("/v1/glossary")["principal"]
        box = tip.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= size[0]
        page.keyboard.press("Escape")
        assert not tip.is_visible()
        visitor.close()


def test_who_may_only_look_sees_why_the_buttons_do_nothing(console: Console, browser: Any) -> None:
    visitor = Visitor(browser, console.url)
    visitor.sign_in(console.reader)
    alert = console.get("/v1/alerts?limit=1")["alerts"][0]
    page = visitor.go(f"/console/alerts/{alert['id']}")
    button = page.get_by_role("button", name="Save verdict")
    assert button.is_disabled()
    assert (
        "dashboard has the scopes read, and this needs analyst" in page.locator("#only-analyst").inner_text()
    )
    visitor.check()
    visitor.close()


def test_pages_work_without_scripts(console: Console, browser: Any) -> None:
    visitor = Visitor(browser, console.url, scripts=False)
    visitor.sign_in(console.admin)
    page = visitor.go("/console/alerts")
    page.get_by_label("Search").fill("no alert has this in it")
    page.get_by_role("button", name="Filter").click()
    assert page.get_by_text("No alerts match.").is_visible()
    page.get_by_role("link", name="Show all alerts").click()
    page.locator(".row .sentence").first.click()
    page.get_by_label("normal").check()
    page.get_by_role("button", name="Save verdict").click()
    assert page.get_by_text("The next training of the model learns from it").is_visible()
    visitor.close()


def test_the_theme_that_was_chosen_stays(console: Console, browser: Any) -> None:
    visitor = Visitor(browser, console.url, theme="light")
    visitor.sign_in(console.reader)
    page = visitor.page
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("button", name="Theme: system").click()
    page.get_by_role("button", name="Theme: light").click()
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark != light
    visitor.go("/console/glossary")
    assert page.locator("html").get_attribute("data-theme") == "dark"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark
    visitor.check()
    # And back to what the system says, which changes in the evening.
    page.get_by_role("button", name="Theme: dark").click()
    assert page.locator("html").get_attribute("data-theme") is None
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == light
    visitor.go("/console/glossary")
    assert page.locator("html").get_attribute("data-theme") is None
    visitor.close()


def test_times_are_shown_in_the_browsers_zone(console: Console, browser: Any) -> None:
    visitor = Visitor(browser, console.url, zone="Australia/Adelaide")
    visitor.sign_in(console.admin)
    page = visitor.go("/console/alerts")
    assert page.locator("html").get_attribute("data-zone") == "Australia/Adelaide"
    time = page.locator(".row .when time").first
    local, utc = time.inner_text(), str(time.get_attribute("title"))
    apart = (int(local[:2]) * 60 + int(local[3:5]) - int(utc[11:13]) * 60 - int(utc[14:16])) % (24 * 60)
    assert apart == 630, "ten and a half hours in summer, and UTC in the title"
    visitor.check()
    visitor.close()


def test_the_page_says_so_when_its_session_was_taken_away(console: Console, browser: Any) -> None:
    """The stream ends with the session, and the page says that it is not live any more."""
    visitor = Visitor(browser, console.url)
    visitor.sign_in(console.reader)
    page = visitor.go("/console/alerts")
    page.get_by_text("Live", exact=True).wait_for()
    cookie = next(one for one in visitor.context.cookies() if one["name"] == "kubehabit_session")
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Strict"
    assert cookie["path"] == "/console"
    sessions = console.service_access.sessions
    found = sessions.find(cookie["value"])
    sessions.end(found.key)
    console.service.stream.notify()
    console.send_until(len(console.alerts()) + 1)  # what the session must not receive any more
    page.get_by_text("Not live").wait_for(timeout=30_000)
    assert not page.locator("#new").is_visible()
    visitor.close()
