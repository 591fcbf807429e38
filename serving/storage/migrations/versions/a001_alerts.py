"""Alerts and the audit IDs they rest on."""

import sqlalchemy as sa
from alembic import op

revision = "a001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create both tables. Times are microseconds since 1970 UTC: the same in every database."""
    op.create_table(
        "alerts",
        # The order in which alerts were raised; pages of a listing are cut by it, because it never changes.
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(32), nullable=False, unique=True),
        sa.Column("principal", sa.Text, nullable=False),
        sa.Column("severity", sa.SmallInteger, nullable=False),
        sa.Column("first_seen", sa.BigInteger, nullable=False),
        sa.Column("last_seen", sa.BigInteger, nullable=False),
        sa.Column("raised", sa.BigInteger, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("alerts_of_principal", "alerts", ["principal", "last_seen"])
    op.create_index("alerts_by_time", "alerts", ["last_seen"])
    op.create_index("alerts_by_raised", "alerts", ["raised"])
    op.create_table(
        "alert_events",
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("alert", sa.Integer, sa.ForeignKey("alerts.number", ondelete="CASCADE"), nullable=False),
        sa.Column("audit_id", sa.Text, nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        # A client can choose its Audit-ID but not the server's clock: together they tell a repeat from a reuse.
        sa.UniqueConstraint("alert", "audit_id", "time"),
        sqlite_autoincrement=True,
    )
    op.create_index("alert_events_by_audit_id", "alert_events", ["audit_id"])


def downgrade() -> None:
    """Drop both tables."""
    op.drop_table("alert_events")
    op.drop_table("alerts")
