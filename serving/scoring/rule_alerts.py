"""Rules in the service: read again when their files change, run over scored actions, and kept from flooding."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.actions.fields import non_resource_path, resource_name
from data.actions.folding import fold_name
from data.errors import KubehabitError
from data.events.audit_event import AuditEvent
from detection.exceptions import HabitExceptions
from detection.rules.evaluator import ActedEvents, RuleEvaluator, RuleMemory, authorization_view
from detection.rules.hit_filter import OUTCOMES, FilteredHit, HitFilter, reported
from detection.rules.rule_files import RuleSet, read_rules, rule_paths
from serving.settings import RuleSettings

if TYPE_CHECKING:
    from detection.authorization.agreement import Comparison
    from detection.detector import Scores

_log = logging.getLogger("kubehabit.rules")
_CONNECTIONS = frozenset(("exec", "attach", "portforward"))
_SECONDS_BETWEEN_LOOKS = 2.0
_Signature = tuple[tuple[str, int, int, int], ...]


class RuleFolders:
    """The rules of the settings' folders as they are now; a file that cannot be used is logged and left out."""

    def __init__(self, settings: RuleSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._folders = settings.folders
        self._disabled = frozenset(settings.disabled)
        self._clock = clock
        self._next = 0.0
        self._seen: _Signature | None = None
        self._rules = RuleSet()

    def current(self) -> RuleSet:
        """The rules; looks for changes every two seconds at most. The same object as long as nothing has changed."""
        now = self._clock()
        if now < self._next:
            return self._rules
        self._next = now + _SECONDS_BETWEEN_LOOKS
        try:
            seen = _signature(self._folders)
            if seen == self._seen:
                return self._rules
            self._seen = seen
            self._rules = read_rules(self._folders).without(self._disabled)
        except KubehabitError as error:
            _log.error("rules cannot be read; those before stay in use", extra={"reason": str(error)})
            return self._rules
        for one in self._rules.broken:
            _log.error("a rule cannot be used", extra={"path": str(one.path), "reason": one.reason})
        shown = {"rules": len(self._rules.rules), "broken": len(self._rules.broken)}
        _log.info("rules were read", extra=shown)
        return self._rules


def _signature(folders: Sequence[Path]) -> _Signature:
    found = []
    for path in chain.from_iterable(map(rule_paths, folders)):
        try:
            stat = path.stat()
        except OSError:
            continue
        found.append((str(path), stat.st_mtime_ns, stat.st_size, stat.st_ino))
    return tuple(found)


@dataclass(slots=True)
class FoundHits:
    """Hits of one batch.

    Attributes:
        reported: by the row of the action.
        allowed: by the row, the name of an exception by hand and the hits that it allows.
    """

    reported: dict[int, list[FilteredHit]] = field(default_factory=dict)
    allowed: dict[int, tuple[str, list[FilteredHit]]] = field(default_factory=dict)


def _exception(exceptions: HabitExceptions, acted: ActedEvents, row: int) -> str | None:
    """Name of the exception that allows an action; None if none does."""
    covering = exceptions.covering(acted.principals[row], acted.groups[row]) if len(exceptions) else ()
    if not covering:
        return None
    event = acted.events[row]
    ref = event.objectRef
    if ref is None or not ref.resource:
        values = event.verb, non_resource_path(event.requestURI.partition("?")[0]), "-", "-"
    else:
        verb = "connect" if ref.subresource in _CONNECTIONS else event.verb
        what = resource_name(ref.apiGroup, ref.resource, ref.subresource)
        values = verb, what, ref.namespace or "-", fold_name(ref.name)
    match = exceptions.match(covering, int(acted.times[row]), values)
    return None if match < 0 else exceptions.entries[match].name


class RuleAlerts:
    """Finds the hits that are reported; called by one thread at a time, with events in the order of the log.

    Args:
        current: the rules as they are now.
    """

    def __init__(self, current: Callable[[], RuleSet]) -> None:
        self._current = current
        self.rules = current()
        self._evaluator = RuleEvaluator(self.rules.rules.values())
        self._filter = HitFilter()

    def evaluate(
        self,
        events: Sequence[AuditEvent],
        scores: Scores,
        exceptions: HabitExceptions,
        compared: Sequence[Comparison | None] = (),
    ) -> FoundHits:
        """Hits that are reported, and those that people allow.

        Args:
            events: what was given to the detector.
            scores: what it gave back.
            exceptions: what people allow.
            compared: what roles and bindings say of each event; empty where they were not asked.
        """
        rules = self._current()
        if rules is not self.rules:
            self.rules = rules
            self._evaluator = self._evaluator.replaced(rules.rules.values())
        acted = ActedEvents.scored(events, scores)
        found = FoundHits()

        def answer(row: int) -> dict[str, str]:
            return authorization_view(compared[int(scores.event[row])] if compared else None)

        for hit in self._evaluator.evaluate(acted, answer):
            row = hit.row
            if (name := _exception(exceptions, acted, row)) is not None:
                self._filter.allow(hit, acted.times[row])
                found.allowed.setdefault(row, (name, []))[1].append(FilteredHit(hit, "allowed"))
                continue
            kept = self._filter.decide(hit, acted.events[row], acted.principals[row], acted.times[row])
            if reported((kept,)):
                found.reported.setdefault(row, []).append(kept)
        return found

    def apply_verdict(self, principal: str, times: Collection[int], verdict: str) -> None:
        """As `detection.rules.hit_filter.HitFilter.apply_verdict`."""
        self._filter.apply_verdict(principal, times, verdict)

    def figures(self) -> list[dict[str, Any]]:
        """What each rule did since the start: evaluations, errors, seconds, and hits by outcome."""
        counts = self._filter.counts
        return [
            {
                "name": name,
                "evaluations": one.evaluations,
                "errors": one.errors,
                "undecided": one.undecided,
                "seconds": one.seconds,
                "problem": one.problem,
                "hits": {outcome: counts[name, outcome] for outcome in OUTCOMES},
            }
            for name, one in list(self._evaluator.counts.items())
        ]

    def hits_since(self, day: int) -> dict[str, dict[str, int]]:
        """Hits of each rule by outcome, from a day of the log on (days since 1970)."""
        found: dict[str, dict[str, int]] = {}
        for when, counts in list(self._filter.by_day.items()):
            for (rule, outcome), number in list(counts.items()) if when >= day else ():
                of_rule = found.setdefault(rule, dict.fromkeys(OUTCOMES, 0))
                of_rule[outcome] += number
        return found

    def snapshot(self) -> dict[str, Any]:
        """What is known of earlier events, as plain data."""
        return {"memory": self._evaluator.memory.to_plain(), "filter": self._filter.to_plain()}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on with what `snapshot` gave."""
        self._evaluator = RuleEvaluator(self.rules.rules.values(), RuleMemory.from_plain(saved["memory"]))
        self._filter.restore(saved["filter"])
