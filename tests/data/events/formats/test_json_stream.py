"""Documents that are damaged, or made to be slow, are cut in the same places wherever their bytes are."""

from __future__ import annotations

import io
import json
import random
import sys
from typing import Any

import pytest

from data.events.decode import CHUNK_BYTES, SMALL_BYTES, LogRecords, decode_body
from data.events.formats import json_stream
from data.events.formats.json_stream import Documents
from data.events.formats.registry import Sources
from data.events.packing import Blocks

EVENT = b'{"kind":"Event","auditID":"a"}'


def cut(data: bytes, size: int) -> list[tuple[int, bytes]]:
    """The records of a document that comes in pieces of so many bytes."""
    splitter = Documents(1)
    found: list[tuple[int, bytes]] = []
    for at in range(0, len(data), size):
        if splitter.finished:
            break
        found += splitter.feed(data[at : at + size])
    return found + ([] if splitter.finished else splitter.end())


def test_braces_that_touch_are_the_damage_of_one_record() -> None:
    data = b"{" * 50_000 + EVENT[1:] + b"\n"
    assert cut(data, len(data)) == [(1, b"{" * 49_999), (1, EVENT)]


@pytest.mark.parametrize("between", [b"\n" * 9, b" \n \r\n\n\n  ", b"}}}} }", b"]],] ]", b"[[[,[]]]]"])
def test_marks_that_only_repeat_keep_the_records_and_their_lines(between: bytes) -> None:
    data = b"{\n" + EVENT[1:] + between + b"{\n" + EVENT[1:] + b"\n"
    whole = cut(data, len(data))
    assert [record.replace(b"\n", b"") for _, record in whole] == [EVENT] * 2
    assert [line for line, _ in whole] == [1, 2 + between.count(b"\n")]
    for size in (1, 2, 3, 7):
        assert cut(data, size) == whole


def test_a_record_nested_deeply_ends_where_it_is_closed() -> None:
    inner = b"[" * 300 + b'{"a":{"b":{}}}' + b"]" * 300
    data = b'{"x":' + inner + b"}" + EVENT + b"\n"
    for size in (1, 5, len(data)):
        assert [record for _, record in cut(data, size)] == [data[: data.index(EVENT)], EVENT]


@pytest.mark.parametrize("size", [1, 3, 1000, 100_000])
def test_objects_too_small_for_a_record_that_touch_are_the_damage_of_one(size: int) -> None:
    """Half a million of two bytes each took seconds for a megabyte, and each became a dead letter."""
    tiny = b'{"a":1}{} {"}{":"{"}' * 5_000
    first, last = audit_event("a").replace(b"{", b"{\n", 1), audit_event("b")
    assert [record for _, record in cut(first + tiny + last + b"\n", size)] == [
        first,
        tiny.replace(b" ", b"")[:1024],
        last,
    ]
    found = decode_body(tiny + audit_event("a") + tiny + audit_event("b") + b"\n")
    assert [event.auditID for event in found.events] == ["a", "b"]
    assert [letter.raw for letter in found.dead] == [tiny, tiny]


def audit_event(name: str) -> bytes:
    return (
        b'{"kind":"Event","apiVersion":"audit.k8s.io/v1","auditID":"%b","stage":"ResponseComplete","verb":"create",'
        b'"user":{"username":"mallory"},"requestReceivedTimestamp":"2026-01-05T09:30:00Z","requestObject":{}}'
    ) % name.encode()


def test_braces_left_open_behind_a_list_take_one_record_along_and_no_more() -> None:
    broken = b'{\n "items": [\n  %b\n ],\n "x": {"y": {"z": {\n "a"' % audit_event("listed")
    found = decode_body(b"\n".join([broken, *map(audit_event, "abcd")]))
    assert [event.auditID for event in found.events] == ["listed", "b", "c", "d"]


