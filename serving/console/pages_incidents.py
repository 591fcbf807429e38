"""Incidents: the list, the page of one, and what people decide about it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ValidationError

from serving.alerts import Surrounding, clean
from serving.console.forms import Form, read_form
from serving.console.graph import draw, listed
from serving.console.pages_alerts import in_two
from serving.console.render import page
from serving.forensics.desk import Desk
from serving.forensics.routes import as_file, caller_of
from serving.incidents import Asker, Close, IncidentError, Incidents, Merge, Note, Split
from serving.problems import ProblemError, position_of
from serving.runtime import Service
from serving.story import Edge, Incident

router = APIRouter(include_in_schema=False)
_log = logging.getLogger("kubehabit.api")

_ON_A_PAGE = 25
_FIRST_MOMENTS = 40
_NO_INCIDENT = "There is no such incident. It may have been forgotten with the last of its alerts."
_MAX_NOTE = 2000

State = Annotated[Literal["", "open", "closed", "merged"], Query()]


@dataclass(frozen=True, slots=True)
class Moment:
    """One line of a timeline: something that somebody did, or what followed by itself before the next such deed."""

    time: datetime
    deed: Surrounding | None = None
    following: tuple[Edge, ...] = ()

    @property
    def requests(self) -> int:
        """How many requests followed by themselves."""
        return sum(edge.count for edge in self.following)


@dataclass(frozen=True, slots=True)
class Touched:
    """Objects of one kind in one namespace that an incident touched."""

    kind: str
    namespace: str
    names: list[str]
    deeds: dict[str, int]


@router.get("/console/incidents")
def incidents(
    request: Request,
    state: State = "open",
    cursor: Annotated[str | None, Query(max_length=32)] = None,
) -> Response:
    """Incidents, newest first."""
    service: Service = request.app.state.service
    after = position_of(cursor)
    told = service.ready().incidents.page(state=state or None, limit=_ON_A_PAGE, cursor=after)
    query = {"state": state}
    return page(
        request,
        "incidents.html",
        incidents=told.incidents,
        state=state,
        first_page=after is None,
        here="/console/incidents?" + urlencode(query),
        next_page=""
        if told.cursor is None
        else "/console/incidents?" + urlencode(query | {"cursor": told.cursor}),
    )


@router.get("/console/incidents/{incident_id}")
def incident(
    request: Request,
    incident_id: str,
    done: Annotated[str, Query(max_length=32)] = "",
) -> Response:
    """One incident with its whole story."""
    return _incident_page(request, incident_id, done=done)


def _incident_page(
    request: Request, incident_id: str, *, done: str = "", wrong: str = "", status: int = 200
) -> Response:
    service: Service = request.app.state.service
    engine = service.ready()
    engine.settle()
    found = engine.incidents.get(incident_id)
    if found is None:
        raise ProblemError(404, _NO_INCIDENT)
    headline, rest = _headline(found)
    moments = timeline(found)
    return page(
        request,
        "incident.html",
        status=status,
        incident=found,
        headline=headline,
        rest=rest,
        moments=moments[:_FIRST_MOMENTS],
        later=moments[_FIRST_MOMENTS:],
        picture=draw(found.graph),
        edges=listed(found.graph),
        touched=touched(found),
        reached=[node for node in found.graph.nodes if node.role == "reached"],
        namespaces=_namespaces(found),
        look=[check for check in found.checks if check.kind == "look"],
        contain=[check for check in found.checks if check.kind == "contain"],
        keeps_events=service.events is not None,
        done=done,
        wrong=wrong,
    )


def _headline(found: Incident) -> tuple[str, str]:
    """The sentence of an incident in two: who did what, and the rest."""
    colon = found.sentence.find(": ")
    if colon < 0:
        return found.sentence, ""
    return in_two(found.sentence, found.sentence[:colon])


def timeline(found: Incident) -> list[Moment]:
    """What counted and what followed from it, in order of time."""
    entries: list[tuple[datetime, Surrounding | Edge]] = [(one.time, one) for one in found.timeline]
    entries += [(edge.first_seen, edge) for edge in found.consequences]
    entries.sort(key=lambda entry: (entry[0], isinstance(entry[1], Edge)))
    moments: list[Moment] = []
    for follows, run in groupby(entries, key=lambda entry: isinstance(entry[1], Edge)):
        of_run = list(run)
        if follows:
            edges = tuple(one for _, one in of_run if isinstance(one, Edge))
            moments.append(Moment(of_run[0][0], following=edges))
        else:
            moments += [Moment(time, deed=one) for time, one in of_run if isinstance(one, Surrounding)]
    return moments


def touched(found: Incident) -> list[Touched]:
    """What was touched, of each kind and namespace together, what was touched most first."""
    deeds: dict[str, dict[str, int]] = {}
    for edge in found.graph.edges:
        if edge.target.startswith("object:") and edge.source.startswith("principal:"):
            of = deeds.setdefault(edge.target, {})
            of[edge.kind] = of.get(edge.kind, 0) + edge.count
    groups: dict[tuple[str, str], Touched] = {}
    for node in found.graph.nodes:
        if node.kind != "object" or node.id not in deeds:
            continue
        kind, _, name = node.name.partition(" ")
        namespace, slash, short = name.partition("/")
        if not slash or kind == "path":
            namespace, short = "", name
        group = groups.setdefault((kind, namespace), Touched(kind, namespace, [], {}))
        group.names.append("all" if short == "*" else short)
        for deed, number in deeds[node.id].items():
            group.deeds[deed] = group.deeds.get(deed, 0) + number
    return sorted(groups.values(), key=lambda one: -sum(one.deeds.values()))


def _namespaces(found: Incident) -> list[str]:
    names = {one.object_ref.namespace for one in found.timeline if one.object_ref is not None}
    return sorted(names - {""})


# -- what people decide -------------------------------------------------------------------------------------------

_WRONG: dict[str, str] = {
    "note": "Write a note of 1 to 1,000 characters.",
    "by": "The name is longer than 256 characters: shorten it.",
    "incident": "Give the ID of the other incident, as its page shows it.",
    "alerts": "Choose at least one alert that is to become an incident of its own.",
    "outcome": "Choose how it ended.",
}


async def _decide(
    request: Request,
    incident_id: str,
    model: type[BaseModel],
    fields: Callable[[Form], dict[str, Any]],
    act: Callable[[Incidents, Any, Asker], Incident],
    done: str,
) -> Response:
    form = await read_form(request)
    service: Service = request.app.state.service
    engine = service.ready()
    address = request.client.host if request.client is not None else ""
    asker = Asker(request.scope.get("kubehabit.caller", ""), address)
    try:
        wanted = model.model_validate(fields(form) | {"note": form.get("note"), "by": form.get("by")})
        told = await asyncio.to_thread(act, engine.incidents, wanted, asker)
    except ValidationError as error:
        wrong = _WRONG.get(str(error.errors()[0]["loc"][0]), "Something in the form is wrong.")
        return await asyncio.to_thread(_incident_page, request, incident_id, wrong=wrong, status=422)
    except IncidentError as error:
        if "There is no incident" in str(error) and clean(incident_id, 32) in str(error):
            raise ProblemError(404, _NO_INCIDENT) from error
        return await asyncio.to_thread(_incident_page, request, incident_id, wrong=str(error), status=409)
    _log.info("incident", extra={"incident": told.id, "decision": model.__name__.lower(), "address": address})
    return Response(status_code=303, headers={"Location": f"/console/incidents/{told.id}?done={done}"})


@router.post("/console/incidents/{incident_id}/notes")
async def note(request: Request, incident_id: str) -> Response:
    """Write something into the trail."""
    return await _decide(
        request,
        incident_id,
        Note,
        lambda _: {},
        lambda all_, wanted, asker: all_.note(incident_id, wanted, asker),
        "noted",
    )


@router.post("/console/incidents/{incident_id}/merge")
async def merge(request: Request, incident_id: str) -> Response:
    """Take another incident in."""
    return await _decide(
        request,
        incident_id,
        Merge,
        lambda form: {"incident": form.get("incident")},
        lambda all_, wanted, asker: all_.merge(incident_id, wanted, asker),
        "merged",
    )


@router.post("/console/incidents/{incident_id}/split")
async def split(request: Request, incident_id: str) -> Response:
    """Make an incident of its own of some alerts."""
    return await _decide(
        request,
        incident_id,
        Split,
        lambda form: {"alerts": form.all("alerts")},
        lambda all_, wanted, asker: all_.split(incident_id, wanted, asker),
        "split",
    )


@router.post("/console/incidents/{incident_id}/close")
async def close(request: Request, incident_id: str) -> Response:
    """Say that it is dealt with."""
    return await _decide(
        request,
        incident_id,
        Close,
        lambda form: {"outcome": form.get("outcome")},
        lambda all_, wanted, asker: all_.close(incident_id, wanted, asker),
        "closed",
    )


@router.post("/console/incidents/{incident_id}/evidence")
async def evidence(request: Request, incident_id: str) -> Response:
    """Export the incident as evidence: a file to keep, or its page to read and print."""
    form = await read_form(request)
    desk: Desk = request.app.state.desk
    kind: Literal["json", "html"] = "html" if form.get("form") == "html" else "json"

    def export() -> Response:
        made = desk.incident_evidence(
            incident_id,
            by=caller_of(request, clean(form.get("by"))),
            note=clean(form.get("note"), _MAX_NOTE),
        )
        return as_file(made, kind, f"evidence-{clean(incident_id, 32)}")

    return await asyncio.to_thread(export)
