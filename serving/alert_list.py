"""Lists of alerts for people: filtered, searched and paged over the narrow table beside the documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from serving.alerts import SEVERITIES, Alert
from serving.incident_store import INCIDENTS, MEMBERS
from serving.store import ALERT_LINES, FEEDBACK, LARGEST_NUMBER

State = Literal["open", "closed"]
Verdict = Literal["none", "normal", "malicious"]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_NAMESPACES = 500


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which alerts; what is empty does not matter.

    Attributes:
        severity: this one and graver.
        principal: of this one.
        namespace: that touched this one.
        state: whose incident is open, or closed.
        verdict: what was last said of it; none: nothing yet.
        text: a part of its sentence, principal, namespaces or ID, in capitals or not.
    """

    severity: str = ""
    principal: str = ""
    namespace: str = ""
    state: str = ""
    verdict: str = ""
    text: str = ""

    def matches(self, alert: Alert) -> bool:
        """Whether a new alert is one of these, as far as that can be said before anybody has judged it."""
        if self.severity and SEVERITIES.index(alert.severity) < SEVERITIES.index(self.severity):
            return False
        if self.principal and alert.principal != self.principal:
            return False
        names = alert.namespaces
        if self.namespace and self.namespace not in names:
            return False
        if self.state == "closed" or self.verdict in ("normal", "malicious"):
            return False
        text = self.text.lower()
        return not text or any(
            text in part.lower() for part in (alert.sentence, alert.principal, alert.id, *names)
        )


@dataclass(frozen=True, slots=True)
class Line:
    """An alert in a list.

    Attributes:
        number: its place in the list.
        verdict: what was last said of it, "" if nothing.
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


def lines(
    connection: Connection, wanted: Wanted, *, limit: int, cursor: int | None = None
) -> tuple[list[Line], int | None]:
    """A page of alerts, newest raised first, and the cursor of the next one; None at the end."""
    said = _last_verdict()
    query = (
        sa.select(
            ALERT_LINES, said.label("verdict"), MEMBERS.c.incident, INCIDENTS.c.state.label("incident_state")
        )
        .outerjoin(MEMBERS, MEMBERS.c.alert == ALERT_LINES.c.id)
        .outerjoin(INCIDENTS, INCIDENTS.c.id == MEMBERS.c.incident)
        .order_by(ALERT_LINES.c.alert.desc())
        .limit(limit + 1)
    )
    for condition in _conditions(wanted, said):
        query = query.where(condition)
    if cursor is not None:
        query = query.where(ALERT_LINES.c.alert < min(cursor, LARGEST_NUMBER))
    found = connection.execute(query).all()
    told = [
        Line(
            number=row.alert,
            id=row.id,
            principal=row.principal,
            kind=row.kind,
            severity=SEVERITIES[row.severity],
            first_seen=_EPOCH + timedelta(microseconds=row.first_seen),
            last_seen=_EPOCH + timedelta(microseconds=row.last_seen),
            action_count=row.action_count,
            namespaces=row.namespaces.split("\n")[1:-1],
            sentence=row.sentence,
            verdict=row.verdict or "",
            incident=row.incident or "",
            state=row.incident_state or "",
        )
        for row in found[:limit]
    ]
    return told, found[limit - 1].alert if len(found) > limit else None


def total(connection: Connection, wanted: Wanted) -> int:
    """How many alerts there are of these."""
    said = _last_verdict()
    query = sa.select(sa.func.count()).select_from(ALERT_LINES)
    if wanted.state:
        query = query.outerjoin(MEMBERS, MEMBERS.c.alert == ALERT_LINES.c.id).outerjoin(
            INCIDENTS, INCIDENTS.c.id == MEMBERS.c.incident
        )
    for condition in _conditions(wanted, said):
        query = query.where(condition)
    return int(connection.execute(query).scalar_one())


def by_severity(connection: Connection, wanted: Wanted) -> dict[str, int]:
    """How many alerts of each severity there are, the gravest first."""
    query = (
        sa.select(ALERT_LINES.c.severity, sa.func.count())
        .select_from(
            sa.outerjoin(ALERT_LINES, MEMBERS, MEMBERS.c.alert == ALERT_LINES.c.id).outerjoin(
                INCIDENTS, INCIDENTS.c.id == MEMBERS.c.incident
            )
        )
        .group_by(ALERT_LINES.c.severity)
    )
    for condition in _conditions(wanted, _last_verdict()):
        query = query.where(condition)
    found = {SEVERITIES[severity]: number for severity, number in connection.execute(query).all()}
    return {name: found.get(name, 0) for name in reversed(SEVERITIES[1:])}


def feedback_on(connection: Connection, alert_id: str) -> list[str]:
    """Documents of all feedback on an alert, newest first."""
    query = (
        sa.select(FEEDBACK.c.document)
        .where(FEEDBACK.c.alert == alert_id)
        .order_by(FEEDBACK.c.position.desc())
        .limit(100)
    )
    return list(connection.execute(query).scalars())


def incident_of(connection: Connection, alert_id: str) -> tuple[str, str]:
    """Incident that an alert is in, and its state; "" for both while there is none."""
    query = (
        sa.select(MEMBERS.c.incident, INCIDENTS.c.state)
        .outerjoin(INCIDENTS, INCIDENTS.c.id == MEMBERS.c.incident)
        .where(MEMBERS.c.alert == alert_id)
    )
    row = connection.execute(query).one_or_none()
    return ("", "") if row is None else (row.incident, row.state or "")


def namespaces(connection: Connection) -> list[str]:
    """Namespaces that alerts touched, in the order of the alphabet."""
    query = (
        sa.select(ALERT_LINES.c.namespaces)
        .where(ALERT_LINES.c.namespaces != "")
        .distinct()
        .limit(_MAX_NAMESPACES)
    )
    found: set[str] = set()
    for text in connection.execute(query).scalars():
        found.update(text.split("\n")[1:-1])
    return sorted(found)


def _last_verdict() -> sa.ScalarSelect[Any]:
    return (
        sa.select(FEEDBACK.c.verdict)
        .where(FEEDBACK.c.alert == ALERT_LINES.c.id)
        .order_by(FEEDBACK.c.position.desc())
        .limit(1)
        .correlate(ALERT_LINES)
        .scalar_subquery()
    )


def _conditions(wanted: Wanted, said: sa.ScalarSelect[Any]) -> Sequence[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = []
    line = ALERT_LINES.c
    if wanted.severity:
        found.append(line.severity >= SEVERITIES.index(wanted.severity))
    if wanted.principal:
        found.append(line.principal == wanted.principal.replace("\0", ""))
    if wanted.namespace:
        name = wanted.namespace.replace("\0", "").replace("\n", "")
        found.append(line.namespaces.contains(f"\n{name}\n", autoescape=True))
    if wanted.state:
        found.append(INCIDENTS.c.state == wanted.state)
    if wanted.verdict == "none":
        found.append(said.is_(None))
    elif wanted.verdict:
        found.append(said == wanted.verdict)
    if wanted.text:
        text = wanted.text.replace("\0", "").lower()
        found.append(
            sa.or_(
                *(
                    sa.func.lower(column).contains(text, autoescape=True)
                    for column in (line.sentence, line.principal, line.namespaces, line.id)
                )
            )
        )
    return found
