"""The engine: audit events in, one verdict an event and stored alerts out. It knows nothing of HTTP."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from data.events.audit_event import AuditEvent
from data.principals.identity import Identity
from detection.exceptions import HabitExceptions
from detection.fit import USUAL
from detection.rules.expressions import MAX_REASON
from detection.rules.hit_filter import FilteredHit
from serving.alerts.explain.explainer import Explainer
from serving.alerts.explain.phrases import ActionPhrase
from serving.alerts.grouping import Flagged
from serving.authorization.monitor import AuthorizationMonitor
from serving.delivery.outbox import Outbox
from serving.history.activity import PrincipalReport, Principals, Trained
from serving.history.recorder import History, Judge
from serving.incidents.context import ContextTracker, Gathered, habits_of
from serving.incidents.event_summary import summary_fields, traits_of
from serving.incidents.incidents import Incidents
from serving.schemas import SEVERITIES, Action, ModelInfo, RuleMatch, ServedModel, clean
from serving.scoring.alert_writer import AlertWriter
from serving.scoring.contradictions import ContradictionFinder
from serving.scoring.habit_verdicts import HabitVerdict
from serving.scoring.readiness import HistoryTracker, has_enough
from serving.scoring.rule_alerts import FoundHits, RuleAlerts
from serving.scoring.verdicts import ActionCounts, Batch, results_of, surprising_fields
from serving.settings import AlertSettings
from serving.storage.allowed import AllowedUse
from serving.storage.database import AlertStore
from serving.storage.tables import as_moment

_log = logging.getLogger("kubehabit.engine")

if TYPE_CHECKING:
    from detection.authorization.agreement import Comparison
    from detection.detector import Detector, Figures, Scores
    from detection.novelty import HabitTable
    from detection.probation import Verdict


class EventScorer(Protocol):
    """What the engine needs of `detection.detector.Detector`."""

    def score(self, events: Sequence[AuditEvent]) -> Scores:
        """Score events in arrival order and update the state of their principals."""


@runtime_checkable
class VerdictTaker(Protocol):
    """A detector that learns from verdicts."""

    def apply_verdict(self, principal: str, times: Collection[int], verdict: Verdict) -> None:
        """As `detection.detector.Detector.apply_verdict`."""


@runtime_checkable
class ExceptionTaker(Protocol):
    """A detector that knows exceptions."""

    def allow(self, exceptions: HabitExceptions) -> None:
        """As `detection.detector.Detector.allow`."""


class ScoreObserver(Protocol):
    """What the engine needs of `serving.rollout.shadow.Shadow`."""

    def offer(self, events: Sequence[AuditEvent], scores: Scores) -> None:
        """Take a scored batch; must return at once."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that is ready to be served; the `directory` of its bundle is unique to its registration."""

    detector: Detector
    model: ModelInfo
    trained: Trained
    directory: Path


