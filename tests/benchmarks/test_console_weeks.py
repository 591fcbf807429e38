"""The everyday work before the pictures: in order, at office hours, no event twice, and nothing changed but the hour."""

from __future__ import annotations

import json
from datetime import timedelta
from itertools import pairwise

import pytest

from benchmarks.console_weeks import moment_of, moved, weeks
from data.events.decode import decode_lines


@pytest.mark.slow
def test_weeks_are_in_order_at_office_hours_and_hold_no_event_twice() -> None:
    pieces = list(weeks(days=8))
    times = [[moment_of(json.loads(line)) for line in piece] for piece in pieces]
    assert all(before[0] < after[0] for before, after in pairwise(times))
    assert {time.hour for piece in times for time in piece} <= set(range(7, 21))
    requests = [
        (event["auditID"], event["stage"], event["stageTimestamp"])
        for piece in pieces
        for event in map(json.loads, piece)
    ]
    assert len(set(requests)) == len(requests)
    assert not decode_lines([line for piece in pieces for line in piece]).dead


def test_events_are_moved_and_otherwise_the_same(normal_lines: list[bytes]) -> None:
    before = [json.loads(line) for line in normal_lines[:50]]
    to = moment_of(before[0]) - timedelta(days=3)
    after = [json.loads(line) for line in moved(normal_lines[:50], to, "abcdef")]
    assert moment_of(after[0]) == to
    changed = ("auditID", "requestReceivedTimestamp", "stageTimestamp")
    for one, other in zip(before, after, strict=True):
        assert moment_of(one) - moment_of(other) == timedelta(days=3)
        assert {name: value for name, value in one.items() if name not in changed} == {
            name: value for name, value in other.items() if name not in changed
        }
        assert other["auditID"].endswith("abcdef")
        assert other["auditID"] != one["auditID"]
