"""Saved views of lists, and names that fields complete."""

from __future__ import annotations

import asyncio
from typing import Annotated
from urllib.parse import parse_qsl, urlencode

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from serving.api.names import NameKind, names_with
from serving.api.principals import FreshHistory
from serving.console.forms import read_form
from serving.http.problems import ProblemError
from serving.runtime import Service
from serving.schemas import clean
from serving.storage.views import MOST_VIEWS, SavedView, remove_view, save_view

router = APIRouter(include_in_schema=False)

#: Lists whose filters can be saved, and their addresses.
_PAGES = {
    "alerts": "/console/alerts",
    "incidents": "/console/incidents",
    "principals": "/console/principals",
    "search": "/console/search",
}
_LONGEST_NAME, _LONGEST_QUERY = 64, 4000


@router.get("/console/names")
def names(
    request: Request,
    kind: Annotated[NameKind, Query()] = "principal",
    q: Annotated[str, Query(max_length=256)] = "",
) -> Response:
    """Names that hold a text, for the fields that complete them."""
    service: Service = request.app.state.service
    records: FreshHistory = request.app.state.records
    return JSONResponse(names_with(service, records, kind, q), headers={"Cache-Control": "no-store"})


@router.post("/console/views")
async def save(request: Request) -> Response:
    """Save the filters of a list under a name, for all who may read."""
    form = await read_form(request)
    place, name = form.get("page"), clean(form.get("name"), _LONGEST_NAME)
    if place not in _PAGES or not name:
        raise ProblemError(422, "Give the view a name of 1 to 64 characters.")
    query = urlencode(parse_qsl(form.get("query")[:_LONGEST_QUERY]))
    service: Service = request.app.state.service
    by = clean(request.scope.get("kubehabit.caller", ""))

    def write() -> bool:
        with service.ready().store.transaction() as connection:
            return save_view(connection, place, SavedView(name, query, by))

    if not await asyncio.to_thread(write):
        raise ProblemError(409, f"This list has {MOST_VIEWS} views already: remove one first.")
    return Response(status_code=303, headers={"Location": _PAGES[place] + (f"?{query}" if query else "")})


@router.post("/console/views/remove")
async def remove(request: Request) -> Response:
    """Remove a view."""
    form = await read_form(request)
    place, name = form.get("page"), form.get("name")
    if place not in _PAGES:
        raise ProblemError(422, "There is no such list.")
    service: Service = request.app.state.service

    def write() -> None:
        with service.ready().store.transaction() as connection:
            remove_view(connection, place, clean(name, _LONGEST_NAME))

    await asyncio.to_thread(write)
    return Response(status_code=303, headers={"Location": _PAGES[place]})
