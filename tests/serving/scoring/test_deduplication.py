"""An event that is sent again is recognised by all it says, and by nothing less."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.events.decode import decode_body
from serving.scoring.deduplication import EventDeduplicator
from tests.serving.fakes import decoded, raw_event


def first(deduplicator: EventDeduplicator, *events: dict[str, Any]) -> list[bool]:
    return deduplicator.first(decoded(events))


def test_what_was_sent_before_is_a_repeat_also_within_one_batch() -> None:
    deduplicator = EventDeduplicator(100)
    assert first(deduplicator, raw_event(0), raw_event(1), raw_event(0)) == [True, True, False]
    assert first(deduplicator, raw_event(1), raw_event(2)) == [False, True]
    assert first(deduplicator) == []


def test_a_webhooks_copy_and_the_logs_copy_are_one_event() -> None:
    deduplicator = EventDeduplicator(100)
    logged = raw_event(0)
    item = {name: value for name, value in logged.items() if name not in ("kind", "apiVersion")}
    listed = {"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "metadata": {}, "items": [item]}
    assert deduplicator.first(decode_body(json.dumps(listed).encode()).events) == [True]
    assert first(deduplicator, logged, raw_event(1)) == [False, True]


@pytest.mark.parametrize(
    "other",
    [
        {"verb": "delete"},
        {"user": {"username": "mallory"}},
        {"requestURI": "/api/v1/namespaces/payments/secrets"},
        {"stage": "ResponseStarted"},
        {"requestReceivedTimestamp": "2026-11-23T14:00:00.000001Z"},
        {"stageTimestamp": "2026-11-23T14:00:00.000001Z"},
        {"sourceIPs": ["198.51.100.1"]},
        {"responseStatus": {"code": 403}},
        {"requestObject": {"spec": {"hostNetwork": True}}},
        {"objectRef": {"resource": "secrets"}},
        {"impersonatedUser": {"username": "admin"}},
        {"kubehabit.cluster": "east"},
    ],
)
def test_another_action_with_a_used_audit_id_is_no_repeat(other: dict[str, Any]) -> None:
    deduplicator = EventDeduplicator(100)
    assert first(deduplicator, raw_event(0), raw_event(0) | other) == [True, True]


@given(st.integers(1, 50), st.lists(st.lists(st.integers(0, 200), max_size=20), max_size=30))
def test_at_least_the_last_events_are_remembered(capacity: int, batches: list[list[int]]) -> None:
    deduplicator = EventDeduplicator(capacity)
    seen: list[int] = []
    for batch in batches:
        for number, is_first in zip(
            batch, first(deduplicator, *(raw_event(number) for number in batch)), strict=True
        ):
            assert is_first or number in seen
            assert not (is_first and number in seen[-capacity:])
            seen.append(number)
    kept = sum(map(len, deduplicator.to_arrays()))
    assert kept <= 2 * capacity + 20


@given(st.integers(1, 50), st.lists(st.integers(0, 60), max_size=100))
def test_a_memory_can_be_continued_elsewhere(capacity: int, numbers: list[int]) -> None:
    deduplicator = EventDeduplicator(capacity)
    for number in numbers:
        first(deduplicator, raw_event(number))
    again = EventDeduplicator.from_arrays(capacity, deduplicator.key, deduplicator.to_arrays())
    later = [raw_event(number) for number in range(60)]
    assert first(again, *later) == first(deduplicator, *later)


def test_each_memory_has_a_key_of_its_own() -> None:
    one, other = EventDeduplicator(10), EventDeduplicator(10)
    for deduplicator in (one, other):
        first(deduplicator, raw_event(0))
    assert one.to_arrays()[-1].tolist() != other.to_arrays()[-1].tolist()
