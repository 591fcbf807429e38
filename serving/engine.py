"""The engine: audit events in, one verdict an event and durable alerts out. It knows nothing of HTTP."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Protocol, runtime_checkable

import numpy as np
from pydantic import Field
from typing_extensions import TypedDict

from data.audit_event import AuditEvent
from serving.alerts import (
    Action,
    Alert,
    Alternative,
    ApiModel,
    FieldSurprise,
    ServedModel,
    add_actions,
    add_contributors,
    clean,
)
from serving.context import ContextTracker, Flag, Gathered, habits_of
from serving.event_summary import summary_fields, traits_of
from serving.explainer import Explainer
from serving.incident_store import add_links, add_surroundings
from serving.incidents import Incidents
from serving.phrases import ActionPhrase
from serving.principals import Principals, Trained
from serving.settings import AlertSettings
from serving.store import AlertStore, RefusedError, Stored, StoreError, Writer
from serving.tables import microseconds

if TYPE_CHECKING:
    from data.detector import Detector, Explanation, Figures, Scores
    from data.habits import Habits
    from serving.history.recorder import Judge

_TOP_FIELDS = 3
_EXPLAINED_FIELDS = 5
_ASIDE, _ASIDE_SECONDS = 200, 2.0
"""Actions around alerts that wait to be stored, and for how long, before they get a transaction of their own."""

_MAX_UNSAVED = 10_000
"""Unusual actions held in memory while the store refuses writes; beyond that the oldest are given up."""

_log = logging.getLogger("kubehabit.engine")


class Scorer(Protocol):
    """What the engine needs of `data.detector.Detector`."""

    def score(self, events: Sequence[AuditEvent]) -> Scores:
        """Score events in arrival order and update the state of their principals."""


class Shadow(Protocol):
    """What the engine needs of `serving.shadow.Shadow`."""

    def offer(self, events: Sequence[AuditEvent], scores: Scores) -> None:
        """Take a scored batch; must return at once."""


class Past(Protocol):
    """What the engine needs of `serving.history.recorder.History`."""

    def observe(self, scores: Scores) -> None:
        """Remember a scored batch; must return at once."""

    def judged_by(self, judge: Judge, trained: Trained | None = None) -> None:
        """Who judges from the next batch on, and whom its training knew."""


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


class SelfTestResult(ApiModel):
    """How near this machine came to what training computed when the model was loaded."""

    windows: int
    worst_difference: Annotated[float, Field(description="nats")]
    tolerance: Annotated[float, Field(description="nats; beyond it the model would have been refused")]


class ModelInfo(ApiModel):
    """The model that is being served."""

    name: str
    version: str
    source: Literal["registry", "cache", "folder"]
    notice: str | None = None
    fields: list[str]
    loaded: datetime
    bundle: dict[str, object]
    self_test: Annotated[
        SelfTestResult | None, Field(description="null for a bundle that was made before there was one")
    ] = None
    threshold_scale: Annotated[
        float, Field(description="what the calibrated thresholds are multiplied by: alerts.threshold_scale")
    ] = 1.0


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that is ready to be served.

    Attributes:
        directory: folder of its bundle, which names the very registration.
    """

    detector: Detector
    model: ModelInfo
    trained: Trained
    directory: Path


@dataclass(slots=True)
class Flagged:
    """An unusual action on its way into an alert."""

    principal: str
    kind: str
    group: str
    action: Action
    threshold: float = 0.0
    alert_id: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """An unusual action that the store will not have, and why: it is in no alert."""

    principal: str
    action: Action
    reason: str


