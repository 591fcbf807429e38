"""Habitual work is moved to the night as it was: only its time and its audit IDs are other."""

from pathlib import Path

import numpy as np
import pytest
from msgspec import json
from msgspec.structs import replace

from benchmarks.night import alarms, moved, rows, sessions
from data.events.audit_event import AuditEvent
from data.events.decode import decode_lines
from training.evaluation.strict_replay import FalseIncident, Outcome
from training.evaluation.transplants import at, received

_HOUR = 3600 * 1_000_000
_DAY = 24 * _HOUR


@pytest.fixture(scope="module")
def session(labelled_lines: list[bytes]) -> list[AuditEvent]:
    """Three requests of one person from ten o'clock on, a minute apart."""
    events = decode_lines(labelled_lines[:1500]).events
    one = next(event for event in events if "@" in event.user.username)
    return [at(one, 20 * _DAY + 10 * _HOUR + step * _HOUR // 60, f"{step}") for step in range(3)]


def test_a_session_keeps_all_but_its_time(session: list[AuditEvent]) -> None:
    case = moved(session, 30 * _DAY, 3 * _HOUR, 5)
    assert (received(case.events) - 30 * _DAY).tolist() == [
        3 * _HOUR + step * _HOUR // 60 for step in range(3)
    ]
    assert [event.auditID for event in case.events] == ["0-5", "1-5", "2-5"]
    as_before = [
        at(event, int(when), was.auditID)
        for event, was, when in zip(case.events, session, received(session), strict=True)
    ]
    assert as_before == session
    assert received(moved(session, 30 * _DAY, None, 5).events)[0] == 30 * _DAY + 10 * _HOUR


def test_who_works_at_night_is_left_out(session: list[AuditEvent], tmp_path: Path) -> None:
    other = replace(session[0].user, username="owl@corp.example")
    late = [replace(at(event, 21 * _DAY + step), user=other) for step, event in enumerate(session)]
    later = [at(event, int(received([event])[0]) + 2 * _HOUR) for event in session]
    lines = [json.encode(event) for event in [*session, *later, *late]]
    (tmp_path / "normal.jsonl.zst").write_bytes(b"\n".join(lines))
    found = sessions(tmp_path)
    assert list(found) == [session[0].user.username]
    assert [len(part) for part in found[session[0].user.username]] == [3, 3]


def test_shares_are_of_the_cases() -> None:
    seen = [
        Outcome(flag, None, peak, severity, 3)
        for flag, peak, severity in (
            (True, 2.0, "high"),
            (True, 1.2, "low"),
            (False, 0.4, "none"),
            (False, 0.2, "none"),
        )
    ]
    noticed, high, times = rows("others", seen, thief=True)
    assert (noticed.value, noticed.ok, high.value) == (50.0, False, 25.0)
    assert np.isclose(times.value, 0.8)
    assert rows("the rota", seen, thief=False)[1].ok is False


def test_repeats_and_what_a_look_alike_leaves_behind_are_counted_apart() -> None:
    def incident(principal: str, second: int, repeats: int) -> FalseIncident:
        time = second * 1_000_000
        return FalseIncident(principal, "service", time, 2, repeats, "high", "", 1.0, 1.0, 0.0, [], [])

    labels = [
        {"kind": "attack", "principals": ["robbed"], "start": "1970-01-01T00:00:00Z"},
        {"kind": "benign-lookalike", "principals": ["moved", "late"], "start": "1970-01-01T00:00:05.5Z"},
    ]
    false = [incident("moved", 6, 1), incident("robbed", 6, 0), incident("late", 5, 0)]
    repeats = [incident("moved", second, 2) for second in range(7, 12)]
    assert [row.value for row in alarms(false + repeats, labels, 2)] == [4.0, 1.5, 1.0]
