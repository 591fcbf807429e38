"""Actions that an exception by hand kept from being flagged."""

import sqlalchemy as sa
from alembic import op

revision = "a007"
down_revision = "a006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table. Times are microseconds since 1970 UTC."""
    op.create_table(
        "allowed_actions",
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("exception", sa.String(64), nullable=False),
        sa.Column("principal", sa.Text, nullable=False),
        sa.Column("audit_id", sa.Text, nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("received", sa.BigInteger, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        # What is scored again after a crash counts once.
        sa.UniqueConstraint("exception", "audit_id", "time"),
        sqlite_autoincrement=True,
    )
    op.create_index("allowed_by_received", "allowed_actions", ["received"])


def downgrade() -> None:
    """Drop it."""
    op.drop_table("allowed_actions")
