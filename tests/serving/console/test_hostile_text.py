"""No page of the console holds a character of a log that cannot be seen as what it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from urllib.parse import quote, urlencode

import pytest
from fastapi.testclient import TestClient

from data.visible_text import visible
from serving.console.pages import (
    alerts,
    events,
    exceptions,
    fleet,
    glossary,
    incidents,
    login,
    model,
    overview,
    principals,
    rights,
    rules,
    search,
    views,
)
from tests.serving.conftest import settle
from tests.serving.event_stores import body
from tests.serving.hostile import EVIL, hostile_events

PAGES = (
    alerts,
    events,
    exceptions,
    fleet,
    glossary,
    incidents,
    login,
    model,
    overview,
    principals,
    rights,
    rules,
    search,
    views,
)
#: Routes that answer with no page.
NO_PAGES = {
    # With roles, bindings and rules of hostile names, in a file of their own.
    **{
        route.path: "test_rights_and_rules.py"  # type: ignore[attr-defined]
        for pages in (rights, rules)
        for route in pages.router.routes
    },
    "/": "leads to /console/",
    "/console": "leads to /console/",
    "/console/fleet": "test_fleet.py",
    "/console/static/{name}": "files of the console",
    "/console/names": "JSON for the fields that complete names",
    "/console/stream": "server-sent events with JSON",
}


def searches(client: TestClient) -> Iterator[str]:
    yield "/console/search"
    for query in (
        {"ask": "touched", "resource": "secret", "namespace": "payments", "since": "2026-01-01"},
        {"ask": "touched", "resource": EVIL, "namespace": EVIL, "name": EVIL},
        {"ask": "newcomers", "namespace": "payments", "since": "2026-01-01"},
        {"ask": "newcomers", "namespace": EVIL},
        {"ask": "credential", "principal": EVIL, "since": "2026-01-01"},
        {"ask": "events", "since": "2026-01-01"},
        {"ask": "events", "principal": EVIL, "code": EVIL[:30], "since": EVIL[:20]},
    ):
        yield "/console/search?" + urlencode(query)


def every(client: TestClient, kind: str) -> Iterator[str]:
    for one in client.get(f"/v1/{kind}").json()[kind]:
        yield f"/console/{kind}/{one['id']}"
    yield f"/console/{kind}/" + quote(EVIL, safe="")


def audit_ids(client: TestClient) -> list[str]:
    return [one["auditID"] for one in client.get("/v1/events?limit=50").json()["events"]]


ADDRESSES: dict[str, Callable[[TestClient], Iterator[str]]] = {
    "/console/": lambda _: iter(
        ["/console/", "/console/?" + urlencode({"q": "mal", "principal": EVIL, "namespace": EVIL})]
    ),
    "/console/alerts": lambda _: iter(
        [
            "/console/alerts",
            "/console/alerts?order=severity",
            "/console/alerts?"
            + urlencode({"q": "mal", "principal": EVIL, "technique": EVIL, "since": EVIL[:30]}),
        ]
    ),
    "/console/event": lambda client: iter(
        "/console/event?" + urlencode({"auditID": one}) for one in [*audit_ids(client), EVIL]
    ),
    "/console/exceptions": lambda _: iter(["/console/exceptions"]),
    "/console/alerts/{alert_id}": lambda client: every(client, "alerts"),
    "/console/glossary": lambda _: iter(["/console/glossary"]),
    "/console/incidents": lambda _: iter(
        [
            "/console/incidents",
            "/console/incidents?state=",
            "/console/incidents?"
            + urlencode({"q": EVIL, "assignee": EVIL, "namespace": EVIL, "until": EVIL[:30]}),
        ]
    ),
    "/console/incidents/{incident_id}": lambda client: every(client, "incidents"),
    "/console/login": lambda _: iter(["/console/login?" + urlencode({"next": EVIL})]),
    "/console/model": lambda _: iter(["/console/model", "/console/model?" + urlencode({"scale": EVIL[:12]})]),
    "/console/principals": lambda _: iter(
        ["/console/principals", "/console/principals?" + urlencode({"q": EVIL})]
    ),
    "/console/principals/{principal:path}": lambda _: iter(
        ["/console/principals/" + quote(name, safe="") for name in (EVIL, "bob@corp")]
    ),
    "/console/search": searches,
}

ROUTES = sorted({route.path for pages in PAGES for route in pages.router.routes if "GET" in route.methods})  # type: ignore[attr-defined]


@pytest.mark.parametrize("route", ROUTES)
def test_a_page_shows_hostile_text_visibly(
    route: str, make_client: Callable[..., TestClient], own_home: object
) -> None:
    if route in NO_PAGES:
        return
    client = make_client(events={"enabled": True, "seal_seconds": 3600, "memory_mb": 256})
    client.post("/v1/score", content=body(hostile_events())).raise_for_status()
    settle(client)
    client.app.state.service.wait_for_events(30)  # type: ignore[attr-defined]
    for address in ADDRESSES[route](client):
        answer = client.get(address, headers={"Accept": "text/html"})
        assert answer.status_code < 500, address
        assert "text/html" in answer.headers["content-type"], address
        for line in answer.text.split("\n"):
            assert visible(line) == line, (address, line)
            assert line.strip() != "FORGED", address