@pytest.mark.parametrize(
    "damaged",
    [
        b'{"kind" "Event","verb":"get","records":[',
        b'{"requestObject":{"a":1,"items":[',
        b'{"a":"b","c":,"events":[',
    ],
)
def test_a_damaged_line_that_ends_with_a_list_opens_no_document(damaged: bytes) -> None:
    found = decode_body(damaged + b"\n" + audit_event("whole") + b"\n")
    assert [event.auditID for event in found.events] == ["whole"]
    assert [letter.raw for letter in found.dead] == [damaged]


def test_a_record_that_is_cut_off_at_a_list_in_its_body_opens_no_document() -> None:
    cut_off = audit_event("cut").removesuffix(b"}}") + b'"items":['
    found = decode_body(cut_off + b"\n" + audit_event("whole") + b"\n")
    assert [event.auditID for event in found.events] == ["whole"]
    assert [letter.raw for letter in found.dead] == [cut_off]


@pytest.mark.parametrize("behind", [1, 3])
def test_a_brace_alone_on_its_line_takes_no_record_along(behind: int) -> None:
    cut_off = audit_event("cut")[:90]
    found = decode_body(b"\n".join([b"{", *[cut_off] * behind, *map(audit_event, "abc")]))
    assert [event.auditID for event in found.events] == ["a", "b", "c"]
    assert [letter.raw for letter in found.dead] == [b"{\n", *[cut_off] * behind]


class CountedBlocks(Blocks):
    """Blocks that count what was read of them, again and again."""

    read = 0

    def block(self) -> bytes:
        block = super().block()
        self.read += len(block)
        return block


