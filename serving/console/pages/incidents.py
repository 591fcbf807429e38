"""Incidents: the list, the page of one, and what people decide about it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import Field, ValidationError

from data.errors import NotFoundError
from serving.api.forensics import as_file, caller_of
from serving.api.incidents import decide, read_elsewhere, read_incident
from serving.console.forms import Form, evidence_form, read_form
from serving.console.graph import draw, listed
from serving.console.pages.alerts import back_to, in_two
from serving.console.render import page, page_links
from serving.console.when import SPANS, TimeRange, range_of
from serving.forensics.service import ForensicsService
from serving.http.problems import ProblemError
from serving.incidents.graph import Edge
from serving.incidents.incidents import (
    Acknowledge,
    Assign,
    Close,
    Correct,
    Decision,
    IncidentError,
    Merge,
    Note,
    Reopen,
    Split,
    UnknownIncidentError,
)
from serving.incidents.query import IncidentOrder, IncidentQuery, assignees
from serving.incidents.report import Incident
from serving.runtime import Service
from serving.schemas import Surrounding, clean
from serving.storage.views import saved_views

router = APIRouter(include_in_schema=False)

_ON_A_PAGE = 25
_STATES = ("open", "closed", "merged", "")
_FIRST_MOMENTS = 40
_NO_INCIDENT = "There is no such incident. It may have been forgotten with the last of its alerts."
_MAX_NOTE = 2000


class IncidentPageQuery(IncidentQuery):
    """What the list of incidents is asked for, beside a span of time."""

    state: Literal["", "open", "closed", "merged"] = "open"
    order: IncidentOrder = "activity"
    cursor: Annotated[str | None, Field(max_length=40)] = None


@dataclass(frozen=True, slots=True)
class TimelineMoment:
    """One line of a timeline: an action of a principal, or the automatic follow-ups before the next one."""

    time: datetime
    action: Surrounding | None = None
    following: tuple[Edge, ...] = ()

    @property
    def requests(self) -> int:
        """Number of automatic follow-up requests."""
        return sum(edge.count for edge in self.following)


@dataclass(frozen=True, slots=True)
class Touched:
    """Objects of one kind in one namespace that an incident touched."""

    kind: str
    namespace: str
    names: list[str]
    actions: dict[str, int]


@router.get("/console/incidents")
def incidents(
    request: Request,
    wanted: Annotated[IncidentPageQuery, Query()],
    times: Annotated[TimeRange, Depends(range_of)],
) -> Response:
    """Incidents, those with the latest alert first unless another order is asked for."""
    service: Service = request.app.state.service
    engine = service.ready()
    found = engine.incidents.page(
        wanted, since=times.since, until=times.until, limit=_ON_A_PAGE, cursor=wanted.cursor
    )
    query = wanted.parameters() | times.parameters()
    with engine.store.reading() as connection:
        views = saved_views(connection, "incidents")
        people = assignees(connection)
    of_state = wanted.parameters("state") | times.parameters()
    return page(
        request,
        "incidents.html",
        status=422 if times.wrong else 200,
        incidents=found.incidents,
        wanted=wanted,
        state=wanted.state,
        times=times,
        time_spans=SPANS,
        filtered=bool(wanted.parameters("state", "order") | times.parameters()),
        people=people,
        tabs=[(name, "/console/incidents?" + urlencode(of_state | {"state": name})) for name in _STATES],
        views=views,
        view_page="incidents",
        view_query=urlencode(query),
        **page_links("/console/incidents", query, wanted.cursor, found.cursor),
    )


@router.post("/console/incidents/bulk")
async def decide_several(request: Request) -> Response:
    """Carry out the same decision about several incidents; those whose state does not allow it are left as they are."""
    form = await read_form(request)
    chosen = list(dict.fromkeys(form.all("chosen")))
    if not chosen:
        raise ProblemError(422, "Tick the incidents that are meant, then send it again.")
    model = _IN_BULK.get(form.get("action"))
    if model is None:
        raise ProblemError(422, "Choose what to do with the incidents that are ticked.")
    try:
        decision = model.model_validate(_sent(model, form))
    except ValidationError as error:
        raise ProblemError(
            422, _WRONG.get(str(error.errors()[0]["loc"][0]), "Something is wrong.")
        ) from error
    left = []
    for incident_id in chosen:
        try:
            await decide(request, incident_id, decision)
        except (IncidentError, UnknownIncidentError) as error:
            left.append(str(error))
    if len(left) == len(chosen):
        raise ProblemError(409, left[0])
    return Response(status_code=303, headers={"Location": back_to(form.get("back"), "/console/incidents")})


@router.get("/console/incidents/{incident_id}")
def incident(request: Request, incident_id: str, done: Annotated[str, Query(max_length=32)] = "") -> Response:
    """One incident with its whole story."""
    return _incident_page(request, incident_id, done=done)


def _incident_page(
    request: Request, incident_id: str, *, done: str = "", wrong: str = "", status: int = 200
) -> Response:
    service: Service = request.app.state.service
    found = read_incident(service, incident_id, _NO_INCIDENT)
    # The sentence in two: who did what, and the rest.
    headline, rest = in_two(found.sentence, found.sentence.partition(": ")[0])
    began, who = (found.source.description, found.source.who) if found.source is not None else ("", "")
    moments = timeline(found)
    with service.ready().store.reading() as connection:
        people = assignees(connection)
    return page(
        request,
        "incident.html",
        status=status,
        incident=found,
        headline=headline,
        rest=rest,
        deed=headline.removeprefix(f"{who} ").rstrip(".") if who else headline,
        # Only where it is another deed than that of the headline, which is the most severe one.
        began_with="" if not began or began in headline else began,
        people=people,
        elsewhere=read_elsewhere(service, found),
        times_of={one.audit_id: one.time for one in found.timeline},
        moments=moments[:_FIRST_MOMENTS],
        later=moments[_FIRST_MOMENTS:],
        picture=draw(found.graph),
        edges=listed(found.graph),
        touched=touched(found),
        reached=[node for node in found.graph.nodes if node.role == "reached"],
        namespaces=sorted({one.object_ref.namespace for one in found.timeline if one.object_ref} - {""}),
        look=[check for check in found.checks if check.kind == "look"],
        contain=[check for check in found.checks if check.kind == "contain"],
        keeps_events=service.events is not None,
        done=done,
        wrong=wrong,
    )


def timeline(found: Incident) -> list[TimelineMoment]:
    """What counted and what followed from it, in order of time."""
    entries: list[tuple[datetime, Surrounding | Edge]] = [(one.time, one) for one in found.timeline]
    entries += [(edge.first_seen, edge) for edge in found.consequences]
    entries.sort(key=lambda entry: (entry[0], isinstance(entry[1], Edge)))
    moments: list[TimelineMoment] = []
    for follows, run in groupby(entries, key=lambda entry: isinstance(entry[1], Edge)):
        of_run = list(run)
        if follows:
            edges = tuple(one for _, one in of_run if isinstance(one, Edge))
            moments.append(TimelineMoment(of_run[0][0], following=edges))
        else:
            moments += [
                TimelineMoment(time, action=one) for time, one in of_run if isinstance(one, Surrounding)
            ]
    return moments


def touched(found: Incident) -> list[Touched]:
    """What was touched, of each kind and namespace together, what was touched most first."""
    actions: dict[str, dict[str, int]] = {}
    for edge in found.graph.edges:
        if edge.target.startswith("object:") and edge.source.startswith("principal:"):
            of = actions.setdefault(edge.target, {})
            of[edge.kind] = of.get(edge.kind, 0) + edge.count
    groups: dict[tuple[str, str], Touched] = {}
    for node in found.graph.nodes:
        if node.kind != "object" or node.id not in actions:
            continue
        kind, _, name = node.name.partition(" ")
        namespace, slash, short = name.partition("/")
        if not slash or kind == "path":
            namespace, short = "", name
        group = groups.setdefault((kind, namespace), Touched(kind, namespace, [], {}))
        group.names.append("all" if short == "*" else short)
        for action, number in actions[node.id].items():
            group.actions[action] = group.actions.get(action, 0) + number
    return sorted(groups.values(), key=lambda one: -sum(one.actions.values()))


# -- what people decide -------------------------------------------------------------------------------------------

_WRONG: dict[str, str] = {
    "note": "Write a note of 1 to 1,000 characters.",
    "by": "The name is longer than 256 characters: shorten it.",
    "incident": "Give the ID of the other incident, as its page shows it.",
    "alerts": "Choose at least one alert that is to become an incident of its own.",
    "outcome": "Choose how it ended.",
    "assignee": "Give the name of the person who works on it, of at most 256 characters.",
}

#: Decisions that are possible about several incidents at a time.
_IN_BULK: dict[str, type[Decision]] = {
    "acknowledge": Acknowledge,
    "assign": Assign,
    "close": Close,
    "reopen": Reopen,
}


def _sent(model: type[Decision], form: Form) -> dict[str, Any]:
    """Fields of a form by the names of its model."""
    return {name: form.all(name) if name == "alerts" else form.get(name) for name in model.model_fields}


def _add_decision(action: str, model: type[Decision], done: str) -> None:
    @router.post(f"/console/incidents/{{incident_id}}/{action}", name=f"incident_{action}")
    async def decision(request: Request, incident_id: str) -> Response:
        form = await read_form(request)
        try:
            decided = await decide(request, incident_id, model.model_validate(_sent(model, form)))
        except ValidationError as error:
            wrong = _WRONG.get(str(error.errors()[0]["loc"][0]), "Something in the form is wrong.")
            return await asyncio.to_thread(_incident_page, request, incident_id, wrong=wrong, status=422)
        except (IncidentError, UnknownIncidentError) as error:
            if isinstance(error, UnknownIncidentError) and error.name == incident_id:
                raise NotFoundError(_NO_INCIDENT) from error
            return await asyncio.to_thread(_incident_page, request, incident_id, wrong=str(error), status=409)
        return Response(status_code=303, headers={"Location": f"/console/incidents/{decided.id}?done={done}"})


for _action, _model, _done in (
    ("notes", Note, "noted"),
    ("merge", Merge, "merged"),
    ("split", Split, "split"),
    ("close", Close, "closed"),
    ("acknowledge", Acknowledge, "acknowledged"),
    ("assign", Assign, "assigned"),
    ("reopen", Reopen, "reopened"),
    ("outcome", Correct, "corrected"),
):
    _add_decision(_action, _model, _done)


@router.post("/console/incidents/{incident_id}/evidence")
async def evidence(request: Request, incident_id: str) -> Response:
    """Export the incident as evidence: a file to keep, its page to read and print, or a table of its events."""
    form = await read_form(request)
    desk: ForensicsService = request.app.state.desk

    def export() -> Response:
        made = desk.incident_evidence(
            incident_id, by=caller_of(request, clean(form.get("by"))), note=clean(form.get("note"), _MAX_NOTE)
        )
        return as_file(made, evidence_form(form), f"evidence-{clean(incident_id, 32)}")

    return await asyncio.to_thread(export)
