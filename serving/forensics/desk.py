"""The desk of one service where the event store is asked: not too many questions at a time, and exports of evidence."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec

from serving.alerts import clean
from serving.forensics.dossier import alerts_named
from serving.forensics.evidence import EvidenceError, Subject, export
from serving.forensics.model import describe_model
from serving.forensics.questions import Questions, TooSlowError
from serving.problems import ProblemError
from serving.runtime import Service

_AT_ONCE = 2
"""Questions answered at the same time; each uses as many threads as the database has."""

_WAIT_SECONDS = 10
_Answer = TypeVar("_Answer")


class Desk:
    """The questions of one service: made with the first one, and not too many at a time.

    Args:
        service: whose event store is asked.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._making = threading.Lock()
        self._turns = threading.BoundedSemaphore(_AT_ONCE)
        self._questions: Questions | None = None

    @contextmanager
    def open(self) -> Iterator[Questions]:
        """Take a turn.

        Raises:
            ProblemError: there is no store, too many ask, or the question took too long.
        """
        settings = self._service.settings.events
        self._service.ready()
        if self._service.events is None:
            raise ProblemError(404, "The event store is switched off: set events.enabled in serve.yaml.")
        with self._making:
            if self._questions is None:
                self._questions = Questions(
                    self._service.events.folder, memory_mb=settings.memory_mb, seconds=settings.query_seconds
                )
        if not self._turns.acquire(timeout=_WAIT_SECONDS):
            raise ProblemError(503, "Too many questions at a time: ask again later.", {"Retry-After": "5"})
        try:
            yield self._questions
        except TooSlowError as error:
            raise ProblemError(503, str(error)) from error
        finally:
            self._turns.release()

    def ask(self, question: Callable[[Questions], _Answer]) -> _Answer:
        """The answer to one question; raises as `open`."""
        with self.open() as questions:
            return question(questions)

    def incident_evidence(self, incident_id: str, *, by: str, note: str = "") -> bytes:
        """Export an incident and note that in the ledger.

        Args:
            incident_id: which.
            by: who wants it, for the chain of custody.
            note: why, in their words.

        Returns:
            The file, which `serving.forensics.page.render` makes a page of.

        Raises:
            ProblemError: there is no such incident, it was merged away, its events are gone, or the store cannot be written.
        """
        engine = self._service.ready()
        engine.settle()
        found = engine.incidents.get(incident_id)
        if found is None:
            raise ProblemError(
                404, f"There is no incident {clean(incident_id, 32)!r}: see GET /v1/incidents."
            )
        if found.state == "merged":
            raise ProblemError(
                409, f"Incident {found.id} was merged into {found.merged_into}: export that one."
            )
        if not found.alerts:
            raise ProblemError(
                404,
                f"Incident {found.id} holds no alert any more: they were deleted after the retention time.",
            )
        incident = found.model_dump(mode="json", by_alias=True)
        subject = Subject(incident=found.id, alerts=tuple(alerts_named(incident)), note=note)
        return self.evidence(subject, by=by, incident=incident)

    def evidence(self, subject: Subject, *, by: str, incident: dict[str, Any] | None = None) -> bytes:
        """Export evidence and note that in the ledger.

        Args:
            subject: what of; alerts that are kept no longer are left out.
            by: who wants it, for the chain of custody.
            incident: that of the subject, as the API gives it.

        Raises:
            ProblemError: nothing was found, or too much, or the store cannot be written.
        """
        engine, settings = self._service.ready(), self._service.settings
        kept = [alert for alert_id in subject.alerts if (alert := engine.store.get(alert_id)) is not None]
        alerts = [alert.model_dump(mode="json", by_alias=True) for alert in kept]
        judges = {(alert.model.name, alert.model.version): None for alert in kept}
        if not judges:
            judges[engine.model.name, engine.model.version] = None
        with self.open() as questions:
            events = self._service.events
            assert events is not None
            try:
                # What came before the question is part of the answer.
                behind = self._service.settle_events(_WAIT_SECONDS)
                events.seal()
                return export(
                    questions,
                    events.ledger,
                    msgspec.structs.replace(subject, alerts=tuple(alert.id for alert in kept)),
                    by=by,
                    incident=incident,
                    alerts=alerts,
                    models=[describe_model(settings, *judge) for judge in judges],
                    words=engine.incidents.words,
                    behind=behind,
                )
            except EvidenceError as error:
                raise ProblemError(404, str(error)) from error
            except OSError as error:
                raise ProblemError(503, f"The event store cannot be written: {error.strerror}.") from error
