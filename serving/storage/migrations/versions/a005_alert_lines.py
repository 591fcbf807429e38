"""What a list shows of each alert, apart from its document, and the verdict of feedback as a column."""

import json

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
    alerts = sa.table(
        "alerts",
        *(sa.column(name) for name in ("number", "id", "principal", "severity", "first_seen", "last_seen")),
        sa.column("document"),
    )
    after = 0
    while True:
        found = connection.execute(
            sa.select(alerts).where(alerts.c.number > after).order_by(alerts.c.number).limit(_AT_ONCE)
        ).all()
        if not found:
            break
        after = found[-1].number
        rows = []
        for row in found:
            told = json.loads(row.document)
            shown = (*told.get("actions", ()), *told.get("contributors", ()))
            names = sorted({(one.get("objectRef") or {}).get("namespace") or "" for one in shown} - {""})
            rows.append(
                {
                    "alert": row.number,
                    "id": row.id,
                    "principal": row.principal,
                    "kind": told.get("kind", ""),
                    "severity": row.severity,
                    "first_seen": row.first_seen,
                    "last_seen": row.last_seen,
                    "action_count": told.get("actionCount", 0),
                    "namespaces": "\n".join(["", *names, ""]) if names else "",
                    "sentence": told.get("sentence", ""),
                }
            )
        connection.execute(sa.insert(lines), rows)
    feedback = sa.table("feedback", sa.column("position"), sa.column("document"), sa.column("verdict"))
    after = 0
    while True:
        found = connection.execute(
            sa.select(feedback.c.position, feedback.c.document)
            .where(feedback.c.position > after)
            .order_by(feedback.c.position)
            .limit(_AT_ONCE)
        ).all()
        if not found:
            return
        after = found[-1].position
        for row in found:
            connection.execute(
                sa.update(feedback)
                .where(feedback.c.position == row.position)
                .values(verdict=str(json.loads(row.document).get("verdict", ""))[:16])
            )


def downgrade() -> None:
    """Drop both."""
    op.drop_column("feedback", "verdict")
    op.drop_table("alert_lines")
