"""HTTP routes of incidents: list them, read one, and what people decide about them. Thin, over `serving.incidents`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from fastapi import FastAPI, Query, Request
from pydantic import BaseModel, ValidationError

from serving.body import read_body
from serving.incidents import (
    Asker,
    Close,
    IncidentError,
    IncidentPage,
    Incidents,
    Merge,
    Note,
    Split,
)
from serving.problems import ProblemError, position_of
from serving.runtime import Service
from serving.story import Incident

_log = logging.getLogger("kubehabit.api")
_NO_INCIDENT = "There is no such incident: see GET /v1/incidents."

Wanted = TypeVar("Wanted", bound=BaseModel)


def _documented(model: type[BaseModel]) -> dict[str, Any]:
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": model.model_json_schema()}},
        }
    }


def add_incident_routes(app: FastAPI, service: Service) -> None:
    """Every route of incidents."""

    async def decide(
        request: Request, model: type[Wanted], act: Callable[[Incidents, Wanted, Asker], Incident]
    ) -> Incident:
        engine = service.ready()
        body = await read_body(request, service.settings.limits.body_bytes)
        try:
            wanted = model.model_validate_json(body or b"{}")
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"]) or "body"
            example = (model.model_config.get("json_schema_extra") or {}).get("example")  # type: ignore[union-attr]
            raise ProblemError(
                422, f"'{name}' is wrong: {first['msg']}. Send something like {example}."
            ) from error
        address = request.client.host if request.client is not None else ""
        asker = Asker(request.scope.get("kubehabit.caller", ""), address)
        try:
            told = await asyncio.to_thread(act, engine.incidents, wanted, asker)
        except IncidentError as error:
            raise ProblemError(409 if "There is no" not in str(error) else 404, str(error)) from error
        _log.info(
            "incident", extra={"incident": told.id, "decision": model.__name__.lower(), "address": address}
        )
        return told

    @app.get("/v1/incidents", tags=["incidents"])
    def incidents(
        state: Annotated[
            Literal["open", "closed", "merged"] | None, Query(description="Only those in this state")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        cursor: Annotated[str | None, Query(description="That of the page before", max_length=32)] = None,
    ) -> IncidentPage:
        """List incidents, newest first: alerts that belong together, each in a sentence."""
        return service.ready().incidents.page(state=state, limit=limit, cursor=position_of(cursor))

    @app.get("/v1/incidents/{incident_id}", tags=["incidents"])
    def incident(incident_id: str) -> Incident:
        """One incident with its whole story: source, sessions, timeline, graph, evidence, what to do, and its trail."""
        engine = service.ready()
        engine.settle()
        found = engine.incidents.get(incident_id)
        if found is None:
            raise ProblemError(404, _NO_INCIDENT)
        return found

    @app.post("/v1/incidents/{incident_id}/merge", tags=["incidents"], openapi_extra=_documented(Merge))
    async def merge(incident_id: str, request: Request) -> Incident:
        """Take another incident into this one. Both keep in their trail who did it, when and why."""
        return await decide(
            request, Merge, lambda all_, wanted, asker: all_.merge(incident_id, wanted, asker)
        )

    @app.post("/v1/incidents/{incident_id}/split", tags=["incidents"], openapi_extra=_documented(Split))
    async def split(incident_id: str, request: Request) -> Incident:
        """Make an incident of its own of some alerts; the answer is the new one. No later join undoes it."""
        return await decide(
            request, Split, lambda all_, wanted, asker: all_.split(incident_id, wanted, asker)
        )

    @app.post("/v1/incidents/{incident_id}/close", tags=["incidents"], openapi_extra=_documented(Close))
    async def close(incident_id: str, request: Request) -> Incident:
        """Say that an incident is dealt with, and how it ended. It can be read for as long as its alerts are kept."""
        return await decide(
            request, Close, lambda all_, wanted, asker: all_.close(incident_id, wanted, asker)
        )

    @app.post("/v1/incidents/{incident_id}/notes", tags=["incidents"], openapi_extra=_documented(Note))
    async def note(incident_id: str, request: Request) -> Incident:
        """Write something into an incident's trail, for whoever reads it next. There is no way to change or remove it."""
        return await decide(request, Note, lambda all_, wanted, asker: all_.note(incident_id, wanted, asker))

    @app.get("/v1/glossary", tags=["model"])
    def glossary() -> dict[str, str]:
        """Kubernetes words and those of this service, explained for somebody new to both."""
        return service.ready().glossary