class Engine:
    """Scores events one batch at a time and stores the alerts.

    Calls from several threads are served one after the other: the detector's state depends on the order of events.

    Args:
        detector: scores events, holds the state of every principal.
        fields: names of the detector's fields, in the order of its columns.
        model: what `/v1/model` shows.
        store: where alerts go, after the explainer has put them into words.
        settings: grouping and bounds.
        principals: counts what each does.
        context: remembers what surrounds flagged actions.
        loaded: the model as it was loaded; None if it did not come out of a bundle.
        outbox: queues every alert that is raised or grows for delivery.
        exceptions: what people allow, as it is now; asked before each batch.
        authorization: compares every event with the cluster's roles and bindings; None: nothing is compared.
        rules: find hits beside the detector; None for none.
    """

    def __init__(
        self,
        detector: EventScorer,
        fields: Sequence[str],
        model: ModelInfo,
        store: AlertStore,
        explainer: Explainer,
        settings: AlertSettings | None = None,
        principals: Principals | None = None,
        context: ContextTracker | None = None,
        loaded: Loaded | None = None,
        outbox: Outbox | None = None,
        exceptions: Callable[[], HabitExceptions] = HabitExceptions,
        authorization: AuthorizationMonitor | None = None,
        rules: RuleAlerts | None = None,
    ) -> None:
        settings = settings or AlertSettings()
        self.detector = detector
        self.model = model
        self.loaded = loaded
        self.store = store
        self.explainer = explainer
        self.outbox = outbox
        self.exceptions = exceptions
        self.rules = rules
        self.principals = principals or Principals()
        self.readiness = HistoryTracker()
        self.context = context or ContextTracker(explainer, round(settings.gap_minutes * 60e6))
        self.incidents = Incidents(store, explainer)
        self.authorization = authorization
        self._contradictions = (
            None
            if authorization is None
            else ContradictionFinder(authorization, self._described, lambda: self._identity)
        )
        self._fields = tuple(fields)
        self._shadow: ScoreObserver | None = None
        self._history: History | None = None
        self._alerts = AlertWriter(store, explainer, self.context, self.incidents, settings, outbox)
        self._lock = threading.Lock()

    def apply_verdict(self, verdict: HabitVerdict) -> None:
        """Take in what people say about an alert: it changes what counts as a habit. Twice is as good as once.

        Raises:
            StoreError: the verdict holds, but its feedback could not be stored.
        """
        with self._lock:
            detector = self.detector
            if isinstance(detector, VerdictTaker):
                detector.apply_verdict(verdict.principal, frozenset(verdict.times), verdict.verdict)
            if self.authorization is not None:
                times = frozenset(verdict.times)
                self.authorization.apply_verdict(verdict.principal, times, verdict.verdict)
            if self.rules is not None:
                self.rules.apply_verdict(verdict.principal, frozenset(verdict.times), verdict.verdict)
        shown = {"alert": verdict.alert, "verdict": verdict.verdict, "address": verdict.address}
        _log.info("a verdict was applied", extra=shown)
        if verdict.document and verdict.verdict != "unclear":
            moment = as_moment(verdict.time)
            self.store.add_feedback(verdict.alert, moment, verdict.verdict, verdict.document)

    def score(self, events: Sequence[AuditEvent]) -> Batch:
        """Score events in arrival order. When this returns their alerts are stored; the store's next `flush` puts them on disk.

        Raises:
            StoreError: alerts could not be stored now. They are kept and stored with the next batch that can be.
            Exception: an event cannot be scored. Nothing has changed then.
        """
        with self._lock:
            started = time.perf_counter()
            if isinstance(self.detector, ExceptionTaker):
                self.detector.allow(self.exceptions())
            scores = self.detector.score(events)
            for observe in (self._offer, self._record, self.context.observe):
                try:
                    observe(events, scores)
                except (
                    Exception
                ):  # the verdicts stand, and no event may keep another's alert from being raised
                    _log.exception("a scored batch could not be recorded everywhere")
            compared = self._compared(events)
            hits = self._rule_hits(events, scores, compared)
            flagged = self._flagged(events, scores, hits.reported)
            others = self._contradicted(events, scores, compared, flagged)
            served = ServedModel(name=self.model.name, version=self.model.version)
            unusual = [*flagged.values(), *others]
            saved = self._alerts.save(unusual, served, self._allowed(events, scores, hits))
            self._alerts.defer(self._watched(scores))
            fields = self._fields
            counts = ActionCounts(
                with_history=self.readiness.observe(scores.principal, scores.own_actions),
                surprising=int((scores.error >= USUAL).sum()),
                unknown=int(scores.unknown.sum()),
            )
            return Batch(
                events=len(events),
                scored=len(scores.event),
                counts=counts,
                flagged=Counter(entry.action.severity for entry in unusual),
                raised=saved.raised,
                grown=saved.grown,
                seconds=time.perf_counter() - started,
                render=lambda: results_of(events, scores, fields, flagged),
                model=self.model,
                refused=saved.refused,
                dropped=saved.dropped,
            )

    def _offer(self, events: Sequence[AuditEvent], scores: Scores) -> None:
        if self._shadow is not None:
            self._shadow.offer(events, scores)
        if self._history is not None:
            self._history.observe(scores)

    def _watched(self, scores: Scores) -> Sequence[tuple[int, Gathered]]:
        try:
            return self.context.watched(scores)
        except Exception:
            _log.exception("what surrounds alerts could not be found")
            return ()

    def _record(self, _: Sequence[AuditEvent], scores: Scores) -> None:
        moments = scores.time.astype(np.int64)
        who = scores.principal, scores.kind, scores.group
        self.principals.record(*who, moments, scores.surprise, scores.evidence, scores.severity)

    def _compared(self, events: Sequence[AuditEvent]) -> Sequence[Comparison | None]:
        """What roles and bindings say of each event; nothing without a snapshot of them."""
        if self.authorization is None:
            return ()
        try:
            return self.authorization.compare(events)
        except Exception:  # the verdicts stand
            _log.exception("a batch could not be compared with roles and bindings")
            return ()

    def _rule_hits(
        self, events: Sequence[AuditEvent], scores: Scores, compared: Sequence[Comparison | None]
    ) -> FoundHits:
        if self.rules is None or not len(scores.event):
            return FoundHits()
        try:
            return self.rules.evaluate(events, scores, self.exceptions(), compared)
        except Exception:  # the detector's verdicts stand
            _log.exception("rules could not be run over a batch")
            return FoundHits()

    def _flagged(
        self, events: Sequence[AuditEvent], scores: Scores, hits: Mapping[int, Sequence[FilteredHit]]
    ) -> dict[int, Flagged]:
        """The actions that were flagged, by the detector or by rules, by their row."""
        found = {}
        for row in sorted({*np.flatnonzero(scores.flagged).tolist(), *hits}):
            event = events[int(scores.event[row])]
            try:
                action = self._action(event, scores, row)
            except Exception:  # no event may keep its alert, or that of others, from being raised
                audit_id = clean(event.auditID, 128)
                _log.exception("an unusual action cannot be described", extra={"audit_id": audit_id})
                action = _undescribed(event, scores, row)
            principal, group = clean(scores.principal[row]), clean(scores.group[row])
            threshold = float(scores.threshold[row])
            by_detector = bool(scores.flagged[row])
            first = _first_flagged(scores, row) if by_detector else None
            if row in hits:
                first = _add_rules(action, hits[row], by_detector=by_detector) or first
            found[row] = Flagged(principal, scores.kind[row], group, action, threshold, first_flagged=first)
        return found

    def _contradicted(
        self,
        events: Sequence[AuditEvent],
        scores: Scores,
        compared: Sequence[Comparison | None],
        flagged: dict[int, Flagged],
    ) -> list[Flagged]:
        """As `ContradictionFinder.find`; the verdicts stand whatever happens here."""
        if self._contradictions is None or not compared:
            return []
        try:
            return self._contradictions.find(events, scores, compared, flagged)
        except Exception:
            _log.exception("contradictions to roles and bindings could not be described")
            return []

    @property
    def _identity(self) -> Identity | None:
        return None if self.loaded is None else self.loaded.detector.encoder.identity

    def _allowed(self, events: Sequence[AuditEvent], scores: Scores, hits: FoundHits) -> list[AllowedUse]:
        """What exceptions kept from being flagged."""
        found = []
        for row, allowed in scores.allowed.items():
            event = events[int(scores.event[row])]
            audit_id = clean(event.auditID, 128)
            shown = {"exception": allowed.exception, "audit_id": audit_id, "severity": allowed.severity}
            _log.info("an exception allowed an unusual action", extra=shown)
            try:
                action = self._action(event, scores, row)
            except Exception:  # it has to be recorded all the same
                _log.exception("an allowed action cannot be described", extra={"audit_id": audit_id})
                action = _undescribed(event, scores, row)
            changes = {"severity": allowed.severity, "evidence": round(allowed.evidence, 3)}
            action = action.model_copy(update=changes | {"habits": habits_of(scores.novelties[row])})
            found.append(AllowedUse(allowed.exception, clean(scores.principal[row]), action))
        for row, (name, matched) in hits.allowed.items():
            if row not in scores.allowed and row not in hits.reported:
                event = events[int(scores.event[row])]
                _log.info(
                    "an exception allowed a hit of a rule",
                    extra={"exception": name, "audit_id": clean(event.auditID, 128)},
                )
                try:
                    action = self._action(event, scores, row)
                except Exception:  # it has to be recorded all the same
                    action = _undescribed(event, scores, row)
                _add_rules(action, matched, by_detector=False)
                found.append(AllowedUse(name, clean(scores.principal[row]), action))
        return found

    def _action(self, event: AuditEvent, scores: Scores, row: int) -> Action:
        """The part of an event that an alert keeps, cleaned, with the reasons it is unusual."""
        return self._described(event, scores, row, scores.time[row].astype("M8[us]").item())

    def _described(self, event: AuditEvent, scores: Scores, row: int | None, moment: datetime) -> Action:
        """As `_action`, of an event that may have no row of its own."""
        why = None if row is None else scores.explanations.get(row)
        proxy = self.context.proxy_of(event.user.username, event.impersonatedUser)
        action = Action.model_validate(
            summary_fields(event, moment, traits_of(event, proxy), proxy)
            | (_NOT_JUDGED if row is None else _judged(scores, row))
            | {
                "sensitivity_reason": "" if why is None else why.sensitivity,
                "fields": [] if why is None else surprising_fields(why),
                "habits": [] if why is None else habits_of(why.habits),
            }
        )
        action.description = self.explainer.describe(ActionPhrase.from_summary(action))
        return action

    def principal_report(self, name: str) -> PrincipalReport | None:
        """What is known of a principal, without its alerts; None if nothing is."""
        report, known = self.principals.report(name), self.readiness.known_actions(name)
        if report is not None and known is not None:
            report.known_actions, report.ready = known, has_enough(known)
        return report

    @property
    def figures(self) -> Figures | None:
        """What the detector holds in memory, if it reports that."""
        report = getattr(self.detector, "figures", None)
        return None if report is None else report()

    @property
    def has_unsaved(self) -> bool:
        """Whether alerts wait for a store that failed."""
        return self._alerts.has_unsaved

    @property
    def glossary(self) -> dict[str, str]:
        """Words that alerts and incidents use, explained."""
        return self.explainer.lexicon.glossary

    @property
    def busy(self) -> bool:
        """Whether a batch is being scored at the moment."""
        return self._lock.locked()

    def flush(self) -> None:
        """Store what principals with an alert did recently; after a StoreError it is stored with the next alert."""
        with self._lock:
            self._alerts.flush()

    # -- changing the model -----------------------------------------------------------------------------------

    def habits(self) -> HabitTable | None:
        """A copy of all habits, for another model to learn from before it takes over; None for a detector without any."""
        with self._lock:
            return None if self.loaded is None else self.loaded.detector.habits.copy()

    def swap(self, loaded: Loaded, learned: HabitTable | None = None) -> float:
        """Serve another model from the next batch on, with all that is known of the principals. Returns the seconds it took.

        Args:
            loaded: the other model.
            learned: what `habits` returned, if its detector has learned from it.
        """
        from detection.state_transfer import transfer_state

        with self._lock:
            began = time.perf_counter()
            if self.loaded is not None:
                transfer_state(self.loaded.detector, loaded.detector, learned=learned)
            self.detector, self._fields = loaded.detector, tuple(loaded.model.fields)
            self.model, self.loaded = loaded.model, loaded
            self.principals.trained = loaded.trained
            encoder = loaded.detector.encoder
            identity = encoder.identity
            self.context.attach(identity.fold, encoder.settings.place, identity.is_proxied)
            self._set_judge()
            return time.perf_counter() - began

    def update_info(self, **changes: str | None) -> None:
        """Change fields of what `/v1/model` shows."""
        self.model = self.model.model_copy(update=changes)

    def set_history(self, history: History) -> None:
        """Record every batch from the next one on."""
        with self._lock:
            self._history = history
            self._set_judge()

    def _set_judge(self) -> None:
        if self._history is not None and self.loaded is not None:
            judge = Judge.from_calibration(self.model.version, self.loaded.detector.bundle.calibration)
            self._history.set_judge(judge, self.loaded.trained)

    def set_shadow(self, shadow: ScoreObserver | None, fresh: Detector | None = None) -> None:
        """Offer every batch to another model too, whose `fresh` detector gets what is known of the principals; None ends it."""
        from detection.state_transfer import transfer_state

        with self._lock:
            if fresh is not None and self.loaded is not None:
                transfer_state(self.loaded.detector, fresh, share=False)
            self._shadow = shadow

    def close(self) -> None:
        """Wait for a running batch and close the store."""
        with self._lock:
            try:
                self._alerts.flush()
            finally:
                self.store.close()


