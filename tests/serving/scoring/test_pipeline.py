"""What was acknowledged is scored, once and in order, whatever waits, fails or is sent again."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from data.events.audit_event import AuditEvent
from data.events.decode import decode_body
from serving.runtime import Service
from serving.scoring import pipeline
from serving.scoring.engine import Engine
from serving.scoring.journal import JournalError, record
from serving.scoring.verdicts import Batch
from serving.storage.database import StoreError
from tests.serving.conftest import settle
from tests.serving.fakes import ndjson, raw_event, secret_event


def event_list(*events: dict[str, object]) -> dict[str, object]:
    return {"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "items": list(events)}


def counts(client: TestClient) -> dict[str, int]:
    """Events by what became of them, as the metrics tell."""
    found = {}
    for line in client.get("/metrics").text.splitlines():
        if line.startswith("kubehabit_events_total{"):
            found[line.split('"')[1]] = int(float(line.rsplit(" ", 1)[1]))
    return found


class Held:
    """Stops an engine until it is let go, and notes what it scores."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.leave = threading.Event(), threading.Event()
        self.batches: list[list[str]] = []
        self._score = engine.score
        monkeypatch.setattr(engine, "score", self)

    def __call__(self, events: Sequence[AuditEvent]) -> Batch:
        self.entered.set()
        assert self.leave.wait(30)
        self.batches.append([event.auditID for event in events])
        return self._score(events)


