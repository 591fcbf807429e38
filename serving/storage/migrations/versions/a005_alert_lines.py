"""What a list shows of each alert, apart from its document, and the verdict of feedback as a column."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "a005"
down_revision = "a004"
branch_labels = None
depends_on = None

_AT_ONCE = 200


def upgrade() -> None:
    """Add the table and the column, and fill them from what is stored. Times are microseconds since 1970 UTC."""
    lines = op.create_table(
        "alert_lines",
        # Documents are tens of kilobytes: a list or a search that had to pass over them would read them all.
        sa.Column(
            "alert",
            sa.Integer,
            sa.ForeignKey("alerts.number", ondelete="CASCADE"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("principal", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("severity", sa.SmallInteger, nullable=False),
        sa.Column("first_seen", sa.BigInteger, nullable=False),
        sa.Column("last_seen", sa.BigInteger, nullable=False),
        sa.Column("action_count", sa.Integer, nullable=False),
        # Each with a line break before and after it, so that one can be looked for whole.
        sa.Column("namespaces", sa.Text, nullable=False),
        sa.Column("sentence", sa.Text, nullable=False),
    )
    op.create_index("alert_lines_by_id", "alert_lines", ["id"])
    op.create_index("alert_lines_of_principal", "alert_lines", ["principal"])
    op.add_column("feedback", sa.Column("verdict", sa.String(16), nullable=False, server_default=""))
    _fill(op.get_bind(), lines)


def _fill(connection: sa.Connection, lines: sa.Table) -> None:
    copied = ("id", "principal", "severity", "first_seen", "last_seen")
    alerts = sa.table("alerts", *map(sa.column, ("number", *copied, "document")))
    for found in _parts(connection, alerts, alerts.c.number):
        rows = []
        for row in found:
            alert = json.loads(row.document)
            shown = (*alert.get("actions", ()), *alert.get("contributors", ()))
            names = sorted({(one.get("objectRef") or {}).get("namespace") or "" for one in shown} - {""})
            rows.append(
                {name: getattr(row, name) for name in copied}
                | {"alert": row.number, "kind": alert.get("kind", ""), "sentence": alert.get("sentence", "")}
                | {"action_count": alert.get("actionCount", 0)}
                | {"namespaces": "\n".join(["", *names, ""]) if names else ""}
            )
        connection.execute(sa.insert(lines), rows)
    feedback = sa.table("feedback", *map(sa.column, ("position", "document", "verdict")))
    for found in _parts(connection, feedback, feedback.c.position):
        for row in found:
            verdict = str(json.loads(row.document).get("verdict", ""))[:16]
            connection.execute(
                sa.update(feedback).where(feedback.c.position == row.position).values(verdict=verdict)
            )


def _parts(
    connection: sa.Connection, table: sa.TableClause, key: sa.ColumnClause[int]
) -> Iterator[Sequence[sa.Row[Any]]]:
    after = 0
    while found := connection.execute(
        sa.select(table).where(key > after).order_by(key).limit(_AT_ONCE)
    ).all():
        yield found
        after = getattr(found[-1], key.name)


def downgrade() -> None:
    """Drop both."""
    op.drop_column("feedback", "verdict")
    op.drop_table("alert_lines")
