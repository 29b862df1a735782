"""The tables of a site's database, which is the source of truth inside the hospital."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    Engine,
    ForeignKey,
    LargeBinary,
    UniqueConstraint,
    create_engine,
    event,
    make_url,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.types import JSON

from algorithms.contracts.errors import DataError


class Base(DeclarativeBase):
    """Declarative base of the site's tables."""

    type_annotation_map = {  # noqa: RUF012
        dict[str, Any]: JSON,
        list[int]: JSON,
        list[float]: JSON,
        list[list[int]]: JSON,
    }


class CaseRow(Base):
    """One de-identified image series; `identity_sealed` is the encrypted way back to the PACS."""

    __tablename__ = "cases"

    case_id: Mapped[str] = mapped_column(primary_key=True)
    patient_id: Mapped[str] = mapped_column(index=True)
    modality: Mapped[str]
    manufacturer: Mapped[str]
    scanner_model: Mapped[str]
    split: Mapped[str]
    has_reference: Mapped[bool]
    series: Mapped[dict[str, Any]]  # geometry, mapped UIDs, technical tags
    identity_sealed: Mapped[bytes | None] = mapped_column(LargeBinary)
    ingested_at: Mapped[datetime]


class ContourRow(Base):
    """One contour of a case; the mask lies in `file`, relative to the site's home."""

    __tablename__ = "contours"

    id: Mapped[int] = mapped_column(primary_key=True)
    case_id: Mapped[str] = mapped_column(ForeignKey("cases.case_id"), index=True)
    # reference | direct | adapted | target_trained | reviewed | corrected | exported | returned |
    # start-SESSION
    purpose: Mapped[str]
    round_id: Mapped[str] = mapped_column(default="")
    roi_name: Mapped[str]
    provenance: Mapped[str]
    author: Mapped[str]
    file: Mapped[str]
    saved_at: Mapped[datetime]


class PackageRow(Base):
    """A verified package; `state` is stored, approved or retired."""

    __tablename__ = "packages"

    package_id: Mapped[str] = mapped_column(primary_key=True)
    model_version: Mapped[str]
    signed_by: Mapped[str]
    state: Mapped[str]
    received_at: Mapped[datetime]


class RoundRow(Base):
    """One adaptation: keyed by package, case set and seed, so a killed one resumes."""

    __tablename__ = "rounds"

    round_id: Mapped[str] = mapped_column(primary_key=True)
    package_id: Mapped[str] = mapped_column(ForeignKey("packages.package_id"))
    case_set_sha256: Mapped[str]
    seed: Mapped[int]
    state: Mapped[str]
    report: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    started_at: Mapped[datetime]
    changed_at: Mapped[datetime]


