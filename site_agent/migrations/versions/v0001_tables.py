"""The tables as they were when revisions began to be kept; homes from before are brought there.

Such homes lack what came last: first the tables of clicks and of models, which were made on first
use, and what a task asks for.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")
WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the tables that are not there yet."""
    held = set(sa.inspect(op.get_bind()).get_table_names())
    for name, parts in _tables().items():
        if name not in held:
            op.create_table(name, *parts)
            for column in INDEXED.get(name, ()):
                op.create_index(f"ix_{name}_{column}", name, [column])
    tasks = sa.inspect(op.get_bind()).get_columns("annotation_tasks")
    if "kind" not in {column["name"] for column in tasks}:
        asked_for = sa.Column("kind", TEXT, nullable=False, server_default="contour")
        op.add_column("annotation_tasks", asked_for)


INDEXED = {
    "cases": ["patient_id"],
    "contours": ["case_id"],
    "annotation_tasks": ["round_id"],
    "click_sessions": ["case_id"],
    "reviews": ["round_id"],
    "measurements": ["round_id"],
    "exports": ["case_id", "content_sha256"],
}


def _tables() -> dict[str, list[Any]]:
    """Return the parts of every table; those that others name come first."""
    return {
        "cases": [
            sa.Column("case_id", TEXT, primary_key=True),
            sa.Column("patient_id", TEXT, nullable=False),
            sa.Column("modality", TEXT, nullable=False),
            sa.Column("manufacturer", TEXT, nullable=False),
            sa.Column("scanner_model", TEXT, nullable=False),
            sa.Column("split", TEXT, nullable=False),
            sa.Column("has_reference", sa.Boolean(), nullable=False),
            sa.Column("series", sa.JSON(), nullable=False),
            sa.Column("identity_sealed", sa.LargeBinary()),
            sa.Column("ingested_at", sa.DateTime(), nullable=False),
        ],
        "contours": [
            sa.Column("id", WHOLE, primary_key=True),
            sa.Column("case_id", TEXT, sa.ForeignKey("cases.case_id"), nullable=False),
            sa.Column("purpose", TEXT, nullable=False),
            sa.Column("round_id", TEXT, nullable=False),
            sa.Column("roi_name", TEXT, nullable=False),
            sa.Column("provenance", TEXT, nullable=False),
            sa.Column("author", TEXT, nullable=False),
            sa.Column("file", TEXT, nullable=False),
            sa.Column("saved_at", sa.DateTime(), nullable=False),
        ],
        "packages": [
            sa.Column("package_id", TEXT, primary_key=True),
            sa.Column("model_version", TEXT, nullable=False),
            sa.Column("signed_by", TEXT, nullable=False),
            sa.Column("state", TEXT, nullable=False),
            sa.Column("received_at", sa.DateTime(), nullable=False),
        ],
        "rounds": [
            sa.Column("round_id", TEXT, primary_key=True),
            sa.Column("package_id", TEXT, sa.ForeignKey("packages.package_id"), nullable=False),
            sa.Column("case_set_sha256", TEXT, nullable=False),
            sa.Column("seed", WHOLE, nullable=False),
            sa.Column("state", TEXT, nullable=False),
            sa.Column("report", sa.JSON()),
            sa.Column("started_at", sa.DateTime(), nullable=False),
            sa.Column("changed_at", sa.DateTime(), nullable=False),
        ],
        "annotation_tasks": [
            sa.Column("id", WHOLE, primary_key=True),
            sa.Column("round_id", TEXT, sa.ForeignKey("rounds.round_id"), nullable=False),
            sa.Column("case_id", TEXT, sa.ForeignKey("cases.case_id"), nullable=False),
            sa.Column("slice_z", WHOLE, nullable=False),
            sa.Column("rank", WHOLE, nullable=False),
            sa.Column("role", TEXT, nullable=False),
            sa.Column("score", sa.Double(), nullable=False),
            sa.Column("state", TEXT, nullable=False),
            sa.Column("kind", TEXT, nullable=False),
            sa.Column("file", TEXT),
            sa.Column("author", TEXT),
            sa.Column("provenance", TEXT),
            sa.Column("active_s", sa.Double()),
            sa.Column("done_at", sa.DateTime()),
            sa.UniqueConstraint("round_id", "case_id", "slice_z"),
        ],
        "click_sessions": [
            sa.Column("session_id", TEXT, primary_key=True),
            sa.Column("case_id", TEXT, sa.ForeignKey("cases.case_id"), nullable=False),
            sa.Column("task_id", WHOLE, sa.ForeignKey("annotation_tasks.id")),
            sa.Column("round_id", TEXT, nullable=False),
            sa.Column("author", TEXT, nullable=False),
            sa.Column("start_sha256", TEXT, nullable=False),
            sa.Column("settings", sa.JSON(), nullable=False),
            sa.Column("state", TEXT, nullable=False),
            sa.Column("clicks", WHOLE),
            sa.Column("compute_s", sa.Double()),
            sa.Column("active_s", sa.Double()),
            sa.Column("opened_at", sa.DateTime(), nullable=False),
            sa.Column("finished_at", sa.DateTime()),
        ],
        "click_steps": [
            sa.Column(
                "session_id",
                TEXT,
                sa.ForeignKey("click_sessions.session_id"),
                primary_key=True,
            ),
            sa.Column("sequence", WHOLE, primary_key=True, autoincrement=False),
            sa.Column("kind", TEXT, nullable=False),
            sa.Column("foreground", sa.JSON(), nullable=False),
            sa.Column("background", sa.JSON(), nullable=False),
            sa.Column("seconds", sa.Double(), nullable=False),
            sa.Column("mask_sha256", TEXT, nullable=False),
            sa.Column("author", TEXT, nullable=False),
            sa.Column("at", sa.DateTime(), nullable=False),
        ],
        "reviews": [
            sa.Column("id", WHOLE, primary_key=True),
            sa.Column("round_id", TEXT, sa.ForeignKey("rounds.round_id"), nullable=False),
            sa.Column("case_id", TEXT, sa.ForeignKey("cases.case_id"), nullable=False),
            sa.Column("verdict", TEXT, nullable=False),
            sa.Column("revision_degree_percent", sa.Double(), nullable=False),
            sa.Column("active_s", sa.Double()),
            sa.Column("wall_s", sa.Double()),
            sa.Column("author", TEXT, nullable=False),
            sa.Column("simulated", sa.Boolean(), nullable=False),
            sa.Column("reviewed_at", sa.DateTime(), nullable=False),
            sa.UniqueConstraint("round_id", "case_id"),
        ],
        "measurements": [
            sa.Column("id", WHOLE, primary_key=True),
            sa.Column("round_id", TEXT, sa.ForeignKey("rounds.round_id"), nullable=False),
            sa.Column("case_id", TEXT, sa.ForeignKey("cases.case_id"), nullable=False),
            sa.Column("arm", TEXT, nullable=False),
            sa.Column("metrics", sa.JSON(), nullable=False),
            sa.UniqueConstraint("round_id", "case_id", "arm"),
        ],
        "site_models": [
            sa.Column("sha256", TEXT, primary_key=True),
            sa.Column("round_id", TEXT, sa.ForeignKey("rounds.round_id"), nullable=False),
            sa.Column("validation_patients", WHOLE, nullable=False),
            sa.Column("candidate_dsc", sa.Double()),
            sa.Column("incumbent_dsc", sa.Double()),
            sa.Column("offered_at", sa.DateTime(), nullable=False),
        ],
        "model_activations": [
            sa.Column("id", WHOLE, primary_key=True),
            sa.Column("sha256", TEXT, sa.ForeignKey("site_models.sha256"), nullable=False),
            sa.Column("at", sa.DateTime(), nullable=False),
        ],
        "exports": [
            sa.Column("id", WHOLE, primary_key=True),
            sa.Column("case_id", TEXT, sa.ForeignKey("cases.case_id"), nullable=False),
            sa.Column("kind", TEXT, nullable=False),
            sa.Column("round_id", TEXT, nullable=False),
            sa.Column("uids_sealed", sa.LargeBinary(), nullable=False),
            sa.Column("content_sha256", TEXT, nullable=False),
            sa.Column("author", TEXT, nullable=False),
            sa.Column("exported_at", sa.DateTime(), nullable=False),
        ],
        "audit": [
            sa.Column("sequence", WHOLE, primary_key=True, autoincrement=False),
            sa.Column("at", TEXT, nullable=False),
            sa.Column("actor", TEXT, nullable=False),
            sa.Column("event", TEXT, nullable=False),
            sa.Column("subject", TEXT, nullable=False),
            sa.Column("detail", sa.JSON(), nullable=False),
            sa.Column("previous_sha256", TEXT, nullable=False),
            sa.Column("sha256", TEXT, nullable=False),
        ],
        "ledger": [
            sa.Column("sequence", WHOLE, primary_key=True, autoincrement=False),
            sa.Column("at", TEXT, nullable=False),
            sa.Column("kind", TEXT, nullable=False),
            sa.Column("message_sha256", TEXT, nullable=False),
            sa.Column("size_bytes", WHOLE, nullable=False),
            sa.Column("state", TEXT, nullable=False),
            sa.Column("detail", sa.JSON(), nullable=False),
            sa.Column("previous_sha256", TEXT, nullable=False),
            sa.Column("sha256", TEXT, nullable=False),
        ],
    }
