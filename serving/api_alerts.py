"""Routes that read alerts, and follow them as they are raised."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import FastAPI, Header, Query, Response
from fastapi.responses import StreamingResponse

from serving.activity import PrincipalReport
from serving.alert_list import AlertPage, Wanted, whole
from serving.alerts import Alert
from serving.asked import Asked, AskedHappening
from serving.problems import ProblemError, position_of
from serving.runtime import Service
from serving.stream_routes import stream_of

NO_ALERT = "There is no such alert. It may have been deleted after the retention time."
_EXAMPLE_STREAM = {
    "text/event-stream": {
        "schema": {"type": "string"},
        "example": 'id: 42\nevent: alert\ndata: {"id":"7d0c6a1f52b8e934","severity":"high","sentence":"…"}\n\n',
    }
}


def add_alert_routes(app: FastAPI, service: Service) -> None:
    """Add the routes."""

    @app.get("/v1/alerts", tags=["alerts"])
    def alerts(
        wanted: Asked,
        since: Annotated[
            datetime | None, Query(description="Only alerts still going on at or after this time")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 100,
        cursor: Annotated[str | None, Query(description="That of the page before", max_length=32)] = None,
    ) -> AlertPage:
        """List alerts, newest raised first. All that is given must hold."""
        after = position_of(cursor)
        return AlertPage.of(whole(service.ready().store, wanted, since=since, limit=limit, cursor=after))

    @app.get(
        "/v1/alerts/stream",
        tags=["alerts"],
        response_class=StreamingResponse,
        responses={200: {"description": "Server-sent events", "content": _EXAMPLE_STREAM}},
    )
    async def follow(
        wanted: AskedHappening,
        last_event_id: Annotated[
            str | None, Header(description="Go on after this event; browsers send it by themselves")
        ] = None,
    ) -> Response:
        """Follow alerts as they are raised and grow, as server-sent events.

        Each event is named `alert`, and its data is the alert as it stands. Without `Last-Event-ID` only later changes are
        sent; with it, everything that changed since that event, each alert once. A comment is sent as a heartbeat.
        """
        return await stream_of(service, last_event_id, wanted.matches)

    @app.get("/v1/alerts/{alert_id}", tags=["alerts"])
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
        report = engine.principals.report(principal)
        if report is None:
            raise ProblemError(
                404,
                "This principal is not in the model's training and did nothing since counting began.",
            )
        page = whole(engine.store, Wanted(principal=report.principal), limit=20)
        report.alerts = [alert.id for alert in page.alerts]
        return report
