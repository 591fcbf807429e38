"""Questions about what happened, and what cannot be asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kubehabit.client.events import object_of
from serving.api.parameters import codes_of
from serving.forensics import clock
from serving.forensics.queries import (
    EventFilter,
    EventQueries,
    QueryError,
    QueryTimeoutError,
    moment_of,
    resource_of,
)
from tests.serving.event_stores import body, new_store, story

#: 2026-11-23T14:00:00Z, where the story begins.
START = 1_795_442_400_000_000


@pytest.fixture(scope="module")
def queries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EventQueries]:
    folder = tmp_path_factory.mktemp("store")
    store = new_store(folder)
    store.append(body(story()[:22]))
    store.seal()
    store.append(body(story()[22:]), alerts={"id-30": "a1"})
    opened = EventQueries(folder)
    yield opened
    opened.close()
    store.close()


def ids(queries: EventQueries, wanted: EventFilter) -> list[str]:
    return [record.audit_id for record in queries.events(wanted, limit=1000).records]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (EventFilter(principal="mallory@corp"), ["id-30", "id-31", "id-32"]),
        (EventFilter(credential="3f2a8c1e"), ["id-30", "id-31"]),
        (EventFilter(credential="JTI=3f2a8c1e", since=START + 31_000_000), ["id-31"]),
        (EventFilter(resource="secrets", name="db", until=START + 22_000_000), ["id-20", "id-21"]),
        (EventFilter(codes=(400, 499)), ["id-31"]),
        (EventFilter(verbs=("list", "watch")), ["id-30", "id-32"]),
        (EventFilter(namespace="payments", principal="alice@corp"), ["id-33"]),
        (EventFilter(audit_ids=("id-5", "id-33", "gone")), ["id-5", "id-33"]),
        (EventFilter(alert="a1"), ["id-30"]),
        (EventFilter(address="203.0.113.7", user_agent="kubectl/v1.29", since=START + 33_000_000), ["id-33"]),
        (EventFilter(address="203.0.113"), []),
        (EventFilter(principal="' OR true --"), []),
        (EventFilter(principal="%"), []),
    ],
)  # fmt: skip
def test_events_are_found_by_what_they_say(
    queries: EventQueries, wanted: EventFilter, expected: list[str]
) -> None:
    assert ids(queries, wanted) == expected


def test_pages_follow_each_other_in_both_directions(queries: EventQueries) -> None:
    whole = ids(queries, EventFilter())
    for newest in (False, True):
        found: list[str] = []
        cursor = None
        while True:
            page = queries.events(EventFilter(), limit=4, cursor=cursor, newest=newest)
            found += [record.audit_id for record in page.records]
            cursor = page.cursor
            if cursor is None:
                break
        assert found == (whole[::-1] if newest else whole)


@pytest.mark.parametrize("cursor", ["", "1", "x-y", "1-2; DROP", "9" * 40])
def test_a_cursor_that_is_none_of_ours_is_refused(queries: EventQueries, cursor: str) -> None:
    with pytest.raises(QueryError, match="cursor"):
        queries.events(EventFilter(), cursor=cursor)


def test_who_touched_a_secret_names_also_who_saw_it_in_a_list(queries: EventQueries) -> None:
    wanted = EventFilter(resource="secrets", namespace="payments", name="db")
    found = {(one.principal, one.verb, one.how): one for one in queries.touched(wanted)}
    assert set(found) == {
        ("bob@corp", "get", "direct"),
        ("mallory@corp", "get", "direct"),
        ("mallory@corp", "list", "list"),
    }
    assert (found["bob@corp", "get", "direct"].count, found["bob@corp", "get", "direct"].allowed) == (3, 3)
    assert (found["mallory@corp", "get", "direct"].count, found["mallory@corp", "get", "direct"].allowed) == (
        1,
        0,
    )
    assert found["mallory@corp", "list", "list"].count == 2  # of the namespace, and of the cluster
    assert found["mallory@corp", "get", "direct"].credentials == ["JTI=3f2a8c1e"]
    exact = queries.touched(wanted, listings=False)
    assert {one.how for one in exact} == {"direct"}
    late = queries.touched(replace(wanted, since=START + 30_000_000))
    assert {one.principal for one in late} == {"mallory@corp"}


def test_who_is_new_in_a_namespace_counts_all_that_came_before(queries: EventQueries) -> None:
    found = queries.newcomers("payments", START + 25_000_000)
    assert [(one.principal, one.count, one.allowed) for one in found] == [
        ("alice@corp", 1, 1),
        ("mallory@corp", 2, 1),
    ]
    assert found[0].known_since == "2026-11-23T14:00:00.000000Z"
    assert found[1].known_since == found[1].first == "2026-11-23T14:00:30.000000Z"
    assert queries.newcomers("payments", START + 25_000_000, START + 30_000_000) == []
    assert queries.newcomers("nowhere", START) == []


def test_the_life_of_a_principal_is_summed_up(queries: EventQueries) -> None:
    life = queries.life("mallory@corp")
    assert life is not None
    assert (life.count, life.allowed, life.alerts) == (3, 2, ["a1"])
    assert [(top.value, top.count) for top in life.did] == [("list secrets", 2), ("get secrets", 1)]
    assert [(top.value, top.count) for top in life.namespaces] == [("payments", 2)]
    assert queries.life("mallory@corp", until=START) is None
    assert queries.life("nobody") is None


def test_the_store_says_how_far_back_it_goes(queries: EventQueries) -> None:
    extent = queries.extent()
    assert (extent.records, extent.earliest, extent.latest) == (27, START, START + 33_000_000)


def test_a_question_that_takes_too_long_is_ended(queries: EventQueries) -> None:
    hasty = EventQueries(queries.folder, seconds=0.05)
    endless = "SELECT sum(a.range * b.range) FROM range(10000000) a, range(10000000) b"
    with pytest.raises(QueryTimeoutError, match="shorter time"):
        hasty.answer(None, None, lambda source: source.all(endless))


def test_the_database_reaches_nothing_but_the_store(queries: EventQueries, tmp_path: Path) -> None:
    import duckdb

    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    for statement in (
        f"SELECT * FROM read_csv('{secret}')",
        f"COPY (SELECT 1) TO '{tmp_path}/out.csv'",
        "INSTALL httpfs",
        "SET enable_external_access = true",
    ):
        with pytest.raises(duckdb.Error):
            queries._root.execute(statement)


def test_without_a_store_there_is_no_answer(tmp_path: Path) -> None:
    with pytest.raises(QueryError, match="--store"):
        EventQueries(tmp_path)


NOW = datetime(2026, 11, 24, 15, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7d", "2026-11-17T15:00:00"),
        ("90m", "2026-11-24T13:30:00"),
        ("2 w", "2026-11-10T15:00:00"),
        ("14:02", "2026-11-24T14:02:00"),
        ("15:30", "2026-11-23T15:30:00"),
        ("2026-11-20", "2026-11-20T00:00:00"),
        ("2026-11-20T08:00:00+02:00", "2026-11-20T06:00:00"),
        ("2026-11-20T08:00Z", "2026-11-20T08:00:00"),
    ],
)
def test_times_are_written_as_people_do(text: str, expected: str) -> None:
    assert datetime.fromtimestamp(moment_of(text, NOW) / 1e6, UTC).isoformat()[:19] == expected


OVERFLOWING = ["999999w", "0001-01-01T00:00:00+23:00", "9999-12-31T23:59:59-23:00"]


@pytest.mark.parametrize("text", ["", "yesterday", "25:00", "7", "d", "2026-13-01", "-1d", *OVERFLOWING])
def test_what_is_no_time_is_refused_with_examples(text: str) -> None:
    with pytest.raises(QueryError, match="14:02"):
        moment_of(text, NOW)


@pytest.mark.parametrize(
    ("kind", "resource"),
    [
        ("secret", "secrets"),
        ("Secrets", "secrets"),
        ("po", "pods"),
        ("ingress", "ingresses"),
        ("networkpolicy", "networkpolicies"),
        ("crb", "clusterrolebindings"),
        ("endpoints", "endpoints"),
        ("widget", "widgets"),
    ],
)
def test_kinds_are_named_as_kubectl_takes_them(kind: str, resource: str) -> None:
    assert resource_of(kind) == resource


def test_objects_are_named_with_their_namespace_or_without() -> None:
    assert object_of("secret", "payments/db") == EventFilter(
        resource="secrets", namespace="payments", name="db"
    )
    assert object_of("secret", "payments/") == EventFilter(resource="secrets", namespace="payments")
    assert object_of("node", "n1") == EventFilter(resource="nodes", name="n1")
    assert object_of("secret", None) == EventFilter(resource="secrets")


def test_answers_are_named_by_code_class_or_span() -> None:
    assert [codes_of(text) for text in ("403", "4xx", "500-599", None)] == [
        (403, 403),
        (400, 499),
        (500, 599),
        None,
    ]
    with pytest.raises(QueryError, match="4xx"):
        codes_of("all")


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00", "0999-12-31T23:59:59", "9999-12-31T23:59:59"])
def test_a_time_in_an_answer_can_be_asked_for_however_far_away_it_is(time: str) -> None:
    # A time that was never set is the first of the year 1 in what Go writes.
    assert clock.written(moment_of(f"{time}Z", 0)) == f"{time}.000000Z"
    assert moment_of(clock.written(moment_of(f"{time}Z", 0)), 0) == moment_of(f"{time}Z", 0)
