"""The page of the fleet: every cluster that workers score."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from serving.api.fleet import FleetReader
from serving.console.render import page

router = APIRouter(include_in_schema=False)


@router.get("/console/fleet")
def fleet(request: Request) -> Response:
    """All clusters, the most urgent first."""
    reader: FleetReader = request.app.state.fleet
    return page(request, "fleet.html", fleet=reader.fleet())
