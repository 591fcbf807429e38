"""Routes of rights: what roles and bindings give, what of it is used, and what would have stopped an incident."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Query

from detection.authorization.requests import AccessRequest
from serving.api.fresh_rights import FreshRights
from serving.api.incidents import read_incident
from serving.authorization.rights import (
    EscalationPaths,
    IncidentContainment,
    RightsReport,
    WhoCan,
    paths_of,
    rights_of,
    who_can,
)
from serving.forensics import clock
from serving.forensics.containment import DAYS, incident_containment
from serving.runtime import Service

_SECONDS = 10.0
User = Annotated[str, Query(description="User name as the log has it", max_length=512)]
Days = Annotated[float, Query(gt=0, le=36_500, description="Days of the event store that count as use")]


def containment(service: Service, rights: FreshRights, incident_id: str, days: float) -> IncidentContainment:
    """What would have stopped an incident.

    Raises:
        ProblemError: there is no such incident, no snapshot, or no event store.
        NotFoundError: there is no such incident.
    """
    rbac = rights.current().rbac
    incident = read_incident(service, incident_id)
    service.wait_for_events(_SECONDS)
    return service.forensics.ask(lambda queries: incident_containment(queries, incident, rbac, days))


def add_authorization_routes(app: FastAPI, service: Service) -> None:
    """Every route of rights."""
    rights: FreshRights = app.state.rights

    @app.get("/v1/incidents/{incident_id}/containment", tags=["rights"])
    def incident_containment(incident_id: str, days: Days = DAYS) -> IncidentContainment:
        """Which bindings made an incident possible, and the smallest change of RBAC that stops it and nothing in use."""
        return containment(service, rights, incident_id, days)

    @app.get("/v1/rbac/report", tags=["rights"])
    def report(
        user: Annotated[
            list[str] | None,
            Query(description="Only these users, each right of them; default: all, in numbers"),
        ] = None,
        days: Days = DAYS,
        limit: Annotated[int, Query(ge=1, le=1000)] = 200,
    ) -> RightsReport:
        """Rights that were granted and never used, of users seen in the event store; most risky ones first."""
        book = rights.book(days)
        used = book.usage.used
        names = user or sorted(used.users)
        found = [rights_of(book.index, name, whole=bool(user)) for name in names]
        found.sort(key=lambda one: (-one.risky_unused, -one.unused, one.user))
        written = clock.written(book.usage.since)
        return RightsReport(since=written, requests=used.requests, complete=used.whole, users=found[:limit])

    @app.get("/v1/rbac/who-can", tags=["rights"])
    def subjects(
        verb: Annotated[str, Query(max_length=64)],
        resource: Annotated[
            str,
            Query(description="RESOURCE[/SUBRESOURCE][.GROUP], or a path that begins with /", max_length=512),
        ],
        namespace: Annotated[str, Query(max_length=256, description="Empty: all of the cluster")] = "",
        name: Annotated[str, Query(max_length=512)] = "",
    ) -> WhoCan:
        """Who may do something, and by which binding."""
        return who_can(rights.current().rbac, AccessRequest.from_words(verb, resource, namespace, name))

    @app.get("/v1/rbac/paths", tags=["rights"])
    def paths(
        user: User,
        group: Annotated[
            list[str] | None, Query(description="Groups besides those that every user has")
        ] = None,
    ) -> EscalationPaths:
        """Whom a user can become by its rights, step by step. Admission and what runs where may still stand in its way."""
        return paths_of(rights.escalation(), user, group or ())
