"""What `kubehabit rules` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Group, RenderableType

from detection.rules.rule_words import words_of
from kubehabit.tables.screen import Json, heading, items, line, new_table

if TYPE_CHECKING:
    from detection.rules.replay import RuleReplay
    from detection.rules.rule import Rule
    from detection.rules.rule_files import RuleSet
    from detection.rules.rule_tests import RuleTestResult
    from detection.rules.sigma_import import ConvertedRule

_MOST_HITS = 50


def rule_object(rule: Rule) -> dict[str, Any]:
    """One rule as plain data."""
    found: dict[str, Any] = {"name": rule.name, "file": rule.source} | msgspec.to_builtins(rule.spec)
    return found


def list_object(rules: RuleSet) -> dict[str, Any]:
    """All rules, and files that cannot be used."""
    shown = ("title", "severity", "techniques", "habitDays")
    return {
        "rules": [
            {"name": rule.name, "file": rule.source} | {name: getattr(rule.spec, name) for name in shown}
            for rule in rules.rules.values()
        ],
        "broken": [{"file": str(one.path), "reason": one.reason} for one in rules.broken],
    }


def list_screen(found: Json) -> RenderableType:
    """A table of rules."""
    rows = [
        (one["name"], one["severity"], ", ".join(one["techniques"]), one["title"]) for one in found["rules"]
    ]
    table = new_table("Rule", "Severity", "ATT&CK", "Title", rows=rows)
    return Group(table, *_broken(found["broken"]))


def _broken(broken: Sequence[Json]) -> list[RenderableType]:
    return items("Files that cannot be used", [f"{one['file']}: {one['reason']}" for one in broken])


def rule_screen(found: Json) -> RenderableType:
    """One rule, in the order in which it is read."""
    matched = [f"{name}: {words_of(value)}" for name, value in found["matchConstraints"].items() if value]
    days = found["habitDays"]
    habit = (
        f"Once a principal did it on {days} days it is its habit, and no longer reported."
        if days
        else "It never becomes a habit."
    )
    history = found["history"]
    earlier = (
        []
        if history is None
        else [line(f"It sees what the principal did in the {history['seconds']:,} s before.")]
    )
    return Group(
        line(f"{found['name']} ({found['severity']}): {found['title']}", "bold"),
        line(found["description"].strip()),
        *items("It is about", matched),
        heading("It hits when", "bold underline"),
        line(" ".join(found["expression"].split())),
        *earlier,
        heading("It says", "bold underline"),
        line(" ".join(found["reason"].split())),
        line(habit),
        *items("Usual causes that are no attack", found["falsePositives"]),
        *items("Tests", [f"{'hits' if one['hits'] else 'no hit'}: {one['name']}" for one in found["tests"]]),
        *items("References", [*found["techniques"], *found["references"]]),
    )


def tests_object(
    rules: RuleSet, results: Sequence[RuleTestResult], replayed: RuleReplay | None
) -> dict[str, Any]:
    """What tests and a log came to."""
    found = list_object(rules)
    answer: dict[str, Any] = {
        "rules": len(rules.rules),
        "broken": found["broken"],
        "tests": [msgspec.to_builtins(one) for one in results],
        "failed": sum(not one.passed for one in results),
    }
    if replayed is not None:
        answer["log"] = _log_object(replayed)
    return answer


def _log_object(replayed: RuleReplay) -> dict[str, Any]:
    outcomes: dict[str, dict[str, int]] = {}
    for (rule, outcome), number in sorted(replayed.outcomes.items()):
        outcomes.setdefault(rule, {})[outcome] = number
    return {
        "events": replayed.events,
        "actions": replayed.actions,
        "outcomes": outcomes,
        "errors": {name: one.problem for name, one in replayed.counts.items() if one.errors},
        "hits": [
            {
                "rule": one.filtered.hit.rule.name,
                "severity": one.filtered.hit.rule.spec.severity,
                "time": one.event.requestReceivedTimestamp or one.event.stageTimestamp,
                "principal": one.principal,
                "auditID": one.event.auditID,
                "outcome": one.filtered.outcome,
                "reason": one.filtered.hit.reason,
            }
            for one in replayed.hits
        ],
    }


def tests_screen(found: Json) -> RenderableType:
    """Failed tests, and hits in a log."""
    tests = found["tests"]
    failed = [f"{one['rule']}: {one['test']}: {one['problem']}" for one in tests if not one["passed"]]
    parts: list[RenderableType] = [
        line(f"{found['rules']:,} rules, {len(tests):,} tests, {len(failed):,} of them failed.", "bold"),
        *items("Failed", failed),
        *_broken(found["broken"]),
    ]
    if "log" in found:
        parts += _log_parts(found["log"])
    return Group(*parts)


def _log_parts(log: Json) -> list[RenderableType]:
    hits = log["hits"]
    parts: list[RenderableType] = [
        line(
            f"\n{log['events']:,} events, {log['actions']:,} requests: {len(hits):,} hits would have been reported.",
            "bold",
        )
    ]
    if log["outcomes"]:
        names = ("new", "again", "habit", "over budget")
        rows = [
            (rule, *(f"{one.get(name, 0):,}" for name in names))
            for rule, one in sorted(log["outcomes"].items())
        ]
        parts.append(new_table("Rule", "New", "Again", "Habit", "Over budget", rows=rows, right=(1, 2, 3, 4)))
    rows = [(one["time"][:19], one["principal"], one["rule"], one["reason"]) for one in hits[:_MOST_HITS]]
    if rows:
        parts += [line(""), new_table("Time", "Principal", "Rule", "Reason", rows=rows)]
    if len(hits) > _MOST_HITS:
        parts.append(line(f"There are {len(hits) - _MOST_HITS:,} more: --json has up to 1,000.", "dim"))
    return [
        *parts,
        *items("Expressions that failed", [f"{name}: {why}" for name, why in log["errors"].items()]),
    ]


def sigma_object(found: Sequence[ConvertedRule]) -> list[dict[str, Any]]:
    """What became of Sigma rules."""
    return [
        {
            "source": str(one.source),
            "file": None if one.path is None else str(one.path),
            "warnings": list(one.warnings),
            "problem": one.problem,
        }
        for one in found
    ]


def sigma_screen(found: Sequence[Json]) -> RenderableType:
    """What became of each Sigma rule."""
    parts: list[RenderableType] = []
    for one in found:
        parts.append(line(f"{one['source']}: {one['file'] or one['problem']}"))
        parts += [line(f"  warning: {warning}") for warning in one["warnings"]]
    return Group(*parts)