def _first_flagged(scores: Scores, row: int) -> datetime | None:
    """When what an action repeats was flagged, in UTC; None if it repeats nothing."""
    if not len(scores.repeat) or not scores.repeat[row]:
        return None
    moment: datetime = scores.first_flagged[row].astype("M8[us]").item()
    return moment.replace(tzinfo=UTC)


#: Of an action that the detector did not score by itself.
_NOT_JUDGED: dict[str, object] = {"severity": "low", "sensitivity": 1, "evidence": 0.0, "surprise": 0.0}


def _add_rules(action: Action, hits: Sequence[FilteredHit], *, by_detector: bool) -> datetime | None:
    """Put the rules into an action that matched them; returns when what it repeats was reported, if that is all it does."""
    action.rules = [
        RuleMatch(
            name=one.hit.rule.name,
            title=clean(one.hit.rule.spec.title),
            severity=one.hit.rule.spec.severity,
            reason=clean(one.hit.reason, MAX_REASON),
            techniques=list(one.hit.rule.spec.techniques),
        )
        for one in hits
    ]
    severities = [one.severity for one in action.rules]
    if by_detector:
        severities.append(action.severity)
    action.severity = max(severities, key=SEVERITIES.index)
    if by_detector or any(one.outcome == "new" for one in hits):
        return None
    return as_moment(min(one.first for one in hits))


def _judged(scores: Scores, row: int) -> dict[str, object]:
    severity = scores.severity[row]
    return {
        "severity": severity if severity != "none" else "low",
        "sensitivity": int(scores.sensitivity[row]),
        "evidence": round(float(scores.evidence[row]), 3),
        "surprise": round(float(scores.surprise[row]), 3),
    }


def _undescribed(event: AuditEvent, scores: Scores, row: int) -> Action:
    """An action of which no more is kept than that it was unusual."""
    summary = {
        "audit_id": clean(event.auditID, 128),
        "time": scores.time[row].astype("M8[us]").item(),
        "description": "an action that cannot be described",
        "verb": clean(event.verb),
    }
    return Action.model_validate(summary | _judged(scores, row))
