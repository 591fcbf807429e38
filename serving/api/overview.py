"""The route of the overview: what is open, what was raised, whether events arrive, and whether the model is fit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import FastAPI, Query
from pydantic import Field

from serving.alerts.overview import AlertSums, sum_up
from serving.api.principals import FreshHistory
from serving.delivery.outbox import Outbox
from serving.history.queries import DriftVerdict, HistoryReadiness
from serving.history.schema import HistoryError
from serving.incidents.query import open_by_severity, unattended
from serving.runtime import Service
from serving.schemas import ApiModel
from serving.storage.database import StoreError

#: From so many days on, alerts are counted by day; before by hour.
_BY_DAY = 3


class OpenIncidents(ApiModel):
    """Incidents that are open."""

    total: int
    by_severity: Annotated[dict[str, int], Field(description="most severe first")]
    unattended: Annotated[int, Field(description="not acknowledged, and assigned to nobody")]


class EventSender(ApiModel):
    """What one sender sent since the service started."""

    name: Annotated[str, Field(description="of its token or certificate, else its address")]
    route: str
    events: int
    rejected: Annotated[int, Field(description="records that could not be read")]
    skipped: Annotated[int, Field(description="records of other logs")]
    last: datetime


class SinkBacklog(ApiModel):
    """What waits to be sent to a sink."""

    name: str
    waiting: int
    oldest_seconds: float


class IngestReport(ApiModel):
    """Whether events arrive and are judged."""

    per_second: Annotated[float, Field(description="events judged, over the last five minutes")]
    lag_seconds: Annotated[
        float | None, Field(description="from the API server's time of an event to its verdict, last batch")
    ] = None
    newest_event: Annotated[datetime | None, Field(description="the API server's time")] = None
    backlog_batches: int
    backlog_seconds: float
    dead_letters: Annotated[int, Field(description="records that could not be read, since the start")]
    quarantined: Annotated[int, Field(description="batches set aside because they ended the process")]
    event_store_behind: Annotated[
        int | None, Field(description="batches; null if the event store is off")
    ] = None
    senders: list[EventSender]
    sinks: list[SinkBacklog]


class ModelAge(ApiModel):
    """The model that judges, how old it is, and whether it still fits."""

    name: str
    version: str
    trained: Annotated[datetime | None, Field(description="null if its bundle does not say")] = None
    learned_until: Annotated[datetime | None, Field(description="time of the last event it learned from")] = (
        None
    )
    age_days: float | None = None
    drift: DriftVerdict | None = None
    drift_sentence: str = ""


class Overview(ApiModel):
    """Everything of the first page."""

    incidents: OpenIncidents
    alerts: AlertSums
    ingest: IngestReport
    readiness: HistoryReadiness | None = None
    model: ModelAge
    notice: Annotated[str | None, Field(description="what an operator should know at the moment")] = None


def build_overview(service: Service, records: FreshHistory, days: int) -> Overview:
    """The overview of the last so many days; raises ProblemError while no model is served, StoreError."""
    engine = service.ready()
    now = datetime.now(UTC)
    step = timedelta(days=1) if days > _BY_DAY else timedelta(hours=1)
    known = {name: (one.name, one.tactic) for name, one in engine.explainer.lexicon.techniques.items()}
    with engine.store.reading() as connection:
        by_severity = open_by_severity(connection)
        sums = sum_up(connection, now - timedelta(days=days) + step, now, step, known)
        waiting = unattended(connection)
    try:
        readiness, drift = records.reader().readiness(), records.drift()
    except HistoryError:
        readiness, drift = None, None
    notice = engine.model.notice if service.watch is None else service.watch.notice
    created, learned = _times(engine.model.bundle)
    return Overview(
        incidents=OpenIncidents(total=sum(by_severity.values()), by_severity=by_severity, unattended=waiting),
        alerts=sums,
        ingest=_ingest(service),
        readiness=readiness,
        model=ModelAge(
            name=engine.model.name,
            version=engine.model.version,
            trained=created,
            learned_until=learned,
            age_days=None if created is None else max(0.0, (now - created).total_seconds() / 86_400),
            drift=None if drift is None else drift.verdict,
            drift_sentence="" if drift is None else drift.sentence,
        ),
        notice=" ".join(filter(None, (notice, service.events_notice))) or None,
    )


def _ingest(service: Service) -> IngestReport:
    runtime, figures = service.running(), service.metrics.ingest.figures()
    backlog = runtime.pipeline.backlog()
    return IngestReport(
        per_second=round(figures.per_second, 2),
        lag_seconds=None if figures.lag is None else round(figures.lag, 3),
        newest_event=None if figures.newest is None else datetime.fromtimestamp(figures.newest, UTC),
        backlog_batches=backlog.batches,
        backlog_seconds=round(backlog.seconds, 3),
        dead_letters=figures.rejected,
        quarantined=runtime.quarantined(),
        event_store_behind=None if runtime.ingest is None else runtime.ingest.behind(),
        senders=[
            EventSender(
                name=one.name,
                route=one.route,
                events=one.events,
                rejected=one.rejected,
                skipped=one.skipped,
                last=datetime.fromtimestamp(one.last, UTC),
            )
            for one in figures.senders
        ],
        sinks=_sinks(runtime.engine.outbox),
    )


def _sinks(outbox: Outbox | None) -> list[SinkBacklog]:
    try:
        depths = {} if outbox is None else outbox.depths()
    except StoreError:
        depths = {}
    return [
        SinkBacklog(name=name, waiting=waiting, oldest_seconds=round(seconds, 1))
        for name, (waiting, seconds) in depths.items()
    ]


def _times(bundle: dict[str, object]) -> tuple[datetime | None, datetime | None]:
    data = bundle.get("data")
    last = data.get("last") if isinstance(data, dict) else None
    return moment_in(bundle.get("created")), moment_in(last)


def moment_in(text: object) -> datetime | None:
    """A time out of a bundle, in UTC; None for what is none."""
    try:
        found = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return found if found is None or found.tzinfo is not None else found.replace(tzinfo=UTC)


def add_overview_routes(app: FastAPI, service: Service) -> None:
    """Add the route."""
    records: FreshHistory = app.state.records

    @app.get("/v1/overview", tags=["operation"])
    def overview(
        days: Annotated[int, Query(ge=1, le=90, description="How far back alerts are summed up")] = 7,
    ) -> Overview:
        """Show what is open, what was raised, whether events arrive, and how old the model is."""
        return build_overview(service, records, days)
