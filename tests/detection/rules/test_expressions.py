"""What an expression may be, and what it may cost."""

from __future__ import annotations

import time
from typing import Any

import pytest

from detection.rules.expressions import Expression, ExpressionError, Reason, UndecidedError, activation


def values(**event: Any) -> Any:
    usual = {"principal": {}, "history": [], "authorization": {}}
    return activation({"event": event} | usual)


def test_an_expression_gives_true_or_false() -> None:
    expression = Expression("event.verb == 'get' && event.objectRef.resource in ['pods', 'secrets']")
    assert expression.evaluate(values(verb="get", objectRef={"resource": "secrets"})).value is True
    assert expression.evaluate(values(verb="get", objectRef={"resource": "nodes"})).value is False
    assert expression.is_condition


def test_a_field_that_is_not_there_is_no_error_and_no_match() -> None:
    found = Expression("event.requestObject.spec.externalIPs.size() > 0").evaluate(values(requestObject={}))
    assert found.value is None
    assert found.missing


def test_a_mistake_is_told_from_a_field_that_is_not_there() -> None:
    found = Expression("event.duration / 0 == 1").evaluate(values(duration=1))
    assert (found.value, found.missing) == (None, False)
    assert "zero" in found.problem


def test_it_knows_what_it_needs() -> None:
    expression = Expression("event.verb == 'event.podSpec' && history.size() > 1")
    assert (expression.fields, expression.needs_body) == (frozenset(("verb",)), False)
    assert expression.needs_history
    assert Expression("has(event.podSpec.volumes)").needs_body
    assert "verb" in Expression("has(event.user) && event == event").fields


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "characters"),
        ("event.verb == 'a' &&" * 400, "characters"),
        ("event.verb ==", "at 1:"),
        ("nothing.verb == 'a'", "undeclared reference to 'nothing"),
        ("event.objectref.name == 'a'", "did you mean 'objectRef'"),
        ("event.user.name == 'a'", "has no field 'name'"),
        ("event.verb.matches(event.userAgent)", "must be a text that stands in the rule"),
        ("matches(event.verb, 'a')", "must be a text that stands in the rule"),
        ("event.verb.matches('(a)\\\\1')", "linear time"),
        ("event.verb == 'a", "does not end"),
        ("event.verb == 'a\u202e'", "nobody can see"),
        ("(" * 200 + "true" + ")" * 200, "recursion"),
        ("event.verb" + " + 'a'" * 9 + " == 'a'", "more than 8"),
        ("event.sourceIPs" + ".filter(a, true)" * 17 + ".size() == 1", "more than 16"),
    ],
)
def test_what_cannot_be_used_or_could_cost_too_much_is_refused(text: str, words: str) -> None:
    with pytest.raises(ExpressionError, match=words):
        Expression(text)


def test_a_loop_over_a_long_list_ends_without_an_answer() -> None:
    loop = Expression("event.sourceIPs.exists(a, event.sourceIPs.exists(b, a == b + 'x'))")
    given = values(sourceIPs=[str(number) for number in range(1_000)])
    began = time.process_time()
    with pytest.raises(UndecidedError):
        loop.evaluate(given)
    assert time.process_time() - began < 1.0


def test_texts_cannot_be_doubled_without_end() -> None:
    """Each `+` doubles at most, and there are eight."""
    grows = Expression("[event.verb]" + ".map(a, a + a)" * 8 + ".exists(a, a.size() == 256 * 4096)")
    assert grows.evaluate(values(verb="x" * 4_096)).value is True


def test_a_nested_repetition_takes_linear_time() -> None:
    evil = Expression("event.userAgent.matches('^(a+)+$')")
    began = time.process_time()
    assert evil.evaluate(values(userAgent="a" * 4_095 + "b")).value is False
    assert time.process_time() - began < 0.5


def test_a_reason_holds_what_the_event_says_and_nothing_that_a_terminal_obeys() -> None:
    reason = Reason(
        "{{ event.verb }} by {{ event.user.username }} ({{ event.sourceIPs }}), {{ event.requestObject.no }}"
    )
    given = values(verb="get", user={"username": "eve\x1b[2J\u202e"}, sourceIPs=["192.0.2.1", "192.0.2.2"])
    assert reason.render(given) == "get by eve\\x1b[2J\\u202e (192.0.2.1, 192.0.2.2), ?"


def test_a_reason_gives_no_secret_away_and_stays_short() -> None:
    reason = Reason("it ran {{ event.command }}")
    shown = reason.render(values(command="mysql --password=hunter2-secret"))
    assert "hunter2" not in shown
    assert len(reason.render(values(command="x " * 5_000))) < 300


@pytest.mark.parametrize("text", ["", "x" * 1_001, "it did {{ event.verb", "{{ event.vreb }}"])
def test_a_reason_that_cannot_be_used_is_refused(text: str) -> None:
    with pytest.raises(ExpressionError):
        Reason(text)


def test_comments_and_quotes_are_read_as_cel_reads_them() -> None:
    text = """event.verb == "event.nothing" // event.neither
      || event.verb == r'\\d' || event.verb == '''it's'''"""
    assert Expression(text).evaluate(values(verb="it's")).value is True
