"""Rules beside the model: the list with what each did, and the page of one with its expression, tests and latest hits."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated, Literal
from weakref import WeakKeyDictionary

from fastapi import APIRouter, Query, Request, Response

from detection.rules.rule import Rule
from detection.rules.rule_files import RuleSet
from detection.rules.rule_tests import RuleTestResult, run_tests
from detection.rules.rule_words import constraint_words
from serving.alerts.explain.rules import technique_url
from serving.alerts.query import AlertQuery, lines
from serving.console.render import page
from serving.http.problems import ProblemError
from serving.runtime import Service
from serving.schemas import SEVERITIES, clean
from serving.settings import RuleSettings

router = APIRouter(include_in_schema=False)

_ALERTS, _DAY = 10, 86_400
_SPANS = (("1", "1 day"), ("7", "7 days"), ("28", "28 days"), ("90", "90 days"))
Span = Annotated[Literal["1", "7", "28", "90"], Query()]
#: Tests of a rule say the same until its file is read again, and then it is another object.
_TESTED: WeakKeyDictionary[Rule, list[RuleTestResult]] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class RuleRow:
    """A rule in the list.

    Attributes:
        own: whether its file is in the folder of own rules.
        reported: hits in alerts, in the span.
        muted: hits that were a habit, over the budget, or allowed by an exception, by these words.
        problem: what is wrong with it, as far as it is used; empty if nothing is.
    """

    rule: Rule
    about: str
    own: bool
    reported: int
    muted: dict[str, int]
    tests: list[RuleTestResult]
    problem: str

    @property
    def failed(self) -> int:
        """How many of its tests fail."""
        return sum(not one.passed for one in self.tests)


def _tests(rule: Rule) -> list[RuleTestResult]:
    found = _TESTED.get(rule)
    if found is None:
        found = _TESTED[rule] = run_tests(rule)
    return found


def _rows(service: Service, days: int) -> tuple[RuleSet, list[RuleRow]]:
    """The rules in use, with their hits of the last days."""
    alerts = service.ready().rules
    if alerts is None:
        return RuleSet(), []
    used = alerts.rules
    hits = alerts.hits_since(int(time.time()) // _DAY - days + 1)
    problems = {one["name"]: one["problem"] for one in alerts.figures()}
    own = _own_folder(service.settings.rules)
    rows = []
    for name, rule in used.rules.items():
        of_rule = hits.get(name, {})
        muted = {words: of_rule.get(words, 0) for words in ("habit", "over budget", "allowed")}
        about = "; ".join(
            f"{what}: {values}" for what, values in constraint_words(rule.spec.matchConstraints)
        )
        row = RuleRow(
            rule,
            clean(about, 160),
            name in used.files and used.files[name].parent == own,
            of_rule.get("new", 0) + of_rule.get("again", 0),
            {words: number for words, number in muted.items() if number},
            _tests(rule),
            problems.get(name, ""),
        )
        rows.append(row)
    rows.sort(key=lambda one: (-one.reported, -SEVERITIES.index(one.rule.spec.severity), one.rule.name))
    return used, rows


def _own_folder(settings: RuleSettings) -> object:
    return settings.folders[-1]


@router.get("/console/rules")
def rules(
    request: Request,
    q: Annotated[str, Query(max_length=256)] = "",
    own: Annotated[Literal["", "own", "shipped"], Query()] = "",
    days: Span = "7",
) -> Response:
    """Every rule that is used, those with most hits first, and files that cannot be used."""
    service: Service = request.app.state.service
    used, rows = _rows(service, int(days))
    text = q.strip().lower()
    shown = [
        row
        for row in rows
        if any(
            text in part.lower() for part in (row.rule.name, row.rule.spec.title, *row.rule.spec.techniques)
        )
        and own in ("", "own" if row.own else "shipped")
    ]
    return page(
        request,
        "rules.html",
        rows=shown,
        total=len(rows),
        failed=sum(row.failed for row in rows),
        tests=sum(len(row.tests) for row in rows),
        broken=[(one.path.name, one.reason) for one in used.broken],
        disabled=service.settings.rules.disabled,
        q=q.strip(),
        own=own,
        days=days,
        spans=_SPANS,
        technique_url=technique_url,
    )


@router.get("/console/rules/{name}")
def rule(request: Request, name: str, days: Span = "7") -> Response:
    """One rule."""
    service: Service = request.app.state.service
    _, rows = _rows(service, int(days))
    row = next((one for one in rows if one.rule.name == name), None)
    if row is None:
        raise ProblemError(404, "There is no such rule in use. Look for it under Rules.")
    with service.ready().store.reading() as connection:
        latest, _ = lines(connection, AlertQuery(text=name), limit=_ALERTS)
    return page(
        request,
        "rule.html",
        row=row,
        rule=row.rule,
        spec=row.rule.spec,
        constraints=constraint_words(row.rule.spec.matchConstraints),
        alerts=latest,
        days=days,
        spans=_SPANS,
        technique_url=technique_url,
    )
