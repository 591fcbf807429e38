"""What a running service is made of: `Service` exists from the start, `build` adds everything that needs a model."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from data.errors import KubehabitError
from data.events.audit_event import AuditEvent, DeadLetter
from data.signing_keys import make_keys
from serving.alerts.stream import Stream
from serving.authorization.monitor import MonitorFigures
from serving.delivery.dispatcher import Dispatcher
from serving.delivery.outbox import Outbox
from serving.fleet.publisher import open_publisher
from serving.forensics.event_store import EventStore
from serving.forensics.ingest import EventIngest
from serving.forensics.service import ForensicsParts, ForensicsService
from serving.forensics.timestamps import LedgerClock, stamper_of
from serving.history.recorder import History
from serving.http.problems import ProblemError
from serving.process import resources as process
from serving.process.worker import Worker
from serving.rollout.version_list import VersionList
from serving.rollout.watcher import ModelWatch
from serving.scoring.checkpointer import Checkpointer
from serving.scoring.dead_letters import BoundedDeadLetters
from serving.scoring.engine import Engine
from serving.scoring.intake import Intake
from serving.scoring.journal import Journal
from serving.scoring.pipeline import Pipeline
from serving.scoring.quarantine import Quarantine
from serving.scoring.verdicts import Batch
from serving.settings import EventSettings, Settings
from serving.storage.database import StoreError, UnreachableError
from serving.storage.retention import Retention
from serving.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from detection.authorization.rbac import Rbac
    from detection.detector import Figures
    from serving.authorization.monitor import CurrentRights

_log = logging.getLogger("kubehabit.api")
_TRIM_SECONDS = 30.0
#: Seconds between looks whether a time stamp is due.
_STAMP_SECONDS = 300.0
_COPY_SECONDS = 10.0
#: Pause between two tries to reach the database server.
_STORE_PAUSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Runtime:
    """Everything that runs once there is a model.

    Attributes:
        pipeline: journals batches and gives them to the engine in order.
        ledger_clock: has the event store's ledger time-stamped; None without an authority.
        ingest: keeps all events for investigations, in the event store; None if that is switched off.
        dispatcher: sends alerts; None without sinks.
        watch: follows the registry; None for a model from a folder.
        trimmer: gives free memory back to the system.
        quarantined: number of batches that are set aside because they ended the process.
    """

    engine: Engine
    pipeline: Pipeline
    history: History
    ingest: EventIngest | None
    ledger_clock: Worker | None
    dispatcher: Dispatcher | None
    watch: ModelWatch | None
    retention: Retention
    trimmer: Worker
    quarantined: Callable[[], int]

    def close(self) -> None:
        """Finish the batch in progress and close everything; what feeds a part is closed before it."""
        self.pipeline.close()
        for part in (
            self.ledger_clock,
            self.ingest,
            self.dispatcher,
            self.retention,
            self.trimmer,
            self.engine,
        ):
            if part is not None:
                part.close()


def build(service: Service, engine: Engine) -> Runtime:
    """The object graph; it goes on where the journal says the last process ended.

    Raises:
        KubehabitError: the journal, the history, the state or the event store cannot be opened.
    """
    settings, metrics = service.settings, service.metrics
    store = engine.store
    store.attach(metrics.store_error)
    metrics.alert_store(lambda: store.clock.suspended, lambda: store.dropped)
    outbox = engine.outbox
    sent = metrics.sink, metrics.sink_dropped
    dispatcher = None if outbox is None else Dispatcher(outbox, settings.sinks, *sent)
    journal = Journal(settings.journal.resolved_path, settings.journal.max_bytes)
    history = History(
        settings.history.resolved_path(settings.state.resolved_path),
        retention_days=settings.history.retention_days,
        max_rows=settings.history.max_rows,
        clock=store.clock.now,
    )
    ingest = None
    if settings.events.enabled:
        ingest = EventIngest(
            partial(EventStore, _with_signing_key(settings.events)),
            journal,
            scored=lambda: pipeline.position,
            queued=lambda: pipeline.backlog().batches > 0,
            busy=lambda: service.intake.busy,
        )
    checkpointer = Checkpointer(
        settings.state,
        engine,
        journal,
        settings.journal.remembered_events,
        history,
        held=None if ingest is None else ingest.held,
    )
    announcer = _Announcer(service, dispatcher, ingest)
    quarantine = Quarantine(journal.folder / "quarantine")
    pipeline = Pipeline(
        engine,
        journal,
        checkpointer,
        quarantine,
        service.dead_letters,
        scored=announcer.scored,
        failed=metrics.not_scored,
    )
    follows = engine.loaded is not None and engine.model.source != "folder"
    runtime = Runtime(
        engine=engine,
        pipeline=pipeline,
        history=history,
        ingest=ingest,
        ledger_clock=_ledger_clock(settings.events, ingest),
        dispatcher=dispatcher,
        watch=ModelWatch(settings, engine, metrics, pipeline) if follows else None,
        retention=Retention(engine.store),
        trimmer=Worker("memory", process.trim_heap, seconds=_TRIM_SECONDS),
        quarantined=lambda: len(quarantine),
    )

    pipeline.start(checkpointer.restore())
    # Only now: the journal is ours, and two processes on one folder would send as one.
    for part in (ingest, runtime.ledger_clock, dispatcher, runtime.retention, runtime.trimmer):
        if part is not None:
            part.start()
    if outbox is not None:
        metrics.sinks([sink.name for sink in settings.sinks], lambda: _depths(outbox))
    if ingest is not None:
        metrics.event_store(ingest.behind, lambda: ingest.trouble == "", ingest.set_aside)
    metrics.intake(pipeline.backlog, lambda: journal.used, journal.max_bytes)
    metrics.quarantine(lambda: len(quarantine))
    _measure_proof(metrics, engine)
    return runtime


def _measure_proof(metrics: Metrics, engine: Engine) -> None:
    """Show what the oracle and the rules have counted."""
    authorization = engine.authorization
    metrics.authorization(lambda: MonitorFigures() if authorization is None else authorization.figures)
    rules = engine.rules
    if rules is None:
        metrics.rules(list, lambda: 0)
    else:
        metrics.rules(rules.figures, lambda: len(rules.rules.broken))


def _with_signing_key(settings: EventSettings) -> EventSettings:
    """The settings of the event store, with a key for its ledger: one is made at the first start if none is named."""
    key = settings.default_signing_key
    if settings.signing_key is None and not key.exists():
        try:
            key.parent.mkdir(parents=True, exist_ok=True)
            public = make_keys(key)
        except (OSError, KubehabitError) as error:
            _log.warning("the event store's ledger is not signed", extra={"reason": str(error)})
            return settings
        _log.info("made a key that signs the event store's ledger", extra={"public": str(public)})
    return settings.with_key()


def _ledger_clock(settings: EventSettings, ingest: EventIngest | None) -> Worker | None:
    """Has the event store's ledger time-stamped, if the settings name an authority."""
    stamper, stamps = stamper_of(settings), settings.timestamps
    if ingest is None or stamper is None or stamps is None:
        return None

    def step() -> None:
        if (store := ingest.store) is not None:
            LedgerClock(store.ledger, stamper, timedelta(hours=stamps.every_hours)).step()

    return Worker("time-stamps", step, seconds=_STAMP_SECONDS, low_priority=True, pause_first=True)


