"""Sums over alerts for an overview: over time, by principal, by namespace and by ATT&CK technique."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated

import sqlalchemy as sa
from pydantic import Field
from sqlalchemy.engine import Connection

from serving.alerts.explain.rules import technique_url
from serving.schemas import SEVERITIES, ApiModel
from serving.storage.tables import ALERT_LINES, as_moment, microseconds

_TOP = 8


class AlertsAt(ApiModel):
    """Alerts of one stretch of time, by severity."""

    at: Annotated[datetime, Field(description="when it began")]
    low: int = 0
    medium: int = 0
    high: int = 0
    critical: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.low + self.medium + self.high + self.critical


class AlertCount(ApiModel):
    """A principal or namespace and its alerts."""

    name: str
    alerts: int
    severity: Annotated[str, Field(description="of the most severe")]


class TechniqueCount(ApiModel):
    """An ATT&CK technique and the alerts that look like it."""

    id: str
    name: str
    tactic: str
    url: str
    alerts: int


class AlertSums(ApiModel):
    """Alerts that began in a span of time, summed up in several ways."""

    since: datetime
    until: datetime
    step_seconds: int
    total: int
    over_time: Annotated[
        list[AlertsAt], Field(description="each step of the span, also those without an alert")
    ]
    principal_count: Annotated[int, Field(description="principals with an alert")]
    principals: Annotated[list[AlertCount], Field(description="those with most alerts first, at most 8")]
    namespaces: list[AlertCount]
    techniques: Annotated[list[TechniqueCount], Field(description="all that the service knows")]


def sum_up(
    connection: Connection,
    since: datetime,
    until: datetime,
    step: timedelta,
    techniques: Mapping[str, tuple[str, str]],
) -> AlertSums:
    """Sum up the alerts that began in a span of time.

    Args:
        since, until: the span; steps are counted from midnight UTC.
        step: length of a stretch in `over_time`.
        techniques: ID -> name and tactic of every technique that is known.
    """
    line = ALERT_LINES.c
    length = step // timedelta(microseconds=1)
    begin = microseconds(since) // length * length
    within = (line.first_seen >= begin, line.first_seen < microseconds(until))
    # The numbers as text of the query: PostgreSQL takes a parameter that comes twice for two that may differ.
    since_begin = line.first_seen - sa.literal_column(str(begin), sa.BigInteger)
    place = (since_begin // sa.literal_column(str(length), sa.BigInteger)).label("place")
    counted = (
        sa.select(place, line.severity, sa.func.count().label("alerts"))
        .where(*within)
        .group_by(place, line.severity)
    )
    steps = [
        AlertsAt(at=as_moment(begin + number * length).astimezone(UTC))
        for number in range(max(1, -(-(microseconds(until) - begin) // length)))
    ]
    total = 0
    for at, severity, alerts in connection.execute(counted):
        total += alerts
        name = SEVERITIES[severity]
        if 0 <= at < len(steps) and name != "none":
            setattr(steps[int(at)], name, getattr(steps[int(at)], name) + alerts)
    found: Counter[str] = Counter()
    for text, alerts in _grouped(connection, line.techniques, within):
        found.update(dict.fromkeys(text, alerts))
    return AlertSums(
        since=as_moment(begin),
        until=until,
        step_seconds=int(step.total_seconds()),
        total=total,
        over_time=steps,
        principal_count=connection.scalar(sa.select(sa.func.count(line.principal.distinct())).where(*within))
        or 0,
        principals=_loudest(connection, within),
        namespaces=_touched(connection, within),
        techniques=[
            TechniqueCount(id=key, name=name, tactic=tactic, url=technique_url(key), alerts=found[key])
            for key, (name, tactic) in techniques.items()
        ],
    )


def _grouped(
    connection: Connection, column: sa.Column[str], within: tuple[sa.ColumnElement[bool], ...]
) -> list[tuple[list[str], int]]:
    """Values of a column that holds several between line breaks, with the number of alerts."""
    query = sa.select(column, sa.func.count()).where(*within, column != "").group_by(column)
    return [(text.split("\n")[1:-1], alerts) for text, alerts in connection.execute(query)]


def _loudest(connection: Connection, within: tuple[sa.ColumnElement[bool], ...]) -> list[AlertCount]:
    line = ALERT_LINES.c
    alerts, worst = sa.func.count().label("alerts"), sa.func.max(line.severity).label("worst")
    query = sa.select(line.principal, alerts, worst).where(*within).group_by(line.principal)
    rows = connection.execute(query.order_by(alerts.desc(), worst.desc(), line.principal).limit(_TOP))
    return [AlertCount(name=name, alerts=number, severity=SEVERITIES[rank]) for name, number, rank in rows]


def _touched(connection: Connection, within: tuple[sa.ColumnElement[bool], ...]) -> list[AlertCount]:
    line = ALERT_LINES.c
    query = (
        sa.select(line.namespaces, sa.func.count(), sa.func.max(line.severity))
        .where(*within, line.namespaces != "")
        .group_by(line.namespaces)
    )
    alerts: Counter[str] = Counter()
    worst: dict[str, int] = {}
    for text, number, rank in connection.execute(query):
        for name in text.split("\n")[1:-1]:
            alerts[name] += number
            worst[name] = max(rank, worst.get(name, 0))
    ordered = sorted(alerts, key=lambda name: (-alerts[name], -worst[name], name))[:_TOP]
    return [AlertCount(name=name, alerts=alerts[name], severity=SEVERITIES[worst[name]]) for name in ordered]
