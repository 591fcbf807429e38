"""Queries of alerts: filtered, searched and paged over the narrow table beside the documents."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple

import sqlalchemy as sa
from pydantic import Field
from sqlalchemy.engine import Connection

from data.errors import KubehabitError
from serving.schemas import SEVERITIES, Alert, ApiModel, FilterText, ListQuery
from serving.storage.database import AlertStore, Page
from serving.storage.incidents import from_line
from serving.storage.tables import (
    ALERT_LINES,
    ALERTS,
    FEEDBACK,
    INCIDENTS,
    LARGEST_NUMBER,
    MEMBERS,
    microseconds,
)

_MAX_NAMESPACES = 500


class AlertFilter(ListQuery):
    """Which new alerts to show."""

    severity: Annotated[
        Literal["", "low", "medium", "high", "critical"],
        Field(description="This severity and above; empty: any"),
    ] = ""
    principal: Annotated[
        FilterText, Field(description="Only those of this principal, by full name; empty: any")
    ] = ""
    namespace: Annotated[
        FilterText, Field(description="Only those that touched this namespace; empty: any")
    ] = ""
    technique: Annotated[
        FilterText,
        Field(description="Only those that look like this ATT&CK technique, such as T1552.007; empty: any"),
    ] = ""
    text: Annotated[
        FilterText,
        Field(
            alias="q",
            description="Only those with this in their sentence, principal, namespaces or ID, in capitals or not, such as "
            "`listed Secrets`; empty: any",
        ),
    ] = ""

    def matches(self, alert: Alert) -> bool:
        """Whether a new alert passes, before there is any feedback on it."""
        names = alert.namespaces
        if (
            SEVERITIES.index(alert.severity) < SEVERITIES.index(self.severity or SEVERITIES[0])
            or (self.principal and alert.principal != self.principal)
            or (self.namespace and self.namespace not in names)
            or (self.technique and self.technique not in {one.id for one in alert.techniques})
        ):
            return False
        text = self.text.replace("\0", "").lower()
        return any(text in part.lower() for part in (alert.sentence, alert.principal, alert.id, *names))


class AlertQuery(AlertFilter):
    """Which stored alerts to show."""

    state: Annotated[
        Literal["", "open", "closed"],
        Field(description="Only those whose incident is open, or closed; empty: any"),
    ] = ""
    verdict: Annotated[
        Literal["", "none", "normal", "malicious"],
        Field(description="By the last verdict in feedback, none: no feedback yet; empty: any"),
    ] = ""

    def matches(self, alert: Alert) -> bool:
        """Whether a new alert passes: its incident is open, and there is no feedback on it."""
        return self.state != "closed" and self.verdict in ("", "none") and super().matches(alert)


class AlertListQuery(AlertQuery):
    """`GET /v1/alerts`."""

    since: Annotated[
        datetime | None, Field(description="Only alerts still going on at or after this time")
    ] = None
    until: Annotated[datetime | None, Field(description="Only alerts that began before this time")] = None
    limit: Annotated[int, Field(ge=1, le=500)] = 100
    cursor: Annotated[str | None, Field(description="Cursor of the previous page", max_length=32)] = None


class AlertPage(ApiModel):
    """One page of alerts, newest raised first."""

    alerts: list[Alert]
    cursor: str | None = None

    @classmethod
    def from_page(cls, page: Page) -> AlertPage:
        """The page of the API."""
        return cls(alerts=page.alerts, cursor=None if page.cursor is None else str(page.cursor))


@dataclass(frozen=True, slots=True)
class AlertLine:
    """An alert in a list.

    Attributes:
        number: position in the list.
        verdict: the last one, "" if there is none.
        incident, state: of its incident; "" while it has none.
    """

    number: int
    id: str
    principal: str
    kind: str
    severity: str
    first_seen: datetime
    last_seen: datetime
    action_count: int
    namespaces: list[str]
    sentence: str
    verdict: str
    incident: str
    state: str


class AlertSpan(NamedTuple):
    """Which time alerts are of: those still going on at or after `since`, and begun before `until`; None is any."""

    since: datetime | None = None
    until: datetime | None = None


_ALWAYS = AlertSpan()
AlertOrder = Literal["newest", "severity", "oldest"]

#: Fields of `AlertLine` that are columns of `ALERT_LINES`.
_COPIED = ("id", "principal", "kind", "severity", "first_seen", "last_seen", "action_count", "sentence")


def lines(
    connection: Connection,
    wanted: AlertQuery,
    span: AlertSpan = _ALWAYS,
    *,
    order: AlertOrder = "newest",
    limit: int,
    cursor: str | None = None,
) -> tuple[list[AlertLine], str | None]:
    """A page of alerts, and the cursor of the next one; None at the end.

    Args:
        order: newest or oldest raised first, or the most severe first and of these the newest.
        cursor: that of the page before.

    Raises:
        KubehabitError: the cursor is not one of this order.
    """
    number = ALERT_LINES.c.alert
    key = ALERT_LINES.c.severity if order == "severity" else number
    descending = order != "oldest"
    query = (
        sa.select(
            ALERT_LINES,
            _last_verdict(ALERT_LINES).label("verdict"),
            MEMBERS.c.incident,
            INCIDENTS.c.state.label("incident_state"),
        )
        .outerjoin(MEMBERS, MEMBERS.c.alert == ALERT_LINES.c.id)
        .outerjoin(INCIDENTS, INCIDENTS.c.id == MEMBERS.c.incident)
        .where(*_conditions(wanted, ALERT_LINES, span))
        .order_by(*(column.desc() if descending else column.asc() for column in (key, number)))
        .limit(limit + 1)
    )
    if cursor is not None:
        at = sa.tuple_(*(sa.literal(part, sa.BigInteger) for part in _position(cursor, order)))
        here = sa.tuple_(key, number)
        query = query.where(here < at if descending else here > at)
    found = connection.execute(query).all()
    page = [
        AlertLine(
            **from_line(row, _COPIED),
            number=row.alert,
            namespaces=row.namespaces.split("\n")[1:-1],
            verdict=row.verdict or "",
            incident=row.incident or "",
            state=row.incident_state or "",
        )
        for row in found[:limit]
    ]
    if len(found) <= limit:
        return page, None
    last = found[limit - 1]
    return page, f"{last.severity}-{last.alert}" if order == "severity" else str(last.alert)


def _position(cursor: str, order: AlertOrder) -> tuple[int, int]:
    """Key and number at which a page ended."""
    parts = cursor.split("-") if order == "severity" else [cursor, cursor]
    if len(parts) != 2 or not all(part.isascii() and part.isdecimal() and len(part) < 20 for part in parts):
        raise KubehabitError("'cursor' is not one of ours: use the value of the page before, or none.")
    key, number = (min(int(part), LARGEST_NUMBER) for part in parts)
    return key, number


def whole(
    store: AlertStore,
    wanted: AlertQuery,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int = 100,
    cursor: int | None = None,
) -> Page:
    """A page of full alerts, newest raised first. A page may be short where an older version wrote the store.

    Args:
        wanted: the filters.
        since, until: only those still going on at or after the first moment, and begun before the second.
        cursor: that of the page before.
    """
    conditions = _conditions(wanted, ALERTS, AlertSpan(since, until))
    found = store.page(*conditions, limit=limit, cursor=cursor)
    # The filters on columns of lines let alerts without a line pass.
    return Page([alert for alert in found.alerts if AlertFilter.matches(wanted, alert)], found.cursor)


def by_severity(connection: Connection, wanted: AlertQuery, span: AlertSpan = _ALWAYS) -> dict[str, int]:
    """Number of alerts of each severity, most severe first."""
    column = ALERT_LINES.c.severity
    query = sa.select(column, sa.func.count()).where(*_conditions(wanted, ALERT_LINES, span)).group_by(column)
    found = {SEVERITIES[severity]: number for severity, number in connection.execute(query)}
    return {name: found.get(name, 0) for name in reversed(SEVERITIES[1:])}


def feedback_on(connection: Connection, alert_id: str) -> list[str]:
    """Documents of the feedback on an alert, newest first."""
    query = sa.select(FEEDBACK.c.document).where(FEEDBACK.c.alert == alert_id)
    return list(connection.scalars(query.order_by(FEEDBACK.c.position.desc()).limit(100)))


def incident_of(connection: Connection, alert_id: str) -> tuple[str, str]:
    """The incident of an alert, and its state; "" for both while there is none."""
    query = (
        sa.select(MEMBERS.c.incident, INCIDENTS.c.state)
        .outerjoin(INCIDENTS, INCIDENTS.c.id == MEMBERS.c.incident)
        .where(MEMBERS.c.alert == alert_id)
    )
    row = connection.execute(query).one_or_none()
    return ("", "") if row is None else (row.incident, row.state or "")


def namespaces(connection: Connection) -> list[str]:
    """Namespaces that alerts touched, sorted."""
    column = ALERT_LINES.c.namespaces
    found = connection.scalars(sa.select(column).where(column != "").distinct().limit(_MAX_NAMESPACES))
    return sorted({name for text in found for name in text.split("\n")[1:-1]})


def _last_verdict(of: sa.Table) -> sa.ScalarSelect[Any]:
    return (
        sa.select(FEEDBACK.c.verdict)
        .where(FEEDBACK.c.alert == of.c.id)
        .order_by(FEEDBACK.c.position.desc())
        .limit(1)
        .correlate(of)
        .scalar_subquery()
    )


def _conditions(wanted: AlertQuery, of: sa.Table, span: AlertSpan) -> list[sa.ColumnElement[bool]]:
    """Conditions on rows of `ALERT_LINES`, or of `ALERTS` joined with their lines, where they have any."""
    found: list[sa.ColumnElement[bool]] = []
    only_lines: list[sa.ColumnElement[bool]] = []
    line = ALERT_LINES.c
    if wanted.severity:
        found.append(of.c.severity >= SEVERITIES.index(wanted.severity))
    if span.since is not None:
        found.append(of.c.last_seen >= microseconds(span.since))
    if span.until is not None:
        found.append(of.c.first_seen < microseconds(span.until))
    if "\0" in wanted.principal + wanted.namespace + wanted.technique or "\n" in wanted.namespace:
        return [sa.false()]  # no name holds them, and no text in PostgreSQL may hold the first
    if wanted.technique:
        only_lines.append(line.techniques.contains(f"\n{wanted.technique}\n", autoescape=True))
    if wanted.principal:
        found.append(of.c.principal == wanted.principal)
    if wanted.namespace:
        only_lines.append(line.namespaces.contains(f"\n{wanted.namespace}\n", autoescape=True))
    if wanted.state:
        in_one = sa.select(MEMBERS.c.alert).join(INCIDENTS, INCIDENTS.c.id == MEMBERS.c.incident)
        here = in_one.where(MEMBERS.c.alert == of.c.id, INCIDENTS.c.state == wanted.state)
        found.append(here.correlate(of).exists())
    if wanted.verdict == "none":
        found.append(_last_verdict(of).is_(None))
    elif wanted.verdict:
        found.append(_last_verdict(of) == wanted.verdict)
    if text := wanted.text.replace("\0", "").lower():
        columns = (line.sentence, of.c.principal, line.namespaces, of.c.id)
        matching = (sa.func.lower(column).contains(text, autoescape=True) for column in columns)
        only_lines.append(sa.or_(*matching))
    if of is ALERTS:
        only_lines = [sa.or_(line.alert.is_(None), one) for one in only_lines]
    return [*found, *only_lines]
