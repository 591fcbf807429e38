"""Verdicts on a batch: one result an event, and the alerts that the batch raised or let grow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from typing_extensions import TypedDict

from data.events.audit_event import AuditEvent
from serving.alerts.grouping import Flagged
from serving.schemas import Alert, Alternative, FieldSurprise, clean
from serving.scoring.alert_writer import Refused

if TYPE_CHECKING:
    from detection.detector import Explanation, Scores
    from serving.schemas import ModelInfo

_TOP_FIELDS = 3
_EXPLAINED_FIELDS = 5


class FieldScore(TypedDict):
    """Reconstruction error of one field, in nats."""

    field: str
    nll: float


class EventResult(TypedDict, total=False):
    """Outcome of one event. Only `status` is always there."""

    auditID: str
    status: Literal["scored", "folded", "repeated", "rejected"]
    principal: str
    surprise: float
    evidence: float
    flagged: bool
    severity: str
    fields: list[FieldScore]
    rules: list[str]
    alertID: str
    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class ActionCounts:
    """Numbers of actions of a batch.

    Attributes:
        with_history: by principals with enough history to be judged by.
        surprising: with an error of reconstruction that one in twenty reached in calibration.
        unknown: with a verb or a resource that training never saw.
    """

    with_history: int = 0
    surprising: int = 0
    unknown: int = 0


@dataclass(slots=True)
class Batch:
    """Outcome of one call of the engine.

    Attributes:
        events: number given.
        scored: number of actions among them; all others were folded.
        counts: what is counted of its actions besides.
        flagged: number of unusual actions, by severity.
        raised, grown: new alerts, and those that hold more now.
        seconds: time spent on scoring and storing.
        render: makes the results, which nobody needs of a webhook's batch.
        model: the model that judged it; None if there was nothing to judge.
        refused: unusual actions that are in no alert because the database rejected them.
        dropped: number of unusual actions that were given up, the least severe first, while the store failed.
    """

    events: int
    scored: int
    flagged: Mapping[str, int]
    raised: list[Alert]
    grown: list[Alert]
    seconds: float
    render: Callable[[], list[EventResult]]
    model: ModelInfo | None = None
    refused: Sequence[Refused] = ()
    dropped: int = 0
    counts: ActionCounts = ActionCounts()
    _results: list[EventResult] | None = field(default=None, init=False, repr=False)

    @classmethod
    def from_results(
        cls,
        results: list[EventResult],
        raised: list[Alert],
        grown: list[Alert],
        seconds: float,
        model: ModelInfo | None = None,
    ) -> Batch:
        """A batch whose results are there already."""
        return cls(
            events=len(results),
            scored=sum(result["status"] == "scored" for result in results),
            flagged=Counter(result["severity"] for result in results if result.get("flagged")),
            raised=raised,
            grown=grown,
            seconds=seconds,
            render=lambda: results,
            model=model,
        )

    @property
    def results(self) -> list[EventResult]:
        """One for each event, in their order; made at the first use."""
        if self._results is None:
            self._results = self.render()
        return self._results


def results_of(
    events: Sequence[AuditEvent], scores: Scores, fields: Sequence[str], flagged: Mapping[int, Flagged]
) -> list[EventResult]:
    """What became of each event, in their order; `fields` names the columns of errors, `flagged` has unusual actions by row."""
    results: list[EventResult] = [{"auditID": event.auditID, "status": "folded"} for event in events]
    if not len(scores.event):
        return results
    top = np.argsort(-scores.nll, axis=1, kind="stable")[:, : min(_TOP_FIELDS, len(fields))]
    nll = np.take_along_axis(scores.nll, top, axis=1).tolist()
    named = [[fields[column] for column in row] for row in top.tolist()]
    surprise, evidence = scores.surprise.tolist(), scores.evidence.tolist()
    is_flagged = scores.flagged.tolist()
    for row, event in enumerate(scores.event.tolist()):
        results[event] = {
            "auditID": events[event].auditID,
            "status": "scored",
            "principal": scores.principal[row],
            "surprise": surprise[row],
            "evidence": evidence[row],
            "flagged": is_flagged[row] or row in flagged,
            "severity": flagged[row].action.severity if row in flagged else scores.severity[row],
            "fields": [
                {"field": name, "nll": value} for name, value in zip(named[row], nll[row], strict=True)
            ],
        }
        if row in flagged:
            entry = flagged[row]
            # A rule flags what the detector does not, or takes it for worse.
            results[event].update(flagged=True, severity=entry.action.severity)
            if entry.action.rules:
                results[event]["rules"] = [one.name for one in entry.action.rules]
            if entry.alert_id:
                results[event]["alertID"] = entry.alert_id
    return results


def surprising_fields(why: Explanation) -> list[FieldSurprise]:
    """The fields that an alert shows of an action, most surprising first."""
    return [
        FieldSurprise(
            field=reason.field,
            value=clean(reason.value),
            nll=round(float(reason.nll), 3),
            expected=_alternatives(reason.expected),
            expected_of_peers=_alternatives(reason.of_peers),
        )
        for reason in why.fields[:_EXPLAINED_FIELDS]
    ]


def _alternatives(expected: Sequence[tuple[str, float]]) -> list[Alternative]:
    return [Alternative(value=clean(value), probability=round(float(p), 4)) for value, p in expected]
