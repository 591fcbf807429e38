"""Secrets that a client wrote into its requests leave the service in no answer, page, file, message or log line."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient

from serving.schemas import Alert
from serving.sinks.base import Update
from serving.sinks.ocsf import finding
from serving.telemetry.logging import JsonFormatter
from tests.data.secret_corpus import PLACES, Shape, left, shapes
from tests.serving.conftest import settle
from tests.serving.event_stores import body
from tests.serving.fakes import START, secret_event

#: Some shapes, in each of these places.
SHAPES: list[Shape] = list(shapes(seed=4))[::15]
SHOWN = (
    "user agent",
    "arguments of exec",
    "a shell's line in exec",
    "status message",
    "audit annotation",
    "annotation",
)


def events() -> Iterator[dict[str, Any]]:
    """Unusual requests full of secrets; in the object's name as far as Kubernetes allows it."""
    number = 0
    for shape in SHAPES:
        name = shape.text if "/" not in shape.text and " " not in shape.text else "db"
        for place in SHOWN:
            number += 1
            yield secret_event(number, user="mallory@corp", name=name, verb="get", **PLACES[place](shape))


def answers(client: TestClient) -> Iterator[str]:
    """All that the service says about the requests."""
    alerts = client.get("/v1/alerts?limit=100").json()["alerts"]
    assert alerts
    incidents = client.get("/v1/incidents").json()["incidents"]
    for alert in alerts:
        yield client.get(f"/v1/alerts/{alert['id']}").text
        yield json.dumps(finding(Update(Alert.model_validate(alert), None, START)))
        yield client.get(f"/console/alerts/{alert['id']}", headers={"Accept": "text/html"}).text
    for incident in incidents:
        for form in ("json", "html"):
            yield client.post(f"/v1/incidents/{incident['id']}/evidence?form={form}").text
    yield client.get("/v1/events?limit=1000&original=true").text
    for page in (
        "",
        "principals/" + quote("mallory@corp"),
        "incidents",
        "search?ask=events&since=2026-01-01",
    ):
        yield client.get(f"/console/{page}", headers={"Accept": "text/html"}).text


def test_no_secret_leaves_the_service(
    make_client: Callable[..., TestClient], own_home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = make_client(events={"enabled": True, "seal_seconds": 3600, "memory_mb": 256})
    sent = list(events())
    with caplog.at_level(logging.DEBUG):
        client.post("/v1/score", content=body(sent)).raise_for_status()
        damaged = b"\n".join(json.dumps(event).encode().replace(b'"auditID"', b'"audit"') for event in sent)
        client.post("/v1/audit", content=damaged)
        settle(client)
        client.app.state.service.wait_for_events(30)  # type: ignore[attr-defined]
        said = list(answers(client))
    said += map(JsonFormatter().format, caplog.records)
    kept = [
        file.read_bytes().decode("utf-8", "replace")
        for file in own_home.rglob("*")
        if file.name in ("access.jsonl", "dead-letters.jsonl", "history.db", "history.db-wal")
    ]
    assert len(kept) == 4
    text = "\n".join(said + kept)
    assert text.count("mallory@corp") > len(sent)
    secrets = [secret for shape in SHAPES for secret in shape.secrets]
    leaks = {part: text[text.find(part) - 80 :][:200] for one in secrets if (part := left(text, one, 12))}
    assert leaks == {}
