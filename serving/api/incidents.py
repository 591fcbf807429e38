"""Routes of incidents: list them, read one, decide about one."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Annotated, TypeVar

from fastapi import FastAPI, Query, Request

from data.errors import NotFoundError
from serving.http.body import documented, read_model
from serving.http.links import INCIDENT, leads_to
from serving.incidents.elsewhere import IncidentElsewhere, incidents_elsewhere
from serving.incidents.incidents import (
    Acknowledge,
    Asker,
    Assign,
    Close,
    Correct,
    Decision,
    IncidentPage,
    Merge,
    Note,
    Reopen,
    Split,
)
from serving.incidents.query import IncidentListQuery
from serving.incidents.report import Incident
from serving.runtime import Service
from serving.scoring.feedback import close_alerts
from serving.storage.siblings import SiblingStores

_log = logging.getLogger("kubehabit.api")
_MAX_NOTE = 1000
_NO_INCIDENT = "There is no such incident: see GET /v1/incidents."

_Sent = TypeVar("_Sent", Merge, Split, Close, Note, Acknowledge, Assign, Reopen, Correct)


async def decide(request: Request, incident_id: str, decision: Decision) -> Incident:
    """Carry out what the caller of the API or of the console decides, and log it; raises as `Incidents.decide`."""
    service: Service = request.app.state.service
    address = request.client.host if request.client is not None else ""
    asker = Asker(request.scope.get("kubehabit.caller", ""), address)
    if isinstance(decision, Close | Correct):
        await _judge_alerts(service, incident_id, decision, asker)
    decided = await asyncio.to_thread(service.ready().incidents.decide, incident_id, decision, asker)
    _log.info(
        "incident",
        extra={"incident": decided.id, "decision": type(decision).__name__.lower(), "address": address},
    )
    return decided


async def _judge_alerts(service: Service, incident_id: str, decision: Close | Correct, asker: Asker) -> None:
    """Take in the outcome of an incident as a verdict on its alerts; before it is closed, so that a crash loses neither."""
    running = service.running()
    alerts = await asyncio.to_thread(running.engine.incidents.to_judge, incident_id, decision)
    what = "closed" if isinstance(decision, Close) else "corrected"
    note = f"incident {incident_id} {what}" + (f": {decision.note}" if decision.note else "")
    give = partial(close_alerts, note=note[:_MAX_NOTE], by=decision.by, address=asker.address)
    with service.intake.turn():
        await asyncio.to_thread(give, running.engine.store, running.pipeline, alerts, decision.outcome)


def read_incident(service: Service, incident_id: str, missing: str = _NO_INCIDENT) -> Incident:
    """An incident with all alerts of what was scored until now; raises NotFoundError with the message `missing`."""
    engine = service.ready()
    engine.flush()
    found = engine.incidents.get(incident_id)
    if found is None:
        raise NotFoundError(missing)
    return found


def read_elsewhere(service: Service, found: Incident) -> list[IncidentElsewhere]:
    """Incidents of the same people in other clusters; raises as `incidents_elsewhere`."""
    settings = service.settings
    siblings = SiblingStores(service.ready().store, settings.store.resolved_url)
    return incidents_elsewhere(found, siblings, settings.console.cluster_url)


def add_incident_routes(app: FastAPI, service: Service) -> None:
    """Every route of incidents."""

    async def sent(request: Request, model: type[_Sent]) -> _Sent:
        service.ready()
        return await read_model(request, model, b"{}")

    @app.get(
        "/v1/incidents", tags=["incidents"], responses=leads_to("incident_id", "/incidents/0/id", *INCIDENT)
    )
    def incidents(
        query: Annotated[IncidentListQuery, Query()],
    ) -> IncidentPage:
        """List incidents, newest first by default: alerts that belong together, each in a sentence. All filters must match."""
        return service.ready().incidents.page(
            query, since=query.since, until=query.until, limit=query.limit, cursor=query.cursor
        )

    @app.get("/v1/incidents/{incident_id}", tags=["incidents"])
    def incident(incident_id: str) -> Incident:
        """One incident in full: source, sessions, timeline, graph, evidence, what to do, and its trail."""
        return read_incident(service, incident_id)

    @app.get("/v1/incidents/{incident_id}/elsewhere", tags=["incidents"])
    def elsewhere(incident_id: str) -> list[IncidentElsewhere]:
        """List incidents of the same people in other clusters whose alerts are in the same database."""
        return read_elsewhere(service, read_incident(service, incident_id))

    @app.post("/v1/incidents/{incident_id}/merge", tags=["incidents"], openapi_extra=documented(Merge))
    async def merge(incident_id: str, request: Request) -> Incident:
        """Merge another incident into this one. Both keep in their trail who did it, when and why."""
        return await decide(request, incident_id, await sent(request, Merge))

    @app.post("/v1/incidents/{incident_id}/split", tags=["incidents"], openapi_extra=documented(Split))
    async def split(incident_id: str, request: Request) -> Incident:
        """Move some alerts into a new incident, which is the answer. The two are never joined again automatically."""
        return await decide(request, incident_id, await sent(request, Split))

    @app.post("/v1/incidents/{incident_id}/close", tags=["incidents"], openapi_extra=documented(Close))
    async def close(incident_id: str, request: Request) -> Incident:
        """Close an incident, with its outcome. It can be read for as long as its alerts are kept.

        An outcome of normal or malicious is feedback on each of its alerts.
        """
        return await decide(request, incident_id, await sent(request, Close))

    @app.post(
        "/v1/incidents/{incident_id}/acknowledge", tags=["incidents"], openapi_extra=documented(Acknowledge)
    )
    async def acknowledge(incident_id: str, request: Request) -> Incident:
        """Acknowledge an incident: others see that a person looks at it."""
        return await decide(request, incident_id, await sent(request, Acknowledge))

    @app.post("/v1/incidents/{incident_id}/assign", tags=["incidents"], openapi_extra=documented(Assign))
    async def assign(incident_id: str, request: Request) -> Incident:
        """Say who works on an incident, or with an empty name that nobody does."""
        return await decide(request, incident_id, await sent(request, Assign))

    @app.post("/v1/incidents/{incident_id}/reopen", tags=["incidents"], openapi_extra=documented(Reopen))
    async def reopen(incident_id: str, request: Request) -> Incident:
        """Reopen a closed incident. The verdict on its alerts stays until another outcome is given."""
        return await decide(request, incident_id, await sent(request, Reopen))

    @app.post("/v1/incidents/{incident_id}/outcome", tags=["incidents"], openapi_extra=documented(Correct))
    async def correct(incident_id: str, request: Request) -> Incident:
        """Correct the outcome of a closed incident. It is the verdict on each of its alerts from now on."""
        return await decide(request, incident_id, await sent(request, Correct))

    @app.post("/v1/incidents/{incident_id}/notes", tags=["incidents"], openapi_extra=documented(Note))
    async def note(incident_id: str, request: Request) -> Incident:
        """Add a note to an incident's trail. Notes cannot be changed or removed."""
        return await decide(request, incident_id, await sent(request, Note))

    @app.get("/v1/glossary", tags=["model"])
    def glossary() -> dict[str, str]:
        """Kubernetes words and those of this service, explained for readers new to both."""
        return service.ready().glossary
