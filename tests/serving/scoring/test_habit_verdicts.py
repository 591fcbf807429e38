"""Repeats join the alert of what they repeat, and verdicts hold from their place in the journal on, whatever happens then."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from data.actions.fields import FIELDS
from data.events.audit_event import AuditEvent
from detection.detector import Scores
from detection.exceptions import AllowedAction, HabitException, HabitExceptions
from detection.probation import Verdict
from serving.alerts.exceptions import append_exception
from serving.alerts.explain.explainer import Explainer
from serving.app import create_app
from serving.delivery.outbox import Outbox
from serving.rollout.loader import exceptions_of
from serving.runtime import Service
from serving.scoring.engine import Engine
from serving.scoring.habit_verdicts import SOURCE, HabitVerdict
from serving.settings import Settings
from serving.sinks.stdout import StdoutSettings
from serving.storage.database import AlertStore, StoreError, Writer
from serving.storage.tables import microseconds
from tests.serving.conftest import model_info, settle
from tests.serving.fakes import START, FakeDetector, decoded, ndjson, raw_event, secret_event

HOUR, DAY = 3600.0, 86_400.0


class Remembering(FakeDetector):
    """Takes what it flagged more than ten minutes ago for a repeat, until there is a verdict on it."""

    def __init__(self) -> None:
        super().__init__()
        self.first: dict[tuple[str, str], int] = {}
        self.verdicts: list[tuple[str, tuple[int, ...], str]] = []
        self.normal: set[int] = set()

    def score(self, events: Sequence[AuditEvent]) -> Scores:
        scores = super().score(events)
        count = len(scores.event)
        scores.repeat, firsts = np.zeros(count, bool), np.zeros(count, np.int64)
        for row in np.flatnonzero(scores.flagged).tolist():
            time = int(scores.time[row].astype(np.int64))
            first = self.first.setdefault((scores.principal[row], str(scores.group[row])), time)
            if first in self.normal:
                scores.flagged[row], scores.severity[row] = False, "none"
            elif time - first > 600_000_000:
                scores.repeat[row], firsts[row] = True, first
        scores.first_flagged = firsts.view("M8[us]")
        return scores

    def apply_verdict(self, principal: str, times: Collection[int], verdict: Verdict) -> None:
        self.verdicts.append((principal, tuple(sorted(times)), verdict))
        if verdict == "normal":
            self.normal.update(times)


def at(seconds: float) -> int:
    return microseconds(START + timedelta(seconds=seconds))


@pytest.fixture
def detector() -> Remembering:
    return Remembering()


@pytest.fixture
def engine(store: AlertStore, explainer: Explainer, detector: Remembering) -> Engine:
    """An engine whose alerts are queued for a sink."""
    outbox = Outbox(store, [StdoutSettings(name="out", type="stdout", repeat_minutes=0)])
    return Engine(detector, FIELDS, model_info(), store, explainer, outbox=outbox)


def waiting(engine: Engine) -> int:
    assert engine.outbox is not None
    return engine.outbox.depths()["out"][0]


def test_a_repeat_joins_its_alert_across_days_and_notifies_nobody(engine: Engine) -> None:
    raised = engine.score(decoded([secret_event(0), secret_event(1, seconds=30)])).raised[0]
    assert waiting(engine) == 1
    with engine.store.transaction() as connection:
        connection.exec_driver_sql("DELETE FROM deliveries")  # it was sent
    engine.score(decoded([raw_event(99, resource="configmaps", seconds=2 * HOUR - 60)]))  # milder
    for number, seconds in enumerate((2 * HOUR, 2 * HOUR + 60, DAY, 7 * DAY), 2):
        batch = engine.score(decoded([secret_event(number, seconds=seconds)]))
        assert (len(batch.raised), [alert.id for alert in batch.grown]) == (0, [raised.id])
    alert = engine.store.get(raised.id)
    assert alert is not None
    assert (alert.times_again, alert.actions_again, alert.action_count) == (3, 4, 6)
    assert alert.contributor_count == 0
    assert alert.last_again == START + timedelta(days=7)
    assert (alert.last_seen, alert.severity) == (raised.last_seen, raised.severity)
    assert [action.first_flagged is None for action in alert.actions] == [True, True] + [False] * 4
    assert "It was done again later, 3 times, last on 2026-11-30 at 14:00 UTC." in alert.sentence
    assert "1 more unusual action within 30 s" in alert.sentence
    assert waiting(engine) == 0
    [incident] = engine.incidents.page().incidents
    assert (incident.action_count, incident.alert_count) == (6, 1)
    report = engine.incidents.get(incident.id)
    assert report is not None
    assert (report.last_seen, report.last_again) == (raised.last_seen, START + timedelta(days=7))


def test_a_log_read_in_at_once_gives_the_same_alert(store: AlertStore, explainer: Explainer) -> None:
    events = [secret_event(number, seconds=number * 2 * HOUR) for number in range(4)]
    together = Engine(Remembering(), FIELDS, model_info(), store, explainer)
    assert [alert.times_again for alert in together.score(decoded(events)).raised] == [3]
    again = together.score(decoded(events))
    assert (again.raised, again.grown) == ([], [])


def test_something_new_within_minutes_of_a_repeat_is_an_alert_of_its_own(
    engine: Engine, detector: Remembering
) -> None:
    engine.score(decoded([secret_event(0)]))
    engine.score(decoded([secret_event(1, seconds=DAY)]))
    detector.first.clear()
    assert len(engine.score(decoded([secret_event(2, seconds=DAY + 60)])).raised) == 1


@pytest.mark.parametrize("ends", ["verdict", "closed"])
def test_what_was_judged_is_not_joined_any_more(engine: Engine, ends: str) -> None:
    alert = engine.score(decoded([secret_event(0)])).raised[0]
    if ends == "verdict":
        engine.store.add_feedback(alert.id, START, "malicious", "{}")
    else:
        with engine.store.transaction() as connection:
            connection.exec_driver_sql("UPDATE incidents SET state = 'closed'")
    assert len(engine.score(decoded([secret_event(1, seconds=DAY)])).raised) == 1


def test_feedback_reaches_the_detector_and_ends_the_alarms(client: TestClient, detector: Remembering) -> None:
    client.post("/v1/audit", content=ndjson([secret_event(0), secret_event(1, seconds=DAY)]))
    settle(client)
    [alert] = client.get("/v1/alerts").json()["alerts"]
    assert (alert["timesAgain"], alert["actionsAgain"]) == (1, 1)
    assert "done again 1 time" in client.get(f"/console/alerts/{alert['id']}").text
    given = client.post(f"/v1/alerts/{alert['id']}/feedback", json={"verdict": "normal", "by": "judy"})
    assert given.status_code == 201
    client.post("/v1/audit", content=ndjson([secret_event(2, seconds=2 * DAY)]))
    settle(client)
    assert detector.verdicts == [("alice@corp", (at(0), at(DAY)), "normal")]
    [same] = client.get("/v1/alerts").json()["alerts"]
    assert same["actionCount"] == 2
    assert [json.loads(line) for line in client.get("/v1/feedback").text.splitlines()] == [given.json()]


@pytest.mark.parametrize("outcome", ["normal", "malicious", "unclear"])
def test_closing_an_incident_is_a_verdict_on_its_alerts(
    client: TestClient, detector: Remembering, outcome: str
) -> None:
    client.post("/v1/score", json=secret_event(0))
    [incident] = client.get("/v1/incidents").json()["incidents"]
    body = {"outcome": outcome, "by": "judy", "note": "CHG-7"}
    assert client.post(f"/v1/incidents/{incident['id']}/close", json=body).status_code == 200
    settle(client)
    assert detector.verdicts == [("alice@corp", (at(0),), outcome)]
    said = [json.loads(line) for line in client.get("/v1/feedback").text.splitlines()]
    assert [one["verdict"] for one in said] == ([] if outcome == "unclear" else [outcome])
    assert all(one["note"] == f"incident {incident['id']} closed: CHG-7" for one in said)
    assert client.post(f"/v1/incidents/{incident['id']}/close", json=body).status_code == 409
    settle(client)
    assert len(detector.verdicts) == 1


def test_a_verdict_keeps_its_place_between_events_over_a_crash(explainer: Explainer, tmp_path: Path) -> None:
    """The journal alone says what happened: a process that died with a verdict unapplied applies it in its turn."""
    url = f"sqlite:///{tmp_path}/serving.db"

    def start(events: bool = False) -> tuple[TestClient, Remembering, Engine]:
        detector = Remembering()
        made = AlertStore(url, retention_days=90, max_alerts=1000)
        engine = Engine(detector, FIELDS, model_info(), made, explainer)
        client = TestClient(
            create_app(Settings(events={"enabled": events}), engine), base_url="http://127.0.0.1:8646"
        )
        client.__enter__()
        return client, detector, engine

    client, detector, engine = start()
    client.post("/v1/audit", content=ndjson([secret_event(0)]))
    settle(client)
    [alert] = client.get("/v1/alerts").json()["alerts"]
    service: Service = client.app.state.service  # type: ignore[attr-defined]
    pipeline = service.running().pipeline
    # Nothing is scored from here on, and nothing is saved: as if the process were killed.
    pipeline._run = lambda: None  # type: ignore[method-assign]
    pipeline._closing = True
    with pipeline._wake:
        pipeline._wake.notify_all()
    pipeline._thread.join()
    entry = client.post(f"/v1/alerts/{alert['id']}/feedback", json={"verdict": "normal"}).json()
    client.post("/v1/audit", content=ndjson([secret_event(1, seconds=DAY)]))
    with engine.store.transaction() as connection:
        connection.exec_driver_sql("DELETE FROM feedback")  # the process may die before it is stored
    pipeline.journal.close()
    for part in (service.running().retention, service.running().trimmer):
        part.close()
    engine.store.close()

    client, detector, engine = start()
    settle(client)
    assert detector.verdicts == [("alice@corp", (at(0),), "normal")]
    [same] = client.get("/v1/alerts").json()["alerts"]
    assert (same["id"], same["actionCount"]) == (alert["id"], 1)
    assert [json.loads(line) for line in client.get("/v1/feedback").text.splitlines()] == [entry]
    client.__exit__(None, None, None)


def test_the_ledger_names_who_gave_a_verdict(make_client: Any) -> None:
    client = make_client(events={"enabled": True})
    client.post("/v1/score", json=secret_event(0))
    [alert] = client.get("/v1/alerts").json()["alerts"]
    client.post(f"/v1/alerts/{alert['id']}/feedback", json={"verdict": "malicious", "by": "judy"})
    settle(client)
    service: Service = client.app.state.service
    assert service.wait_for_events(10) == 0
    assert service.events is not None
    [line] = [one.fields for one in service.events.ledger.entries if one.fields["kind"] == "verdict"]
    assert (line["alert"], line["verdict"], line["by"]) == (alert["id"], "malicious", "judy")


def test_what_an_exception_allows_is_kept_once_and_counted(
    store: AlertStore, explainer: Explainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Allowing(FakeDetector):
        """Flags nothing: an exception allows all of it."""

        held: HabitExceptions

        def allow(self, exceptions: HabitExceptions) -> None:
            self.held = exceptions

        def score(self, events: Sequence[AuditEvent]) -> Scores:
            scores = super().score(events)
            name = self.held.entries[0].name
            for row in np.flatnonzero(scores.flagged).tolist():
                scores.allowed[row] = AllowedAction(name, 9.0, 4.0, "critical")
            scores.flagged[:] = False
            return scores

    rule = {
        "name": "audit",
        "reason": "CHG-7",
        "expires": "2026-11-24",
        "principal": "alice@corp",
        "verbs": ["list"],
    }
    rules = HabitExceptions.from_list([rule])
    engine = Engine(Allowing(), FIELDS, model_info(), store, explainer, exceptions=lambda: rules)
    with monkeypatch.context() as down:
        down.setattr(Writer, "add_allowed", lambda *_: (_ for _ in ()).throw(StoreError("away")))
        with pytest.raises(StoreError):
            engine.score(decoded([secret_event(0)]))
        assert engine.has_unsaved
    assert engine.score(decoded([secret_event(1)])).raised == []
    again = Engine(Allowing(), FIELDS, model_info(), store, explainer, exceptions=lambda: rules)
    again.score(decoded([secret_event(0), secret_event(1)]))
    client = TestClient(
        create_app(Settings(events={"enabled": False}), again), base_url="http://127.0.0.1:8646"
    )
    with client:
        [one] = client.get("/v1/exceptions").json()["exceptions"]
        assert client.get("/v1/alerts").json()["alerts"] == []
    assert (one["name"], one["uses"], one["expired"], one["reason"]) == ("audit", 2, True, "CHG-7")
    assert one["lastUsed"] == "2026-11-23T14:00:01Z"
    newest = one["latest"][0]
    assert (newest["principal"], newest["action"]["auditID"], newest["action"]["severity"]) == (
        "alice@corp",
        "id-1",
        "critical",
    )
    assert newest["action"]["evidence"] == 9.0


def test_an_exception_holds_for_the_next_batch_after_it_was_added_or_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "exceptions.yaml"
    current = exceptions_of(Settings(alerts={"exceptions": path}))
    assert len(current()) == 0
    entry = HabitException("audit", "CHG-7", "9999-01-01", principal="alice@corp", verbs=("list",))
    append_exception(path, entry)
    assert current().entries == (entry,)
    path.unlink()
    assert len(current()) == 0


def test_a_verdict_survives_the_journal() -> None:
    verdict = HabitVerdict("7d0c", "alice@corp", "normal", 5, [1, 2, 3], "judy", "127.0.0.1", "{}")
    kept = verdict.to_record()
    assert kept.source == SOURCE
    assert HabitVerdict.from_body(kept.body) == verdict
