"""The list of alerts, how it stays live, and the page of one alert."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import groupby
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import ValidationError

from serving.access import Access, Caller
from serving.alert_list import (
    Line,
    Wanted,
    by_severity,
    feedback_on,
    incident_of,
    lines,
    namespaces,
)
from serving.alerts import Alert
from serving.asked import Asked
from serving.console.forms import read_form
from serving.console.render import page
from serving.engine import Engine
from serving.feedback import Feedback, FeedbackEntry, entry_of
from serving.problems import ProblemError, position_of
from serving.runtime import Service
from serving.stream_routes import stream_of

router = APIRouter(include_in_schema=False)
_log = logging.getLogger("kubehabit.api")

_ON_A_PAGE = 50
_NO_ALERT = "There is no such alert. It may have been deleted after the retention time."


def _engine(request: Request) -> Engine:
    service: Service = request.app.state.service
    return service.ready()


def _query(wanted: Wanted, **more: object) -> str:
    """The filters as a query string; what is empty is left out."""
    names = asdict(wanted) | more
    return urlencode({("q" if name == "text" else name): value for name, value in names.items() if value})


@router.get("/console/")
def alerts(
    request: Request,
    wanted: Asked,
    cursor: Annotated[str | None, Query(max_length=32)] = None,
) -> Response:
    """Alerts, newest first."""
    engine = _engine(request)
    after = position_of(cursor)
    # Before the list is read: what happens meanwhile is told by the stream, and not missed.
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
        filtered=wanted != Wanted(),
        namespaces=known,
        first_page=after is None,
        here="/console/?" + _query(wanted),
        without_severity="/console/?" + _query(Wanted(**(asdict(wanted) | {"severity": ""}))),
        next_page="" if following is None else "/console/?" + _query(wanted, cursor=following),
        stream="/console/stream?" + _query(wanted, after=latest or "0"),
    )


def _by_day(found: list[Line]) -> list[tuple[datetime, list[Line]]]:
    """Alerts of a list under the days on which they began; a day may come twice, as the list is by when they were raised."""
    days = groupby(found, key=lambda line: line.first_seen.date())
    return [(datetime(day.year, day.month, day.day, tzinfo=UTC), list(of_day)) for day, of_day in days]


@router.get("/console/stream")
async def stream(
    request: Request,
    wanted: Asked,
    after: Annotated[str | None, Query(max_length=32)] = None,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """Alerts as they are raised and grow, for the browser's EventSource, which can send a cookie but no header."""
    service: Service = request.app.state.service
    access: Access = request.app.state.access
    caller: Caller = request.scope["kubehabit.visitor"]
    return await stream_of(service, last_event_id or after, wanted.matches, lambda: access.holds(caller))


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
        raise ProblemError(404, _NO_ALERT)
    with engine.store.reading() as connection:
        said = [FeedbackEntry.model_validate_json(text) for text in feedback_on(connection, found.id)]
        incident, state = incident_of(connection, found.id)
    explainer = engine.explainer
    telling = explainer.telling(found)
    who = explainer.who(found.principal, found.kind)
    headline, rest = in_two(found.sentence, f"{who} {telling.did}")
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
    """Keep what somebody says of an alert."""
    form = await read_form(request)
    store = _engine(request).store
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
    found = await asyncio.to_thread(store.get, alert_id)
    if found is None:
        raise ProblemError(404, _NO_ALERT)
    address = request.client.host if request.client is not None else ""
    kept = entry_of(found, given, address)
    await asyncio.to_thread(
        store.add_feedback, found.id, kept.time, kept.verdict, kept.model_dump_json(by_alias=True)
    )
    _log.info("feedback", extra={"alert": kept.alert_id, "verdict": kept.verdict, "address": address})
    return Response(
        status_code=303, headers={"Location": f"/console/alerts/{found.id}?done=feedback#feedback"}
    )
