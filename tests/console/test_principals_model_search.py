"""The pages of principals, model and search: who acts, how sensitive the model is, and what happened."""

from __future__ import annotations

import csv
import io
import json
import re
import time
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import pytest

from serving.forensics.evidence.export import check
from tests.console.browser import PHONE, WIDE, Visitor, needs_chromium
from tests.console.conftest import Console

pytestmark = pytest.mark.slow


def loudest(console: Console) -> str:
    """The principal with most unusual actions."""
    rows = console.get("/v1/principals?limit=500")["principals"]
    return str(max(rows, key=lambda row: row["flagged"])["principal"])


def pages(console: Console) -> list[str]:
    """Each page, with most on it."""
    who = loudest(console)
    own = "/console/principals/" + quote(who, safe=":@")
    asked = (
        {"ask": "touched", "resource": "secret", "since": "520w"},
        {"ask": "newcomers", "namespace": "payments", "since": "520w"},
        {"ask": "events", "principal": who, "since": "520w"},
        {"ask": "credential", "since": "520w"},
        {"ask": "events", "since": "whenever"},
    )
    return [
        "/console/principals",
        "/console/principals?q=nobody-like-this",
        f"{own}?days=all&step=hours",
        f"{own}?days=all&step=days",
        "/console/model",
        "/console/model?days=28&scale=0.4",
        "/console/model?per_day=loud",
        "/console/search",
        *(f"/console/search?{urlencode(one)}" for one in asked),
    ]


@needs_chromium
@pytest.mark.parametrize(
    ("theme", "size"), [("light", WIDE), ("dark", WIDE), ("light", PHONE), ("dark", PHONE)]
)
def test_every_page_is_sound_in_both_themes_and_on_a_phone(
    console: Console, browser: Any, theme: str, size: tuple[int, int]
) -> None:
    visitor = Visitor(browser, console.url, theme=theme, size=size)
    visitor.sign_in(console.admin)
    for path in pages(console):
        visitor.go(path)
        # As much of a page as there is: tables under pictures too.
        visitor.page.evaluate(
            "document.querySelectorAll('main details').forEach(one => { one.open = true; })"
        )
        visitor.check(ignored=("400",))
    visitor.go("/console/principals/no-such-principal")
    visitor.check(ignored=("404", "400"))
    visitor.close()


@needs_chromium
def test_the_story_from_a_name_to_the_evidence_with_the_keyboard_alone(
    console: Console, browser: Any, tmp_path: Any
) -> None:
    visitor = Visitor(browser, console.url)
    visitor.sign_in(console.admin)
    page, keys = visitor.page, visitor.page.keyboard
    who = loudest(console)
    # g p: principals. The search is a slash away, the first row a j.
    keys.press("g")
    keys.press("p")
    page.wait_for_url("**/console/principals")
    keys.press("/")
    keys.type(who)
    keys.press("Enter")
    page.wait_for_url("**/console/principals?q=**")
    keys.press("j")
    keys.press("Enter")
    page.wait_for_url("**/console/principals/**")
    assert page.get_by_role("heading", level=1).inner_text() == who
    assert page.get_by_role("img", name=re.compile("Nearest to an alert")).is_visible()
    # Habits of the last seven days may be none: the recording is of a certain day.
    page.get_by_role("link", name="all", exact=True).focus()
    keys.press("Enter")
    page.wait_for_url("**days=all**")
    assert page.get_by_role("img", name=re.compile("Hours of the week")).is_visible()
    for heading in ("When it acts", "What it does", "From where", "Compared with peers"):
        assert page.get_by_role("heading", name=heading).is_visible()
    # To its events, and from there to evidence of two of them.
    page.get_by_role("link", name="Its events").focus()
    keys.press("Enter")
    page.wait_for_url("**/console/search?**")
    boxes = page.get_by_role("checkbox", name=re.compile("Keep event"))
    assert boxes.count() > 2
    kept = []
    for place in (0, 1):
        boxes.nth(place).focus()
        keys.press("Space")
        kept.append(str(boxes.nth(place).get_attribute("value")))
    fold = page.get_by_text("Keep as evidence")
    fold.focus()
    keys.press("Enter")
    page.get_by_label("JSON").focus()
    keys.press("Space")
    page.get_by_label("Why (kept in the ledger)").fill("Incident 42")
    with page.expect_download() as download:
        page.get_by_role("button", name="Export").focus()
        keys.press("Enter")
    file = tmp_path / "evidence.json"
    download.value.save_as(file)
    checked = check(file)
    assert not checked.findings
    content = json.loads(file.read_bytes())["content"]
    assert {event["record"]["audit_id"] for event in content["events"]} == set(kept)
    assert content["subject"]["note"] == "Incident 42"
    assert not visitor.errors
    visitor.close()


