"""The order in which alerts last changed, what each sink was sent, and feedback."""

import sqlalchemy as sa
from alembic import op

revision = "a002"
down_revision = "a001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column and two tables. Times are microseconds since 1970 UTC."""
    # Plainly added: rebuilding the table, as batch mode does in SQLite, would empty those that refer to it.
    op.add_column("alerts", sa.Column("changed", sa.BigInteger, nullable=False, server_default="0"))
    op.execute("UPDATE alerts SET changed = number")
    op.create_index("alerts_by_changed", "alerts", ["changed"])
    op.create_table(
        "deliveries",
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("sink", sa.String(64), nullable=False),
        sa.Column("alert", sa.Integer, sa.ForeignKey("alerts.number", ondelete="CASCADE"), nullable=False),
        # When the alert is to be sent and since when it waits; both null when there is nothing to send.
        sa.Column("due", sa.BigInteger),
        sa.Column("queued", sa.BigInteger),
        # What was last sent, and when; null before the first time.
        sa.Column("sent", sa.BigInteger),
        sa.Column("severity", sa.SmallInteger),
        sa.Column("actions", sa.BigInteger),
        sa.UniqueConstraint("sink", "alert"),
        sqlite_autoincrement=True,
    )
    op.create_index("deliveries_by_due", "deliveries", ["sink", "due"])
    op.create_index("deliveries_by_alert", "deliveries", ["alert"])
    op.create_table(
        "feedback",
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=True),
        # No foreign key: what people said outlives the alert.
        sa.Column("alert", sa.String(32), nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("feedback_by_alert", "feedback", ["alert"])


def downgrade() -> None:
    """Drop them."""
    op.drop_table("feedback")
    op.drop_table("deliveries")
    op.drop_index("alerts_by_changed", "alerts")
    op.drop_column("alerts", "changed")
