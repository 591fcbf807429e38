"""What a list of incidents needs of each alert, beside what a list of alerts shows."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import msgspec
import sqlalchemy as sa
from alembic import op

revision = "a006"
down_revision = "a005"
branch_labels = None
depends_on = None

_AT_ONCE = 200
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Extract(msgspec.Struct, rename="camel"):
    """The part of an alert's document that is wanted; the rest is passed over without being made into anything."""

    first_seen: datetime
    evidence: float = 0.0
    began: datetime | None = None


def upgrade() -> None:
    """Add the columns, and fill them from what is stored. Times are microseconds since 1970 UTC."""
    # They may be null: a version before this one, still at work beside a new one, writes lines without them.
    op.add_column("alert_lines", sa.Column("began", sa.BigInteger))
    op.add_column("alert_lines", sa.Column("evidence", sa.Float))
    lines = sa.table("alert_lines", *(sa.column(name) for name in ("alert", "began", "evidence")))
    fill = sa.update(lines).where(lines.c.alert == sa.bindparam("number"))
    for rows in _extracted(op.get_bind()):
        op.get_bind().execute(fill, rows)


def _extracted(connection: sa.Connection) -> Iterator[list[dict[str, object]]]:
    alerts = sa.table("alerts", sa.column("number"), sa.column("document"))
    after = 0
    while found := connection.execute(
        sa.select(alerts).where(alerts.c.number > after).order_by(alerts.c.number).limit(_AT_ONCE)
    ).all():
        after = found[-1].number
        rows: list[dict[str, object]] = []
        for row in found:
            part = msgspec.json.decode(row.document, type=_Extract)
            began = ((part.began or part.first_seen) - _EPOCH) // timedelta(microseconds=1)
            rows.append({"number": row.number, "began": began, "evidence": part.evidence})
        yield rows


def downgrade() -> None:
    """Drop them."""
    op.drop_column("alert_lines", "evidence")
    op.drop_column("alert_lines", "began")
