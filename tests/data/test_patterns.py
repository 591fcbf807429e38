"""Patterns of configurations, matched with RE2."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.patterns import PatternSet, SearchSet, compile_bytes, compile_pattern, full_match, matched_groups

PATTERNS = ["a+b", "x.*", ".*b", r"(\w+)@corp\.example", "(?i)CI-.*"]


def test_a_pattern_that_is_not_linear_is_refused_with_what_to_do() -> None:
    for pattern in (r"(?=x)y", r"(a)\1", "(unclosed"):
        with pytest.raises(ValueError, match="RE2's language"):
            compile_pattern(pattern)


@given(st.text("abx@ci-. é\ud800\n") | st.sampled_from(["aab", "x", "vera@corp.example", "ci-7", ""]))
def test_a_set_says_what_each_pattern_alone_would(text: str) -> None:
    alone = [
        index for index, one in enumerate(PATTERNS) if full_match(compile_pattern(one), text) is not None
    ]
    assert PatternSet(PATTERNS).matches(text) == alone


@given(st.text("aé☃\ud800b@.", max_size=12))
def test_groups_are_those_of_the_match(text: str) -> None:
    pattern = compile_pattern(r"([^@]*)@(\.)?(.*)")
    match = full_match(pattern, text)
    assert matched_groups(pattern, text) == (None if match is None else [match.group(), *match.groups()])


@given(st.binary(max_size=12) | st.text("abc.=%\n", max_size=12).map(str.encode))
def test_one_search_finds_what_each_pattern_alone_would(text: bytes) -> None:
    patterns = [compile_bytes(one) for one in (r"a+b", r"^b", r"c$", r"[^a-z]a", "(?i)=(%)")]
    alone = [index for index, one in enumerate(patterns) if one.search(text) is not None]
    assert list(SearchSet(patterns).found(text)) == alone


def test_a_search_whose_memory_is_not_enough_leaves_no_pattern_out() -> None:
    patterns = SearchSet([compile_bytes("a"), compile_bytes("b")])

    class Exhausted:
        def Match(self, text: bytes) -> None:  # noqa: N802
            return None

    patterns._set = Exhausted()
    assert list(patterns.found(b"xyz")) == [0, 1]


def test_a_set_of_nothing_matches_nothing() -> None:
    assert PatternSet([]).matches("a") == []
