"""The habits of a principal, out of the event store: each count is one that can be checked in the story."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.forensics.principal_habits import compared, habits_of
from serving.forensics.queries import EventQueries
from tests.serving.event_stores import body, new_store, story
from tests.serving.fakes import raw_event

#: 2026-11-23T14:00:00Z, a Monday, where the story begins.
START = 1_795_442_400_000_000


@pytest.fixture(scope="module")
def queries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EventQueries]:
    folder = tmp_path_factory.mktemp("store")
    store = new_store(folder)
    store.append(body(story()))
    store.seal()
    late = [raw_event(40 + n, user="alice@corp", verb="list", seconds=86_400 + 3600 * n) for n in range(3)]
    store.append(body(late))
    opened = EventQueries(folder)
    yield opened
    opened.close()
    store.close()


def test_when_where_and_what_are_counted(queries: EventQueries) -> None:
    habits = habits_of(queries, "alice@corp")
    assert habits is not None
    assert (habits.count, habits.refused) == (24, 0)
    assert habits.week[0][14] == 21  # Monday, 14 to 15 o'clock
    assert [habits.week[1][hour] for hour in (14, 15, 16)] == [1, 1, 1]
    assert sum(map(sum, habits.week)) == habits.count
    assert {(one.value, one.count) for one in habits.namespaces} == {("team-a", 23), ("payments", 1)}
    assert {(one.value, one.count) for one in habits.verbs} == {("get", 21), ("list", 3)}
    assert {(one.verb, one.resource, one.count) for one in habits.deeds} == {
        ("get", "pods", 21),
        ("list", "pods", 3),
    }
    assert [(one.value, one.count) for one in habits.resources] == [("pods", 24)]
    assert [one.value for one in habits.objects] == ["pods team-a/web-0", "pods payments/web-0"]
    assert habits.addresses[0].value == "203.0.113.7,127.0.0.1"
    assert habits.user_agents[0].value.startswith("kubectl/v1.29.3")
    assert (habits.user_agents[0].first[:19], habits.user_agents[0].last[:19]) == (
        "2026-11-23T14:00:00",
        "2026-11-24T16:00:00",
    )
    assert habits.store_begins is not None
    assert habits.store_begins.startswith("2026-11-23T14:00:00")


def test_refusals_are_reported_with_what_was_asked_for(queries: EventQueries) -> None:
    habits = habits_of(queries, "mallory@corp")
    assert habits is not None
    assert habits.refused == 1
    (refusal,) = habits.refusals
    assert (refusal.code, refusal.verb, refusal.resource, refusal.namespace, refusal.count) == (
        403, "get", "secrets", "payments", 1,
    )  # fmt: skip


def test_a_span_of_time_bounds_what_is_counted(queries: EventQueries) -> None:
    habits = habits_of(queries, "alice@corp", START + 86_400_000_000)
    assert habits is not None
    assert habits.count == 3
    assert habits_of(queries, "alice@corp", START + 10 * 86_400_000_000) is None
    assert habits_of(queries, "nobody") is None


def test_only_the_most_frequent_objects_are_reported(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    names = [f"web-{n % 40}" for n in range(200)] + ["often"] * 50
    store.append(body([raw_event(n, name=name) for n, name in enumerate(names)]))
    with_many = EventQueries(tmp_path)
    habits = habits_of(with_many, "alice@corp")
    assert habits is not None
    assert len(habits.objects) == 12
    assert (habits.objects[0].value, habits.objects[0].count) == ("pods team-a/often", 50)
    with_many.close()
    store.close()


def test_peers_are_compared_by_what_they_do(queries: EventQueries) -> None:
    found = compared(queries, "mallory@corp", ["alice@corp", "bob@corp", "carol@corp"])
    assert found.active == 2
    assert [(one.verb, one.resource, one.count, one.peers) for one in found.both] == [
        ("get", "secrets", 1, 1)
    ]
    assert [(one.verb, one.resource, one.count, one.peers) for one in found.only_it] == [
        ("list", "secrets", 2, 0)
    ]
    assert {(one.verb, one.resource, one.peers) for one in found.only_peers} == {
        ("get", "pods", 1),
        ("list", "pods", 1),
    }
    alone = compared(queries, "mallory@corp", [])
    assert (alone.peers, alone.active, alone.only_peers) == ([], 0, [])


def test_names_of_callers_are_never_sql(queries: EventQueries) -> None:
    assert habits_of(queries, "' OR true --") is None
    assert compared(queries, "x", ["' OR true --"]).active == 0
