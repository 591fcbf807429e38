"""The alert store's tables, and the integers that stand for moments. `serving.storage.migrations` makes them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

#: Values in one IN (...): below every database's limit.
QUERY_IDS = 500

#: The largest INTEGER of PostgreSQL, which refuses a query about a larger one.
LARGEST_NUMBER = 2**31 - 1


def microseconds(moment: datetime) -> int:
    """Microseconds since 1970 UTC, exactly. A moment without a zone is taken as UTC."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // _MICROSECOND


def as_moment(number: int) -> datetime:
    """Inverse of `microseconds`."""
    return _EPOCH + timedelta(microseconds=number)


_metadata = sa.MetaData()

#: Types of columns. `time` is microseconds since 1970 UTC.
_TYPES: dict[str, sa.types.TypeEngine[Any]] = {
    "integer": sa.Integer(),
    "small": sa.SmallInteger(),
    "big": sa.BigInteger(),
    "time": sa.BigInteger(),
    "float": sa.Float(),
    "text": sa.Text(),
    "id": sa.String(32),
    "word": sa.String(16),
    "name": sa.String(64),
}


def _table(name: str, columns: str) -> sa.Table:
    """A table of columns "name:type" (`_TYPES`); the first is its primary key."""
    key, *rest = (column.split(":") for column in columns.split())
    return sa.Table(
        name,
        _metadata,
        sa.Column(key[0], _TYPES[key[1]], primary_key=True),
        *(sa.Column(column, _TYPES[kind]) for column, kind in rest),
    )


ALERTS = _table(
    "alerts",
    "number:integer id:id principal:text severity:small first_seen:time last_seen:time raised:time changed:big document:text",
)
ALERT_EVENTS = _table("alert_events", "position:integer alert:integer audit_id:text time:time")
#: What a list of alerts or incidents shows of an alert, so that it need not read the long documents.
ALERT_LINES = _table(
    "alert_lines",
    "alert:integer id:id principal:text kind:text severity:small first_seen:time last_seen:time action_count:integer "
    "namespaces:text sentence:text began:time evidence:float techniques:text",
)
FEEDBACK = _table("feedback", "position:integer alert:id time:time verdict:word document:text")
DELIVERIES = _table(
    "deliveries",
    "position:integer sink:name alert:integer due:time queued:time sent:time severity:small actions:big claimed_by:id "
    "claimed_until:time",
)
ALERT_CONTEXT = _table(
    "alert_surroundings", "position:integer alert:integer audit_id:text time:time role:word document:text"
)
LINKS = _table(
    "alert_ties",
    "position:integer alert:integer audit_id:text kind:id source:text target:text time:time document:text",
)
#: Actions that exceptions kept from being flagged.
ALLOWED = _table(
    "allowed_actions",
    "position:integer exception:name principal:text audit_id:text time:time received:time document:text",
)
INCIDENTS = _table(
    "incidents",
    "number:integer id:id state:word merged_into:id assignee:text acknowledged:time outcome:word",
)
MEMBERS = _table("incident_alerts", "alert:id incident:id by_hand:small")
TRAIL = _table("incident_trail", "position:integer incident:id time:time document:text")
#: Filters of lists under a name, for all who may read.
SAVED_VIEWS = _table("saved_views", "position:integer page:word name:name query:text saved_by:text time:time")
