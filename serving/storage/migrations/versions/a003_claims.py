"""Which process is sending an entry of the outbox, and until when the others leave it alone."""

import sqlalchemy as sa
from alembic import op

revision = "a003"
down_revision = "a002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add two columns, null while nobody is sending. Times are microseconds since 1970 UTC."""
    op.add_column("deliveries", sa.Column("claimed_by", sa.String(32)))
    op.add_column("deliveries", sa.Column("claimed_until", sa.BigInteger))


def downgrade() -> None:
    """Drop them."""
    op.drop_column("deliveries", "claimed_until")
    op.drop_column("deliveries", "claimed_by")
