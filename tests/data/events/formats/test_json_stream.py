"""Documents that are damaged, or made to be slow, are cut in the same places wherever their bytes are."""

from __future__ import annotations

import pytest

from data.events.formats.json_stream import Documents

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
