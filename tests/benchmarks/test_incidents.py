"""The benchmark of incidents judges as it says."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.bench_incidents import Exported, judge, measure, rows_of
from data.actions.fields import FIELDS
from serving.alerts.explain.explainer import Explainer
from serving.incidents.report import Incident, Source
from serving.incidents.sessions import Session
from serving.schemas import Surrounding
from serving.scoring.engine import Engine
from serving.settings import load_settings
from serving.storage.database import AlertStore
from tests.serving.conftest import model_info
from tests.serving.fakes import FakeDetector, ndjson, raw_event, secret_event

NOW = datetime(2026, 11, 23, 14, tzinfo=UTC)
RUN = {
    "scenario": "secrets-sweep",
    "principal": "alice@corp",
    "mode": "new-ip",
    "audit_ids": ["a1", "a2"],
    "induced_audit_ids": ["c1", "c2"],
    "needs": ["NS"],
}


def action(name: str) -> Surrounding:
    return Surrounding(audit_id=name, time=NOW, did="", verb="get", role="flagged", principal="alice@corp")


def reported(*listed: str, reason: str = "namespace") -> Incident:
    session = Session(
        principal="alice@corp",
        address="203.0.113.7",
        client="kubectl",
        first_seen=NOW,
        last_seen=NOW,
        suspicious=1,
        action_count=len(listed),
        top_attribute=reason,
        actions=[action(name) for name in listed],
    )
    source = Source(
        principal="alice@corp",
        who="",
        time=NOW,
        audit_id=listed[0],
        did="",
        address="",
        client="",
        credential="",
        confidence="likely",
        why="",
    )
    return Incident(id="i", state="open", source=source, sessions=[session])


def exported(*suspects: str, consequences: tuple[str, ...] = ()) -> Exported:
    return Exported(frozenset(suspects), frozenset(consequences), 0, [])


def judged(incident: Incident, **more: Any) -> Any:
    given = {
        "exported": exported("a1", "a2"),
        "suspects": frozenset(),
        "followed": frozenset({"c1"}),
    } | more
    return judge(RUN, incident, **given)


def test_the_first_malicious_action_must_be_among_the_first_five() -> None:
    assert judged(reported("x", "x2", "x3", "x4", "a1", "a2")).begins_right
    assert not judged(reported("x", "x2", "x3", "x4", "x5", "a1", "a2")).begins_right
    assert not judged(reported("a2")).begins_right


def test_shares_and_suspects_are_counted() -> None:
    one = judged(reported("a1"), exported=exported("a1"), suspects=frozenset({"c2"}))
    assert (one.cited, one.induced, one.followed, one.suspected) == (0.5, 2, 1, 1)


def test_a_reason_must_name_what_the_run_needs_or_what_the_attacker_changed() -> None:
    for reason, needed, differs in (
        ("namespace", True, True),
        ("place", False, True),
        ("client", False, False),
    ):
        one = judged(reported("a1", reason=reason))
        assert (one.needed, one.differs) == (needed, differs)


def test_bars_are_held_over_all_detected_runs() -> None:
    rows = {row.name: row for row in rows_of([judged(reported("a1", "a2")), judged(reported("a2"))], 3, 2)}
    first = next(row for name, row in rows.items() if name.startswith("first malicious"))
    assert (first.value, first.ok) == (0.5, False)
    assert rows["right principal"].ok


def test_only_what_the_export_holds_as_a_suspects_deed_is_cited() -> None:
    one = judged(reported("a1"), exported=exported("x", consequences=("a1", "a2")))
    assert one.cited == 0


def test_a_beginning_is_right_by_what_is_listed_where_the_incident_says_it_began() -> None:
    rows = {
        row.name: row.value for row in rows_of([judged(reported("x", "a1")), judged(reported("x"))], 2, 1)
    }
    assert [value for name, value in rows.items() if name.startswith("incidents that")] == [0, 1]
    later = judged(reported("x", "a1"), earliest=False)
    assert [row.value for row in rows_of([later], 2, 1) if row.name.startswith("incidents that list")] == [0]


def test_a_log_is_kept_exported_and_verified(tmp_path: Path) -> None:
    store = AlertStore("sqlite://", retention_days=3650, max_alerts=1000)
    engine = Engine(FakeDetector(), FIELDS, model_info(), store, Explainer.load(load_settings().explain_path))
    events = [raw_event(0), secret_event(1), raw_event(2, user="bob@corp")]
    log, labels = tmp_path / "log.jsonl", tmp_path / "labels.json"
    log.write_bytes(ndjson(events))
    run = RUN | {
        "kind": "attack",
        "start": "2026-11-23T14:00:00Z",
        "audit_ids": ["id-1"],
        "induced_audit_ids": [],
    }
    labels.write_text(json.dumps([run]))
    (tmp_path / "scratch").mkdir()
    rows, [one] = measure(engine, log, labels, tmp_path / "scratch")
    assert (one.cited, one.begins_right, one.source_right) == (1, True, True)
    values = {row.name: (row.value, row.ok) for row in rows}
    assert values["exports that do not verify offline"] == (0, True)
    assert values["audit IDs that an export names and does not hold"] == (0, True)
