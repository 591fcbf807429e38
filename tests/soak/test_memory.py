"""What grows in a service is seen by its elements and by its bytes, and growth is a line through the hours."""

from __future__ import annotations

from data.actions.encoder import ActionEncoder
from data.events.decode import decode_lines
from tests.soak.memory import bytes_of, growth, heap, sizes_of


def test_what_grows_is_named_by_its_elements_and_its_bytes(labelled_lines: list[bytes]) -> None:
    encoder = ActionEncoder()
    encoder.encode(decode_lines(labelled_lines[:200]).events)
    few, less = sizes_of(encoder), bytes_of(encoder)
    encoder.encode(decode_lines(labelled_lines[200:4_000]).events)
    many, more = sizes_of(encoder), bytes_of(encoder)
    assert many["_Rows.rows"] > few["_Rows.rows"]
    assert many["ActionEncoder._query"] > few["ActionEncoder._query"]  # a memo of functools
    assert more["_Rows.rows"] > 4 * less.get("_Rows.rows", 0)


def test_the_heap_says_what_is_given_out() -> None:
    before = heap()
    kept = bytearray(30_000_000)
    assert heap()["given out"] - before["given out"] > 25, len(kept)


def test_growth_is_that_after_the_first_third_of_the_hours() -> None:
    def hour(number: int) -> dict[str, object]:
        memory = 100.0 + (30 * number if number < 4 else 90 + 0.5 * number)
        return {"hour": number, "memory": {"resident": memory, "anonymous": memory}, "sizes": {"A.b": number}}

    found = growth([hour(number) for number in range(12)])
    assert found["anonymous MB/hour"] == 0.5
    assert found["grew in the last third"] == {"A.b": (8, 11)}
