"""What an analyst does from list to list: finds, follows a name to its search, decides, mutes, keeps a view."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from fastapi.testclient import TestClient

from serving.alerts.exceptions import read_exceptions
from serving.schemas import Alert
from tests.serving.conftest import settle
from tests.serving.event_stores import body
from tests.serving.fakes import raw_event, secret_event

Make = Callable[..., TestClient]
OURS = {"Origin": "http://127.0.0.1:8646", "Accept": "text/html"}


def page(client: TestClient, path: str, status: int = 200, **cookies: str) -> str:
    headers = OURS | (
        {"Cookie": "; ".join(f"{name}={text}" for name, text in cookies.items())} if cookies else {}
    )
    answer = client.get(path, headers=headers)
    assert answer.status_code == status, answer.text[-500:]
    return answer.text


def send(client: TestClient, path: str, fields: dict[str, Any], status: int = 303) -> Any:
    """A form, with the token that pages of this caller hold."""
    token = re.search(r'name="form_token" value="([0-9a-f]{64})"', page(client, "/console/alerts"))
    assert token is not None
    answer = client.post(path, data=fields | {"form_token": token[1]}, headers=OURS, follow_redirects=False)
    assert answer.status_code == status, answer.text[-800:]
    return answer


def listed(text: str, kind: str) -> list[str]:
    """IDs of the rows of a list, in its order."""
    return re.findall(rf'data-row href="/console/{kind}/([0-9a-f]+)"', text)


@pytest.fixture
def work(make_client: Make) -> TestClient:
    """Three people, each with an incident of one alert; bob's is of another day, carol's of another namespace."""
    client = make_client()
    for number, (user, namespace, seconds) in enumerate(
        (("alice", "payments", 0), ("bob", "payments", 90_000), ("carol", "web", 90_060))
    ):
        client.post("/v1/score", json=secret_event(number, user=user, namespace=namespace, seconds=seconds))
    settle(client)
    return client


def ids(client: TestClient) -> dict[str, str]:
    """Principal -> its alert, which gives the incident its name."""
    return {one["principal"]: one["id"] for one in client.get("/v1/alerts").json()["alerts"]}


# -- finding ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("", ["carol", "bob", "alice"]),
        ("?order=oldest", ["alice", "bob", "carol"]),
        ("?namespace=payments&order=newest", ["bob", "alice"]),
        ("?principal=bob", ["bob"]),
        ("?severity=critical", []),
        ("?q=SECRETS+in+web", ["carol"]),
        ("?since=2026-11-24", ["carol", "bob"]),
        ("?until=2026-11-24", ["alice"]),
        ("?since=2026-11-24&until=2026-11-24T15:00:30Z", ["bob"]),
        ("?state=closed", []),
        ("?assignee=none", ["carol", "bob", "alice"]),
        ("?assignee=nobody-like-this", []),
    ],
)
def test_incidents_are_found_as_alerts_are(work: TestClient, asked: str, found: list[str]) -> None:
    of = ids(work)
    assert listed(page(work, f"/console/incidents{asked}"), "incidents") == [of[who] for who in found]
    api = {"order": "activity", "state": "open"} | {key: one[0] for key, one in parse_qs(asked[1:]).items()}
    if len(str(api.get("since", ""))) == 10 or len(str(api.get("until", ""))) == 10:
        api |= {key: f"{api[key]}T00:00:00Z" for key in ("since", "until") if len(api.get(key, "")) == 10}
    answer = work.get("/v1/incidents", params=api).json()["incidents"]
    assert [one["id"] for one in answer] == [of[who] for who in found]
    if "assignee" not in asked and "state=" not in asked:
        shown = asked if asked else "?order=newest"
        assert listed(page(work, f"/console/alerts{shown}"), "alerts") == [of[who] for who in found]


@pytest.mark.parametrize("order", ["newest", "activity", "severity", "oldest"])
def test_pages_of_incidents_follow_each_other_in_every_order(work: TestClient, order: str) -> None:
    whole = [one["id"] for one in work.get("/v1/incidents", params={"order": order}).json()["incidents"]]
    found: list[str] = []
    cursor: str | None = None
    while cursor is not None or not found:
        given = {"order": order, "limit": 1} | ({"cursor": cursor} if cursor else {})
        answer = work.get("/v1/incidents", params=given).json()
        found += [one["id"] for one in answer["incidents"]]
        cursor = answer["cursor"]
    assert found == whole
    assert len(whole) == 3
    wrong = work.get("/v1/incidents", params={"order": order, "cursor": "1-2-3"})
    assert (wrong.status_code, "not one of ours" in wrong.text) == (400, True)


def test_alerts_of_a_severity_come_first_where_that_is_asked_for(work: TestClient) -> None:
    work.post("/v1/score", json=secret_event(9, user="dave", seconds=100_000))
    of = ids(work)
    assert listed(page(work, "/console/alerts?order=severity"), "alerts")[0] == of["dave"]
    assert page(work, "/console/alerts?cursor=1&order=severity", 400)


def test_what_is_not_known_is_refused_on_pages_and_in_the_api(work: TestClient) -> None:
    for path in ("/console/alerts?sevrity=high", "/console/incidents?order=newest&x=1", "/console/?sort=asc"):
        assert "is not known here; known are:" in page(work, path, 422)
    assert work.get("/v1/incidents?sevrity=high").status_code == 422
    assert "is no point in time" in page(work, "/console/alerts?since=whenever", 422)
    # A bookmark of the list that stood at this address before leads to where it stands now.
    answer = work.get("/console/?principal=bob&severity=high", headers=OURS, follow_redirects=False)
    assert answer.headers["location"].startswith("/console/alerts?")
    assert parse_qs(urlsplit(answer.headers["location"]).query) == {
        "principal": ["bob"],
        "severity": ["high"],
    }


def test_times_are_of_the_browsers_zone_with_utc_beside_them(work: TestClient) -> None:
    berlin = {"kubehabit_zone": "Europe/Berlin"}
    assert 'title="2026-11-23 14:00:00.000 UTC">15:00:00</time>' in page(work, "/console/alerts", **berlin)
    assert ">14:00:00</time>" in page(work, "/console/alerts", kubehabit_utc="1", **berlin)
    for strange in ("../../etc/passwd", "x" * 500, "No/Where", "é"[:0]):
        assert ">14:00:00</time>" in page(work, "/console/alerts", kubehabit_zone=strange)
    # What a person writes is of that zone too: an hour earlier than the same words in UTC.
    asked = "/console/alerts?until=2026-11-23T15:00:01"
    assert len(listed(page(work, asked, **berlin), "alerts")) == 1
    assert listed(page(work, "/console/alerts?until=2026-11-23T15:00:00", **berlin), "alerts") == []
    # Late in the evening in UTC it is the next day elsewhere, and the list says so.
    tokyo = page(work, "/console/alerts?since=2026-11-24", kubehabit_zone="Pacific/Auckland")
    assert "Wednesday 25 November 2026" in tokyo


def test_the_overview_sums_up_what_there_is(work: TestClient) -> None:
    found = work.get("/v1/overview", params={"days": 90}).json()
    assert found["incidents"] == {
        "total": 3,
        "bySeverity": {"critical": 0, "high": 3, "medium": 0, "low": 0},
        "unattended": 3,
    }
    alerts = found["alerts"]
    assert alerts["total"] == 3 == sum(one["high"] for one in alerts["overTime"])
    assert {one["name"]: one["alerts"] for one in alerts["namespaces"]} == {"payments": 2, "web": 1}
    assert [one["name"] for one in alerts["principals"]] == ["alice", "bob", "carol"]
    assert {one["id"]: one["alerts"] for one in alerts["techniques"] if one["alerts"]}["T1552.007"] == 3
    ingest = found["ingest"]
    assert (ingest["senders"][0]["route"], ingest["senders"][0]["events"]) == ("/v1/score", 3)
    assert ingest["deadLetters"] == 0
    work.post("/v1/score", json=[{"kind": "Event", "apiVersion": "audit.k8s.io/v1", "verb": 7}])
    assert work.get("/v1/overview").json()["ingest"]["deadLetters"] == 1
    text = page(work, "/console/?days=28")
    assert "Open incidents" in text
    assert 'href="/console/alerts?technique=T1552.007&amp;since=28d"' in text
    assert len(listed(page(work, "/console/alerts?technique=T1552.007"), "alerts")) == 3
    assert listed(page(work, "/console/alerts?technique=T1496"), "alerts") == []


def test_part_of_a_name_finds_it(work: TestClient) -> None:
    work.post("/v1/score", json=raw_event(7, user="system:serviceaccount:shop-prod:worker", seconds=100_000))
    settle(work)
    assert work.get("/console/names?kind=principal&q=AR").json() == ["carol"]
    assert work.get("/v1/names?kind=principal&q=worker").json()["names"] == [
        "system:serviceaccount:shop-prod:worker"
    ]
    assert work.get("/console/names?kind=namespace&q=pro").json() == ["shop-prod"]
    assert work.get("/console/names?kind=namespace&q=pay").json() == ["payments"]
    assert work.get("/console/names?kind=namespace&q=%25").json() == []


# -- following --------------------------------------------------------------------------------------------------


def test_every_name_leads_to_its_search_and_the_search_finds_it(make_client: Make) -> None:
    client = make_client(events={"enabled": True, "seal_seconds": 3600, "memory_mb": 256})
    hidden = "aHVudGVyMg=="
    events = [
        *(raw_event(number, user="alice@corp") for number in range(3)),
        secret_event(
            7,
            user="alice@corp",
            verb="get",
            name="db",
            requestObject={"kind": "Secret", "data": {"password": hidden}},
        ),
    ]
    client.post("/v1/score", content=body(events)).raise_for_status()
    settle(client)
    client.app.state.service.wait_for_events(30)  # type: ignore[attr-defined]
    (alert,) = client.get("/v1/alerts").json()["alerts"]
    links: set[str] = set()
    for path in (f"/console/alerts/{alert['id']}", f"/console/incidents/{alert['id']}"):
        text = page(client, path).replace("&amp;", "&")
        links |= set(re.findall(r'href="(/console/(?:search|event|principals/)[^"]*)"', text))
    asked = [parse_qs(urlsplit(link).query) for link in links]
    for field, value in (
        ("address", "203.0.113.7"),
        ("namespace", "payments"),
        ("resource", "secrets"),
        ("agent", events[0]["userAgent"]),
        ("auditID", "id-7"),
    ):
        assert any(one.get(field) == [value] for one in asked), field
    assert "/console/principals/alice@corp" in links
    for link in links:
        text = page(client, link)
        if "ask=events" in link:
            assert "/console/event?auditID=id-7" in text, f"{link} does not find what it leads to"
    # The event as it was received, redacted, with what is in it as links again.
    (link,) = (link for link in links if "/console/event" in link)
    text = page(client, link)
    assert "&#34;auditID&#34;: &#34;id-7&#34;" in text
    assert hidden not in text
    assert "redacted)" in text
    assert 'data-copy="{' in text
    assert 'href="/console/search?ask=events&amp;resource=secrets&amp;namespace=payments&amp;name=db' in text
    assert f'href="/console/alerts/{alert["id"]}"' in text
    assert "No event of this audit ID is kept" in page(client, "/console/event?auditID=id-99", 404)


# -- deciding ---------------------------------------------------------------------------------------------------


def test_an_incident_is_acknowledged_assigned_closed_corrected_and_reopened(work: TestClient) -> None:
    incident = ids(work)["bob"]
    send(work, f"/console/incidents/{incident}/acknowledge", {"by": "eve"})
    assert work.get("/v1/overview").json()["incidents"]["unattended"] == 2
    send(work, f"/console/incidents/{incident}/assign", {"assignee": " mallet@corp ", "note": "on call"})
    assert listed(page(work, "/console/incidents?assignee=mallet@corp"), "incidents") == [incident]
    assert "assigned to mallet@corp" in page(work, f"/console/incidents/{incident}")
    send(work, f"/console/incidents/{incident}/reopen", {}, 409)
    send(work, f"/console/incidents/{incident}/outcome", {"outcome": "normal"}, 409)
    send(work, f"/console/incidents/{incident}/close", {"outcome": "malicious", "note": "IR-7"})
    found = work.get(f"/v1/incidents/{incident}").json()
    assert (found["state"], found["outcome"], found["assignee"]) == ("closed", "malicious", "mallet@corp")
    send(work, f"/console/incidents/{incident}/outcome", {"outcome": "normal", "note": "it was a drill"})
    verdicts = [line["verdict"] for line in map(json_of, work.get("/v1/feedback").text.splitlines())]
    assert verdicts == ["malicious", "normal"], (
        "the outcome is the verdict on its alerts, and the last one holds"
    )
    assert listed(page(work, "/console/incidents?state=closed&outcome=normal"), "incidents") == [incident]
    send(work, f"/console/incidents/{incident}/reopen", {"note": "again"})
    found = work.get(f"/v1/incidents/{incident}").json()
    assert (found["state"], found["outcome"]) == ("open", None)
    assert [one["action"] for one in found["trail"]] == [
        *("opened", "acknowledged", "assigned", "closed", "corrected", "reopened")
    ]
    assert "to mallet@corp: on call" in page(work, f"/console/incidents/{incident}")


def json_of(line: str) -> dict[str, Any]:
    import json

    return json.loads(line)  # type: ignore[no-any-return]


def test_several_are_decided_at_once_and_what_cannot_be_is_left(work: TestClient) -> None:
    of = ids(work)
    send(work, "/console/incidents/bulk", {"action": "close"}, 422)
    send(work, "/console/incidents/bulk", {"action": "explode", "chosen": [of["bob"]]}, 422)
    work.post(f"/v1/incidents/{of['alice']}/close", json={"outcome": "unclear"})
    chosen = [of["alice"], of["bob"], of["carol"]]
    answer = send(
        work,
        "/console/incidents/bulk",
        {"action": "close", "chosen": chosen, "outcome": "normal", "back": "/console/incidents?state=open"},
    )
    assert answer.headers["location"] == "/console/incidents?state=open"
    outcomes = {
        one["id"]: one["outcome"] for one in work.get("/v1/incidents?state=closed").json()["incidents"]
    }
    assert outcomes == {of["alice"]: "unclear", of["bob"]: "normal", of["carol"]: "normal"}
    send(work, "/console/incidents/bulk", {"action": "close", "chosen": chosen, "outcome": "normal"}, 409)
    send(work, "/console/alerts/bulk", {"verdict": "malicious", "chosen": [of["bob"], of["carol"]]})
    judged = listed(page(work, "/console/alerts?verdict=malicious"), "alerts")
    assert judged == [of["carol"], of["bob"]]
    for elsewhere in ("https://evil.example/", "//evil.example", "/console/incidentsx\r\nX: y", "/v1/alerts"):
        answer = send(
            work, "/console/incidents/bulk", {"action": "reopen", "chosen": chosen[:1], "back": elsewhere}
        )
        assert answer.headers["location"] == "/console/incidents"
        work.post(f"/v1/incidents/{of['alice']}/close", json={})


def test_an_exception_mutes_what_the_alert_is_about_until_it_expires(
    work: TestClient, own_home: Path
) -> None:
    alert = Alert.model_validate(work.get(f"/v1/alerts/{ids(work)['bob']}").json())
    text = page(work, f"/console/alerts/{alert.id}")
    fields = dict(re.findall(r'id="mute-(\w+)" name="\w+" value="([^"]*)"', text))
    assert fields["principal"] == "bob"
    assert (fields["verbs"], fields["resources"], fields["namespaces"]) == ("list", "secrets", "payments")
    path = f"/console/alerts/{alert.id}/mute"
    assert "Reason of the exception" in send(work, path, fields | {"reason": ""}, 422).text
    assert "expired already" in send(work, path, fields | {"reason": "x", "expires": "2020-01-01"}, 422).text
    send(work, path, fields | {"reason": "CHG-7", "by": "eve"})
    assert "give each a name of its own" in send(work, path, fields | {"reason": "CHG-8"}, 422).text
    (entry,) = read_exceptions(own_home / "exceptions.yaml").entries
    assert (entry.principal, entry.verbs, entry.resources, entry.reason, entry.by) == (
        *("bob", ("list",), ("secrets",), "CHG-7", "eve"),
    )
    made = work.post("/v1/exceptions", json={"name": "all", "reason": "x", "expires": "2099-01-01"})
    assert (made.status_code, "Say for whom" in made.text) == (400, True)


def test_views_are_kept_by_name_for_all_and_lead_nowhere_else(work: TestClient) -> None:
    query = "severity=high&q=Secret&since=7d"
    answer = send(work, "/console/views", {"page": "alerts", "name": "mine <b>", "query": query})
    assert answer.headers["location"] == f"/console/alerts?{query}"
    text = page(work, "/console/alerts")
    assert 'href="/console/alerts?severity=high&amp;q=Secret&amp;since=7d"' in text
    assert "mine &lt;b&gt;</a>" in text
    assert "Remove this view" in page(work, f"/console/alerts?{query}")
    send(work, "/console/views", {"page": "alerts", "name": "mine <b>", "query": "severity=low"})
    assert page(work, "/console/alerts").count("mine &lt;b&gt;</a>") == 1, "the same name is the same view"
    send(work, "/console/views", {"page": "elsewhere", "name": "x", "query": ""}, 422)
    send(work, "/console/views", {"page": "alerts", "name": "", "query": ""}, 422)
    answer = send(work, "/console/views", {"page": "alerts", "name": "x", "query": "next=//evil.example\r\n"})
    assert answer.headers["location"].startswith("/console/alerts?next=%2F%2Fevil")
    send(work, "/console/views/remove", {"page": "alerts", "name": "mine <b>"})
    assert "mine" not in page(work, "/console/alerts")
