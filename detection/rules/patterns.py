"""Patterns of names with `*`, matched with plain string operations in linear time."""

from __future__ import annotations

from collections.abc import Iterable

#: Stars in one pattern.
_MAX_STARS = 4


def check_pattern(pattern: str) -> None:
    """Raise ValueError for a pattern that is no exact text or text with a few `*`."""
    if not pattern.isprintable() or len(pattern) > 253:
        raise ValueError(f"{pattern[:40]!r} is no pattern: at most 253 printable characters")
    if pattern.count("*") > _MAX_STARS:
        raise ValueError(f"{pattern!r} has more than {_MAX_STARS} stars")


def matches_pattern(pattern: str, text: str) -> bool:
    """Whether a pattern, in which `*` stands for any characters, matches all of a text."""
    if "*" not in pattern:
        return text == pattern
    first, *middle, last = pattern.split("*")
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    at, end = len(first), len(text) - len(last)
    for part in middle:
        found = text.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


def matches_any(patterns: Iterable[str], text: str) -> bool:
    """Whether one of the patterns matches."""
    return any(matches_pattern(pattern, text) for pattern in patterns)
