"""The engine: audit events in, one verdict an event and durable alerts out. It knows nothing of HTTP."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np
from typing_extensions import TypedDict

from data.events import AuditEvent, ObjectRef
from data.traits import read_traits
from serving.alerts import (
    Action,
    Alert,
    Alternative,
    FieldSurprise,
    ImpersonatedUser,
    Model,
    Novelty,
    ObjectReference,
    ResponseStatus,
    ServedModel,
    add_actions,
    clean,
)
from serving.explain import Explainer, deed_of
from serving.principals import Principals
from serving.settings import AlertSettings
from serving.store import AlertStore, Stored, StoreError, Writer, microseconds

if TYPE_CHECKING:
    from data.detector import Explanation, Figures, Scores

_TOP_FIELDS = 3
_EXPLAINED_FIELDS = 5
_MAX_LISTED = 20
_MAX_UNSAVED = 10_000
"""Unusual actions held in memory while the store refuses writes; beyond that the oldest are given up."""


class Scorer(Protocol):
    """What the engine needs of `data.detector.Detector`."""

    def score(self, events: Sequence[AuditEvent]) -> Scores:
        """Score events in arrival order and update the state of their principals."""


@runtime_checkable
class Measured(Protocol):
    """A detector that tells what it holds."""

    def figures(self) -> Figures:
        """What it holds in memory, and how often its cache helped."""


class FieldScore(TypedDict):
    """Reconstruction error of one field, in nats."""

    field: str
    nll: float


class EventResult(TypedDict, total=False):
    """What became of one event. Only `status` is always there."""

    auditID: str
    status: Literal["scored", "folded", "rejected"]
    principal: str
    surprise: float
    evidence: float
    flagged: bool
    severity: str
    fields: list[FieldScore]
    alertID: str
    line: int
    reason: str


class ModelInfo(Model):
    """The model that is being served."""

    name: str
    version: str
    source: Literal["registry", "cache", "folder"]
    notice: str | None = None
    fields: list[str]
    loaded: datetime
    bundle: dict[str, object]


@dataclass(slots=True)
class Flagged:
    """An unusual action on its way into an alert."""

    principal: str
    kind: str
    group: str
    action: Action
    alert_id: str = ""


@dataclass(slots=True)
class Batch:
    """Outcome of one call.

    Attributes:
        events: how many were given.
        scored: those of them that are actions and were scored; all others were folded.
        flagged: unusual actions among them, by severity.
        raised: alerts that are new.
        grown: alerts that were there and hold more now.
        seconds: time spent on scoring and storing.
        tell: makes the results; nobody needs those of a webhook's batch.
    """

    events: int
    scored: int
    flagged: Mapping[str, int]
    raised: list[Alert]
    grown: list[Alert]
    seconds: float
    tell: Callable[[], list[EventResult]]
    _results: list[EventResult] | None = None

    @classmethod
    def of(cls, results: list[EventResult], raised: list[Alert], grown: list[Alert], seconds: float) -> Batch:
        """A batch whose results are there already."""
        return cls(
            events=len(results),
            scored=sum(result["status"] == "scored" for result in results),
            flagged=Counter(result["severity"] for result in results if result.get("flagged")),
            raised=raised,
            grown=grown,
            seconds=seconds,
            tell=lambda: results,
        )

    @property
    def results(self) -> list[EventResult]:
        """One for each event, in their order; made when they are first asked for."""
        if self._results is None:
            self._results = self.tell()
        return self._results


@dataclass(slots=True)
class _Growing:
    """An alert and what this batch adds to it."""

    number: int | None
    alert: Alert
    first: datetime
    last: datetime
    flagged: list[Flagged]


class Engine:
    """Scores events one batch at a time and keeps the alerts.

    Calls from several threads are served one after the other: the detector's state depends on the order of events.

    Args:
        detector: scores events, holds the state of every principal.
        fields: names of the detector's fields, in the order of its columns.
        model: what `/v1/model` tells.
        store: where alerts go.
        explainer: turns them into words.
        settings: grouping and bounds.
        principals: counts what each does.

    Attributes:
        note: called with every alert that is raised or grows and its number, within the transaction that stores it.
    """

    def __init__(
        self,
        detector: Scorer,
        fields: Sequence[str],
        model: ModelInfo,
        store: AlertStore,
        explainer: Explainer,
        settings: AlertSettings | None = None,
        principals: Principals | None = None,
    ) -> None:
        self.model = model
        self.store = store
        self.principals = principals or Principals()
        self.note: Callable[[Writer, int, Alert], None] | None = None
        self._detector = detector
        self._fields = tuple(fields)
        self._explainer = explainer
        self._settings = settings or AlertSettings()
        self._gap = timedelta(minutes=self._settings.gap_minutes)
        self._lock = threading.Lock()
        self._unsaved: list[Flagged] = []

    def score(self, events: Sequence[AuditEvent]) -> Batch:
        """Score events in arrival order; when this returns, their alerts are durable.

        Raises:
            StoreError: alerts could not be stored. They are kept and stored with the next batch that can be.
        """
        with self._lock:
            started = time.perf_counter()
            scores = self._detector.score(events)
            self._record(scores)
            flagged = self._unusual(events, scores)
            waiting = [*self._unsaved, *flagged.values()]
            try:
                raised, grown = self._save(waiting) if waiting else ([], [])
            except StoreError:
                self._unsaved = waiting[-_MAX_UNSAVED:]
                raise
            self._unsaved = []
            return Batch(
                events=len(events),
                scored=len(scores.event),
                flagged=Counter(entry.action.severity for entry in flagged.values()),
                raised=raised,
                grown=grown,
                seconds=time.perf_counter() - started,
                tell=lambda: self._results(events, scores, flagged),
            )

    @property
    def figures(self) -> Figures | None:
        """What the detector holds in memory, if it tells."""
        return self._detector.figures() if isinstance(self._detector, Measured) else None

    @property
    def detector(self) -> Scorer:
        """Scores events."""
        return self._detector

    @property
    def has_unsaved(self) -> bool:
        """Whether alerts wait for a store that refused them."""
        return bool(self._unsaved)

    def close(self) -> None:
        """Wait for a running batch and give the store back."""
        with self._lock:
            self.store.close()

    # -- verdicts -----------------------------------------------------------------------------------------------

    def _record(self, scores: Scores) -> None:
        """Count what each principal did."""
        self.principals.record(
            scores.principal,
            scores.kind,
            scores.group,
            scores.time.astype(np.int64),
            scores.surprise,
            scores.evidence,
            scores.severity,
        )

    def _unusual(self, events: Sequence[AuditEvent], scores: Scores) -> dict[int, Flagged]:
        """The actions that were flagged, by their row."""
        return {
            row: Flagged(
                clean(scores.principal[row]),
                scores.kind[row],
                clean(scores.group[row]),
                self._action(events[int(scores.event[row])], scores, row),
            )
            for row in np.flatnonzero(scores.flagged).tolist()
        }

    def _results(
        self, events: Sequence[AuditEvent], scores: Scores, flagged: Mapping[int, Flagged]
    ) -> list[EventResult]:
        """What became of each event, in their order."""
        results: list[EventResult] = [{"auditID": event.auditID, "status": "folded"} for event in events]
        if not len(scores.event):
            return results
        count = min(_TOP_FIELDS, len(self._fields))
        top = np.argsort(-scores.nll, axis=1, kind="stable")[:, :count]
        nll = np.take_along_axis(scores.nll, top, axis=1).tolist()
        named = [[self._fields[column] for column in row] for row in top.tolist()]
        surprise, evidence = scores.surprise.tolist(), scores.evidence.tolist()
        is_flagged = scores.flagged.tolist()
        for row, event in enumerate(scores.event.tolist()):
            results[event] = {
                "auditID": events[event].auditID,
                "status": "scored",
                "principal": scores.principal[row],
                "surprise": surprise[row],
                "evidence": evidence[row],
                "flagged": is_flagged[row],
                "severity": scores.severity[row],
                "fields": [
                    {"field": name, "nll": value} for name, value in zip(named[row], nll[row], strict=True)
                ],
            }
            if row in flagged:
                results[event]["alertID"] = flagged[row].alert_id
        return results

    def _action(self, event: AuditEvent, scores: Scores, row: int) -> Action:
        """The part of an event that an alert keeps, cleaned, with the reasons it is unusual."""
        ref = event.objectRef if event.objectRef is not None and event.objectRef.resource else None
        other = event.impersonatedUser
        traits = "-"
        if ref is not None and event.requestObject:
            traits, _ = read_traits(
                event.verb, ref.resource, ref.subresource, event.user.username, event.requestObject
            )
        why = scores.explanations.get(row)
        severity = scores.severity[row]
        moment: datetime = scores.time[row].astype("M8[us]").item()
        action = Action.model_validate(
            {
                "audit_id": clean(event.auditID, 128),
                "time": moment.replace(tzinfo=UTC),
                "did": "",
                "verb": clean(event.verb, 64),
                "object_ref": None if ref is None else _reference(ref),
                "request_path": clean(event.requestURI.partition("?")[0]) if ref is None else None,
                "response_status": ResponseStatus(code=event.responseStatus.code)
                if event.responseStatus
                else None,
                "source_ips": [clean(address, 64) for address in event.sourceIPs[:_MAX_LISTED]],
                "user_agent": clean(event.userAgent),
                "impersonated_user": ImpersonatedUser(username=clean(other.username))
                if other is not None
                else None,
                "traits": [clean(trait, 80) for trait in traits.split(",")[:_MAX_LISTED] if trait != "-"],
                "severity": severity if severity != "none" else "low",
                "sensitivity": int(scores.sensitivity[row]),
                "sensitivity_reason": "" if why is None else why.sensitivity,
                "evidence": round(float(scores.evidence[row]), 3),
                "surprise": round(float(scores.surprise[row]), 3),
                "fields": [] if why is None else _fields(why),
                "habits": [] if why is None else _habits(why),
            }
        )
        action.did = self._explainer.did(deed_of(action))
        return action

    # -- alerts -------------------------------------------------------------------------------------------------

    def _save(self, flagged: Sequence[Flagged]) -> tuple[list[Alert], list[Alert]]:
        """Join unusual actions to alerts, in one transaction. Returns (raised, grown)."""
        by_principal: dict[str, list[Flagged]] = {}
        for entry in flagged:
            by_principal.setdefault(entry.principal, []).append(entry)
        raised: list[Alert] = []
        grown: list[Alert] = []
        with self.store.writing() as writer:
            for entries in by_principal.values():
                for growing in self._group(writer, entries):
                    is_new = growing.number is None
                    if self._grow(writer, growing):
                        (raised if is_new else grown).append(growing.alert)
        return raised, grown

    def _group(self, writer: Writer, entries: list[Flagged]) -> list[_Growing]:
        """Assign actions of one principal to its stored alerts, or to new ones, by the gap between them."""
        open_: list[_Growing] = []
        for entry in sorted(entries, key=lambda entry: entry.action.time):
            moment = entry.action.time
            found = next(
                (one for one in open_ if one.first - self._gap <= moment <= one.last + self._gap), None
            )
            if found is None:
                stored = writer.find(entry.principal, moment - self._gap, moment + self._gap)
                found = self._begin(entry, stored)
                open_.append(found)
            found.first, found.last = min(found.first, moment), max(found.last, moment)
            found.flagged.append(entry)
            entry.alert_id = found.alert.id
        return open_

    def _begin(self, entry: Flagged, stored: Stored | None) -> _Growing:
        if stored is not None:
            return _Growing(stored.number, stored.alert, stored.alert.first_seen, stored.alert.last_seen, [])
        moment = entry.action.time
        key = f"{entry.principal}\0{entry.action.audit_id}\0{microseconds(moment)}"
        alert = Alert(
            # The same log gives the same identifiers, wherever it is scored.
            id=hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:16],
            principal=entry.principal,
            kind=entry.kind,
            peer_group=entry.group,
            first_seen=moment,
            last_seen=moment,
            severity="low",
            evidence=0.0,
            sentence="",
            model=ServedModel(name=self.model.name, version=self.model.version),
        )
        return _Growing(None, alert, moment, moment, [])

    def _grow(self, writer: Writer, growing: _Growing) -> bool:
        """Add what the alert does not hold yet and store it; False if a retry brought nothing new."""
        names = list({entry.action.audit_id for entry in growing.flagged})
        known = writer.known(growing.number, names) if growing.number is not None else set()
        fresh: dict[tuple[str, int], Action] = {}
        for entry in growing.flagged:
            key = (entry.action.audit_id, microseconds(entry.action.time))
            if key not in known:
                fresh.setdefault(key, entry.action)
        if not fresh:
            return False
        alert = growing.alert
        add_actions(
            alert, list(fresh.values()), first=self._settings.first_actions, top=self._settings.top_actions
        )
        self._explainer.renew(alert)
        number = writer.put(growing.number, alert, list(fresh))
        if self.note is not None:
            self.note(writer, number, alert)
        return True


def _reference(ref: ObjectRef) -> ObjectReference:
    return ObjectReference(
        resource=clean(ref.resource),
        namespace=clean(ref.namespace),
        name=clean(ref.name),
        api_group=clean(ref.apiGroup),
        subresource=clean(ref.subresource),
    )


def _fields(why: Explanation) -> list[FieldSurprise]:
    return [
        FieldSurprise(
            field=reason.field,
            value=clean(reason.value),
            nll=round(float(reason.nll), 3),
            expected=[
                Alternative(value=clean(value), probability=round(float(p), 4))
                for value, p in reason.expected
            ],
        )
        for reason in why.fields[:_EXPLAINED_FIELDS]
    ]


def _habits(why: Explanation) -> list[Novelty]:
    return [
        Novelty(
            attribute=reason.attribute,
            value=clean(reason.value),
            times_before=reason.times_before,
            actions_before=reason.actions_before,
            peers_with=reason.peers_with,
            peers=reason.peers,
            anyone_with=reason.anyone_with,
        )
        for reason in why.habits
    ]
