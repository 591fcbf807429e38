"""Patterns of configurations, matched with RE2."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.patterns import PatternSet, compile_pattern, full_match, matched_groups

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


def test_a_set_of_nothing_matches_nothing() -> None:
    assert PatternSet([]).matches("a") == []
