"""Incidents: the list, the page of one, and what people decide about it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import ValidationError

from data.errors import NotFoundError
from serving.api.forensics import as_file, caller_of
from serving.api.incidents import decide, read_incident
from serving.console.forms import Form, read_form
from serving.console.graph import draw, listed
from serving.console.pages.alerts import in_two
from serving.console.render import page, page_links
from serving.forensics.service import ForensicsService
from serving.http.problems import position_of
from serving.incidents.graph import Edge
from serving.incidents.incidents import (
    Close,
    Decision,
    IncidentError,
    Merge,
    Note,
    Split,
    UnknownIncidentError,
)
from serving.incidents.report import Incident
from serving.runtime import Service
from serving.schemas import Surrounding, clean

router = APIRouter(include_in_schema=False)

_ON_A_PAGE = 25
_FIRST_MOMENTS = 40
_NO_INCIDENT = "There is no such incident. It may have been forgotten with the last of its alerts."
_MAX_NOTE = 2000

State = Annotated[Literal["", "open", "closed", "merged"], Query()]


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
    request: Request, state: State = "open", cursor: Annotated[str | None, Query(max_length=32)] = None
) -> Response:
    """Incidents, newest first."""
    service: Service = request.app.state.service
    after = position_of(cursor)
    found = service.ready().incidents.page(state=state or None, limit=_ON_A_PAGE, cursor=after)
    links = page_links("/console/incidents", {"state": state}, cursor, found.cursor)
    return page(request, "incidents.html", incidents=found.incidents, state=state, **links)


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
):
    _add_decision(_action, _model, _done)


@router.post("/console/incidents/{incident_id}/evidence")
async def evidence(request: Request, incident_id: str) -> Response:
    """Export the incident as evidence: a file to keep, or its page to read and print."""
    form = await read_form(request)
    desk: ForensicsService = request.app.state.desk
    kind: Literal["json", "html"] = "html" if form.get("form") == "html" else "json"

    def export() -> Response:
        made = desk.incident_evidence(
            incident_id, by=caller_of(request, clean(form.get("by"))), note=clean(form.get("note"), _MAX_NOTE)
        )
        return as_file(made, kind, f"evidence-{clean(incident_id, 32)}")

    return await asyncio.to_thread(export)
