"""Bodies of hundreds of mutated records: all are accounted for, those beside them stay, and what breaks that is found."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.fuzzing import bodies, events
from benchmarks.fuzzing.bodies import Bodies
from benchmarks.fuzzing.campaign import BrokenPromiseError, Campaign, HangError, smallest, time_limit
from benchmarks.fuzzing.events import FuzzedEvents
from data.events.audit_event import AuditEvent
from data.events.decode import decode_body

KINDS = ("_lines", "_container", "_archive", "_left_open")


@pytest.fixture(scope="module")
def made() -> Bodies:
    return Bodies(seeds=40, untouched=16, records=60)


@pytest.fixture(scope="module")
def fuzzed() -> FuzzedEvents:
    return FuzzedEvents(fuzzed=60)


def first_failure(play: Callable[[random.Random], object]) -> BrokenPromiseError:
    for number in range(40):
        try:
            play(random.Random(number))
        except BrokenPromiseError as error:
            return error
    raise AssertionError("nothing was found")


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_records_change_nothing_beside_them(made: Bodies, kind: str) -> None:
    counts: Counter[str] = Counter()
    for number in range(2):
        counts += getattr(made, kind)(random.Random(f"{kind} {number}"))
    assert counts["inputs"] >= 20
    assert counts["actions"]
    assert counts["dead letters"]


def test_fuzzed_events_change_nothing_beside_them(fuzzed: FuzzedEvents) -> None:
    counts: Counter[str] = Counter()
    for number in range(6):
        counts += fuzzed.play(random.Random(number))
    assert counts["inputs"] == 6 * 60
    assert counts["recorded"] > 200  # most are whole enough to reach what is behind the decoder
    assert counts["secrets"]


def test_a_record_that_takes_its_neighbour_along_is_found_and_cut_out(
    made: Bodies, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgetful(data: bytes, way: str) -> bodies.Outcome:
        found = bodies.as_file(data)
        marked = [number for number, (_, raw) in enumerate(found.dead) if b"\xff" in raw]
        return found._replace(events=found.events[1:]) if marked else found

    monkeypatch.setattr(bodies, "read", forgetful)
    caught = first_failure(made._lines)
    assert len(caught.inputs) <= 2
    assert any(b"\xff" in one for one in caught.inputs)


def test_an_event_that_is_encoded_for_another_is_found(
    fuzzed: FuzzedEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swapped(data: bytes, way: str) -> bodies.Outcome:
        found = bodies.of_parts([decode_body(data)])
        first: AuditEvent = found.events[0]
        first.verb = "stolen"
        return found

    monkeypatch.setattr(events, "read", swapped)
    assert "untouched events" in str(first_failure(fuzzed.play))


def test_the_smallest_part_that_breaks_is_found() -> None:
    assert smallest(list(range(100)), lambda some: {17, 63} <= set(some)) == [17, 63]
    assert smallest([1], lambda some: True) == [1]


def test_a_campaign_goes_on_where_it_ended(tmp_path: Path) -> None:
    report, seen = tmp_path / "report.json", list[float]()

    def play(chance: random.Random) -> Counter[str]:
        seen.append(chance.random())
        if len(seen) == 2:
            raise BrokenPromiseError("broken", [b"bad"])
        return Counter(inputs=10, actions=7)

    said: list[str] = []
    Campaign(report, 3, said.append).run(20, play)
    figures = Campaign(report, 99, said.append).run(30, play)
    assert (figures["inputs"], figures["rounds"], figures["broken"], figures["seed"]) == (30, 4, 1, 3)
    assert figures["counts"] == {"actions": 21}
    assert json.loads(report.read_text())["inputs"] == 30
    assert seen == [random.Random(f"3 {number}").random() for number in range(4)]
    assert (tmp_path / "report.round1.0").read_bytes() == b"bad"
    assert "broken" in said[0]


def test_what_hangs_is_stopped() -> None:
    def hang() -> None:
        while True:
            pass

    forever: Callable[[], None] = hang
    with pytest.raises(HangError), time_limit(0.05):
        forever()
