"""Make text from outside visible: what a terminal would obey, or a reader not see, becomes an escape such as `\\x1b`."""

from __future__ import annotations

import re

# Printable by their Unicode category, and yet seen by nobody: variation selectors, fillers of Hangul and Khmer, the joiner of
# graphemes, the blank pattern of Braille. Everything else that is invisible is not printable.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_SHORT = {"\t": "\\t", "\n": "\\n", "\r": "\\r"}


def visible(text: str) -> str:
    """The text with an escape in place of each character that is not seen as what it is.

    Escaped are control characters (newline, tab and ESC among them), separators of lines, spaces other than the ASCII one,
    controls of direction, zero-width characters, tags, variation selectors, lone surrogates, and characters for private use or
    without meaning. Printable text comes back as it is, backslashes included, so the result is for reading and not reversible.
    Takes linear time; the result has at most ten times as many characters.
    """
    if text.isprintable() and (text.isascii() or _INVISIBLE.search(text) is None):
        return text
    unseen = (one for one in set(text) if not one.isprintable() or _INVISIBLE.match(one))
    return text.translate({ord(one): _escape(one) for one in unseen})


def _escape(one: str) -> str:
    number = ord(one)
    if number <= 0xFF:
        return _SHORT.get(one) or f"\\x{number:02x}"
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"
