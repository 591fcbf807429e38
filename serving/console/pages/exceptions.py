"""The page of exceptions: what may be done for a while without an alert, and what that has allowed."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from serving.api.exceptions import list_exceptions
from serving.console.render import page
from serving.runtime import Service

router = APIRouter(include_in_schema=False)


@router.get("/console/exceptions")
def exceptions(request: Request) -> Response:
    """Every exception, those in force first."""
    service: Service = request.app.state.service
    found = list_exceptions(service).exceptions
    ordered = sorted(found, key=lambda one: (one.expired, one.expires, one.name))
    return page(request, "exceptions.html", exceptions=ordered)
