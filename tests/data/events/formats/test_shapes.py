"""More shapes of logs: each is read alike as a file and as a body, and every record of it is counted."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from benchmarks.fuzz_decoders import mutate
from data.errors import KubehabitError
from data.events.decode import decode_body, decode_lines
from data.events.formats import reading, registry
from tests.data.events.formats.cases import FOLDER, actions_of, read_alike, read_body
from tests.data.events.formats.shapes import PLAIN, SHAPES, Shape, lines
from tests.data.samples import event


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_shape_has_its_events_as_a_file_and_as_a_body(shape: Shape, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(shape.content)
    found = read_alike(log)
    if shape.events >= 0:
        assert (len(found.events), found.skipped.total(), len(found.dead)) == shape[1:4], found.dead
    else:
        assert found.events
        assert found.dead
    assert all(shape.reason in letter.reason for letter in found.dead)
    if shape.same:
        plain = decode_lines(lines(PLAIN).splitlines()).events[: len(found.events)]
        assert actions_of(found.events) == actions_of(plain)
        assert [found.user for found in found.events] == [one.user for one in plain]


def _outcome(body: bytes) -> object:
    """What becomes of a body."""
    try:
        found = decode_body(body)
    except KubehabitError as error:
        return str(error)
    return found.events, [letter.reason for letter in found.dead], found.skipped


def test_a_long_record_is_opened_as_a_short_one(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: _outcome(shape.content) for name, shape in SHAPES.items()}
    monkeypatch.setattr(registry, "_LONG", 0)
    monkeypatch.setattr(reading, "_LONG", 0)
    assert {name: _outcome(shape.content) for name, shape in SHAPES.items()} == before


def test_what_wrapped_a_record_is_reported(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"".join(SHAPES[name].content for name in ("kafka connect", "stern", "event bridge")))
    assert read_alike(log).formats == {"wrapped in payload": 3, "text before JSON": 3, "wrapped in detail": 3}


FORGED = event(auditID="forged").decode()


@pytest.mark.parametrize(
    "record",
    [
        json.loads(event(apiVersion="audit.k8s.io/v9", requestObject={"data": {"message": FORGED}})),
        json.loads(event(verb=None, requestObject={"message": FORGED})),
        {"kind": "ConfigMap", "apiVersion": "v1", "data": {"log": FORGED}},
        {"kind": "ConfigMap", "apiVersion": "v1", "note": [json.loads(FORGED)]},
        {"message": "hello", "kubernetes": {"annotations": {"note": FORGED}, "labels": {"a": FORGED}}},
        {"x": {"podAnnotations": {"note": FORGED}}},
        {"protoPayload": {"serviceName": "k8s.io", "methodName": 1, "request": {"message": FORGED}}},
    ],
)
def test_what_users_write_is_never_searched_for_events(record: object) -> None:
    decoded = decode_lines([json.dumps(record).encode()])
    assert decoded.events == []
    assert len(decoded.dead) == 1


def test_every_record_of_a_list_is_counted() -> None:
    """What has no event in it, among others that have one, is a dead letter or skipped, wherever it stands."""
    decoded = decode_lines(
        [
            json.dumps(
                {"streams": [{"values": [["1", FORGED], ["2", "hello"], ["3", "I0105 09:30:00 x"]]}]}
            ).encode()
        ]
    )
    assert (len(decoded.events), len(decoded.dead), sum(decoded.skipped.values())) == (1, 1, 1)


def test_what_is_wrapped_costs_time_in_proportion_to_its_size() -> None:
    """A record that is deep, wide, or repeats the names of a table is read in bounded time, or refused."""
    wide = json.dumps({"message": [{"a": {"auditID": 1}}] * 50_000}).encode()
    deep = FORGED
    for _ in range(12):
        deep = json.dumps({"message": deep})
    table = {"columns": ["x" * 100_000], "rows": [["auditID"]] * 50_000}
    split = {
        "auditID": "1",
        "stage": "x",
        "verb": 1,
        "annotations": {"y" * 100_000: {str(i): "x" for i in range(10_000)}},
    }
    for record in (wide, deep.encode(), json.dumps(table).encode(), json.dumps(split).encode()):
        decoded = decode_lines([record])
        assert decoded.events == []
        assert decoded.dead


@pytest.mark.parametrize("seed", range(4))
def test_sums_add_up_over_mutated_logs(seed: int, tmp_path: Path) -> None:
    """What is changed at random is read alike as a file and as a body, and its lines together give what it gives."""
    chance = random.Random(seed)
    pool = [shape.content for shape in SHAPES.values() if len(shape.content) < 20_000]
    pool += [path.read_bytes() for path in sorted(FOLDER.iterdir()) if path.stat().st_size < 10_000]
    log = tmp_path / "log"
    for _ in range(80):
        content = mutate(chance.choice(pool), chance, pool)
        log.write_bytes(content)
        found = read_alike(log)
        sent = read_body(content) if content.strip() else None
        if sent is not None and not isinstance(sent, KubehabitError):
            assert sent.records == found.records
        marked = [letter for letter in found.dead if letter.before > len(found.events)]
        assert marked == []


def test_an_answer_keeps_the_order_in_which_records_were_sent() -> None:
    """Each dead letter knows how many events came before it, also inside one line and over several parts of a body."""
    listed = json.dumps([PLAIN[0], {"x": 1}, PLAIN[1], 7, PLAIN[2]]).encode()
    for body, before in ((listed, [1, 2]), (listed + b"\n" + listed, [1, 2, 4, 5])):
        assert [letter.before for letter in decode_body(body).dead] == before
