"""One cluster of a worker: an engine of its own, and the memory of the events that it had."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress

import msgspec
from msgspec.structs import replace

from data.events.audit_event import AuditEvent, DeadLetter
from serving.alerts.explain.explainer import Explainer
from serving.authorization.open import open_monitor
from serving.delivery.dispatcher import Dispatcher
from serving.delivery.outbox import Outbox
from serving.fleet.status import ClusterFigures, ClusterStatus
from serving.incidents.query import open_by_severity, unattended
from serving.rollout.loader import exceptions_of, make_engine, sibling
from serving.schemas import clean
from serving.scoring.dead_letters import DeadLetterStore
from serving.scoring.deduplication import EventDeduplicator
from serving.scoring.engine import Engine, Loaded
from serving.scoring.rule_alerts import RuleFolders
from serving.scoring.snapshots import Snapshot, restore, restore_deduplicator, take_snapshot
from serving.scoring.verdicts import Batch
from serving.settings import Settings
from serving.storage.database import AlertStore, StoreError
from serving.telemetry.metrics import Metrics

_log = logging.getLogger("kubehabit.fleet")


class ClusterScorer:
    """Scores the events of one cluster, each once.

    Args:
        name: of the cluster.
        engine: its own.
        capacity: events remembered, to recognise those that are sent again.
        snapshot: what is known of the cluster; None to begin with what the model learned in training.
        before: the last status of the cluster, if there is one.
        dispatcher: sends its alerts; None without sinks.

    Attributes:
        changed: whether anything was scored since the last call of `snapshot`.
        trouble: why alerts wait for the store; empty if none do.
    """

    def __init__(
        self,
        name: str,
        engine: Engine,
        metrics: Metrics,
        dead_letters: DeadLetterStore,
        *,
        capacity: int,
        snapshot: Snapshot | None = None,
        before: ClusterStatus | None = None,
        dispatcher: Dispatcher | None = None,
    ) -> None:
        self.name = name
        self.engine = engine
        self.changed = False
        self.trouble = ""
        self._metrics = metrics
        self._dead_letters = dead_letters
        self._dispatcher = dispatcher
        self._deduplicator = EventDeduplicator(capacity)
        self._figures = ClusterFigures(before)
        if snapshot is not None:
            self._deduplicator = restore_deduplicator(snapshot, capacity)
            restore(snapshot, engine)
        if dispatcher is not None:
            dispatcher.start()

    def score(self, events: Sequence[AuditEvent], source: str) -> None:
        """Score events in the order of the log; one that makes scoring fail becomes a dead letter.

        Alerts that the store does not take are kept, and `trouble` says why: nothing may be scored until `retry` has stored them.

        Args:
            source: where they came from, for dead letters.
        """
        self.changed = True
        forget = self._deduplicator.checkpoint()
        try:
            fresh = list(compress(events, self._deduplicator.first(events)))
            batch = self.engine.score(fresh)
        except StoreError as error:
            self.trouble = str(error)
            return
        except Exception as error:  # whatever an event can do to the engine, the others get their verdicts
            forget()
            middle = len(events) // 2
            if middle:
                for half in (events[:middle], events[middle:]):
                    self.score(half, source)
            for event in () if middle else events:
                self._give_up(event, source, error)
            return
        self._announce(batch, fresh, len(events) - len(fresh))

    def retry(self) -> bool:
        """Try to store the alerts that wait; whether none do any more."""
        try:
            batch = self.engine.score([])
        except StoreError as error:
            self.trouble = str(error)
            return False
        self.trouble = ""
        self._announce(batch, [], 0)
        return True

    def _give_up(self, event: AuditEvent, source: str, error: Exception) -> None:
        _log.error("an event cannot be scored", exc_info=error, extra={"audit_id": clean(event.auditID, 128)})
        letter = DeadLetter(1, f"scoring failed: {type(error).__name__}", msgspec.json.encode(event))
        self._dead_letters.add_all(source, [letter])
        self._metrics.not_scored()

    def _announce(self, batch: Batch, events: Sequence[AuditEvent], repeated: int) -> None:
        if (batch.raised or batch.grown) and self._dispatcher is not None:
            self._dispatcher.wake()
        newest = self._metrics.scored(batch, events, repeated)
        self._figures.scored(len(events), batch.scored, batch.counts.with_history, newest)
        for one in batch.refused:
            shown = {"cluster": self.name, "audit_id": one.action.audit_id, "reason": one.reason}
            _log.error("an unusual action is in no alert", extra=shown)
            letter = DeadLetter(1, one.reason, one.action.model_dump_json(by_alias=True).encode())
            self._dead_letters.add_all(f"alerts of {self.name}", [letter])
        for alert in batch.raised:
            shown = {"cluster": self.name, "alert": alert.id, "severity": alert.severity}
            _log.warning("alert raised", extra=shown | {"principal": alert.principal})

    def is_stored(self) -> bool:
        """Whether all alerts so far are on disk: what a snapshot holds is never scored again."""
        if self.trouble or self.engine.has_unsaved:
            return False
        try:
            self.engine.flush()
            self.engine.store.flush()
        except StoreError as error:
            _log.warning("alerts are not on disk yet", extra={"cluster": self.name, "reason": str(error)})
            return False
        return True

    def is_sent(self) -> bool:
        """Whether no alert waits for a sink."""
        outbox = self.engine.outbox
        try:
            return outbox is None or not any(count for count, _ in outbox.depths().values())
        except StoreError:
            return False

    def status(self, now: float) -> Callable[[], ClusterStatus]:
        """How it is at a moment (seconds since 1970); the result asks the store for its incidents, on any thread.

        Raises, when called:
            StoreError: the store fails.
        """
        figures = self._figures.status(self.name, now)

        def complete() -> ClusterStatus:
            with self.engine.store.reading() as connection:
                incidents, waiting = open_by_severity(connection), unattended(connection)
            return replace(figures, incidents=incidents, unattended=waiting)

        return complete

    def snapshot(self, position: int) -> Callable[[], Snapshot]:
        """Copy what is known now; the result makes the snapshot of it, once, on any thread."""
        self.changed = False
        return take_snapshot(self.engine, self._deduplicator, position)

    def close(self) -> None:
        """Stop sending alerts, and close the store."""
        if self._dispatcher is not None:
            self._dispatcher.close()
        try:
            self.engine.close()
        except StoreError as error:  # what surrounds alerts; it is made again with what is scored again
            _log.warning(
                "an alert store was closed early", extra={"cluster": self.name, "reason": str(error)}
            )


@dataclass(frozen=True, slots=True)
class FleetModel:
    """What all clusters share: the model, whose own detector scores nothing, and what explains and adds to its verdicts."""

    loaded: Loaded
    explainer: Explainer
    rules: RuleFolders


class ClusterFactory:
    """Makes clusters of one model.

    Args:
        settings: of the worker.
        model: shared by all clusters.

    Attributes:
        model: of the clusters that are made from now on.
        claimer: names this process in the outboxes; unique among the workers.
    """

    def __init__(
        self,
        settings: Settings,
        model: FleetModel,
        metrics: Metrics,
        dead_letters: DeadLetterStore,
        claimer: str,
    ) -> None:
        self.model = model
        self._settings = settings
        self._metrics = metrics
        self._dead_letters = dead_letters
        self._claimer = claimer
        self._exceptions = exceptions_of(settings)

    def make(
        self, name: str, snapshot: Snapshot | None, before: ClusterStatus | None = None
    ) -> ClusterScorer:
        """A cluster as a snapshot and its last status know it.

        Raises:
            KubehabitError: its alert store or its roles cannot be opened.
        """
        settings = self._settings
        store = AlertStore.from_settings(settings.store, settings.store.of_cluster(name))
        try:
            store.attach(self._metrics.store_error)
            outbox = Outbox(store, settings.sinks, self._claimer, name) if settings.sinks else None
            roles = settings.authorization
            if roles.snapshot is not None:
                path = type(roles.snapshot)(str(roles.snapshot).replace("{cluster}", name))
                roles = roles.model_copy(update={"snapshot": path if path.exists() else None})
            if roles.cluster not in (None, name):
                roles = roles.model_copy(update={"snapshot": None})
            engine = make_engine(
                settings,
                sibling(self.model.loaded, settings),
                self.model.explainer,
                store,
                outbox=outbox,
                authorization=open_monitor(roles.model_copy(update={"cluster": None})),
                rules=self.model.rules,
                exceptions=self._exceptions,
            )
            counted = self._metrics.sink, self._metrics.sink_dropped
            return ClusterScorer(
                name,
                engine,
                self._metrics,
                self._dead_letters,
                capacity=settings.journal.remembered_events,
                snapshot=snapshot,
                before=before,
                dispatcher=None if outbox is None else Dispatcher(outbox, settings.sinks, *counted),
            )
        except BaseException:
            store.close()
            raise
