"""An event that makes scoring fail costs no other event its verdict, and is not forgotten."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from data.events.audit_event import AuditEvent
from detection.detector import Scores
from serving.scoring import alert_writer
from serving.scoring.engine import Engine
from serving.storage.database import StoreError
from tests.serving.conftest import settle
from tests.serving.fakes import decoded, ndjson, raw_event, secret_event


@pytest.fixture
def poisoned(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Events called "poison" make the detector raise; returns what cures it."""
    detector = engine.detector
    score = detector.score

    def failing(events: Sequence[AuditEvent]) -> Scores:
        if any(event.auditID == "poison" for event in events):
            raise OverflowError("year out of range")
        return score(events)

    monkeypatch.setattr(detector, "score", failing)
    return lambda: monkeypatch.setattr(detector, "score", score)


def metric(client: TestClient, name: str) -> float:
    [line] = [line for line in client.get("/metrics").text.splitlines() if line.startswith(name + " ")]
    return float(line.split()[1])


def test_one_poisoned_event_among_a_thousand_costs_no_other_its_alert_and_can_be_sent_again(
    client: TestClient, poisoned: Callable[[], None], own_home: Path
) -> None:
    events = [secret_event(number) for number in range(1000)]
    events[400] = secret_event(400, auditID="poison")
    for start in range(0, 1000, 100):
        assert client.post("/v1/audit", content=ndjson(events[start : start + 100])).status_code == 200
    settle(client)
    [alert] = client.get("/v1/alerts").json()["alerts"]
    assert alert["actionCount"] == 999
    assert "poison" not in alert["auditIDs"]
    assert metric(client, "kubehabit_events_not_scored_total") == 1
    [letter] = [json.loads(line) for line in next(own_home.rglob("dead*")).read_text().splitlines()]
    assert letter["reason"] == "scoring failed: OverflowError"
    assert (letter["source"], letter["line"]) == ("/v1/audit", 1)
    assert json.loads(letter["raw"]) == events[400]
    poisoned()
    client.post("/v1/audit", content=ndjson(events[400:402]))
    settle(client)
    [alert] = client.get("/v1/alerts").json()["alerts"]
    assert alert["actionCount"] == 1000


def test_the_sender_learns_which_event_was_not_scored(
    client: TestClient, poisoned: Callable[[], None]
) -> None:
    events = [raw_event(0), raw_event(1, auditID="poison"), secret_event(2), raw_event(0)]
    results = client.post("/v1/score", content=ndjson(events)).json()["results"]
    assert [result["status"] for result in results] == ["scored", "rejected", "scored", "repeated"]
    assert results[1]["reason"] == "scoring failed: OverflowError"
    assert "alertID" in results[2]


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("context", "observe"),
        ("context", "gather"),
        ("context", "watched"),
        ("principals", "record"),
        ("explainer", "describe"),
        ("explainer", "renew"),
    ],
)
def test_what_fails_after_the_verdict_keeps_no_alert_from_being_raised(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, part: str, name: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("a defect")

    monkeypatch.setattr(getattr(engine, part), name, fail)
    batch = engine.score(decoded([secret_event(0), raw_event(1)]))
    assert [alert.action_count for alert in batch.raised] == [1]
    [alert] = engine.store.page().alerts
    assert alert.audit_ids == ["id-0"]
    assert alert.sentence


def test_of_more_actions_than_are_held_while_the_store_fails_the_worst_stay_and_all_are_counted(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alert_writer, "_MAX_UNSAVED", 10)
    writing = engine.store.writing

    def fail(*_: object, **__: object) -> Any:
        raise StoreError("away")

    monkeypatch.setattr(engine.store, "writing", fail)
    worst = secret_event(0, namespace="e-9")
    for events in ([worst], [secret_event(number) for number in range(1, 30)]):
        with pytest.raises(StoreError):
            engine.score(decoded(events))
    monkeypatch.setattr(engine.store, "writing", writing)
    batch = engine.score([])
    [alert] = batch.raised
    assert (alert.evidence, alert.action_count, batch.dropped) == (9.0, 30, 20)
    assert "id-0" in engine.store.page().alerts[0].audit_ids
    assert engine.score([]).dropped == 0
