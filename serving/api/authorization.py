"""Routes of rights: what roles and bindings give, what of it is used, and what would have stopped an incident."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Query

from detection.authorization.rbac import Rbac
from detection.authorization.requests import AccessRequest
from detection.authorization.usage import UserUsage
from serving.api.incidents import read_incident
from serving.authorization.rights import (
    EscalationPaths,
    IncidentContainment,
    RightsReport,
    WhoCan,
    containment_of,
    paths_of,
    rights_of,
    who_can,
)
from serving.forensics import clock
from serving.forensics.queries import EventQueries
from serving.forensics.rights import UsedRights, suspects_of, used_rights
from serving.http.problems import ProblemError
from serving.runtime import Service

_SECONDS = 10.0
_DAY = 86_400_000_000
#: Suspicious requests of an incident that are looked at; in a flood the rest are like them.
_SUSPECTS = 200
User = Annotated[str, Query(description="User name as the log has it", max_length=512)]
Days = Annotated[float, Query(gt=0, le=36_500, description="Days of the event store that count as use")]


def current_rbac(service: Service) -> Rbac:
    """A copy of roles and bindings as they stand after what was scored until now.

    Raises:
        ProblemError: no snapshot is set, or the scoring thread is busy for too long.
    """
    running = service.running()
    monitor = running.engine.authorization
    if monitor is None:
        raise ProblemError(
            404, "The service has no roles and bindings: set authorization.snapshot in serve.yaml."
        )
    try:
        return running.pipeline.run_on_scoring_thread(monitor.oracle.rbac.copy).result(_SECONDS)
    except TimeoutError:
        raise ProblemError(503, "A batch is being scored: try again.", {"Retry-After": "2"}) from None


def _used(service: Service, days: float, without: list[str]) -> tuple[int, UsedRights]:
    since = clock.now() - int(days * _DAY)
    service.wait_for_events(_SECONDS)
    found = service.forensics.ask(lambda queries: used_rights(queries, since, without=without))
    return since, found


def containment(service: Service, incident_id: str, days: float) -> IncidentContainment:
    """What would have stopped an incident.

    Raises:
        ProblemError: there is no such incident, no snapshot, or no event store.
        NotFoundError: there is no such incident.
    """
    rbac = current_rbac(service)
    incident = read_incident(service, incident_id)
    service.wait_for_events(_SECONDS)
    counted = list(dict.fromkeys(one.audit_id for one in incident.timeline))[:_SUSPECTS]

    def ask(queries: EventQueries) -> IncidentContainment:
        suspects = suspects_of(queries, counted)
        first = None if incident.first_seen is None else int(incident.first_seen.timestamp() * 1e6)
        since = (clock.now() if first is None else first) - int(days * _DAY)
        used = used_rights(queries, since, without=incident.audit_ids)
        return containment_of(
            incident.id,
            rbac,
            suspects,
            used.users,
            since=clock.written(since),
            complete=used.whole,
            missing=len(counted) - len(suspects),
        )

    return service.forensics.ask(ask)


def add_authorization_routes(app: FastAPI, service: Service) -> None:
    """Every route of rights."""

    @app.get("/v1/incidents/{incident_id}/containment", tags=["rights"])
    def incident_containment(incident_id: str, days: Days = 7) -> IncidentContainment:
        """Which bindings made an incident possible, and the smallest change of RBAC that stops it and nothing in use."""
        return containment(service, incident_id, days)

    @app.get("/v1/rbac/report", tags=["rights"])
    def report(
        user: Annotated[
            list[str] | None,
            Query(description="Only these users, each right of them; default: all, in numbers"),
        ] = None,
        days: Days = 7,
        limit: Annotated[int, Query(ge=1, le=1000)] = 200,
    ) -> RightsReport:
        """Rights that were granted and never used, of users seen in the event store; most risky ones first."""
        rbac = current_rbac(service)
        since, used = _used(service, days, [])
        names = user or sorted(used.users)
        rights = [
            rights_of(rbac, name, used.users.get(name) or UserUsage(), whole=bool(user)) for name in names
        ]
        rights.sort(key=lambda one: (-one.risky_unused, -one.unused, one.user))
        written = clock.written(since)
        return RightsReport(since=written, requests=used.requests, complete=used.whole, users=rights[:limit])

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
        return who_can(current_rbac(service), AccessRequest.from_words(verb, resource, namespace, name))

    @app.get("/v1/rbac/paths", tags=["rights"])
    def paths(
        user: User,
        group: Annotated[
            list[str] | None, Query(description="Groups besides those that every user has")
        ] = None,
    ) -> EscalationPaths:
        """Whom a user can become by its rights, step by step. Admission and what runs where may still stand in its way."""
        return paths_of(current_rbac(service), user, group or ())
