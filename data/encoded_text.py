"""Decodes percent-encoding and the arguments of a query in texts of one byte a character, and finds places of the result in them.

A query's arguments come apart from each other: `&`, also with `command=` behind it, becomes a line feed, as does its `?`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data.patterns import compile_bytes

Span = tuple[int, int]

_ENCODED = re.compile(rb"%[0-9A-Fa-f]{2}")
_PLUS_ENCODED = re.compile(rb"%[0-9A-Fa-f]{2}|\+")
_QUERY_ENCODED = re.compile(rb"%[0-9A-Fa-f]{2}|&(?:command=)?|\+")
_COMMAND_ARGUMENT = b"command="
_QUERY_END = compile_bytes(r"""[\s"'<>]""")


def _replacements(text: bytes, plus: bool) -> Iterator[tuple[int, int, int]]:
    """What one decoding replaces, by one byte each: percent-encoding; in a query also `+`, and `&` by a line feed.

    With `plus` any `+` is a space: what was encoded twice.
    """
    outside = _PLUS_ENCODED if plus else _ENCODED
    at = 0
    while at < len(text):
        begin = text.find(b"?", at)
        for found in outside.finditer(text, at, len(text) if begin < 0 else begin):
            token = found[0]
            yield found.start(), found.end(), _SPACE if token == b"+" else int(token[1:], 16)
        if begin < 0:
            return
        ended = _QUERY_END.search(text, begin)
        end = len(text) if ended is None else ended.start()
        at = begin + 1 + len(_COMMAND_ARGUMENT) * text.startswith(_COMMAND_ARGUMENT, begin + 1)
        yield begin, at, _NEWLINE
        for found in _QUERY_ENCODED.finditer(text, at, end):
            token = found[0]
            if token[0] == _PERCENT:
                yield found.start(), found.end(), int(token[1:], 16)
            else:
                yield found.start(), found.end(), _SPACE if token == b"+" else _NEWLINE
        at = end


_NEWLINE, _SPACE, _PERCENT = b"\n %"


def decoded(text: bytes, plus: bool) -> bytes:
    """A text with its percent-encoding decoded once, and its queries' arguments apart; with `plus` any `+` is a space."""
    if text.find(b"%") < 0 and text.find(b"?") < 0 and not (plus and text.find(b"+") >= 0):
        return text
    if len(text) >= _LONG:
        found = _replaced_columns(text, plus)
        kept = np.ones(len(text), bool)
        letters = np.frombuffer(text, np.uint8).copy()
        letters[found.start] = found.byte
        # Of each, what stands behind its first byte goes.
        for behind in range(1, int((found.end - found.start).max(initial=0))):
            kept[(found.start + behind)[found.start + behind < found.end]] = False
        return letters[kept].tobytes() if len(found.start) else text
    made = bytearray()
    at = 0
    for start, end, byte in _replacements(text, plus):
        made += text[at:start]
        made.append(byte)
        at = end
    return bytes(made + text[at:]) if at else text


class _Replaced(NamedTuple):
    """As `_replacements` gives them: int64 [K] each, `byte` uint8."""

    start: npt.NDArray[np.int64]
    end: npt.NDArray[np.int64]
    byte: npt.NDArray[np.uint8]


def _hex_values() -> npt.NDArray[np.int16]:
    values = np.full(256, -1, np.int16)
    for digit in b"0123456789abcdefABCDEF":
        values[digit] = int(chr(digit), 16)
    return values


_HEX_VALUES = _hex_values()
_QUERY_ENDS = np.isin(np.arange(256), np.frombuffer(b"\t\n\f\r \"'<>", np.uint8))
#: Bytes from which on columns are faster.
_LONG = 4 << 10


def _replaced_columns(text: bytes, plus: bool) -> _Replaced:
    """`_replacements` of a long text, all at once."""
    letters = np.frombuffer(text, np.uint8)
    # The mark before each place says whether it is in a query.
    marks = np.flatnonzero((letters == ord("?")) | _QUERY_ENDS[letters])
    opens = letters[marks] == ord("?")
    begins = marks[opens & ~np.concatenate(([False], opens[:-1]))]

    def in_query(places: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        before = np.searchsorted(marks, places) - 1
        return (before >= 0) & opens[before] if len(marks) else np.zeros(len(places), bool)

    padded = np.concatenate((letters, np.zeros(2, np.uint8)))
    percent = np.flatnonzero(letters == _PERCENT)
    high, low = _HEX_VALUES[padded[percent + 1]], _HEX_VALUES[padded[percent + 2]]
    percent, value = percent[(high >= 0) & (low >= 0)], (16 * high + low)[(high >= 0) & (low >= 0)]
    pluses = np.flatnonzero(letters == ord("+"))
    pluses = pluses if plus else pluses[in_query(pluses)]
    ampersands = np.flatnonzero(letters == ord("&"))
    ampersands = ampersands[in_query(ampersands)]
    ends = [percent + 3, pluses + 1]
    for places in (ampersands, begins):
        named = np.flatnonzero(padded[places + 1] == _COMMAND_ARGUMENT[0])
        named = named[[text.startswith(_COMMAND_ARGUMENT, place + 1) for place in places[named].tolist()]]
        end = places + 1
        end[named] += len(_COMMAND_ARGUMENT)
        ends.append(end)
    start, end = np.concatenate((percent, pluses, ampersands, begins)), np.concatenate(ends)
    byte = np.concatenate((
        value.astype(np.uint8),
        np.full(len(pluses), _SPACE, np.uint8),
        np.full(len(ampersands) + len(begins), _NEWLINE, np.uint8),
    ))  # fmt: skip
    order = start.argsort()
    return _Replaced(start[order], end[order], byte[order])


def positions(text: bytes, spans: list[Span], plus: bool) -> list[Span]:
    """Spans of what `decoded` makes of a text as spans of the text."""
    wanted = sorted({place for span in spans for place in span})
    if not wanted:
        return spans
    if len(text) >= _LONG:
        found = _replaced_columns(text, plus)
        more = (found.end - found.start - 1).cumsum()
        starts = found.start - more + (found.end - found.start - 1)  # in what was made
        places = np.concatenate(([0], more))[np.searchsorted(starts, wanted)] + wanted
        known = dict(zip(wanted, places.tolist(), strict=True))
        return [(known[begin], known[until]) for begin, until in spans]
    known = {}
    shift = done = 0
    for start, end, _ in _replacements(text, plus):
        while done < len(wanted) and wanted[done] <= start - shift:
            known[wanted[done]] = wanted[done] + shift
            done += 1
        shift += end - start - 1
        if done == len(wanted):
            break
    known.update((place, place + shift) for place in wanted[done:])
    return [(known[begin], known[until]) for begin, until in spans]
