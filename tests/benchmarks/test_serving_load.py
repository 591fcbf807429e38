"""What the serving benchmark sends is what a kube-apiserver would send, and nobody is sent twice."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from itertools import islice
from pathlib import Path

import pytest

from benchmarks import bench_serving
from benchmarks.bench_serving import BATCH, crowd, event_lists, marked, percentile
from benchmarks.load import moved_on, read_bodies, send, write_bodies
from benchmarks.report import at_most
from benchmarks.serving_parts import PARTS, Clock, timed_methods
from data.actions.encoder import ActionEncoder
from data.events.decode import decode_body, decode_lines

ITEM = b'{"kind":"Event","apiVersion":"audit.k8s.io/v1",'


@pytest.fixture
def items(labelled_lines: list[bytes]) -> list[bytes]:
    return [b"{" + line.removeprefix(ITEM) for line in labelled_lines[:1000]]


def test_batches_hold_the_recording_as_the_webhook_sends_it(
    items: list[bytes], labelled_lines: list[bytes]
) -> None:
    bodies = event_lists(items)
    assert [count for _, count in bodies] == [BATCH, BATCH, 1000 - 2 * BATCH]
    sent = [event for body, _ in bodies for event in decode_body(body).events]
    recorded = decode_lines(labelled_lines[:1000]).events
    assert [event.auditID for event in sent] == [event.auditID for event in recorded]
    assert (
        ActionEncoder().encode(sent).principal.tolist() == ActionEncoder().encode(recorded).principal.tolist()
    )


def test_each_round_is_a_day_later_so_that_nothing_is_a_repeat(items: list[bytes], tmp_path: Path) -> None:
    write_bodies(tmp_path / "bodies", event_lists(items, 500))
    bodies = read_bodies(tmp_path / "bodies")
    rounds = islice(moved_on(bodies, date(2026, 11, 23), 0), 6)
    events = [event for body, _ in rounds for event in decode_body(body).events]
    assert len(ActionEncoder().encode(events)) == 3 * len(ActionEncoder().encode(events[:1000]))
    assert {event.requestReceivedTimestamp[:10] for event in events} == {
        "2026-11-23",
        "2026-11-24",
        "2026-11-25",
    }


def test_a_crowd_is_as_many_principals_as_it_says(normal_lines: list[bytes]) -> None:
    lines = [b"{" + line.removeprefix(ITEM) for line in normal_lines]
    encoder = ActionEncoder()
    sent = list(crowd(lines, principals=250, actions=20))
    encoder.encode(decode_body(event_lists(sent, len(sent))[0][0]).events)
    assert len(sent) == 250 * 20
    assert len({principal.name for principal in encoder.principals}) == 250


def test_answers_are_timed_from_when_their_requests_were_due() -> None:
    """A service that takes its time is not asked less for it: what waits behind a slow answer is late as well."""

    async def run() -> list[float]:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                    await reader.readexactly(length)
                    await asyncio.sleep(0.02)
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            except asyncio.IncompleteReadError:
                writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        bodies = iter([(b"{}", 1)] * 20)
        answers = await send(port, "/", bodies, requests=20, rate=1000.0)
        server.close()
        assert answers.statuses == {200: 20}
        assert answers.events == 20
        return answers.milliseconds

    with ThreadPoolExecutor(1) as elsewhere:  # where no other test has a loop
        waited = elsewhere.submit(asyncio.run, run()).result()
    assert waited == sorted(waited)
    assert waited[-1] > 10 * 20  # twenty answers of 20 ms each, asked for within 20 ms


def test_a_busy_machine_is_written_beside_what_depends_on_it() -> None:
    rows = [at_most("speed", 1.0, "us/event", 2.0), at_most("lost", 0, "events", 0)]
    assert [row.name for row in marked(rows, True)] == ["speed (busy machine)", "lost"]
    assert marked(rows, False) == rows
    assert percentile([1.0, 2.0, 3.0, 4.0], 50) in (2.0, 3.0)


def test_parts_that_call_each_other_are_not_counted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.0, 4.0, 10.0])
    monkeypatch.setattr("benchmarks.serving_parts.time.thread_time", lambda: next(now))
    clock = Clock()
    with clock.part("decode"), clock.part("encode"):
        pass
    assert (clock.seconds["encode"], clock.seconds["decode"]) == (3.0, 7.0)


def test_the_day_is_that_of_the_recording(labelled_lines: list[bytes]) -> None:
    events = decode_lines(labelled_lines).events
    assert {event.requestReceivedTimestamp[:10] for event in events} == {bench_serving.DAY.isoformat()}


def test_every_part_that_is_timed_exists() -> None:
    for owner, name, part in timed_methods():
        assert callable(getattr(owner, name)), (owner, name)
        assert part in PARTS