def test_the_webhook_is_answered_while_scoring_is_behind(
    client: TestClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(engine, monkeypatch)
    for number in range(20):
        assert client.post("/v1/audit", json=event_list(secret_event(number))).status_code == 200
    assert held.entered.wait(10)
    assert client.get("/v1/alerts").json()["alerts"] == []
    metrics = client.get("/metrics").text
    assert "kubehabit_backlog_batches 0.0" not in metrics
    held.leave.set()
    settle(client)
    [alert] = client.get("/v1/alerts").json()["alerts"]
    assert alert["auditIDs"] == [f"id-{number}" for number in range(20)]
    assert "kubehabit_backlog_batches 0.0" in client.get("/metrics").text


def test_batches_that_wait_are_scored_together_up_to_a_bound_and_in_order(
    client: TestClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "_TOGETHER", 10)
    held = Held(engine, monkeypatch)
    for start in range(0, 40, 4):
        client.post("/v1/audit", json=event_list(*(raw_event(number) for number in range(start, start + 4))))
    assert held.entered.wait(10)
    held.leave.set()
    settle(client)
    assert [name for batch in held.batches for name in batch] == [f"id-{number}" for number in range(40)]
    assert max(map(len, held.batches)) == 8
    assert len(held.batches) < 10


def test_what_does_not_fit_in_memory_waits_in_the_journal(
    client: TestClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "_HELD", 3)
    held = Held(engine, monkeypatch)
    for number in range(30):
        client.post("/v1/audit", content=ndjson([secret_event(number)]) + b"\nnonsense")
    assert held.entered.wait(10)
    held.leave.set()
    settle(client)
    assert [name for batch in held.batches for name in batch] == [f"id-{number}" for number in range(30)]
    # What could not be read is reported once, not again when the rest is read from the journal.
    assert counts(client) == {"scored": 30, "folded": 0, "repeated": 0, "rejected": 30, "skipped": 0}


def test_callers_that_are_scored_together_get_their_own_verdicts(
    client: TestClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(engine, monkeypatch)
    client.post("/v1/audit", json=event_list(raw_event(100)))
    assert held.entered.wait(10)
    answers: dict[int, dict[str, object]] = {}

    def ask(number: int) -> None:
        event = secret_event(number, user=f"user-{number}") if number % 2 else raw_event(number)
        answers[number] = client.post("/v1/score", json=event).json()

    callers = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for caller in callers:
        caller.start()
    service: Service = client.app.state.service  # type: ignore[attr-defined]
    while service.running().pipeline.backlog().batches <= len(callers):
        threading.Event().wait(0.01)
    held.leave.set()
    for caller in callers:
        caller.join()
    assert len(held.batches) == 2
    for number, answer in answers.items():
        [result] = answer["results"]  # type: ignore[misc]
        assert result["auditID"] == f"id-{number}"
        assert answer["alerts"] == ([result["alertID"]] if number % 2 else [])


def test_a_batch_that_overlaps_an_earlier_one_is_scored_where_it_is_new(client: TestClient) -> None:
    client.post("/v1/audit", json=event_list(*(raw_event(number) for number in range(6))))
    answer = client.post("/v1/score", json=[raw_event(number) for number in range(3, 9)]).json()
    assert [result["status"] for result in answer["results"]] == ["repeated"] * 3 + ["scored"] * 3
    assert [result["auditID"] for result in answer["results"]] == [f"id-{number}" for number in range(3, 9)]
    assert counts(client) == {"scored": 9, "folded": 0, "repeated": 3, "rejected": 0, "skipped": 0}


def test_a_used_audit_id_hides_nothing(client: TestClient) -> None:
    client.post("/v1/audit", json=event_list(raw_event(0, auditID="chosen")))
    client.post("/v1/audit", json=event_list(secret_event(1, auditID="chosen")))
    client.post("/v1/audit", json=event_list(raw_event(0, auditID="chosen")))
    settle(client)
    assert counts(client) == {"scored": 2, "folded": 0, "repeated": 1, "rejected": 0, "skipped": 0}
    [alert] = client.get("/v1/alerts").json()["alerts"]
    assert alert["auditIDs"] == ["chosen"]


def test_a_full_journal_sends_batches_away_and_loses_none_that_it_took(
    make_client: Callable[..., TestClient], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_client(journal={"max_mb": 0.01})
    held = Held(engine, monkeypatch)
    taken, answer = [], None
    for number in range(200):
        answer = client.post("/v1/audit", json=event_list(secret_event(number)))
        if answer.status_code != 200:
            break
        taken.append(f"id-{number}")
    assert answer is not None
    assert answer.status_code == 503
    assert "journal.max_mb" in answer.json()["detail"]
    assert answer.headers["retry-after"]
    assert 5 < len(taken) < 100
    held.leave.set()
    settle(client)
    assert (
        client.post("/v1/audit", json=event_list(secret_event(len(taken)))).status_code == 200
    )  # as the webhook would
    settle(client)
    [alert] = client.get("/v1/alerts").json()["alerts"]
    assert alert["auditIDs"] == [*taken, f"id-{len(taken)}"]


def test_a_disk_that_cannot_be_written_is_a_503_and_the_batch_can_be_sent_again(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("os.fdatasync", fail)
        answer = client.post("/v1/audit", json=event_list(secret_event(0)))
        assert answer.status_code == 503
        assert "Input/output error" in answer.json()["detail"]
        assert client.post("/v1/score", json=secret_event(0)).status_code == 503
    assert client.post("/v1/score", json=secret_event(0)).json()["counts"]["scored"] == 1


def test_while_the_store_is_down_batches_are_taken_and_their_alerts_follow(
    client: TestClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = threading.Event()

    def down(*_: object, **__: object) -> None:
        tried.set()
        raise StoreError("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(engine.store, "writing", down)
        for number in range(3):
            assert (
                client.post("/v1/audit", json=event_list(secret_event(number, user=f"u{number}"))).status_code
                == 200
            )
        assert tried.wait(10)
        assert client.post("/v1/score", json=secret_event(7)).status_code == 503
    settle(client)
    found = client.get("/v1/alerts").json()["alerts"]
    assert sorted(alert["principal"] for alert in found) == ["alice@corp", "u0", "u1", "u2"]


def test_a_batch_that_makes_the_engine_fail_is_kept_and_holds_up_nobody(
    client: TestClient, engine: Engine, monkeypatch: pytest.MonkeyPatch, own_home: Path
) -> None:
    score = engine.score

    def fail(events: Sequence[AuditEvent]) -> Batch:
        if any(event.auditID == "id-13" for event in events):
            raise RuntimeError("a defect")
        return score(events)

    monkeypatch.setattr(engine, "score", fail)
    client.post("/v1/audit", json=event_list(raw_event(13)))
    settle(client)
    assert client.post("/v1/score", json=raw_event(14)).json()["counts"]["scored"] == 1
    letters = (own_home / "dead-letters.jsonl").read_text()
    assert "scoring failed: RuntimeError" in letters
    assert "id-13" in letters


def test_an_action_that_the_store_rejects_is_logged_and_kept_as_a_dead_letter(
    client: TestClient, engine: Engine, own_home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with engine.store.transaction() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER never BEFORE INSERT ON alerts WHEN NEW.principal = 'bob@corp' "
            "BEGIN SELECT RAISE(ABORT, 'not him'); END"
        )
    answer = client.post("/v1/score", json=[secret_event(0), secret_event(1, user="bob@corp")]).json()
    assert [result["flagged"] for result in answer["results"]] == [True, True]
    assert ["alertID" in result for result in answer["results"]] == [True, False]
    assert "kubehabit_actions_in_no_alert_total 1.0" in client.get("/metrics").text
    assert "an unusual action is in no alert" in caplog.text
    (letter,) = map(json.loads, (own_home / "dead-letters.jsonl").read_text().splitlines())
    assert "not him" in letter["reason"]
    assert "id-1" in json.dumps(letter)


def test_waiters_learn_at_the_end_that_their_batch_is_kept(
    make_client: Callable[..., TestClient], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_client()
    held = Held(engine, monkeypatch)
    client.post("/v1/audit", json=event_list(raw_event(0)))
    assert held.entered.wait(10)
    service: Service = client.app.state.service  # type: ignore[attr-defined]
    body = ndjson([raw_event(1)])
    answer = service.running().pipeline.score(record("/v1/score", body, "", body), decode_body(body))
    ending = threading.Thread(target=service.close)
    ending.start()
    while not service.running().pipeline._closing:
        threading.Event().wait(0.01)
    held.leave.set()
    ending.join()
    assert isinstance(answer.exception(10), JournalError)
    again = make_client()
    settle(again)
    assert counts(again)["scored"] >= 1


def test_nothing_in_an_event_stops_what_is_scored_after_it(client: TestClient) -> None:
    for number, moment in enumerate(
        ("junk", "", "9999-99-99T99:99:99Z", "\x00", "2026-11-23T14:00:00.1+25:00")
    ):
        answer = client.post("/v1/score", json=raw_event(number, stageTimestamp=moment))
        assert answer.json()["counts"]["scored"] == 1
    assert counts(client)["scored"] == 5


def test_an_observer_of_verdicts_cannot_stop_them(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    service: Service = client.app.state.service  # type: ignore[attr-defined]

    def fail(*_: object) -> None:
        raise ValueError("a defect")

    monkeypatch.setattr(service.metrics, "batch", fail)
    for number in range(3):
        assert client.post("/v1/score", json=raw_event(number)).json()["counts"]["scored"] == 1