class AnnotationTaskRow(Base):
    """One slice that a doctor is asked to annotate; what was drawn lies in `file` once done."""

    __tablename__ = "annotation_tasks"
    __table_args__ = (UniqueConstraint("round_id", "case_id", "slice_z"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.round_id"), index=True)
    case_id: Mapped[str] = mapped_column(ForeignKey("cases.case_id"))
    slice_z: Mapped[int]
    rank: Mapped[int]
    role: Mapped[str]  # domain_invariant | domain_specific | chosen | representative
    score: Mapped[float]
    state: Mapped[str]  # open | done
    kind: Mapped[str]  # contour | scribble: what is asked for
    file: Mapped[str | None]
    author: Mapped[str | None]
    provenance: Mapped[str | None]
    active_s: Mapped[float | None]
    done_at: Mapped[datetime | None]


class ClickSessionRow(Base):
    """One author's way to one contour by clicks: of an asked-for slice, or of a whole case."""

    __tablename__ = "click_sessions"

    session_id: Mapped[str] = mapped_column(primary_key=True)
    case_id: Mapped[str] = mapped_column(ForeignKey("cases.case_id"), index=True)
    task_id: Mapped[int | None] = mapped_column(ForeignKey("annotation_tasks.id"))  # None: a case
    round_id: Mapped[str]
    author: Mapped[str]
    start_sha256: Mapped[str]  # of the contour that it started from, kept as "start-SESSION"; ""
    settings: Mapped[dict[str, Any]]  # network, parameters and version that answer the clicks
    state: Mapped[str]  # open | finished
    clicks: Mapped[int | None]
    compute_s: Mapped[float | None]
    active_s: Mapped[float | None]
    opened_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class ClickStepRow(Base):
    """One step of a click session, which nothing removes; points are voxel indices `[n, axes]`."""

    __tablename__ = "click_steps"

    session_id: Mapped[str] = mapped_column(
        ForeignKey("click_sessions.session_id"), primary_key=True
    )
    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[str]  # segment | refine | undo | replayed
    foreground: Mapped[list[list[int]]]
    background: Mapped[list[list[int]]]
    seconds: Mapped[float]  # of computing
    mask_sha256: Mapped[str]  # of the contour that it led to
    author: Mapped[str]
    at: Mapped[datetime]


class ReviewRow(Base):
    """What an oncologist said about the model's contour of one case."""

    __tablename__ = "reviews"
    __table_args__ = (UniqueConstraint("round_id", "case_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.round_id"), index=True)
    case_id: Mapped[str] = mapped_column(ForeignKey("cases.case_id"))
    verdict: Mapped[str]  # accepted | revised
    revision_degree_percent: Mapped[float]
    active_s: Mapped[float | None]
    wall_s: Mapped[float | None]
    author: Mapped[str]
    simulated: Mapped[bool]
    reviewed_at: Mapped[datetime]


class MeasurementRow(Base):
    """Metrics of one test patient under one arm; never leaves the hospital as such."""

    __tablename__ = "measurements"
    __table_args__ = (UniqueConstraint("round_id", "case_id", "arm"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.round_id"), index=True)
    case_id: Mapped[str] = mapped_column(ForeignKey("cases.case_id"))
    arm: Mapped[str]
    metrics: Mapped[dict[str, Any]]


class SiteModelRow(Base):
    """A model that this site's doctors taught; see `model_store`."""

    __tablename__ = "site_models"

    sha256: Mapped[str] = mapped_column(primary_key=True)
    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.round_id"))
    validation_patients: Mapped[int]
    candidate_dsc: Mapped[float | None]
    incumbent_dsc: Mapped[float | None]
    offered_at: Mapped[datetime]


class ModelActivationRow(Base):
    """A stack: the newest is in use, going back takes it away; the audit log keeps all."""

    __tablename__ = "model_activations"

    id: Mapped[int] = mapped_column(primary_key=True)
    sha256: Mapped[str] = mapped_column(ForeignKey("site_models.sha256"))
    at: Mapped[datetime]


class ExportRow(Base):
    """One object that passed the export gate, with the sealed UIDs it has in the PACS."""

    __tablename__ = "exports"

    id: Mapped[int] = mapped_column(primary_key=True)
    case_id: Mapped[str] = mapped_column(ForeignKey("cases.case_id"), index=True)
    kind: Mapped[str]  # rtstruct | seg
    round_id: Mapped[str]  # of the contour, which is kept under the purpose "exported"
    uids_sealed: Mapped[bytes] = mapped_column(LargeBinary)
    content_sha256: Mapped[str] = mapped_column(index=True)
    author: Mapped[str]
    exported_at: Mapped[datetime]


class AuditRow(Base):
    """One hash-chained entry of what happened; see `audit_log`."""

    __tablename__ = "audit"

    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[str]
    actor: Mapped[str]
    event: Mapped[str]
    subject: Mapped[str]
    detail: Mapped[dict[str, Any]]
    previous_sha256: Mapped[str]
    sha256: Mapped[str]


class LedgerRow(Base):
    """One hash-chained entry of what left the hospital; see `egress`."""

    __tablename__ = "ledger"

    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[str]
    kind: Mapped[str]
    message_sha256: Mapped[str]
    size_bytes: Mapped[int]
    state: Mapped[str]  # released | held | approved | refused
    detail: Mapped[dict[str, Any]]
    previous_sha256: Mapped[str]
    sha256: Mapped[str]


def create_database(url: str | URL) -> None:
    """Make the tables that are not there yet, when a site's home is made and at no other time.

    An empty database in place of a lost one would pass for a site from which nothing ever left.
    """
    engine = _connect(make_url(url))
    Base.metadata.create_all(engine)
    engine.dispose()


def open_database(url: str | URL) -> Engine:
    """Open the database at `url`, with write-ahead logging on SQLite.

    Raises:
        DataError: when its file is missing, or its driver is not installed.
    """
    location = make_url(url)
    if location.get_backend_name() == "sqlite" and not Path(location.database or "").is_file():
        raise DataError(
            f"{location.database}: the site's database is missing: restore it from a backup"
        )
    return _connect(location)


def _connect(location: URL) -> Engine:
    try:
        engine = create_engine(location)
    except ImportError as error:
        raise DataError(
            f"site.toml: key 'database_url': '{location.drivername}' needs the Python package "
            f"'{error.name}', which is not installed: install it, or leave the key out"
        ) from None
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def _pragmas(connection: Any, _record: Any) -> None:
            cursor = connection.cursor()
            for pragma in ("journal_mode=WAL", "foreign_keys=ON", "busy_timeout=30000"):
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()

    return engine


@contextmanager
def transaction(engine: Engine) -> Iterator[Session]:
    """Yield a session whose work is committed as one, or not at all."""
    with Session(engine, expire_on_commit=False) as session, session.begin():
        yield session


def utc_now() -> datetime:
    """Return the time now, UTC, without a zone mark, as the database stores it."""
    return datetime.now(UTC).replace(tzinfo=None)
