"""The benchmark of incidents judges as it says."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from benchmarks.bench_incidents import judge, rows_of
from serving.alerts import Surrounding
from serving.story import Incident, Session

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


def told(*listed: str, reason: str = "namespace", evidence: tuple[str, ...] = ("a1", "a2")) -> Incident:
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
    return Incident(id="i", state="open", sessions=[session], audit_ids=list(evidence))


def judged(incident: Incident, **more: Any) -> Any:
    given = {"suspects": frozenset(), "followed": frozenset({"c1"})} | more
    return judge(RUN, incident, **given)


def test_the_first_malicious_action_must_be_among_the_first_five() -> None:
    assert judged(told("x", "x2", "x3", "x4", "a1", "a2")).begins_right
    assert not judged(told("x", "x2", "x3", "x4", "x5", "a1", "a2")).begins_right
    assert not judged(told("a2")).begins_right


def test_shares_and_suspects_are_counted() -> None:
    one = judged(told("a1", evidence=("a1",)), suspects=frozenset({"c2"}))
    assert (one.cited, one.induced, one.followed, one.suspected) == (0.5, 2, 1, 1)


def test_a_reason_must_name_what_the_run_needs_or_what_the_attacker_changed() -> None:
    for reason, needed, differs in (
        ("namespace", True, True),
        ("place", False, True),
        ("client", False, False),
    ):
        one = judged(told("a1", reason=reason))
        assert (one.needed, one.differs) == (needed, differs)


def test_bars_are_held_over_all_detected_runs() -> None:
    rows = {row.name: row for row in rows_of([judged(told("a1", "a2")), judged(told("a2"))], 3, 2)}
    first = next(row for name, row in rows.items() if name.startswith("first malicious"))
    assert (first.value, first.ok) == (0.5, False)
    assert rows["right principal"].ok