@pytest.mark.parametrize("lines", [b'{\n"a":1}\nx\n', b'{\n"a":1}\n{"a":1}\n', b'{\n{"a":1}\n', b'{\n{"a\n'])
def test_documents_that_begin_and_end_all_the_time_are_read_a_few_times_only(lines: bytes) -> None:
    log = lines * (100_000 // len(lines))
    blocks = CountedBlocks(io.BufferedReader(io.BytesIO(log)), CHUNK_BYTES, SMALL_BYTES)
    dead = [letter for part in LogRecords(blocks, Sources()).chunks() for letter in part.dead]
    assert len(dead) >= len(log) // len(lines)
    assert blocks.read < 80 * len(log)


def test_where_the_bytes_are_cut_changes_nothing() -> None:
    parts = [
        b"{}",
        b'{"a":1}',
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b"\n",
        b" ",
        b",",
        b"\\",
        b"x",
        b'{"a":{}}',
        b"\r",
        b'{"items":[',
    ]
    chance = random.Random(7)
    for _ in range(400):
        data = b"{\n" + b"".join(chance.choices(parts, k=chance.randint(1, 25)))
        whole = cut(data, len(data))
        assert [cut(data, size) for size in (1, 2, 5)] == [whole] * 3, data


def _calls(data: bytes) -> int:
    """Functions of Python that it takes to cut a document that comes in one piece."""
    calls = 0

    def count(_frame: object, event: str, _argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        cut(data, len(data))
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize("begin", [b"[\n", b"[\n{", b'{"items":[\n{', b"{\n"])
@pytest.mark.parametrize(
    "marks",
    [
        *(b"{[", b"[{},{},", b"[]", b"[],", b"[}", b"{]", b"{[]", b"\n[", b"[{}]\n"),
        *(b"{},", b"}{", b"{}{[", b" {", b"\n{", b"\n}", b"\n{[]}", b"{} ", b"1,"),
    ],
)
def test_marks_of_which_none_ends_a_record_are_passed_many_at_once(begin: bytes, marks: bytes) -> None:
    """One by one they took a second for a megabyte."""
    size = 200_000
    assert _calls(begin + marks * (size // len(marks))) < size / 100


@pytest.mark.parametrize("marks", [b"{},", b"}{", b"[],", b"\n {", b"{[}] "])
@pytest.mark.parametrize("size", [100, 5_000, 1 << 20])
def test_long_text_without_strings_in_a_list_is_one_dead_letter(marks: bytes, size: int) -> None:
    first, last, behind = map(audit_event, ("first", "last", "behind"))
    void = marks * (20_000 // len(marks))
    begin = b"[\n " + first.replace(b"{", b"{\n", 1) + b",\n "
    data = begin + void + b"\n " + last + b"\n]\n" + behind + b"\n"
    found = cut(data, size)
    assert [record for _, record in found if b"auditID" in record] == [first.replace(b"{", b"{\n", 1), last]
    assert [line for line, record in found if record == last] == [data[: data.index(last)].count(b"\n") + 1]
    assert len(found) == 3
    assert found[1][1] == void.lstrip(b" \n")[:1024]
    decoded = decode_body(data)
    assert [event.auditID for event in decoded.events] == ["first", "last", "behind"]
    assert len(decoded.dead) <= 2


def test_a_list_ends_in_long_text_without_strings() -> None:
    document = b"[\n " + b"{}," * 3_000 + b"{}\n]\n"
    listed = b"[\n " + audit_event("listed") + b"\n]\n"
    found = decode_body(document + listed + audit_event("behind") + b"\n" + listed)
    assert [event.auditID for event in found.events] == ["listed", "behind", "listed"]


def test_items_of_an_indented_list_are_taken_many_at_once() -> None:
    items = [{"auditID": str(number), "a": [{"b": "}{"}, {}] * 20} for number in range(200)]
    data = json.dumps(items, indent=2).encode()
    assert [json.loads(record) for _, record in cut(data, len(data))] == items
    assert [line for line, _ in cut(data, len(data))] == [
        number for number, line in enumerate(data.split(b"\n"), 1) if line == b"  {"
    ]
    assert _calls(data) < 20 * len(items)


def test_items_that_are_taken_at_once_are_those_that_are_found_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chance = random.Random(7)

    def value(depth: int) -> Any:
        kind = chance.random()
        if depth > 3 or kind < 0.4:
            return chance.choice([1, "x", None, "a{b", 'q"}', [], {}, "\\", "\n"])
        inner = [value(depth + 1) for _ in range(chance.randint(0, 3))]
        return inner if kind < 0.7 else {f"k{number}": one for number, one in enumerate(inner)}

    for _ in range(400):
        items = [
            {"k": value(0)} if chance.random() < 0.97 else value(0) for _ in range(chance.randint(1, 20))
        ]
        made = items if chance.random() < 0.5 else {"apiVersion": "audit.k8s.io/v1", "items": items}
        data = (json.dumps(made, indent=chance.choice((0, 1, 2, "\t"))) + "\n").encode()
        if chance.random() < 0.3:
            data = data.replace(b"\n", b"\r\n")
        for _ in range(chance.choice((0, 0, 1, 3))):  # damage
            at = chance.randrange(len(data))
            put = chance.choice((b"", b"{", b"}", b'"', b"\n", b",", b"[", b"]"))
            data = data[:at] + put + data[at + chance.choice((0, 1, 20)) :]
        at_once = [cut(data, size) for size in (50, len(data))]
        with monkeypatch.context() as patch:
            patch.setattr(Documents, "_take_items", lambda *_: False)
            assert [cut(data, len(data))] * 2 == at_once, data


def test_marks_that_are_passed_at_once_lead_where_they_lead_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts = [
        *b"{ } [ ] , x".split(),
        b"\n",
        b" ",
        b"{}",
        b"{[",
        b"[{},",
        b'"a":',
        b'"items":[',
        b"\n{",
        b"\v",
    ]
    begins = [b"[\n", b'{"items":[\n{', b"{\n", b'[\n  {"a":1},\n']
    chance = random.Random(7)
    for _ in range(300):
        units = [b"".join(chance.choices(parts, k=chance.randint(1, 4))) for _ in range(chance.randint(1, 8))]
        data = chance.choice(begins) + b"".join(unit * chance.choice((1, 3, 100, 400)) for unit in units)
        at_once = [cut(data, size) for size in (333, len(data))]
        with monkeypatch.context() as patch:
            patch.setattr(json_stream, "_FEW_MARKS", len(data) + 1)
            assert [cut(data, len(data))] * 2 == at_once, data
