"""Rules run over actions: what hits, what is remembered, and what hostile events cannot do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from detection.rules.evaluator import MAX_HISTORY, RuleEvaluator, RuleMemory
from detection.rules.rule import Rule
from detection.rules.rule_tests import acted_events
from detection.rules.watched_days import DAY, MAX_DAYS, WatchedDays
from tests.detection.rules.rules_for_tests import events, of_object, rule


def hits(rules: list[Rule], *contents: dict[str, Any]) -> list[tuple[str, int]]:
    found = RuleEvaluator(rules).evaluate(acted_events(events(*contents)))
    return [(one.rule.name, one.row) for one in found]


def test_every_rule_that_holds_hits_in_the_order_of_the_log() -> None:
    rules = [
        rule("gets", expression="event.verb == 'get'"),
        rule("secrets", matchConstraints={"resourceRules": [{"resources": ["secrets"]}]}),
    ]
    assert hits(rules, of_object("secrets"), of_object("pods"), of_object("secrets", verb="list")) == [
        ("gets", 0),
        ("secrets", 0),
        ("gets", 1),
        ("secrets", 2),
    ]


def test_an_expression_sees_the_principal_and_how_much_it_did_before() -> None:
    new = rule(expression="principal.kind == 'serviceaccount' && principal.actions < 1")
    who = {"user": {"username": "system:serviceaccount:a:b"}}
    assert hits([new], of_object(**who), of_object(**who), of_object()) == [("test", 0)]


def _on_day(day: int, user: str) -> dict[str, Any]:
    return of_object(user={"username": user}, requestReceivedTimestamp=f"2026-03-{day:02d}T09:00:00Z")


def test_silence_is_counted_in_days_of_which_the_log_had_anything() -> None:
    silent = rule(
        matchConstraints={"resourceRules": [{}], "silentDays": 3}, expression="principal.silentDays == 3"
    )
    log = [_on_day(1, "alice"), *(_on_day(day, "bob") for day in (2, 3, 4)), _on_day(5, "alice")]
    assert hits([silent], *log, _on_day(5, "alice"), _on_day(5, "bob"), _on_day(5, "carol")) == [("test", 4)]
    # The same time without a log in between, as after an outage or with a model of last year.
    assert hits([silent], _on_day(1, "alice"), _on_day(4, "bob"), _on_day(5, "alice")) == []


def test_silence_is_the_same_however_events_are_batched_and_after_a_restart() -> None:
    silent = rule(matchConstraints={"resourceRules": [{}], "silentDays": 3}, expression="true")
    log = events(*(_on_day(day, "bob") for day in (1, 2, 3, 4)), _on_day(5, "alice"))
    acted = acted_events(log)
    alice = replace(acted, pauses=[*acted.pauses[:-1], 4 * DAY])
    assert [one.row for one in RuleEvaluator([silent]).evaluate(alice)] == [4]
    first = RuleEvaluator([silent])
    for row in range(4):
        assert first.evaluate(acted_events(log[row : row + 1])) == []
    saved = msgspec.msgpack.decode(msgspec.msgpack.encode(first.memory.to_plain()))
    later = RuleEvaluator([silent], RuleMemory.from_plain(saved))
    assert len(later.evaluate(replace(acted_events(log[4:]), pauses=[4 * DAY]))) == 1
    assert RuleMemory.from_plain({"history": [], "cluster_wide": []}).watched.to_list() == []


def test_days_with_a_log_are_bounded_and_found_in_any_order() -> None:
    watched = WatchedDays()
    watched.learn([10 * DAY, 12 * DAY + 5])
    watched.learn([10 * DAY, 11 * DAY, 12 * DAY])
    watched.learn([9 * DAY])
    assert watched.to_list() == [9, 10, 11, 12]
    assert watched.between(9 * DAY, 12 * DAY) == 2
    assert watched.between(12 * DAY, 9 * DAY) == 0
    watched.learn(range(0, 2 * MAX_DAYS * DAY, DAY))
    assert len(watched.to_list()) == MAX_DAYS


def test_history_is_of_the_principal_alone_and_ends() -> None:
    third = rule(expression="size(history) == 2 && history[0].verb == 'get'", history={"seconds": 60})

    def at(minute: int, user: str = "alice") -> dict[str, Any]:
        return of_object(user={"username": user}, requestReceivedTimestamp=f"2026-01-05T09:{minute:02d}:00Z")

    assert hits([third], at(0), at(0, "bob"), at(0), at(1)) == [("test", 3)]
    assert hits([third], at(0), at(0), at(5)) == []


def test_history_can_be_of_other_requests_than_the_rule_is_about() -> None:
    after = rule(
        matchConstraints={"resourceRules": [{"resources": ["pods/exec"]}]},
        history={"seconds": 60, "matchConstraints": {"resourceRules": [{"resources": ["secrets"]}]}},
        expression="history.exists(one, one.resource == 'secrets')",
    )
    run = of_object(subresource="exec")
    assert hits([after], run, of_object("secrets"), run) == [("test", 2)]


def test_the_authorization_oracle_can_be_asked_and_is_unknown_otherwise() -> None:
    contradicted = rule(expression="authorization.outcome == 'allowed by nothing'")
    acted = acted_events(events(of_object(), of_object()))
    evaluator = RuleEvaluator([contradicted])
    answers = {
        "outcome": "allowed by nothing",
        "opinion": "no opinion",
        "binding": "",
        "role": "",
        "reason": "",
    }
    assert [one.row for one in evaluator.evaluate(acted, lambda _row: answers)] == [0, 1]
    assert evaluator.evaluate(acted) == []


def test_a_custom_resource_is_known_to_be_cluster_wide_once_it_is_named_without_namespace() -> None:
    wrong = rule(
        matchConstraints={"resourceRules": [{"resources": ["*/*"]}], "clusterWide": True},
        expression="event.objectRef.namespace != ''",
    )
    named = of_object("widgets", apiGroup="acme.io", namespace="")
    refused = named | {"responseStatus": {"code": 404}}
    inside = of_object("widgets", apiGroup="acme.io")
    assert hits([wrong], inside, refused, inside, named, inside) == [("test", 4)]


def test_a_request_too_large_to_be_checked_is_a_hit_that_says_so() -> None:
    """Else a body that is padded long enough would pass by every rule."""
    bad = rule(expression="event.containers.exists(one, one.image == 'evil')")
    many = [{"image": str(number)} for number in range(5_000)]
    acted = acted_events(events(of_object(requestObject={"spec": {"containers": many}})))
    [found] = RuleEvaluator([bad]).evaluate(acted)
    assert not found.decided
    assert "too large" in found.reason


def test_a_loop_that_does_not_end_is_a_hit_that_says_so() -> None:
    names = "event.user.groups"
    loops = rule(expression=f"{names}.all(a, {names}.all(b, {names}.all(c, a + b + c != '')))")
    acted = acted_events(
        events(of_object(user={"username": "x", "groups": [str(one) for one in range(400)]}))
    )
    evaluator = RuleEvaluator([loops])
    [found] = evaluator.evaluate(acted)
    assert (found.decided, evaluator.counts["test"].undecided) == (False, 1)


def test_an_expression_that_fails_keeps_no_other_rule_from_hitting() -> None:
    rules = [
        rule("fails", expression="1 / size(event.verb) == 1 || event.responseStatus.code / 0 == 1"),
        rule("hits"),
    ]
    evaluator = RuleEvaluator(rules)
    found = evaluator.evaluate(acted_events(events(of_object(), of_object())))
    assert [one.rule.name for one in found] == ["hits", "hits"]
    assert (evaluator.counts["fails"].errors, evaluator.counts["hits"].errors) == (2, 0)
    assert "zero" in evaluator.counts["fails"].problem


def test_no_event_stops_the_rules() -> None:
    odd = events(of_object(), of_object(), of_object())
    odd[0].requestObject = msgspec.Raw(b"[1, {")
    odd[0].userAgent = "\ud800\0" * 100
    odd[1].requestURI = "/api?" + "&".join(["a=%zz"] * 1_000)
    everything = rule(
        expression="has(event.requestObject.a) || event.command == 'x' || event.userAgent.contains('curl') || event.dryRun"
        " || event.verb == 'get'"
    )
    assert [one.row for one in RuleEvaluator([everything]).evaluate(acted_events(odd))] == [0, 1, 2]


def test_how_events_are_batched_changes_nothing_and_memory_survives_a_restart() -> None:
    third = rule(expression="size(history) == 2", history={"seconds": 600})
    given = events(*[of_object() for _ in range(3)])
    whole = [one.row for one in RuleEvaluator([third]).evaluate(acted_events(given))]
    assert whole == [2]
    first = RuleEvaluator([third])
    assert first.evaluate(acted_events(given[:2])) == []
    saved = msgspec.msgpack.decode(msgspec.msgpack.encode(first.memory.to_plain()))
    later = RuleEvaluator([third], RuleMemory.from_plain(saved))
    assert [one.row for one in later.evaluate(acted_events(given[2:]))] == [0]


def test_the_memory_of_one_principal_is_bounded() -> None:
    counts = rule(expression="false", history={"seconds": 86_400})
    evaluator = RuleEvaluator([counts])
    evaluator.evaluate(acted_events(events(*[of_object() for _ in range(3 * MAX_HISTORY)])))
    [held] = evaluator.memory.history.values()
    assert len(held) == MAX_HISTORY
