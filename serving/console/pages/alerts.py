"""The list of alerts, how it stays live, and the page of one alert."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from itertools import groupby
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import Field, ValidationError

from data.errors import NotFoundError
from serving.access.gate import Access, Caller
from serving.alerts.feedback import NO_ALERT, Feedback, FeedbackEntry
from serving.alerts.query import (
    AlertLine,
    AlertQuery,
    by_severity,
    feedback_on,
    incident_of,
    lines,
    namespaces,
)
from serving.api.stream import stream_of
from serving.console.forms import read_form
from serving.console.render import page, page_links
from serving.http.problems import position_of
from serving.runtime import Service
from serving.schemas import Alert
from serving.scoring.engine import Engine
from serving.scoring.feedback import give_feedback

router = APIRouter(include_in_schema=False)

_ON_A_PAGE = 50


def _engine(request: Request) -> Engine:
    service: Service = request.app.state.service
    return service.ready()


class _ListQuery(AlertQuery):
    cursor: Annotated[str | None, Field(max_length=32)] = None


class _StreamQuery(AlertQuery):
    after: Annotated[str | None, Field(max_length=32)] = None


@router.get("/console/")
def alerts(request: Request, wanted: Annotated[_ListQuery, Query()]) -> Response:
    """Alerts, newest first."""
    engine = _engine(request)
    after = position_of(wanted.cursor)
    filters = wanted.parameters()
    # Before the list is read: the stream then has every change that the list lacks.
    latest = engine.store.latest()
    with engine.store.reading() as connection:
        found, following = lines(connection, wanted, limit=_ON_A_PAGE, cursor=after)
        counted = by_severity(connection, wanted)
        known = namespaces(connection)
    return page(
        request,
        "alerts.html",
        days=_by_day(found),
        shown=len(found),
        total=sum(counted.values()),
        counted=counted,
        wanted=wanted,
        filtered=bool(filters),
        namespaces=known,
        without_severity="/console/?" + urlencode(wanted.parameters("severity")),
        stream="/console/stream?" + urlencode(filters | {"after": latest}),
        **page_links("/console/", filters, wanted.cursor, None if following is None else str(following)),
    )


def _by_day(found: list[AlertLine]) -> list[tuple[datetime, list[AlertLine]]]:
    """Alerts of a list under the days on which they began; a day may come twice, as the list is by when they were raised."""
    days = groupby(found, key=lambda line: line.first_seen.date())
    return [(datetime(day.year, day.month, day.day, tzinfo=UTC), list(of_day)) for day, of_day in days]


@router.get("/console/stream")
async def stream(
    request: Request,
    wanted: Annotated[_StreamQuery, Query()],
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """Alerts as they are raised and grow, for the browser's EventSource, which can send a cookie but no header."""
    service: Service = request.app.state.service
    access: Access = request.app.state.access
    caller: Caller = request.scope["kubehabit.visitor"]
    return await stream_of(
        service, last_event_id or wanted.after, wanted.matches, lambda: access.holds(caller)
    )


@router.get("/console/alerts/{alert_id}")
def alert(request: Request, alert_id: str, done: Annotated[str, Query(max_length=32)] = "") -> Response:
    """One alert."""
    return _alert_page(request, alert_id, done=done)


def _alert_page(
    request: Request, alert_id: str, *, done: str = "", wrong: str = "", status: int = 200
) -> Response:
    engine = _engine(request)
    found = engine.store.get(alert_id)
    if found is None:
        raise NotFoundError(NO_ALERT)
    with engine.store.reading() as connection:
        said = [FeedbackEntry.model_validate_json(text) for text in feedback_on(connection, found.id)]
        incident, state = incident_of(connection, found.id)
    explainer = engine.explainer
    telling = explainer.telling(found)
    who = explainer.who(found.principal, found.kind)
    headline, rest = in_two(found.sentence, f"{who} {telling.description}")
    return page(
        request,
        "alert.html",
        status=status,
        alert=found,
        who=who,
        headline=headline,
        rest=rest,
        telling=telling,
        reason=explainer.reason(telling, found.kind),
        rarity=explainer.rarity(telling),
        addresses=_places(found),
        clients=list(dict.fromkeys(one.user_agent for one in found.actions if one.user_agent)),
        look=[check for check in found.checks if check.kind == "look"],
        contain=[check for check in found.checks if check.kind == "contain"],
        said=said,
        incident=incident,
        incident_state=state,
        done=done,
        wrong=wrong,
    )


def in_two(sentence: str, deed: str) -> tuple[str, str]:
    """A sentence as who did what, and all that is to be said of it; undivided if it does not begin with the deed."""
    if not sentence.startswith(deed + ": "):
        return sentence, ""
    rest = sentence[len(deed) + 2 :]
    return deed + ".", rest[:1].upper() + rest[1:]


def _places(found: Alert) -> list[str]:
    """Addresses that requests came from, as the API server wrote them; the first of each request is the client's."""
    shown = [*found.actions, *found.contributors]
    return list(dict.fromkeys(one.source_ips[0] for one in shown if one.source_ips))


@router.post("/console/alerts/{alert_id}/feedback")
async def feedback(request: Request, alert_id: str) -> Response:
    """Store feedback on an alert."""
    form = await read_form(request)
    service: Service = request.app.state.service
    running = service.running()
    try:
        given = Feedback.model_validate({name: form.get(name) for name in ("verdict", "note", "by")})
    except ValidationError as error:
        field = str(error.errors()[0]["loc"][0])
        wrong = {
            "verdict": "Choose whether this was normal or malicious.",
            "note": "The note is longer than 1,000 characters: shorten it.",
            "by": "The name is longer than 256 characters: shorten it.",
        }[field]
        return await asyncio.to_thread(_alert_page, request, alert_id, wrong=wrong, status=422)
    address = request.client.host if request.client is not None else ""
    with service.intake.turn():
        entry = await asyncio.to_thread(
            give_feedback, running.engine.store, running.pipeline, alert_id, given, address
        )
    return Response(
        status_code=303, headers={"Location": f"/console/alerts/{entry.alert_id}?done=feedback#feedback"}
    )
