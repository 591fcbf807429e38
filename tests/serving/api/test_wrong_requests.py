"""Requests that nobody meant: numbers beyond the calendar, unknown names, bodies over the limit."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.serving.fakes import secret_event

BEYOND = [
    "999999w",
    "000001-01-01",
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-23:59",
    "99999999999999999999",
    "-1d",
    "inf",
    "nan",
    "1e400",
    "٩٩٩٩٩٩w",
]
SPANS = [
    "/v1/events",
    "/v1/events/touched",
    "/v1/events/newcomers",
    "/v1/events/principals/alice",
    "/v1/habits/alice",
    "/v1/peers/alice",
]
#: Parameters without which the route answers nothing.
NEEDED = {
    "/v1/events/touched": {"resource": "secrets"},
    "/v1/events/newcomers": {"namespace": "x", "since": "7d"},
}


def refused(answer: Any, *words: str) -> None:
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    for word in words:
        assert word in answer.json()["detail"]


@pytest.mark.parametrize("path", SPANS)
def test_a_time_beyond_the_calendar_is_a_400(make_client: Callable[..., TestClient], path: str) -> None:
    client = make_client(events={"enabled": True})
    client.post("/v1/score", json=[secret_event(0)])
    for text in BEYOND:
        for name in ("since", "until"):
            answer = client.get(path, params=NEEDED.get(path, {}) | {name: text})
            refused(answer, "no point in time")


@pytest.mark.parametrize("text", [*BEYOND, "0001-01-01T00:00:00+23:59Z", "253402300800", "-62135596801"])
def test_a_time_of_alerts_beyond_the_calendar_is_no_5xx(client: TestClient, text: str) -> None:
    client.post("/v1/score", json=[secret_event(0)])
    assert client.get("/v1/alerts", params={"since": text}).status_code < 500
    assert (
        client.post("/v1/evidence", json={"principal": "a", "since": text, "until": text}).status_code < 500
    )


@pytest.mark.parametrize(
    ("path", "parameters"),
    [
        ("/v1/alerts", {"cursor": "9" * 18}),
        ("/v1/alerts", {"cursor": "9" * 40}),
        ("/v1/alerts", {"limit": "9" * 40}),
        ("/v1/incidents", {"cursor": "9" * 18}),
        ("/v1/events", {"cursor": "9" * 40}),
        ("/v1/events", {"cursor": "9" * 19 + "-" + "9" * 19}),
        ("/v1/events", {"code": "9999999"}),
        ("/v1/events", {"code": "999-100"}),
        ("/v1/events", {"code": "٤xx"}),
        ("/v1/principals", {"cursor": "9" * 9}),
        ("/v1/model/preview", {"days": "nan"}),
        ("/v1/model/preview", {"days": "1e308"}),
        ("/v1/model/preview", {"days": "1e-320"}),
        ("/v1/model/preview", {"perDay": "1e-320"}),
        ("/v1/model/preview", {"scale": "inf"}),
        ("/v1/model/drift", {"days": "1e-320"}),
    ],
)
def test_numbers_out_of_any_range_are_no_5xx(
    client: TestClient, path: str, parameters: dict[str, str]
) -> None:
    client.post("/v1/score", json=[secret_event(0)])
    assert client.get(path, params=parameters).status_code < 500


@pytest.mark.parametrize(
    ("path", "known"),
    [
        ("/v1/alerts?severty=high", ["severity", "since"]),
        ("/v1/alerts/stream?since=1h", ["severity", "principal"]),
        ("/v1/alerts/x?full=1", ["none"]),
        ("/v1/events?principals=x", ["principal", "userAgent"]),
        ("/v1/incidents?stat=open", ["state"]),
        ("/v1/principals?q=x", ["search", "kind"]),
        ("/v1/model/preview?per_day=1", ["perDay"]),
        ("/v1/model?x", ["none"]),
    ],
)
def test_an_unknown_parameter_is_refused_with_the_known_ones(
    client: TestClient, path: str, known: list[str]
) -> None:
    name = path.partition("?")[2].partition("=")[0]
    answer = client.get(path)
    assert answer.status_code == 422
    refused(answer, f"'{name}' is not known here", *known)


def test_senders_of_events_may_add_parameters(client: TestClient) -> None:
    # kube-apiserver's webhook adds a timeout.
    assert client.post("/v1/audit?timeout=30s", json=secret_event(0)).status_code == 200
    assert client.post("/v1/score?source=x", json=[secret_event(1)]).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "known"),
    [
        ("/v1/alerts/{id}/feedback", {"verdict": "normal", "notes": "x"}, ["by", "note", "verdict"]),
        ("/v1/incidents/x/close", {"outcom": "normal"}, ["outcome", "note", "by"]),
        ("/v1/incidents/x/merge", {"incident": "y", "force": True}, ["incident"]),
        ("/v1/incidents/x/notes", {"text": "y"}, ["note"]),
        ("/v1/incidents/x/evidence", {"reason": "y"}, ["note", "by"]),
        ("/v1/evidence", {"alert": ["x"]}, ["alerts", "auditIDs", "principal", "since"]),
    ],
)
def test_an_unknown_field_is_refused_with_the_known_ones(
    client: TestClient, path: str, body: dict[str, Any], known: list[str]
) -> None:
    (alert,) = client.post("/v1/score", json=[secret_event(0)]).json()["alerts"]
    answer = client.post(path.format(id=alert), json=body)
    assert answer.status_code == 422
    refused(answer, "is not known here", *known)


@pytest.mark.parametrize(
    "path", ["/v1/score", "/v1/audit", "/v1/evidence", "/v1/incidents/x/close", "/v1/alerts/x/feedback"]
)
def test_a_body_over_the_limit_is_refused_wherever_it_is_sent(
    make_client: Callable[..., TestClient], path: str
) -> None:
    client = make_client(limits={"body_mb": 0.01})
    declared = client.post(path, content=json.dumps({"note": "x" * 20_000}))
    unannounced = client.post(path, content=iter([b'{"note": "', b"x" * 20_000, b'"}']))
    for answer in (declared, unannounced):
        assert answer.status_code == 413
        assert answer.headers["connection"] == "close"
        refused(answer, "limits.body_mb")
