"""How many different objects a person reads: counted in powers of two, forgotten in time, bounded, undone."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from data.actions.breadth import SPANS, Read, ReadTracker, is_followed, step
from data.actions.encoder import ActionEncoder
from data.events.decode import decode_lines
from tests.data.samples import event

SECOND = 1_000_000
START = datetime(2026, 1, 5, 9, 30, tzinfo=UTC)


def secret(number: int, reader: str = "dev-1") -> Read:
    return Read(reader, "get", "secrets", number)


def read_at(second: float, name: str, *, user: str = "dev-1@example.com", verb: str = "get") -> bytes:
    when = (START + timedelta(seconds=second)).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return event(
        auditID=f"{second}-{name}-{user}-{verb}",
        user={"username": user, "groups": ["system:authenticated"]},
        verb=verb,
        requestURI=f"/api/v1/namespaces/web/secrets/{name}",
        objectRef={"resource": "secrets", "namespace": "web", "name": name, "apiVersion": "v1"},
        requestReceivedTimestamp=when,
    )


def spans(*lines: bytes) -> list[tuple[str, ...]]:
    encoder = ActionEncoder()
    batch = encoder.encode(decode_lines(lines).events)
    columns = [[encoder.interners[span].values[code] for code in batch.codes[span]] for span in SPANS]
    return list(zip(*columns, strict=True))


def test_a_count_is_a_power_of_two() -> None:
    assert [step(count) for count in (1, 2, 3, 4, 7, 8, 256)] == [
        *("-", "2 or more", "2 or more", "4 or more", "4 or more", "8 or more", "256 or more")
    ]


def test_different_objects_count_and_the_same_one_again_does_not() -> None:
    lines = [read_at(second, name) for second, name in enumerate(("a", "b", "a", "b", "c", "d"))]
    assert spans(*lines) == [
        *(("-", "-"), ("2 or more", "2 or more"), ("2 or more", "2 or more"), ("2 or more", "2 or more")),
        *(("2 or more", "2 or more"), ("4 or more", "4 or more")),
    ]


def test_who_reads_slowly_is_slow_and_who_pauses_begins_again() -> None:
    lines = [read_at(40 * number, f"key-{number}") for number in range(4)] + [read_at(800, "last")]
    assert spans(*lines) == [
        *(("-", "-"), ("-", "2 or more"), ("-", "2 or more"), ("-", "4 or more"), ("-", "-"))
    ]


def test_only_people_are_followed_and_only_reads_of_one_object() -> None:
    account = "system:serviceaccount:web:operator"
    lines = [read_at(number, f"key-{number}", user=account) for number in range(4)]
    lines += [read_at(number, f"key-{number}", verb="update") for number in range(4)]
    assert set(spans(*lines)) == {("-", "-")}


def test_readers_and_kinds_of_request_are_apart() -> None:
    tracker = ReadTracker()
    assert tracker.follow(secret(1), 0) == ("-", "-")
    assert tracker.follow(secret(2, "dev-2"), 0) == ("-", "-")
    assert tracker.follow(Read("dev-1", "get", "configmaps", 3), 0) == ("-", "-")
    assert tracker.follow(secret(2), 0) == ("2 or more", "2 or more")


def test_how_events_are_split_over_calls_changes_nothing() -> None:
    lines = [read_at(7 * number, f"key-{number % 9}") for number in range(40)]
    encoder = ActionEncoder()
    one_by_one = []
    for line in lines:
        batch = encoder.encode(decode_lines([line]).events)
        one_by_one.append(tuple(encoder.interners[span].values[batch.codes[span][0]] for span in SPANS))
    assert one_by_one == spans(*lines)


def test_an_undone_call_leaves_no_trace() -> None:
    tracker = ReadTracker(capacity=6)
    for number in range(5):
        tracker.follow(secret(number), number)
    before = json.dumps(tracker.to_list())
    undo_first = tracker.checkpoint()
    tracker.follow(secret(9), 10)
    undo = tracker.checkpoint()
    for number in range(20):  # more than it holds, so that others are forgotten meanwhile
        tracker.follow(secret(number, f"dev-{number}"), 700 * SECOND + number)
    undo()
    undo_first()
    assert json.dumps(tracker.to_list()) == before
    assert tracker.follow(secret(5), 6) == ReadTracker.from_list(json.loads(before)).follow(secret(5), 6)


@pytest.mark.parametrize("readers", [1, 50, 5000])
def test_it_is_bounded(readers: int) -> None:
    tracker = ReadTracker(capacity=1000)
    most = 0
    for number in range(5000):
        found = tracker.follow(secret(number, f"dev-{number % readers}"), number)
        most = max(most, sum(len(row[3]) for row in tracker.to_list()) if number % 100 == 99 else 0)
    assert found[1] in {1: ["256 or more"], 5000: ["-"]}.get(
        readers, ["4 or more", "8 or more", "16 or more"]
    )
    assert 256 <= most <= 1000
    assert is_followed("apps/deployments/scale")
    assert not is_followed("x" * 1000)


def test_it_is_continued_as_it_was() -> None:
    tracker = ReadTracker()
    for number in range(10):
        tracker.follow(secret(number), number)
    again = ReadTracker.from_list(json.loads(json.dumps(tracker.to_list())))
    copy = tracker.copy()
    assert [one.follow(secret(11), 30) for one in (tracker, again, copy)] == [("8 or more", "8 or more")] * 3
