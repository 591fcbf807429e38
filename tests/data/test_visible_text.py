"""Text from outside: what is shown of it."""

from __future__ import annotations

import time

import pytest

from data.visible_text import visible


@pytest.mark.parametrize(
    "text", ["", "kube-system/ci deployer", "C:\\x1b", "Größe 5 µs — “ok” …", "日本語 नमस्ते", "e\u0301"]
)
def test_printable_text_stays_as_it_is(text: str) -> None:
    assert visible(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b]0;owned\x07", "\\x1b[2J\\x1b]0;owned\\x07"),
        ("ok\n2026 forged\r\ttab", "ok\\n2026 forged\\r\\ttab"),
        ("\x00\x7f\x85\x9b31m", "\\x00\\x7f\\x85\\x9b31m"),
        ("line\u2028line\u2029", "line\\u2028line\\u2029"),
        ("user\u202egnp.exe\u2066\u2069\u200f\u061c", "user\\u202egnp.exe\\u2066\\u2069\\u200f\\u061c"),
        ("ad\u200bmin\u200d\u2060\ufeff\u00ad", "ad\\u200bmin\\u200d\\u2060\\ufeff\\xad"),
        ("x\U000e0041\U000e0001\U000e0000", "x\\U000e0041\\U000e0001\\U000e0000"),
        ("\ud800lone\udfff", "\\ud800lone\\udfff"),
        ("a\ufe0fb\U000e01ef\u180b", "a\\ufe0fb\\U000e01ef\\u180b"),
        ("\u3164\u115f\u2800\u034f", "\\u3164\\u115f\\u2800\\u034f"),
        ("no\u00a0break\u3000", "no\\xa0break\\u3000"),
        ("\ue000\uffff\U0010ffff", "\\ue000\\uffff\\U0010ffff"),
    ],
)
def test_what_is_obeyed_or_not_seen_becomes_an_escape(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(shown) == shown


def test_every_character_comes_out_printable() -> None:
    everything = "".join(map(chr, range(0x110000)))
    shown = visible(everything)
    assert shown.isprintable()
    assert visible(shown) == shown
    shown.encode()  # no lone surrogate is left


def test_a_long_hostile_text_takes_linear_time() -> None:
    begun = time.process_time()
    visible("\x1b\U000e0041é" * 333_000)
    assert time.process_time() - begun < 2