def _depths(outbox: Outbox) -> Mapping[str, tuple[int, float]]:
    """What waits for each sink (entries, seconds since the oldest was due); nothing while the store cannot be read."""
    try:
        return outbox.depths()
    except StoreError:
        return {}


@dataclass(frozen=True, slots=True)
class _Announcer:
    """Tells the stream, the sinks, the metrics and the event store what was scored."""

    service: Service
    dispatcher: Dispatcher | None
    ingest: EventIngest | None

    def scored(self, batch: Batch, events: Sequence[AuditEvent], repeated: int) -> None:
        """Called on the scoring thread with a batch, its events, and how many more were sent before."""
        if batch.raised or batch.grown:
            self.service.stream.notify()
            if self.dispatcher is not None:
                self.dispatcher.wake()
        self.service.metrics.scored(batch, events, repeated)
        for one in batch.refused:
            shown = {"principal": one.principal, "audit_id": one.action.audit_id, "reason": one.reason}
            _log.error("an unusual action is in no alert", extra=shown)
            letter = DeadLetter(1, one.reason, one.action.model_dump_json(by_alias=True).encode())
            self.service.dead_letters.add_all("alerts", [letter])
        if self.ingest is not None:
            self.ingest.note(batch.results)
        for alert in batch.raised:
            shown = {"alert": alert.id, "principal": alert.principal, "severity": alert.severity}
            _log.warning("alert raised", extra=shown)