@needs_chromium
def test_a_preview_tells_what_another_threshold_would_have_given_and_changes_nothing(
    console: Console, browser: Any
) -> None:
    visitor = Visitor(browser, console.url)
    visitor.sign_in(console.admin)
    page = visitor.go("/console/model")
    before = len(console.get("/v1/alerts?limit=500")["alerts"])
    preview = console.get("/v1/model/preview?days=7&scale=0.5")
    page.get_by_label("or multiplier").fill("0.5")
    page.get_by_role("button", name="Preview").click()
    page.wait_for_url("**scale=0.5**")
    outcome = page.locator(".outcome").inner_text()
    assert f"{preview['wanted']['alerts']:,}" in outcome
    assert preview["wanted"]["alerts"] >= preview["now"]["alerts"] > 0
    assert page.get_by_text("threshold_scale: 0.5").first.is_visible()
    assert "kubehabit model --preview --days 7 --scale 0.5" in page.content()
    assert len(console.get("/v1/alerts?limit=500")["alerts"]) == before
    page.get_by_label("Alerts a day, at most").fill("many")
    page.get_by_role("button", name="Preview").click()
    assert page.get_by_role("alert").inner_text().startswith("Alerts a day are a number")
    visitor.close()


# -- without a browser ----------------------------------------------------------------------------------------------


@pytest.fixture
def reading(console: Console) -> Any:
    """A client that may read, as a browser asks."""
    headers = {"Authorization": f"Bearer {console.reader}", "Accept": "text/html"}
    with httpx.Client(base_url=console.url, headers=headers, trust_env=False, timeout=60) as client:
        yield client


def test_the_preview_of_the_threshold_in_force_counts_the_alerts_that_there_are(console: Console) -> None:
    alerts = console.get("/v1/alerts?limit=500")["alerts"]
    now = console.get("/v1/model/preview?days=366")["now"]
    assert now["alerts"] == len(alerts)
    assert now["actions"] == sum(alert["actionCount"] for alert in alerts)


def test_names_of_principals_are_text_whatever_they_are(console: Console, reading: Any) -> None:
    evil = '<img src=x onerror="alert(1)">/../é%2F?#'
    event = json.loads(console.later[0]) | {"auditID": "evil-1"}
    event["user"] = {"username": evil, "groups": ["system:authenticated"]}
    console.send([json.dumps(event).encode()])
    for _ in range(100):  # what was scored is written for who asks, at most every five seconds
        listed = reading.get("/console/principals", params={"q": "onerror"}).text
        if "1 principal" in listed:
            break
        time.sleep(0.1)
    assert "<img src" not in listed
    (path,) = re.findall(r'href="(/console/principals/[^"?]+)"', listed)
    page = reading.get(path.replace("&amp;", "&"))
    assert page.status_code == 200, page.text[:500]
    assert "&lt;img src=x" in page.text
    assert "<img src" not in page.text


def test_questions_are_answered_with_the_command_that_asks_the_same(reading: Any) -> None:
    asked = {"ask": "touched", "resource": "secret", "namespace": "payments", "since": "520w", "exact": "1"}
    page = reading.get("/console/search", params=asked).text
    assert "kubehabit who touched secret payments/ --since 520w --exact" in page
    assert re.search(r"[\d,]+ principals? touched secrets in payments", page)
    page = reading.get("/console/search", params={"ask": "events", "principal": "a b'c", "since": "1d"}).text
    assert "There is no such event" in page
    assert "kubehabit events --principal" in page
    wrong = reading.get("/console/search", params={"ask": "newcomers"})
    assert wrong.status_code == 400
    assert "Say in which namespace." in wrong.text


def test_pages_of_events_follow_each_other(console: Console, reading: Any) -> None:
    asked: dict[str, str] = {"ask": "events", "verb": "list", "since": "520w"}
    first = reading.get("/console/search", params=asked).text
    following = re.search(r'rel="next" href="([^"]+)"', first)
    assert following is not None
    second = reading.get(following[1].replace("&amp;", "&")).text
    ids = [set(re.findall(r'name="audit_id" value="([^"]+)"', text)) for text in (first, second)]
    assert len(ids[0]) == len(ids[1]) == 50
    assert not ids[0] & ids[1]


def test_evidence_is_exported_only_by_a_form_of_ours(console: Console, reading: Any) -> None:
    asked = reading.get("/console/search", params={"ask": "events", "since": "520w"}).text
    audit_id = re.findall(r'name="audit_id" value="([^"]+)"', asked)[0]
    nothing = reading.post("/console/search/evidence", data={"what": "ticked"})
    assert nothing.status_code == 422
    assert "Tick the events" in nothing.text
    made = reading.post("/console/search/evidence", data={"audit_id": audit_id, "form": "html"})
    assert made.status_code == 200
    assert "attachment" in made.headers["Content-Disposition"]
    table = reading.post("/console/search/evidence", data={"audit_id": audit_id, "form": "csv"})
    assert table.headers["Content-Disposition"] == 'attachment; filename="evidence.csv"'
    assert [row["audit_id"] for row in csv.DictReader(io.StringIO(table.text))] == [audit_id]
    with httpx.Client(base_url=console.url, trust_env=False) as stranger:
        refused = stranger.post(
            "/console/search/evidence",
            data={"audit_id": audit_id},
            headers={"Origin": "https://evil.example"},
        )
        assert refused.status_code in (401, 403)


def test_who_only_sends_events_sees_none_of_it(console: Console) -> None:
    headers = {"Authorization": f"Bearer {console.pipeline}"}
    with httpx.Client(base_url=console.url, headers=headers, trust_env=False) as client:
        for path in (
            "/console/principals",
            "/console/model",
            "/console/search",
            "/v1/principals",
            "/v1/model/preview",
        ):
            assert client.get(path).status_code == 403
