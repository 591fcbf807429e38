"""Turns what contradicts the cluster's own rules into unusual actions, whatever the habits of their principal are."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from data.events.audit_event import AuditEvent
from data.principals.identity import Identity, identify
from data.timestamps import parse_times
from detection.authorization.agreement import CONTRADICTIONS, Comparison
from detection.authorization.rbac import ObjectKey
from serving.alerts.grouping import Flagged
from serving.authorization.monitor import AuthorizationMonitor
from serving.schemas import SEVERITIES, Action, Contradiction, Severity, clean
from serving.storage.tables import as_moment

if TYPE_CHECKING:
    from detection.detector import Scores

_log = logging.getLogger("kubehabit.authorization")
_SEVERITIES: Mapping[str, Severity] = {
    "allowed by nothing": "high",
    "binding does not grant it": "high",
    "anonymous success by no rule": "critical",
    "decision contradicts the response": "high",
    "no decision recorded": "medium",
    "more than its writer had": "critical",
}
#: What is more severe where the request could do harm.
_RAISED = ("allowed by nothing", "decision contradicts the response")
_HARMFUL = 2
_YOUNG = timedelta(days=1)
_READS = ("get", "list", "watch")


class ContradictionFinder:
    """Compares batches with the rules, and describes what is to be raised.

    Args:
        monitor: compares, and decides what is raised.
        describe: the short form of an event as an action, given its row in the scores (None: it has none) and its time.
        identity: who is behind a request; None without a model.
    """

    def __init__(
        self,
        monitor: AuthorizationMonitor,
        describe: Callable[[AuditEvent, Scores, int | None, datetime], Action],
        identity: Callable[[], Identity | None],
    ) -> None:
        self.monitor = monitor
        self._describe = describe
        self._identity = identity

    def find(
        self,
        events: Sequence[AuditEvent],
        scores: Scores,
        compared: Sequence[Comparison | None],
        flagged: dict[int, Flagged],
    ) -> list[Flagged]:
        """Contradictions of a batch that are to be raised.

        Args:
            events, scores: of the batch.
            compared: what the monitor said of each event.
            flagged: its unusual actions by their row; those that contradict the rules are marked, and new ones added.

        Returns:
            Those of events that have no row, because their request was scored before.
        """
        for row, entry in flagged.items():
            one = compared[int(scores.event[row])]
            if one is not None and one.recorded is not None:
                entry.action.binding_made = self._made(one.recorded.binding, entry.action)
        found = [
            index for index, one in enumerate(compared) if one is not None and one.outcome in CONTRADICTIONS
        ]
        if not found:
            return []
        rows = {event: row for row, event in enumerate(scores.event.tolist())}
        others = []
        for index in found:
            one = compared[index]
            assert one is not None
            try:
                made = self._entry(events[index], one, scores, rows.get(index), flagged)
            except Exception:  # no event may keep the alert of another from being raised
                _log.exception("a contradiction to RBAC cannot be described")
                continue
            if made is None:
                continue
            if index in rows:
                flagged[rows[index]] = made
            else:
                others.append(made)
        return others

    def _entry(
        self,
        event: AuditEvent,
        one: Comparison,
        scores: Scores,
        row: int | None,
        flagged: Mapping[int, Flagged],
    ) -> Flagged | None:
        """The unusual action of a contradiction; None if it is not to be raised."""
        principal, kind, group = self._who(event, scores, row)
        moment = _time_of(event, scores, row)
        raised = self.monitor.judge(one, principal, moment)
        if raised is None:
            return None
        entry = None if row is None else flagged.get(row)
        if entry is None:
            action = self._describe(event, scores, row, as_moment(moment).replace(tzinfo=None))
            threshold = 0.0 if row is None else float(scores.threshold[row])
            first = None if raised.first is None else as_moment(raised.first)
            entry = Flagged(principal, kind, group, action, threshold, first_flagged=first)
            entry.action.severity = "low"
        elif raised.first is None:
            entry.first_flagged = None  # more than a repeat
        entry.action.contradiction = contradiction_of(one)
        severity = _severity(one, entry.action)
        entry.action.severity = max(entry.action.severity, severity, key=SEVERITIES.index)
        return entry

    def _made(self, binding: ObjectKey, action: Action) -> datetime | None:
        """When a binding was made, if that was within a day before an action."""
        made = self.monitor.oracle.made(binding)
        if made is None:
            return None
        return made if timedelta() <= action.time - made < _YOUNG else None

    def _who(self, event: AuditEvent, scores: Scores, row: int | None) -> tuple[str, str, str]:
        if row is not None:
            return clean(scores.principal[row]), scores.kind[row], clean(scores.group[row])
        identity = self._identity()
        if identity is None:
            found = identify(event.user.username, event.user.groups)
        else:
            actor = identity.actor(event.user, event.impersonatedUser, event.annotations)
            found = identity.principal(actor.username, actor.groups)
        name = f"{event.cluster}/{found.name}" if event.cluster else found.name
        return clean(name), found.kind, clean(found.groups[0])


def contradiction_of(one: Comparison) -> Contradiction:
    """A contradiction as alerts keep it, cleaned."""
    recorded = "" if one.recorded is None else f"{one.recorded.binding} of {one.recorded.role}"
    return Contradiction(
        outcome=one.outcome,
        request=clean(str(one.request)),
        user=clean(one.user),
        recorded=clean(recorded),
        rules_say=clean("" if one.ruling is None else one.ruling.reason),
    )


def _time_of(event: AuditEvent, scores: Scores, row: int | None) -> int:
    """Time of an event as its alert has it, microseconds since 1970 UTC."""
    if row is not None:
        return int(scores.time[row].astype(np.int64))
    return int(parse_times([event.requestReceivedTimestamp or event.stageTimestamp])[0])


def _severity(one: Comparison, action: Action) -> Severity:
    severity = _SEVERITIES[one.outcome]
    could_harm = action.sensitivity >= _HARMFUL or (
        one.request.path is None and one.request.verb not in _READS
    )
    return "critical" if one.outcome in _RAISED and could_harm else severity
