"""The history over HTTP: principals, how near each came to its threshold, previews of thresholds, drift."""

from __future__ import annotations

import threading
import time
from typing import Annotated, TypeVar

from cachetools import FIFOCache
from fastapi import FastAPI, Query

from data.errors import NotFoundError, UnknownPrincipalError
from serving.history.queries import Drift, DriftComparison, HistoryReader, Order, PrincipalPage, Surprise
from serving.history.threshold_preview import Preview, Previewer
from serving.http.links import PRINCIPAL, leads_to
from serving.runtime import Service
from serving.settings import LEAST_SCALE, MOST_SCALE

#: Scores are written with the state, about every minute; a reader has them written at once, but not more often.
_FRESH_SECONDS = 5.0

_WAIT_SECONDS = 2.0

#: Seconds after which the registry is asked again what `kubehabit drift` said.
_VERSIONS_SECONDS = 600.0
_REMEMBERED = 16
_Answer = TypeVar("_Answer", Preview, Drift)

Kind = Annotated[
    str | None,
    Query(description="human, serviceaccount, node, component, controller or anonymous", max_length=20),
]


class FreshHistory:
    """The history of one service, for the API and the console: written before it is read, with previews cached."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._fresh = -_FRESH_SECONDS
        self._turn = threading.Lock()
        self._answers: FIFOCache[tuple[object, ...], Preview] = FIFOCache(_REMEMBERED)

    def reader(self) -> HistoryReader:
        """The history, with scores written until just now.

        Raises:
            ProblemError: 503 while no model is served.
            HistoryError: it cannot be read.
        """
        runtime = self._service.running()
        history, pipeline = runtime.history, runtime.pipeline
        with self._turn:
            if time.monotonic() - self._fresh >= _FRESH_SECONDS:
                self._fresh = time.monotonic()
                taken = pipeline.run_on_scoring_thread(lambda: history.pop(pipeline.position))
                try:
                    history.write(taken.result(_WAIT_SECONDS))
                except TimeoutError:  # a batch is being scored: what is asked is answered with what there is
                    taken.add_done_callback(lambda done: history.write(done.result()))
        return HistoryReader(history.path)

    def drift(self, days: float = 7) -> Drift | None:
        """Drift over the last days, and what `kubehabit drift` last said of the version; None before anything was scored."""
        reader = self.reader()
        engine = self._service.ready()
        catalog = (
            None if self._service.watch is None else self._service.versions.known(_VERSIONS_SECONDS).catalog
        )
        served = None if catalog is None else catalog.version(engine.model.version)
        compared = served.drift[0] if served is not None and served.drift else None
        return reader.drift(days, None if compared is None else DriftComparison.from_record(compared))

    def preview(
        self, days: float, *, scale: float | None = None, per_day: float | None = None
    ) -> Preview | None:
        """What the last so many days would have given; None before anything was scored."""
        reader = self.reader()
        upto = reader.rows("SELECT max(number) AS upto FROM additions")[0]["upto"]
        key = (days, scale, per_day, upto, reader.newest())
        with self._turn:
            made = self._answers.get(key)
        if made is None:
            alerts = self._service.settings.alerts
            previewer = Previewer(reader, gap_minutes=alerts.gap_minutes, scale=alerts.threshold_scale)
            made = previewer.preview(days, scale=scale, per_day=per_day)
        if made is not None:
            with self._turn:
                self._answers[key] = made
        return made


def add_routes(app: FastAPI, service: Service) -> None:
    """Add the routes of the history to an application."""
    records: FreshHistory = app.state.records

    @app.get(
        "/v1/principals",
        tags=["principals"],
        responses=leads_to("principal", "/principals/0/principal", *PRINCIPAL),
    )
    def principals(
        search: Annotated[
            str, Query(description="Part of the name or of the peer group", max_length=256)
        ] = "",
        kind: Kind = None,
        order: Annotated[
            Order,
            Query(
                description="last: most recent activity; name; nearest: closest to an alert in the last 7 days"
            ),
        ] = "last",
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
        cursor: Annotated[
            str | None, Query(description="Cursor of the previous page", max_length=9, pattern="^[0-9]*$")
        ] = None,
    ) -> PrincipalPage:
        """List principals that training knew or that acted since."""
        return records.reader().principals(search=search, kind=kind, order=order, limit=limit, cursor=cursor)

    @app.get("/v1/surprise/{principal:path}", tags=["principals"])
    def surprise(principal: str) -> Surprise:
        """How far a principal's actions were from its threshold, by hour for eight days and by day before."""
        found = records.reader().surprise(principal)
        if found is None:
            raise UnknownPrincipalError(
                "This principal is not in the model's training and did nothing since."
            )
        return found

    @app.get("/v1/model/preview", tags=["model"])
    def preview(
        days: Annotated[float, Query(gt=0, le=366, description="How far to look back")] = 7,
        scale: Annotated[
            float | None,
            Query(ge=LEAST_SCALE, le=MOST_SCALE, description="Multiplier of the calibrated threshold"),
        ] = None,
        per_day: Annotated[
            float | None,
            Query(
                alias="perDay",
                gt=0,
                le=1e6,
                description="Largest number of alerts a day; the answer has the lowest threshold that keeps to it",
            ),
        ] = None,
    ) -> Preview:
        """Preview other thresholds: the alerts that a service with them would have raised, repeats left out. Changes nothing.

        What would have been on probation then is not followed: evidence is what was recorded.
        """
        service.ready()
        return _found(records.preview(days, scale=scale, per_day=per_day))

    @app.get("/v1/model/drift", tags=["model"])
    def drift(days: Annotated[float, Query(gt=0, le=366, description="How far to look back")] = 7) -> Drift:
        """Report whether the cluster still does what the model was calibrated on, as far as the service can tell."""
        return _found(records.drift(days))


def _found(answer: _Answer | None) -> _Answer:
    if answer is None:
        raise NotFoundError("Nothing was scored yet: send events first.")
    return answer
