"""Runs the tests that a rule's file brings, on events decoded as those of a log are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from data.events.audit_event import UNREADABLE, AuditEvent, decode_event, why
from data.principals.identity import identify
from data.timestamps import parse_times
from detection.rules.evaluator import ActedEvents, EarlierActions, RuleEvaluator
from detection.rules.rule import Rule, RuleTest
from detection.rules.watched_days import DAY

_BEGIN = datetime(2026, 1, 5, 9, 30, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class RuleTestResult:
    """Outcome of one test.

    Attributes:
        rule, test: names.
        passed: whether it came out as it should.
        problem: why not; empty if it did.
        reason: what the rule said.
    """

    rule: str
    test: str
    passed: bool
    problem: str = ""
    reason: str = ""


def event_of_test(content: Mapping[str, Any], number: int) -> AuditEvent:
    """An event of a test, with what API servers always write; raises as `decode_event`."""
    moment = (_BEGIN + timedelta(seconds=number)).strftime("%Y-%m-%dT%H:%M:%S.000000Z")
    ref = content.get("objectRef") or {}
    usual: dict[str, Any] = {
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "auditID": f"test-{number}",
        "stage": "ResponseComplete",
        "level": "RequestResponse",
        "verb": "get",
        "requestURI": _uri(ref),
        "user": {"username": "alice@example.com", "groups": ["system:authenticated"]},
        "sourceIPs": ["192.0.2.10"],
        "userAgent": "kubectl/v1.33.0 (linux/amd64) kubernetes/60a317e",
        "responseStatus": {"code": 200},
        "requestReceivedTimestamp": moment,
        "stageTimestamp": moment,
    }
    return decode_event(msgspec.json.encode(usual | dict(content)))


def _uri(ref: Mapping[str, Any]) -> str:
    group, version = ref.get("apiGroup", ""), ref.get("apiVersion", "v1")
    parts = ["/apis", group, version] if group else ["/api", version]
    if ref.get("namespace"):
        parts += ["namespaces", ref["namespace"]]
    parts += [str(ref[name]) for name in ("resource", "name", "subresource") if ref.get(name)]
    return "/".join(parts)


def run_test(rule: Rule, test: RuleTest) -> RuleTestResult:
    """Run one test of a rule by itself."""
    try:
        events = [event_of_test(one, number) for number, one in enumerate(test.events)]
    except UNREADABLE as error:
        return RuleTestResult(rule.name, test.name, False, f"an event cannot be read: {why(error)}")
    acted = acted_events(events)
    evaluator = RuleEvaluator([rule])
    last = len(events) - 1
    if test.silentDays:
        now, pause = acted.times[last], (test.silentDays + 1) * DAY
        acted = replace(acted, pauses=[*acted.pauses[:last], pause])
        evaluator.memory.watched.learn(range(now - pause, now, DAY))
    known = {"outcome": "unknown", "opinion": "unknown", "binding": "", "role": "", "reason": ""}
    answers = {last: known | test.authorization}
    hits = [hit for hit in evaluator.evaluate(acted, lambda row: answers.get(row, known)) if hit.row == last]
    problem = ""
    if bool(hits) != test.hits:
        problem = (
            "it hits the last event and should not" if hits else "it does not hit the last event and should"
        )
        if evaluator.counts[rule.name].problem:
            problem += f" ({evaluator.counts[rule.name].problem})"
    return RuleTestResult(rule.name, test.name, not problem, problem, hits[0].reason if hits else "")


def run_tests(rule: Rule) -> list[RuleTestResult]:
    """All tests of a rule."""
    return [run_test(rule, test) for test in rule.spec.tests]


def acted_events(events: Sequence[AuditEvent]) -> ActedEvents:
    """Columns of events whose principals are their users, without any folding of names."""
    who = [identify(one.user.username, one.user.groups) for one in events]
    times = parse_times([one.requestReceivedTimestamp or one.stageTimestamp for one in events]).tolist()
    names = [one.name for one in who]
    own, pauses = EarlierActions().add(names, times)
    return ActedEvents(
        events,
        names,
        [one.kind for one in who],
        [one.groups[0] for one in who],
        times,
        own,
        pauses,
    )
