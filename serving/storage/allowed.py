"""Table of the actions that exceptions allowed: reads and writes within a transaction of the alert store."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from serving.schemas import Action
from serving.storage.tables import ALLOWED, as_moment, microseconds

#: Actions that are kept; of more, the oldest are deleted.
_MOST = 100_000


@dataclass(frozen=True, slots=True)
class AllowedUse:
    """An action that would have been flagged, but for an exception."""

    exception: str
    principal: str
    action: Action


@dataclass(frozen=True, slots=True)
class Uses:
    """What an exception has allowed: how many actions, and the time of the last."""

    count: int
    last: datetime


def add_allowed(connection: Connection, use: AllowedUse, now: int) -> None:
    """Add an action, once; `now` is the time of receipt in microseconds since 1970 UTC."""
    action = use.action
    key = {
        "exception": use.exception,
        "audit_id": action.audit_id,
        "time": microseconds(action.time),
    }
    same = sa.select(ALLOWED.c.position).where(*(ALLOWED.c[name] == value for name, value in key.items()))
    if connection.execute(same).first() is None:
        document = action.model_dump_json(by_alias=True)
        values = key | {"principal": use.principal, "received": now, "document": document}
        connection.execute(sa.insert(ALLOWED).values(values))


def uses(connection: Connection) -> dict[str, Uses]:
    """What each exception has allowed, by its name."""
    query = sa.select(ALLOWED.c.exception, sa.func.count(), sa.func.max(ALLOWED.c.time))
    found = connection.execute(query.group_by(ALLOWED.c.exception))
    return {name: Uses(count, as_moment(last)) for name, count, last in found}


def latest(connection: Connection, exception: str, limit: int) -> list[tuple[str, Action]]:
    """The last actions that an exception allowed, newest first, and who did each."""
    query = sa.select(ALLOWED.c.principal, ALLOWED.c.document).where(ALLOWED.c.exception == exception)
    rows = connection.execute(
        query.order_by(ALLOWED.c.time.desc(), ALLOWED.c.position.desc()).limit(limit)
    ).all()
    return [(row.principal, Action.model_validate_json(row.document)) for row in rows]


def forget_allowed(connection: Connection, before: int) -> None:
    """Delete what was received before a moment (microseconds since 1970 UTC), and the oldest of too much."""
    connection.execute(sa.delete(ALLOWED).where(ALLOWED.c.received < before))
    position = ALLOWED.c.position
    oldest = sa.select(position).order_by(position.desc()).offset(_MOST).limit(1).scalar_subquery()
    connection.execute(sa.delete(ALLOWED).where(position <= oldest))
