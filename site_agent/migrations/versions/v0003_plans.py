"""The table of federation plans: what the study lead signed, and what this hospital signed."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")
WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the table; a site that took part before it waits for its first plan."""
    op.create_table(
        "plans",
        sa.Column("plan_sha256", TEXT, primary_key=True),
        sa.Column("plan_number", WHOLE, nullable=False, unique=True),
        sa.Column("package_id", TEXT, nullable=False),
        sa.Column("plan", TEXT, nullable=False),
        sa.Column("signature", TEXT, nullable=False),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("received_at", sa.DateTime(), nullable=False),
        sa.Column("approval", TEXT),
    )
