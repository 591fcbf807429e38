"""Routes that read alerts, and follow them as they are raised."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Header, Query, Response
from fastapi.responses import StreamingResponse

from serving.alerts.feedback import NO_ALERT
from serving.alerts.query import AlertFilter, AlertListQuery, AlertPage, AlertQuery, whole
from serving.api.stream import stream_of
from serving.history.activity import PrincipalReport
from serving.http.links import ALERT, PRINCIPAL, leads_to
from serving.http.problems import ProblemError, position_of
from serving.runtime import Service
from serving.schemas import Alert

_EXAMPLE = 'id: 42\nevent: alert\ndata: {"id":"7d0c6a1f52b8e934","severity":"high","sentence":"…"}\n\n'
_EXAMPLE_STREAM = {"text/event-stream": {"schema": {"type": "string"}, "example": _EXAMPLE}}


def add_alert_routes(app: FastAPI, service: Service) -> None:
    """Add the routes."""

    @app.get("/v1/alerts", tags=["alerts"], responses=leads_to("alert_id", "/alerts/0/id", *ALERT))
    def alerts(query: Annotated[AlertListQuery, Query()]) -> AlertPage:
        """List alerts, newest raised first. All filters must match."""
        after = position_of(query.cursor)
        store = service.ready().store
        return AlertPage.from_page(
            whole(store, query, since=query.since, until=query.until, limit=query.limit, cursor=after)
        )

    @app.get(
        "/v1/alerts/stream",
        tags=["alerts"],
        response_class=StreamingResponse,
        responses={200: {"description": "Server-sent events", "content": _EXAMPLE_STREAM}},
    )
    async def follow(
        wanted: Annotated[AlertFilter, Query()],
        last_event_id: Annotated[
            str | None, Header(description="Continue after this event; browsers send it automatically")
        ] = None,
    ) -> Response:
        """Follow alerts as they are raised and grow, as server-sent events.

        Each event is named `alert`, and its data is the alert as it stands. Without `Last-Event-ID` only later changes are
        sent; with it, everything that changed since that event, each alert once. A comment is sent as a heartbeat.
        """
        return await stream_of(service, last_event_id, wanted.matches)

    @app.get(
        "/v1/alerts/{alert_id}", tags=["alerts"], responses=leads_to("principal", "/principal", *PRINCIPAL)
    )
    def alert(alert_id: str) -> Alert:
        """One alert, with every auditID it rests on."""
        found = service.ready().store.get(alert_id)
        if found is None:
            raise ProblemError(404, NO_ALERT)
        return found

    @app.get("/v1/principals/{principal:path}", tags=["principals"])
    def principal_report(principal: str) -> PrincipalReport:
        """Who a principal is, whom it is compared with, and what it did since counting began."""
        engine = service.ready()
        report = engine.principal_report(principal)
        if report is None:
            raise ProblemError(
                404, "This principal is not in the model's training and did nothing since counting began."
            )
        page = whole(engine.store, AlertQuery(principal=report.principal), limit=20)
        report.alerts = [alert.id for alert in page.alerts]
        return report
