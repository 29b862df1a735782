"""The tables of the pages: who works on what, drafts, evidence, signatures and accounts."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")
WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the tables, and add what a review says and a painted contour needs."""
    for name, parts in _tables().items():
        op.create_table(name, *parts)
        for column in INDEXED.get(name, ()):
            op.create_index(f"ix_{name}_{column}", name, [column])
    op.add_column("reviews", sa.Column("likert", WHOLE))
    op.add_column("reviews", sa.Column("reason", TEXT, nullable=False, server_default=""))
    op.add_column("click_steps", sa.Column("file", TEXT))


INDEXED = {
    "contour_saves": ["round_id", "case_id"],
    "signatures": ["case_id"],
    "blinded_readings": ["reading"],
    "sign_ins": ["username"],
}


def _case(*, primary_key: bool = False) -> sa.Column[Any]:
    key = sa.ForeignKey("cases.case_id")
    return sa.Column("case_id", TEXT, key, nullable=False, primary_key=primary_key)


def _round(*, primary_key: bool = False) -> sa.Column[Any]:
    key = sa.ForeignKey("rounds.round_id")
    return sa.Column("round_id", TEXT, key, nullable=False, primary_key=primary_key)


def _tables() -> dict[str, list[Any]]:
    """Return the parts of every table; those that others name come first."""
    return {
        "claims": [
            _round(primary_key=True),
            _case(primary_key=True),
            sa.Column("purpose", TEXT, primary_key=True),
            sa.Column("author", TEXT, nullable=False),
            sa.Column("claimed_at", sa.DateTime(), nullable=False),
        ],
        "drafts": [
            _round(primary_key=True),
            _case(primary_key=True),
            sa.Column("purpose", TEXT, primary_key=True),
            sa.Column("author", TEXT, primary_key=True),
            sa.Column("epoch", TEXT, nullable=False),
            sa.Column("sitting", TEXT, nullable=False),
            sa.Column("revision", WHOLE, nullable=False),
            sa.Column("start_file", TEXT),
            sa.Column("file", TEXT),
            sa.Column("outside_file", TEXT),
            sa.Column("sittings", sa.JSON(), nullable=False),
            sa.Column("begun_at", sa.DateTime(), nullable=False),
            sa.Column("saved_at", sa.DateTime(), nullable=False),
        ],
        "contour_saves": [
            sa.Column("id", WHOLE, primary_key=True),
            _round(),
            _case(),
            sa.Column("purpose", TEXT, nullable=False),
            sa.Column("task_id", WHOLE, sa.ForeignKey("annotation_tasks.id")),
            sa.Column("author", TEXT, nullable=False),
            sa.Column("start_file", TEXT),
            sa.Column("file", TEXT, nullable=False),
            sa.Column("mask_sha256", TEXT, nullable=False),
            sa.Column("sittings", sa.JSON(), nullable=False),
            sa.Column("active_s", sa.Double(), nullable=False),
            sa.Column("model_wait_s", sa.Double(), nullable=False),
            sa.Column("wall_s", sa.Double(), nullable=False),
            sa.Column("revision_degree_percent", sa.Double()),
            sa.Column("slice_degrees_percent", sa.JSON(), nullable=False),
            sa.Column("added_path_length_mm", sa.Double()),
            sa.Column("saved_at", sa.DateTime(), nullable=False),
        ],
        "signatures": [
            sa.Column("id", WHOLE, primary_key=True),
            _round(),
            _case(),
            sa.Column("username", TEXT, nullable=False),
            sa.Column("person_name", TEXT, nullable=False),
            sa.Column("meaning", TEXT, nullable=False),
            sa.Column("method", TEXT, nullable=False),
            sa.Column("mask_sha256", TEXT, nullable=False),
            sa.Column("signed_at", sa.DateTime(), nullable=False),
            sa.Column("export_id", WHOLE, sa.ForeignKey("exports.id")),
            sa.Column("sent_at", sa.DateTime()),
        ],
        "blinded_readings": [
            sa.Column("id", WHOLE, primary_key=True),
            sa.Column("reading", TEXT, nullable=False),
            sa.Column("place", WHOLE, nullable=False),
            _case(),
            sa.Column("reader", TEXT, nullable=False),
            sa.Column("seed", WHOLE, nullable=False),
            sa.Column("allocation_sealed", sa.LargeBinary(), nullable=False),
            sa.Column("opened_at", sa.DateTime()),
            sa.Column("likert", WHOLE),
            sa.Column("verdict", TEXT),
            sa.Column("active_s", sa.Double()),
            sa.Column("wall_s", sa.Double()),
            sa.Column("read_at", sa.DateTime()),
            sa.UniqueConstraint("reading", "place"),
        ],
        "accounts": [
            sa.Column("username", TEXT, primary_key=True),
            sa.Column("display_name", TEXT, nullable=False),
            sa.Column("person_name", TEXT, nullable=False),
            sa.Column("roles", sa.JSON(), nullable=False),
            sa.Column("password_hash", TEXT),
            sa.Column("oidc_subject", TEXT, unique=True),
            sa.Column("disabled", sa.Boolean(), nullable=False),
            sa.Column("failures", WHOLE, nullable=False),
            sa.Column("locked_until", sa.DateTime()),
            sa.Column("created_at", sa.DateTime(), nullable=False),
        ],
        "sign_ins": [
            sa.Column("token_sha256", TEXT, primary_key=True),
            sa.Column("username", TEXT, sa.ForeignKey("accounts.username"), nullable=False),
            sa.Column("signed_in_at", sa.DateTime(), nullable=False),
            sa.Column("last_seen_at", sa.DateTime(), nullable=False),
            sa.Column("ended_at", sa.DateTime()),
        ],
    }
