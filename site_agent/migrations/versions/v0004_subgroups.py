"""What subgroups are made of: the T stage of a case, and the groups a patient was measured in."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    """Add both columns; of what was measured before no subgroups are known."""
    op.add_column("cases", sa.Column("t_stage", TEXT))
    op.add_column(
        "measurements", sa.Column("subgroups", sa.JSON(), nullable=False, server_default="{}")
    )
