"""What would have stopped an incident: its requests and what else was in use, out of the event store."""

from __future__ import annotations

from detection.authorization.rbac import Rbac
from serving.authorization.rights import IncidentContainment, containment_of
from serving.forensics import clock
from serving.forensics.queries import EventQueries
from serving.forensics.rights import suspects_of, used_rights
from serving.incidents.report import Incident
from serving.storage.tables import microseconds

#: Days before an incident whose use of rights is kept, unless another number is asked for.
DAYS = 7.0
_DAY = 86_400_000_000
#: Suspicious requests that are looked at; in a flood the rest are like them.
_SUSPECTS = 200


def incident_containment(
    queries: EventQueries, incident: Incident, rbac: Rbac, days: float = DAYS
) -> IncidentContainment:
    """Which bindings made an incident possible, and the smallest change that stops it and nothing in use.

    Args:
        queries: the event store.
        incident: in full.
        rbac: roles and bindings as they stand.
        days: before its first action, whose use of rights is kept, and everything since.

    Raises:
        QueryError: it took too long, or there is no store.
    """
    counted = list(dict.fromkeys(one.audit_id for one in incident.timeline))[:_SUSPECTS]
    suspects = suspects_of(queries, counted)
    first = clock.now() if incident.first_seen is None else microseconds(incident.first_seen)
    since = first - int(days * _DAY)
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
