"""Incidents of the same people in other clusters of the fleet, found by name while the incident is looked at."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Literal

import sqlalchemy as sa
from pydantic import Field
from sqlalchemy.engine import Connection

from serving.incidents.context import LINK_REACH
from serving.incidents.report import Incident
from serving.schemas import SEVERITIES, ApiModel
from serving.storage.database import StoreError
from serving.storage.siblings import SiblingStores
from serving.storage.tables import ALERT_LINES, INCIDENTS, MEMBERS, QUERY_IDS, as_moment, microseconds

_log = logging.getLogger("kubehabit.incidents")
#: Incidents of one cluster, and of all, that are listed: the latest.
_A_CLUSTER, _MOST = 20, 100
#: Names that every cluster of a kind has, and many people use.
_SHARED = frozenset(
    ("kubernetes-admin", "kubernetes-super-admin", "system:admin", "kube:admin", "admin", "root")
)


class IncidentElsewhere(ApiModel):
    """An incident of another cluster with an alert of the same person, at the same time or within twelve hours."""

    cluster: str
    id: str
    state: Literal["open", "closed"]
    principal: Annotated[str, Field(description="who has alerts in both")]
    severity: Annotated[str, Field(description="of that principal's alerts there, the highest")]
    first_seen: datetime
    last_seen: datetime
    sentence: Annotated[str, Field(description="of the latest of these alerts")]
    console: Annotated[str | None, Field(description="address of the page of the incident there")] = None


def incidents_elsewhere(
    incident: Incident, siblings: SiblingStores, cluster_url: str | None = None
) -> list[IncidentElsewhere]:
    """Incidents of the people of an incident in other clusters, the latest first; a cluster that cannot be read is left out.

    Service accounts and nodes are left out: those of one name are others in each cluster.

    Args:
        cluster_url: address of the console of a cluster, with {cluster} for its name.

    Raises:
        StoreError: this cluster's store fails.
    """
    people = sorted({*incident.principals} - _SHARED)[:QUERY_IDS]
    if not people or incident.first_seen is None or incident.last_seen is None:
        return []
    reach = timedelta(microseconds=LINK_REACH)
    since, until = incident.first_seen - reach, incident.last_seen + reach
    found: list[IncidentElsewhere] = []
    for name in siblings.names():
        try:
            with siblings.reading(name) as connection:
                found += _in_cluster(connection, name, people, since, until, cluster_url)
        except StoreError as error:
            shown = {"cluster": name, "reason": str(error)}
            _log.warning("the incidents of another cluster cannot be read", extra=shown)
    return sorted(found, key=lambda one: one.last_seen, reverse=True)[:_MOST]


def _in_cluster(
    connection: Connection,
    name: str,
    people: Sequence[str],
    since: datetime,
    until: datetime,
    cluster_url: str | None,
) -> list[IncidentElsewhere]:
    line = ALERT_LINES.c
    query = (
        sa.select(
            INCIDENTS.c.id,
            INCIDENTS.c.state,
            line.principal,
            line.severity,
            line.first_seen,
            line.last_seen,
            line.sentence,
        )
        .join(MEMBERS, MEMBERS.c.incident == INCIDENTS.c.id)
        .join(ALERT_LINES, line.id == MEMBERS.c.alert)
        .where(
            line.principal.in_(people),
            line.kind == "human",
            line.last_seen >= microseconds(since),
            line.first_seen <= microseconds(until),
            INCIDENTS.c.state != "merged",
        )
        .order_by(line.last_seen.desc())
        .limit(_A_CLUSTER)
    )
    found: dict[tuple[str, str], IncidentElsewhere] = {}
    for row in connection.execute(query):
        known = found.get((row.id, row.principal))
        if known is None:
            console = None if cluster_url is None else cluster_url.replace("{cluster}", name)
            found[row.id, row.principal] = IncidentElsewhere(
                cluster=name,
                id=row.id,
                state=row.state,
                principal=row.principal,
                severity=SEVERITIES[row.severity],
                first_seen=as_moment(row.first_seen),
                last_seen=as_moment(row.last_seen),
                sentence=row.sentence,
                console=None if console is None else f"{console.rstrip('/')}/incidents/{row.id}",
            )
            continue
        highest = max(known.severity, SEVERITIES[row.severity], key=SEVERITIES.index)
        first = min(known.first_seen, as_moment(row.first_seen))
        found[row.id, row.principal] = known.model_copy(update={"severity": highest, "first_seen": first})
    return list(found.values())
