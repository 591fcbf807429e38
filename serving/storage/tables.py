"""The alert store's tables, and the integers that stand for moments. `serving.storage.migrations` makes them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

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
ALERTS = sa.Table(
    "alerts",
    _metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("id", sa.String(32)),
    sa.Column("principal", sa.Text),
    sa.Column("severity", sa.SmallInteger),
    sa.Column("first_seen", sa.BigInteger),
    sa.Column("last_seen", sa.BigInteger),
    sa.Column("raised", sa.BigInteger),
    sa.Column("changed", sa.BigInteger),
    sa.Column("document", sa.Text),
)
ALERT_EVENTS = sa.Table(
    "alert_events",
    _metadata,
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("alert", sa.Integer),
    sa.Column("audit_id", sa.Text),
    sa.Column("time", sa.BigInteger),
)
#: What a list of alerts or incidents shows of an alert, so that it need not read the long documents.
ALERT_LINES = sa.Table(
    "alert_lines",
    _metadata,
    sa.Column("alert", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("id", sa.String(32)),
    sa.Column("principal", sa.Text),
    sa.Column("kind", sa.Text),
    sa.Column("severity", sa.SmallInteger),
    sa.Column("first_seen", sa.BigInteger),
    sa.Column("last_seen", sa.BigInteger),
    sa.Column("action_count", sa.Integer),
    sa.Column("namespaces", sa.Text),
    sa.Column("sentence", sa.Text),
    sa.Column("began", sa.BigInteger),
    sa.Column("evidence", sa.Float),
)
FEEDBACK = sa.Table(
    "feedback",
    _metadata,
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("alert", sa.String(32)),
    sa.Column("time", sa.BigInteger),
    sa.Column("verdict", sa.String(16)),
    sa.Column("document", sa.Text),
)
DELIVERIES = sa.Table(
    "deliveries",
    _metadata,
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("sink", sa.String(64)),
    sa.Column("alert", sa.Integer),
    sa.Column("due", sa.BigInteger),
    sa.Column("queued", sa.BigInteger),
    sa.Column("sent", sa.BigInteger),
    sa.Column("severity", sa.SmallInteger),
    sa.Column("actions", sa.BigInteger),
    sa.Column("claimed_by", sa.String(32)),
    sa.Column("claimed_until", sa.BigInteger),
)
ALERT_CONTEXT = sa.Table(
    "alert_surroundings",
    _metadata,
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("alert", sa.Integer),
    sa.Column("audit_id", sa.Text),
    sa.Column("time", sa.BigInteger),
    sa.Column("role", sa.String(16)),
    sa.Column("document", sa.Text),
)
LINKS = sa.Table(
    "alert_ties",
    _metadata,
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("alert", sa.Integer),
    sa.Column("audit_id", sa.Text),
    sa.Column("kind", sa.String(32)),
    sa.Column("source", sa.Text),
    sa.Column("target", sa.Text),
    sa.Column("time", sa.BigInteger),
    sa.Column("document", sa.Text),
)
INCIDENTS = sa.Table(
    "incidents",
    _metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("id", sa.String(32)),
    sa.Column("state", sa.String(16)),
    sa.Column("merged_into", sa.String(32)),
)
MEMBERS = sa.Table(
    "incident_alerts",
    _metadata,
    sa.Column("alert", sa.String(32), primary_key=True),
    sa.Column("incident", sa.String(32)),
    sa.Column("by_hand", sa.SmallInteger),
)
TRAIL = sa.Table(
    "incident_trail",
    _metadata,
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("incident", sa.String(32)),
    sa.Column("time", sa.BigInteger),
    sa.Column("document", sa.Text),
)
