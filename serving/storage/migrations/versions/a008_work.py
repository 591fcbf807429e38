"""Who works on an incident and how it ended, the techniques of each alert beside its document, and saved views of lists."""

from collections.abc import Iterator

import msgspec
import sqlalchemy as sa
from alembic import op

revision = "a008"
down_revision = "a007"
branch_labels = None
depends_on = None

_AT_ONCE = 200
_ADDED = ("assignee", "acknowledged", "outcome")


class _Technique(msgspec.Struct):
    id: str


class _Extract(msgspec.Struct):
    """The part of an alert's document that is wanted."""

    techniques: list[_Technique] = []


def upgrade() -> None:
    """Add the columns and the table, and fill what is known. Times are microseconds since 1970 UTC."""
    # All may be null: a version before this one, still at work beside a new one, writes rows without them.
    op.add_column("incidents", sa.Column("assignee", sa.Text))
    op.add_column("incidents", sa.Column("acknowledged", sa.BigInteger))
    op.add_column("incidents", sa.Column("outcome", sa.String(16)))
    op.add_column("alert_lines", sa.Column("techniques", sa.Text))
    lines = sa.table("alert_lines", sa.column("alert"), sa.column("techniques"))
    fill = sa.update(lines).where(lines.c.alert == sa.bindparam("number"))
    for rows in _extracted(op.get_bind()):
        op.get_bind().execute(fill, rows)
    op.create_table(
        "saved_views",
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("page", sa.String(16), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("query", sa.Text, nullable=False),
        sa.Column("saved_by", sa.Text, nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("page", "name"),
        sqlite_autoincrement=True,
    )


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
            names = [technique.id for technique in part.techniques]
            rows.append({"number": row.number, "techniques": "\n".join(["", *names, ""]) if names else ""})
        yield rows


def downgrade() -> None:
    """Drop them."""
    op.drop_table("saved_views")
    op.drop_column("alert_lines", "techniques")
    for name in reversed(_ADDED):
        op.drop_column("incidents", name)