@dataclass(slots=True)
class Batch:
    """Outcome of one call.

    Attributes:
        events: how many were given.
        scored: those of them that are actions and were scored; all others were folded.
        flagged: unusual actions among them, by severity.
        raised: alerts that are new.
        grown: alerts that were there and hold more now.
        refused: unusual actions that are in no alert, for the store will not have them.
        seconds: time spent on scoring and storing.
        tell: makes the results; nobody needs those of a webhook's batch.
        model: the model that judged it; None if there was nothing to judge.
    """

    events: int
    scored: int
    flagged: Mapping[str, int]
    raised: list[Alert]
    grown: list[Alert]
    seconds: float
    tell: Callable[[], list[EventResult]]
    model: ModelInfo | None = None
    refused: Sequence[Refused] = ()
    _results: list[EventResult] | None = None

    @classmethod
    def of(
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
            tell=lambda: results,
            model=model,
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
        surroundings: remembers what surrounds flagged actions.

    Attributes:
        incidents: what the alerts were joined to.
        surroundings: what surrounds flagged actions, as far as it is remembered.
        note: called with every alert that is raised or grows and its number, within the transaction that stores it.
        loaded: the model as it was loaded; None if it did not come out of a bundle.
        shadow: is offered every scored batch.
        past: remembers every scored batch; None where nobody asks for it.
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
        surroundings: ContextTracker | None = None,
    ) -> None:
        self.model = model
        self.store = store
        self.principals = principals or Principals()
        self.note: Callable[[Writer, int, Alert], None] | None = None
        self.loaded: Loaded | None = None
        self.shadow: Shadow | None = None
        self.past: Past | None = None
        self._detector = detector
        self._fields = tuple(fields)
        self._explainer = explainer
        self._settings = settings or AlertSettings()
        self._gap = timedelta(minutes=self._settings.gap_minutes)
        self.surroundings = surroundings or ContextTracker(explainer, round(self._gap.total_seconds() * 1e6))
        self.incidents = Incidents(store, explainer)
        self._lock = threading.Lock()
        self._aside: list[tuple[int, Gathered]] = []
        self._aside_since = 0.0
        self._unsaved: list[Flagged] = []

    def score(self, events: Sequence[AuditEvent]) -> Batch:
        """Score events in arrival order; when this returns their alerts are stored, on disk for good by the store's next `flush`.

        Raises:
            StoreError: alerts could not be stored now. They are kept and stored with the next batch that can be.
        """
        with self._lock:
            started = time.perf_counter()
            scores = self._detector.score(events)
            if self.shadow is not None:
                self.shadow.offer(events, scores)
            if self.past is not None:
                self.past.observe(scores)
            self._record(scores)
            self.surroundings.observe(events, scores)
            flagged = self._unusual(events, scores)
            waiting = [*self._unsaved, *flagged.values()]
            refused: list[Refused] = []
            try:
                raised, grown = self._save_what_can_be(waiting, refused) if waiting else ([], [])
            except StoreError:
                self._unsaved = waiting[-_MAX_UNSAVED:]
                raise
            self._unsaved = []
            self._set_aside(self.surroundings.watched(scores))
            return Batch(
                events=len(events),
                scored=len(scores.event),
                flagged=Counter(entry.action.severity for entry in flagged.values()),
                raised=raised,
                grown=grown,
                seconds=time.perf_counter() - started,
                tell=lambda: self._results(events, scores, flagged),
                model=self.model,
                refused=refused,
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

    @property
    def explainer(self) -> Explainer:
        """Puts alerts into words."""
        return self._explainer

    @property
    def glossary(self) -> dict[str, str]:
        """Words that alerts and incidents use, explained."""
        return self._explainer.lexicon.glossary

    def settle(self) -> None:
        """Store what principals with an alert did lately, so that whoever reads now sees it.

        Raises:
            StoreError: the database refused; it is kept, and stored with the next alert.
        """
        with self._lock:
            self._store_aside()

    @property
    def busy(self) -> bool:
        """Whether a batch is being scored at the moment."""
        return self._lock.locked()

    def habits(self) -> Habits | None:
        """A copy of all habits, for another model to learn from before it takes over; None for a detector without any."""
        with self._lock:
            return None if self.loaded is None else self.loaded.detector.habits.copy()

    def swap(self, loaded: Loaded, learned: Habits | None = None) -> float:
        """Serve another model from the next batch on, with all that is known of the principals. Nobody is turned away meanwhile.

        Args:
            loaded: the other model.
            learned: what `habits` returned, if its detector has learned from it.

        Returns:
            Seconds in which batches had to wait.
        """
        from data.carry import carry_over

        with self._lock:
            began = time.perf_counter()
            if self.loaded is not None:
                carry_over(self.loaded.detector, loaded.detector, learned=learned)
            self._detector, self._fields = loaded.detector, tuple(loaded.model.fields)
            self.model, self.loaded = loaded.model, loaded
            self.principals.trained = loaded.trained
            encoder = loaded.detector.encoder
            self.surroundings.attach(encoder.identity.fold, encoder.settings.trusted_hops)
            self._tell_past()
            return time.perf_counter() - began

    def remember(self, past: Past) -> None:
        """Let somebody remember every batch from the next one on."""
        with self._lock:
            self.past = past
            self._tell_past()

    def _tell_past(self) -> None:
        from serving.history.recorder import Judge

        if self.past is not None and self.loaded is not None:
            judge = Judge.from_calibration(self.model.version, self.loaded.detector.bundle.calibration)
            self.past.judged_by(judge, self.loaded.trained)

    def set_shadow(self, shadow: Shadow | None, fresh: Detector | None = None) -> None:
        """Offer every batch to another model as well, from the next one on; None ends it.

        Args:
            fresh: its detector, to be given what is known of the principals.
        """
        from data.carry import carry_over

        with self._lock:
            if fresh is not None and self.loaded is not None:
                carry_over(self.loaded.detector, fresh, share=False)
            self.shadow = shadow

    def close(self) -> None:
        """Wait for a running batch and give the store back."""
        with self._lock:
            try:
                self._store_aside()
            finally:
                self.store.close()

    def _set_aside(self, found: list[tuple[int, Gathered]]) -> None:
        """Keep what surrounds alerts until there is more of it: a transaction for every batch would cost more than it tells."""
        if found and not self._aside:
            self._aside_since = time.monotonic()
        self._aside = (self._aside + found)[-_MAX_UNSAVED:]
        held = sum(len(one.around) for _, one in self._aside)
        if self._aside and (held >= _ASIDE or time.monotonic() - self._aside_since >= _ASIDE_SECONDS):
            try:
                self._store_aside()
            except StoreError as error:
                _log.warning("what surrounds alerts is kept in memory: %s", error)

    def _store_aside(self) -> None:
        if not self._aside:
            return
        try:
            self._store_around(self._aside)
        except RefusedError:
            for one in self._aside:
                try:
                    self._store_around([one])
                except RefusedError as error:
                    _log.error("what surrounds alert number %d cannot be kept: %s", one[0], error)
        self._aside = []

    def _store_around(self, around: Sequence[tuple[int, Gathered]]) -> None:
        with self.store.writing(lazily=True) as writer:
            self._write_around(writer, around)

    def _write_around(self, writer: Writer, around: Sequence[tuple[int, Gathered]]) -> None:
        kept = writer.kept({number for number, _ in around})
        for number, found in around:
            # What is around an alert that was forgotten meanwhile goes with it.
            if number in kept and add_surroundings(writer.connection, number, found.around):
                add_links(writer.connection, number, found.links)

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
                float(scores.threshold[row]),
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
            if row in flagged and flagged[row].alert_id:
                results[event]["alertID"] = flagged[row].alert_id
        return results

    def _action(self, event: AuditEvent, scores: Scores, row: int) -> Action:
        """The part of an event that an alert keeps, cleaned, with the reasons it is unusual."""
        why = scores.explanations.get(row)
        severity = scores.severity[row]
        moment: datetime = scores.time[row].astype("M8[us]").item()
        action = Action.model_validate(
            summary_fields(event, moment, traits_of(event))
            | {
                "severity": severity if severity != "none" else "low",
                "sensitivity": int(scores.sensitivity[row]),
                "sensitivity_reason": "" if why is None else why.sensitivity,
                "evidence": round(float(scores.evidence[row]), 3),
                "surprise": round(float(scores.surprise[row]), 3),
                "fields": [] if why is None else _fields(why),
                "habits": [] if why is None else habits_of(why.habits),
            }
        )
        action.description = self._explainer.did(ActionPhrase.from_summary(action))
        return action

    # -- alerts -------------------------------------------------------------------------------------------------

    def _save_what_can_be(
        self, flagged: Sequence[Flagged], refused: list[Refused]
    ) -> tuple[list[Alert], list[Alert]]:
        """As `_save`; what the store will not have is told in `refused`, and holds up nothing else."""
        try:
            return self._save(flagged)
        except RefusedError:
            self._store_aside()
        raised: dict[str, Alert] = {}
        grown: dict[str, Alert] = {}
        for entry in flagged:
            try:
                began, more = self._save([entry])
            except RefusedError as error:
                entry.alert_id = ""
                refused.append(Refused(entry.principal, entry.action, str(error)))
                continue
            for alert in began + more:
                (raised if alert in began or alert.id in raised else grown)[alert.id] = alert
        return list(raised.values()), list(grown.values())

    def _save(self, flagged: Sequence[Flagged]) -> tuple[list[Alert], list[Alert]]:
        """Join unusual actions to alerts, in one transaction. Returns (raised, grown)."""
        by_principal: dict[str, list[Flagged]] = {}
        for entry in flagged:
            by_principal.setdefault(entry.principal, []).append(entry)
        raised: list[Alert] = []
        grown: list[Alert] = []
        restore = self.surroundings.checkpoint(by_principal)
        try:
            self._save_all(by_principal, raised, grown)
        except StoreError:
            restore()
            raise
        self._aside = []
        return raised, grown

    def _save_all(
        self, by_principal: Mapping[str, list[Flagged]], raised: list[Alert], grown: list[Alert]
    ) -> None:
        with self.store.writing(lazily=True) as writer:
            self._write_around(writer, self._aside)
            for entries in by_principal.values():
                for growing in self._group(writer, entries):
                    is_new = growing.number is None
                    if self._grow(writer, growing):
                        (raised if is_new else grown).append(growing.alert)

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
        fresh: dict[tuple[str, int], Flagged] = {}
        for entry in growing.flagged:
            key = (entry.action.audit_id, microseconds(entry.action.time))
            if key not in known:
                fresh.setdefault(key, entry)
        if not fresh:
            return False
        alert = growing.alert
        flags = [Flag(moment, one.threshold, one.action) for (_, moment), one in fresh.items()]
        flags.sort(key=lambda flag: flag.time)
        found = self.surroundings.gather(alert.principal, flags, growing.number)
        # Within what the alert spans already, milder actions were counted when it last grew.
        mild = found.contributors
        if growing.number is not None and alert.began is not None:
            mild = [one for one in mild if not alert.began <= one.time <= alert.last_seen]
        add_actions(
            alert,
            [entry.action for entry in fresh.values()],
            first=self._settings.first_actions,
            top=self._settings.top_actions,
        )
        add_contributors(alert, mild)
        self._explainer.renew(alert)
        number = writer.put(growing.number, alert, list(fresh))
        self.surroundings.stored(alert.principal, number)
        add_surroundings(writer.connection, number, found.around)
        ties = add_links(writer.connection, number, found.links)
        self.incidents.join(writer.connection, alert, ties)
        if self.note is not None:
            self.note(writer, number, alert)
        return True


def _alternatives(expected: Sequence[tuple[str, float]]) -> list[Alternative]:
    return [Alternative(value=clean(value), probability=round(float(p), 4)) for value, p in expected]


def _fields(why: Explanation) -> list[FieldSurprise]:
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
