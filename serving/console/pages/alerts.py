"""The list of alerts, how it stays live, and the page of one alert."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import groupby
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import Field, ValidationError

from data.errors import KubehabitError, NotFoundError
from serving.access.gate import Access, Caller
from serving.alerts.feedback import NO_ALERT, Feedback, FeedbackEntry
from serving.alerts.query import (
    AlertLine,
    AlertOrder,
    AlertQuery,
    AlertSpan,
    by_severity,
    feedback_on,
    incident_of,
    lines,
)
from serving.api.exceptions import NewException, allow
from serving.api.stream import stream_of
from serving.console.forms import Form, read_form
from serving.console.render import page, page_links
from serving.console.when import SPANS, TimeRange, range_of, zone_of
from serving.http.problems import ProblemError
from serving.runtime import Service
from serving.schemas import Alert, ObjectReference, clean
from serving.scoring.engine import Engine
from serving.scoring.feedback import give_feedback
from serving.storage.views import saved_views

router = APIRouter(include_in_schema=False)

_ON_A_PAGE = 50
_OBJECTS = 8


def _engine(request: Request) -> Engine:
    service: Service = request.app.state.service
    return service.ready()


class AlertPageQuery(AlertQuery):
    """What the list of alerts is asked for, beside a span of time."""

    order: AlertOrder = "newest"
    cursor: Annotated[str | None, Field(max_length=40)] = None


class _StreamQuery(AlertQuery):
    after: Annotated[str | None, Field(max_length=32)] = None


@router.get("/console/alerts")
def alerts(
    request: Request,
    wanted: Annotated[AlertPageQuery, Query()],
    times: Annotated[TimeRange, Depends(range_of)],
) -> Response:
    """Alerts, newest first unless another order is asked for."""
    engine = _engine(request)
    query = wanted.parameters() | times.parameters()
    span = AlertSpan(times.since, times.until)
    # Before the list is read: the stream then has every change that the list lacks.
    latest = engine.store.latest()
    with engine.store.reading() as connection:
        found, following = lines(
            connection, wanted, span, order=wanted.order, limit=_ON_A_PAGE, cursor=wanted.cursor
        )
        counted = by_severity(connection, wanted, span)
        views = saved_views(connection, "alerts")
    live = wanted.order == "newest" and times.until is None
    without_severity = wanted.parameters("severity") | times.parameters()
    return page(
        request,
        "alerts.html",
        status=422 if times.wrong else 200,
        days=_by_day(found, zone_of(request.scope))
        if wanted.order != "severity"
        else [(None, found)] * bool(found),
        shown=len(found),
        total=sum(counted.values()),
        counted=counted,
        wanted=wanted,
        times=times,
        time_spans=SPANS,
        filtered=bool(wanted.parameters("order") | times.parameters()),
        without_severity="/console/alerts?" + urlencode(without_severity),
        stream="/console/stream?" + urlencode(wanted.parameters("order") | {"after": latest}) if live else "",
        views=views,
        view_page="alerts",
        view_query=urlencode(query),
        **page_links("/console/alerts", query, wanted.cursor, following),
    )


def _by_day(found: list[AlertLine], zone: tzinfo) -> list[tuple[datetime, list[AlertLine]]]:
    """Alerts of a list under the days on which they began; a day may come twice, as the list is by when they were raised."""
    days = groupby(found, key=lambda line: line.first_seen.astimezone(zone).date())
    return [(datetime(day.year, day.month, day.day, tzinfo=zone), list(of_day)) for day, of_day in days]


@router.post("/console/alerts/bulk")
async def judge_several(request: Request) -> Response:
    """Give the same verdict on several alerts."""
    form = await read_form(request)
    chosen = list(dict.fromkeys(form.all("chosen")))
    if not chosen:
        raise ProblemError(422, "Tick the alerts that the verdict is on, then send it again.")
    for alert_id in chosen:
        given = _feedback_in(form)
        if isinstance(given, str):
            raise ProblemError(422, given)
        await _give(request, alert_id, given)
    return Response(status_code=303, headers={"Location": back_to(form.get("back"), "/console/alerts")})


def back_to(wanted: str, home: str) -> str:
    """Where a form came from: a list of ours, or its first page."""
    return (
        wanted
        if wanted.startswith((f"{home}?", home)) and wanted.isprintable() and "\\" not in wanted
        else home
    )


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
        objects=_objects(found),
        look=[check for check in found.checks if check.kind == "look"],
        contain=[check for check in found.checks if check.kind == "contain"],
        said=said,
        incident=incident,
        incident_state=state,
        done=done,
        wrong=wrong,
        mute=_suggested(found),
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


def _objects(found: Alert) -> list[ObjectReference]:
    """Objects that an alert is about, each once, those with a name first."""
    refs = [one.object_ref for one in found.actions if one.object_ref is not None and one.object_ref.resource]
    once = {(ref.resource, ref.subresource, ref.namespace, ref.name): ref for ref in reversed(refs)}
    return sorted(once.values(), key=lambda ref: not ref.name)[:_OBJECTS]


@router.post("/console/alerts/{alert_id}/feedback")
async def feedback(request: Request, alert_id: str) -> Response:
    """Store feedback on an alert."""
    form = await read_form(request)
    given = _feedback_in(form)
    if isinstance(given, str):
        return await asyncio.to_thread(_alert_page, request, alert_id, wrong=given, status=422)
    entry = await _give(request, alert_id, given)
    return Response(
        status_code=303, headers={"Location": f"/console/alerts/{entry.alert_id}?done=feedback#feedback"}
    )


def _feedback_in(form: Form) -> Feedback | str:
    """The verdict of a form, or what is wrong with it."""
    try:
        return Feedback.model_validate({name: form.get(name) for name in ("verdict", "note", "by")})
    except ValidationError as error:
        return {
            "verdict": "Choose whether this was normal or malicious.",
            "note": "The note is longer than 1,000 characters: shorten it.",
            "by": "The name is longer than 256 characters: shorten it.",
        }[str(error.errors()[0]["loc"][0])]


async def _give(request: Request, alert_id: str, given: Feedback) -> FeedbackEntry:
    service: Service = request.app.state.service
    running = service.running()
    address = request.client.host if request.client is not None else ""
    with service.intake.turn():
        return await asyncio.to_thread(
            give_feedback, running.engine.store, running.pipeline, alert_id, given, address
        )


@router.post("/console/alerts/{alert_id}/mute")
async def mute(request: Request, alert_id: str) -> Response:
    """Add an exception: what the alert is about may be done until a day without another one."""
    form = await read_form(request)
    service: Service = request.app.state.service
    names = ("name", "reason", "expires", "principal", "by")
    lists = ("verbs", "resources", "namespaces", "names")
    try:
        wanted = NewException.model_validate(
            {name: form.get(name) for name in names} | {name: form.get(name).split() for name in lists}
        )
        await asyncio.to_thread(allow, service, wanted)
    except (ValidationError, KubehabitError, ProblemError) as error:
        wrong = str(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            wrong = f"{str(first['loc'][0]).capitalize()} of the exception: {first['msg']}."
        return await asyncio.to_thread(_alert_page, request, alert_id, wrong=wrong, status=422)
    return Response(
        status_code=303, headers={"Location": f"/console/alerts/{clean(alert_id, 32)}?done=muted"}
    )


def _suggested(found: Alert) -> dict[str, str]:
    """An exception that would allow what an alert is about, for a week."""
    action = found.headline
    ref = action.object_ref
    resource = ""
    if ref is not None:
        resource = "/".join(part for part in (ref.api_group, ref.resource, ref.subresource) if part)
    return {
        "name": f"alert-{found.id[:8]}",
        "principal": found.principal,
        "verbs": action.verb,
        "resources": resource,
        "namespaces": ref.namespace if ref is not None else "",
        "expires": (datetime.now(UTC) + timedelta(days=7)).date().isoformat(),
    }
