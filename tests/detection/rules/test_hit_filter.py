"""A rule never floods: habits, repeats and the budget."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pytest

from detection.rules.evaluator import RuleHit
from detection.rules.hit_filter import MOST_EACH, MOST_IN_ALL, HitFilter
from tests.detection.rules.rules_for_tests import events, of_object, rule

DAY, HOUR, MINUTE = 86_400_000_000, 3_600_000_000, 60_000_000
START = 20_000 * DAY + 9 * HOUR


def outcomes(kept: HitFilter, times: list[int], who: str = "alice", days: int = 3, **event: Any) -> list[str]:
    [seen] = events(of_object(**event))
    hit = RuleHit(rule(habitDays=days), 0, "it was done")
    return [kept.decide(hit, seen, who, time).outcome for time in times]


def test_what_a_principal_does_day_after_day_becomes_its_habit() -> None:
    kept = HitFilter()
    times = [START + day * DAY for day in range(6)]
    assert outcomes(kept, times) == ["new", "again", "again", "habit", "habit", "habit"]
    assert outcomes(kept, times[-1:], who="bob") == ["new"]
    assert outcomes(kept, times[-1:], namespace="other") == ["new"]


def test_a_rule_can_say_that_it_is_never_a_habit() -> None:
    assert outcomes(HitFilter(), [START + day * DAY for day in range(6)], days=0) == ["new"] + ["again"] * 5


def test_what_goes_on_within_ten_minutes_is_one_thing_and_later_it_is_done_again() -> None:
    times = [START, START + MINUTE, START + 9 * MINUTE, START + 2 * HOUR]
    assert outcomes(HitFilter(), times) == ["new", "new", "new", "again"]


def test_a_repeat_names_the_first_time() -> None:
    kept = HitFilter()
    [seen] = events(of_object())
    hit = RuleHit(rule(), 0, "it was done")
    assert kept.decide(hit, seen, "alice", START).first == 0
    assert kept.decide(hit, seen, "alice", START + HOUR).first == START


def test_the_budget_bounds_what_one_principal_and_one_rule_report_in_an_hour() -> None:
    kept = HitFilter()
    assert Counter(outcomes(kept, [START] * 100)) == {"new": MOST_EACH, "over budget": 100 - MOST_EACH}
    others = [outcomes(kept, [START], who=f"p{number}")[0] for number in range(2 * MOST_IN_ALL)]
    assert Counter(others)["new"] == MOST_IN_ALL - MOST_EACH
    assert outcomes(kept, [START + HOUR], who="late") == ["new"]
    assert sum(kept.counts.values()) == 101 + 2 * MOST_IN_ALL


@pytest.mark.parametrize(
    ("verdict", "expected"), [("normal", "habit"), ("malicious", "new"), ("unclear", "again")]
)
def test_a_verdict_decides_what_the_next_hit_is(verdict: str, expected: str) -> None:
    kept = HitFilter()
    outcomes(kept, [START])
    kept.apply_verdict("alice", {START}, verdict)
    assert outcomes(kept, [START + 2 * HOUR]) == [expected]


def test_what_was_malicious_never_becomes_a_habit() -> None:
    kept = HitFilter()
    outcomes(kept, [START])
    kept.apply_verdict("alice", {START}, "malicious")
    assert set(outcomes(kept, [START + day * DAY for day in range(1, 9)])) == {"new"}


def test_it_goes_on_after_a_restart_where_it_was() -> None:
    times = [START + day * DAY // 2 for day in range(10)]
    whole = outcomes(HitFilter(), times)
    first, second = HitFilter(), HitFilter()
    before = outcomes(first, times[:5])
    second.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(first.to_plain())))
    assert before + outcomes(second, times[5:]) == whole