class Service:
    """What exists before there is a model, and what routes hold.

    Attributes:
        runtime: everything else; None until the model is loaded.
        reason: why there is no model yet, for callers.
        ending: set when the process ends: nothing is waited for any more.
        publisher: puts batches into Kafka, for workers; None to score them here.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.runtime: Runtime | None = None
        self.reason = "The model is being loaded."
        self.ending = threading.Event()
        self.metrics = Metrics(self._figures)
        self.dead_letters = BoundedDeadLetters(
            settings.dead_letters.resolved_path, int(settings.dead_letters.max_mb * (1 << 20))
        )
        self.stream = Stream()
        self.publisher = open_publisher(settings)
        self.intake = Intake(settings.limits, self.metrics, self.dead_letters)
        self.forensics = ForensicsService(settings.events, settings.model.cache_dir, self._forensics_parts)
        self.versions = VersionList(settings.model.name, settings.model.cache_dir)

    def start(self, engine: Engine) -> None:
        """Serve an engine from now on; raises as `build`."""
        self.runtime = build(self, engine)
        self.metrics.served(engine.model)
        if self.runtime.watch is not None:
            self.runtime.watch.start()

    def load(
        self, load: Callable[[], Engine], done: Callable[[BaseException | None], None]
    ) -> threading.Thread:
        """Make an engine in the background and serve it; then `done` is called on the event loop, with the error if any.

        While the server of the alert store is not there, it is tried again for `store.wait_seconds`.
        """
        loop = asyncio.get_running_loop()

        def finish(error: BaseException | None) -> None:
            if error is not None:
                self.reason = str(error)
            done(error)

        def work() -> None:
            error: BaseException | None
            try:
                self.start(self._loaded(load))
                error = None
            except UnreachableError as failure:
                if self.ending.is_set():
                    return
                error = failure
            except BaseException as failure:  # whatever it is, the caller must know
                error = failure
            loop.call_soon_threadsafe(finish, error)

        # A daemon: a registry that does not answer must not hold up the end of the process.
        loading = threading.Thread(target=work, name="loading", daemon=True)
        loading.start()
        return loading

    def _loaded(self, load: Callable[[], Engine]) -> Engine:
        wait = self.settings.store.wait_seconds
        until = time.monotonic() + wait
        while True:
            try:
                return load()
            except UnreachableError as error:
                if time.monotonic() + _STORE_PAUSE_SECONDS > until:
                    raise
                reason = f"{error} It is tried again, for {wait:g} seconds in all (store.wait_seconds)."
                if reason != self.reason:
                    _log.warning(reason)
                self.reason = reason
                if self.ending.wait(_STORE_PAUSE_SECONDS):
                    raise

    def running(self) -> Runtime:
        """Everything that needs a model; raises ProblemError (503) while there is none."""
        if self.runtime is None:
            raise ProblemError(503, self.reason, {"Retry-After": "2"})
        return self.runtime

    def ready(self) -> Engine:
        """The engine; raises as `running`."""
        return self.running().engine

    @property
    def engine(self) -> Engine | None:
        """The engine, if there is a model."""
        return None if self.runtime is None else self.runtime.engine

    @property
    def watch(self) -> ModelWatch | None:
        """Follows the registry, if the model came from one."""
        return None if self.runtime is None else self.runtime.watch

    @property
    def events(self) -> EventStore | None:
        """All events, if they are kept."""
        ingest = None if self.runtime is None else self.runtime.ingest
        return None if ingest is None else ingest.store

    @property
    def events_notice(self) -> str | None:
        """What is wrong with the event store, if anything."""
        ingest = None if self.runtime is None else self.runtime.ingest
        return None if ingest is None else ingest.notice

    def wait_for_events(self, seconds: float) -> int:
        """Wait at most so long until the event store has what is scored by now; returns how many batches are missing."""
        ingest = self.running().ingest
        return 0 if ingest is None else ingest.wait(seconds)

    def rights(self) -> CurrentRights | None:
        """Roles and bindings after what was scored until now; None without a snapshot. Raises as `running`.

        Raises:
            TimeoutError: a batch is being scored for too long.
        """
        running = self.running()
        monitor = running.engine.authorization
        if monitor is None:
            return None
        return running.pipeline.run_on_scoring_thread(monitor.current).result(_COPY_SECONDS)

    def rbac(self) -> Rbac | None:
        """Roles and bindings as `rights` has them; nobody changes them. Raises as `rights`."""
        rights = self.rights()
        return None if rights is None else rights.rbac

    def _forensics_parts(self) -> ForensicsParts:
        engine = self.ready()
        return ForensicsParts(
            events=self.events,
            events_notice=self.events_notice,
            alerts=engine.store,
            incidents=engine.incidents,
            model=engine.model,
            flush_alerts=engine.flush,
            wait_for_events=self.wait_for_events,
            rbac=self.rbac,
        )

    def _figures(self) -> Figures | None:
        return None if self.engine is None else self.engine.figures

    def close(self) -> None:
        """Finish the batch in progress and close everything."""
        if self.watch is not None:
            self.watch.close()
        self.intake.close()
        if self.publisher is not None:
            self.publisher.close()
        if self.runtime is not None:
            self.runtime.close()
        self.dead_letters.close()
