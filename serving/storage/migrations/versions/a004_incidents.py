"""The context of alerts, what links principals to one another, incidents, and who did what with them."""

import sqlalchemy as sa
from alembic import op

revision = "a004"
down_revision = "a003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables. Times are microseconds since 1970 UTC."""
    op.create_table(
        "alert_surroundings",
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("alert", sa.Integer, sa.ForeignKey("alerts.number", ondelete="CASCADE"), nullable=False),
        sa.Column("audit_id", sa.Text, nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.UniqueConstraint("alert", "audit_id", "time"),
        sqlite_autoincrement=True,
    )
    op.create_index("surroundings_by_audit_id", "alert_surroundings", ["audit_id"])
    op.create_table(
        "alert_ties",
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=True),
        # The alert through which the tie was found; it may lead out of it or into it.
        sa.Column("alert", sa.Integer, sa.ForeignKey("alerts.number", ondelete="CASCADE"), nullable=False),
        sa.Column("audit_id", sa.Text, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ties_by_target", "alert_ties", ["target", "time"])
    op.create_index("ties_by_alert", "alert_ties", ["alert"])
    op.create_table(
        "incidents",
        # The order in which incidents began; pages of a listing are cut by it.
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(32), nullable=False, unique=True),
        sa.Column("state", sa.String(16), nullable=False),
        # Into which incident this one was merged; null otherwise.
        sa.Column("merged_into", sa.String(32)),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "incident_alerts",
        # No foreign key: alerts are forgotten after their retention time, and incidents after theirs.
        sa.Column("alert", sa.String(32), primary_key=True),
        sa.Column("incident", sa.String(32), nullable=False),
        # Whether a person put it here: what people decided, no join undoes.
        sa.Column("by_hand", sa.SmallInteger, nullable=False, server_default="0"),
    )
    op.create_index("alerts_of_incident", "incident_alerts", ["incident"])
    op.create_table(
        "incident_trail",
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("incident", sa.String(32), nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("trail_of_incident", "incident_trail", ["incident"])


def downgrade() -> None:
    """Drop them."""
    for table in ("incident_trail", "incident_alerts", "incidents", "alert_ties", "alert_surroundings"):
        op.drop_table(table)
