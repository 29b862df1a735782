"""The table of what the door out remembers: whom reports that left were about."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the table; of reports that left before it the door reads the kept copies."""
    op.create_table(
        "release_memories",
        sa.Column(
            "sequence",
            WHOLE,
            sa.ForeignKey("ledger.sequence"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("memory", sa.JSON(), nullable=False),
    )
