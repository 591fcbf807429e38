"""The event store for routes and console pages: a bounded number of queries at a time, and exports of evidence."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from detection.authorization.rbac import Rbac
from serving.forensics.containment import incident_containment
from serving.forensics.event_store import EventStore
from serving.forensics.evidence.export import EvidenceError, Subject, export
from serving.forensics.evidence.incident import alerts_named
from serving.forensics.evidence.model_card import describe_model
from serving.forensics.queries import EventQueries, QueryError, QueryTimeoutError
from serving.forensics.timestamps import stamper_of
from serving.http.problems import ProblemError
from serving.incidents.incidents import Incidents
from serving.incidents.report import Incident
from serving.schemas import ModelInfo, clean
from serving.settings import EventSettings
from serving.storage.database import AlertStore

_log = logging.getLogger("kubehabit.forensics")
# Each query uses as many threads as the database has.
_CONCURRENT = 2
_WAIT_SECONDS = 10
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class ForensicsParts:
    """What queries and evidence are made from, once the model is loaded.

    Attributes:
        events: the event store; None when it is switched off or cannot be opened.
        events_notice: why it cannot be opened.
        model: that is served now.
        flush_alerts: waits until the alerts of all scored events are written.
        wait_for_events: waits at most so many seconds until all scored batches are in the event store; returns how many are not.
        rbac: roles and bindings as they stand, if they are known; raises TimeoutError.
    """

    events: EventStore | None
    events_notice: str | None
    alerts: AlertStore
    incidents: Incidents
    model: ModelInfo
    flush_alerts: Callable[[], None]
    wait_for_events: Callable[[float], int]
    rbac: Callable[[], Rbac | None] = lambda: None


class ForensicsService:
    """Answers queries within limits, a few at a time, and exports evidence.

    Args:
        limits: memory and time of a query.
        models: folder of downloaded bundles, for the model cards in evidence.
        parts: gives the parts; raises ProblemError while the model is being loaded.
    """

    def __init__(self, limits: EventSettings, models: Path, parts: Callable[[], ForensicsParts]) -> None:
        self._limits = limits
        self._models = models
        self._parts = parts
        self._opening = threading.Lock()
        self._slots = threading.BoundedSemaphore(_CONCURRENT)
        self._queries: EventQueries | None = None
        self._stamper = stamper_of(limits)

    def _store(self) -> EventStore:
        parts = self._parts()
        events = parts.events
        if events is None and parts.events_notice:
            raise ProblemError(503, parts.events_notice)
        if events is None:
            raise ProblemError(404, "The event store is switched off: set events.enabled in serve.yaml.")
        return events

    @contextmanager
    def open(self) -> Iterator[EventQueries]:
        """Wait for a free slot; raises ProblemError if there is no store, too many ask, or the query took too long."""
        folder = self._store().folder
        with self._opening:
            if self._queries is None:
                limits = self._limits
                self._queries = EventQueries(folder, memory_mb=limits.memory_mb, seconds=limits.query_seconds)
        if not self._slots.acquire(timeout=_WAIT_SECONDS):
            raise ProblemError(503, "Too many queries at a time: try again later.", {"Retry-After": "5"})
        try:
            yield self._queries
        except QueryTimeoutError as error:
            raise ProblemError(503, str(error)) from error
        finally:
            self._slots.release()

    def ask(self, query: Callable[[EventQueries], _Answer]) -> _Answer:
        """The answer to one query; raises as `open`."""
        with self.open() as queries:
            return query(queries)

    def incident_evidence(self, incident_id: str, *, by: str, note: str = "") -> bytes:
        """Export an incident for `by`, with their reason in `note`, and record that in the ledger.

        Raises:
            ProblemError: there is no such incident, it was merged away, its events are gone, or the store cannot be written.
        """
        parts = self._parts()
        parts.flush_alerts()
        found = parts.incidents.get(incident_id)
        if found is None:
            raise ProblemError(
                404, f"There is no incident {clean(incident_id, 32)!r}: see GET /v1/incidents."
            )
        if found.state == "merged":
            raise ProblemError(409, f"Incident {found.id} was merged into {found.merged_into}: export that.")
        if not found.alerts:
            what = f"Incident {found.id} holds no alert any more: they were deleted after the retention time."
            raise ProblemError(404, what)
        incident = found.model_dump(mode="json", by_alias=True)
        incident["containment"] = self._containment(found)
        subject = Subject(incident=found.id, alerts=tuple(alerts_named(incident)), note=note)
        return self.evidence(subject, by=by, incident=incident)

    def _containment(self, incident: Incident) -> dict[str, Any] | None:
        """What would have stopped an incident; None if that cannot be said. Evidence is exported all the same."""
        parts = self._parts()
        try:
            rbac = parts.rbac()
            if rbac is None:
                return None
            parts.wait_for_events(_WAIT_SECONDS)
            made = self.ask(lambda queries: incident_containment(queries, incident, rbac))
        except (TimeoutError, ProblemError, QueryError) as error:
            _log.warning("what would have stopped an incident cannot be said", extra={"reason": str(error)})
            return None
        return made.model_dump(mode="json", by_alias=True)

    def evidence(self, subject: Subject, *, by: str, incident: dict[str, Any] | None = None) -> bytes:
        """Export evidence for `by` and record that in the ledger; alerts that retention has deleted are left out.

        Raises:
            ProblemError: nothing was found, or too much, or the store cannot be written.
        """
        parts, events = self._parts(), self._store()
        kept = [alert for alert_id in subject.alerts if (alert := parts.alerts.get(alert_id)) is not None]
        models = {(alert.model.name, alert.model.version): None for alert in kept}
        if not models:
            models[parts.model.name, parts.model.version] = None
        with self.open() as queries:
            try:
                # What came before the request is part of the answer.
                behind = parts.wait_for_events(_WAIT_SECONDS)
                events.seal()
                return export(
                    queries,
                    events.ledger,
                    msgspec.structs.replace(subject, alerts=tuple(alert.id for alert in kept)),
                    by=by,
                    incident=incident,
                    alerts=[alert.model_dump(mode="json", by_alias=True) for alert in kept],
                    models=[describe_model(self._models, *model) for model in models],
                    words=parts.incidents.words,
                    behind=behind,
                    stamper=self._stamper,
                )
            except EvidenceError as error:
                raise ProblemError(404, str(error)) from error
            except OSError as error:
                raise ProblemError(503, f"The event store cannot be written: {error.strerror}.") from error
