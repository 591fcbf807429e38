"""Compiles patterns that come from configuration with RE2, which matches any text in linear time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import re2

Pattern = Any  # re2 carries no types; alike to re.Pattern[str]

_OPTIONS = re2.Options()
_OPTIONS.log_errors = False
_SET_MEMORY = 16 << 20


def compile_pattern(pattern: str) -> Pattern:
    """Compile a pattern that will meet texts of a log, which an attacker may have chosen.

    Raises:
        ValueError: it is not in RE2's language; the message says what to do.
    """
    try:
        return re2.compile(pattern, _OPTIONS)
    except re2.error as error:
        reason = error.args[0].decode("utf-8", "replace") if error.args else "unknown"
        raise ValueError(
            f"{pattern!r} cannot be matched in linear time ({reason}). Write it in RE2's language, without look-arounds, "
            "back-references and possessive repetition"
        ) from error


def _byte_options() -> Any:
    options = re2.Options()
    options.log_errors = False
    options.encoding = re2.Options.Encoding.LATIN1
    return options


def compile_bytes(pattern: str) -> Pattern:
    """Compile a pattern of the product's own for bytes, whatever their encoding; one byte is one character."""
    return re2.compile(pattern.encode("latin-1"), _byte_options())


def full_match(pattern: Pattern, text: str) -> Any:
    """Match of a pattern with all of a text, or None."""
    try:
        return pattern.fullmatch(text)
    except UnicodeEncodeError:  # lone surrogates are not text to RE2
        return None


def matched_groups(pattern: Pattern, text: str) -> list[str | None] | None:
    """All of a text, and the groups of a pattern that matches it; None if it does not match."""
    try:
        # As bytes: for a text, RE2's binding counts characters up to each group.
        match = pattern.fullmatch(text.encode())
    except UnicodeEncodeError:  # lone surrogates are not text to RE2
        return None
    if match is None:
        return None
    return [text, *(None if one is None else one.decode() for one in match.groups())]


class SearchSet:
    """Patterns of `compile_bytes`, of which one pass over a text says which stand somewhere in it.

    Put together only what has few states: a set takes linear time, but much of it with more states than its memory holds.
    """

    def __init__(self, patterns: Iterable[Pattern]) -> None:
        options = _byte_options()
        options.max_mem = _SET_MEMORY
        self._set = re2.Set.SearchSet(options)
        self._all = [self._set.Add(one.pattern) for one in patterns]
        self._none = [
            self._set.Add(rb"\z")
        ]  # stands at the end of every text; if it does not, memory was not enough
        self._set.Compile()

    def found(self, text: bytes) -> Sequence[int]:
        """Indices of the patterns that stand in a text, in their order; perhaps with others. Empty if none does."""
        found = self._set.Match(text)
        if found == self._none:
            return ()
        return [index for index in self._all if index in found] if found else self._all


class PatternSet:
    """Many patterns, of which one pass over a text says which match all of it.

    Args:
        patterns: as given to `compile_pattern`, which has accepted each.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._set = re2.Set.FullMatchSet(_OPTIONS)
        self._count = 0
        for pattern in patterns:
            self._set.Add(pattern)
            self._count += 1
        self._set.Compile()

    def matches(self, text: str) -> list[int]:
        """Indices of the patterns that match, in the order in which they were given."""
        if not self._count:
            return []
        try:
            return sorted(self._set.Match(text) or ())
        except UnicodeEncodeError:  # lone surrogates are not text to RE2
            return []
