"""Percent-encoding and arguments of queries: long texts are decoded all at once, as short ones are step by step."""

from __future__ import annotations

import random

import pytest

from data import encoded_text
from data.encoded_text import decoded, positions

PIECES = (
    *(b"%20", b"%2", b"%", b"%%41", b"+", b"&", b"&command=", b"?", b"?command=", b" ", b'"', b"<", b"\n", b"a", b"\xff", b"/"),
)  # fmt: skip


def test_a_query_is_decoded_as_a_program_reads_it() -> None:
    assert decoded(b"/exec?command=a&command=--token%3Db+c d+e", False) == b"/exec\na\n--token=b c d+e"
    assert decoded(b"a+b%2", True) == b"a b%2"


@pytest.mark.parametrize("plus", [False, True])
def test_all_at_once_is_the_same_as_step_by_step(plus: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(7)
    for _ in range(300):
        text = b"".join(chance.choices(PIECES, k=chance.randrange(1, 25)))
        made = decoded(text, plus)
        places = [tuple(sorted(chance.choices(range(len(made) + 1), k=2))) for _ in range(4)]
        found = positions(text, places, plus)
        with monkeypatch.context() as patched:
            patched.setattr(encoded_text, "_LONG", 0)
            assert decoded(text, plus) == made, text
            assert positions(text, places, plus) == found, text
