"""The tables of a site's database, which is the source of truth inside the hospital.

The tables are made and changed by `migrations` alone: whoever changes a class here adds a revision
there and raises `SCHEMA`; a test compares the two. One process writes at a time, on SQLite as on
PostgreSQL, so that what a transaction reads stays true until it commits.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    BigInteger,
    Connection,
    Double,
    Engine,
    ForeignKey,
    Integer,
    LargeBinary,
    String,
    UniqueConstraint,
    create_engine,
    event,
    inspect,
    make_url,
    select,
)
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.types import JSON

from algorithms.contracts.errors import DataError

SCHEMA = "0005"  # the newest revision of `migrations`
VERSION_TABLE = "alembic_version"
BUSY_TIMEOUT_S = 30
_WRITES = "fedgtv_writes"  # marks the connections of `transaction`
_ONE_WRITER = 0x6665646774760001  # the advisory lock of PostgreSQL that a writer holds


class Base(DeclarativeBase):
    """Declarative base of the site's tables."""

    type_annotation_map = {  # noqa: RUF012
        # Seeds and sizes of files pass 2^31; SQLite counts only an INTEGER key up by itself.
        # Sorted by bytes everywhere, not by a server's language.
        str: String().with_variant(String(collation="C"), "postgresql"),
        float: Double(),
        int: BigInteger().with_variant(Integer, "sqlite"),
        dict[str, Any]: JSON,
        list[int]: JSON,
        list[str]: JSON,
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
    t_stage: Mapped[str | None]  # T1 | T2 | T3 | T4 | Tx; None: nobody said


class ContourRow(Base):
    """One contour of a case; the mask lies in `file`, relative to the site's home."""

    __tablename__ = "contours"

    id: Mapped[int] = mapped_column(primary_key=True)
    case_id: Mapped[str] = mapped_column(ForeignKey("cases.case_id"), index=True)
    # reference | direct | adapted | target_trained | reviewed | corrected | exported | returned |
    # start-SESSION | rater-LETTER
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


class PlanRow(Base):
    """A federation plan as the study lead signed it; see `plan_store`."""

    __tablename__ = "plans"

    plan_sha256: Mapped[str] = mapped_column(primary_key=True)
    plan_number: Mapped[int] = mapped_column(unique=True)
    package_id: Mapped[str]
    plan: Mapped[str]  # the text that was signed
    signature: Mapped[str]  # of the study lead, JSON as it came
    state: Mapped[str]  # stored | approved | rejected | retired
    received_at: Mapped[datetime]
    approval: Mapped[str | None]  # JSON with the hospital's signature


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
    kind: Mapped[str]  # segment | refine | painted | undo | replayed
    foreground: Mapped[list[list[int]]]
    background: Mapped[list[list[int]]]
    seconds: Mapped[float]  # of computing
    mask_sha256: Mapped[str]  # of the contour that it led to
    file: Mapped[str | None]  # of a "painted" step: the contour as a hand left it
    author: Mapped[str]
    at: Mapped[datetime]


class ReviewRow(Base):
    """What an oncologist said about the model's contour of one case."""

    __tablename__ = "reviews"
    __table_args__ = (UniqueConstraint("round_id", "case_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.round_id"), index=True)
    case_id: Mapped[str] = mapped_column(ForeignKey("cases.case_id"))
    verdict: Mapped[str]  # accepted | revised | rejected
    revision_degree_percent: Mapped[float]  # 100 where nothing was kept: rejected
    active_s: Mapped[float | None]
    wall_s: Mapped[float | None]
    author: Mapped[str]
    simulated: Mapped[bool]
    reviewed_at: Mapped[datetime]
    likert: Mapped[int | None]  # 1 (unusable) to 5 (as I would draw it)
    reason: Mapped[str] = mapped_column(default="")  # of a rejection, a word from a list


class MeasurementRow(Base):
    """Metrics of one test patient under one arm; never leaves the hospital as such."""

    __tablename__ = "measurements"
    __table_args__ = (UniqueConstraint("round_id", "case_id", "arm"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.round_id"), index=True)
    case_id: Mapped[str] = mapped_column(ForeignKey("cases.case_id"))
    arm: Mapped[str]
    metrics: Mapped[dict[str, Any]]
    subgroups: Mapped[dict[str, Any]] = mapped_column(default=dict)  # attribute -> group, then


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


class ClaimRow(Base):
    """Who works on a case for a purpose: nobody else can meanwhile."""

    __tablename__ = "claims"

    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.round_id"), primary_key=True)
    case_id: Mapped[str] = mapped_column(ForeignKey("cases.case_id"), primary_key=True)
    purpose: Mapped[str] = mapped_column(primary_key=True)  # annotation | review
    author: Mapped[str]
    claimed_at: Mapped[datetime]


class DraftRow(Base):
    """What somebody has drawn and not saved yet, with the time it took; gone once it is saved."""

    __tablename__ = "drafts"

    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.round_id"), primary_key=True)
    case_id: Mapped[str] = mapped_column(ForeignKey("cases.case_id"), primary_key=True)
    purpose: Mapped[str] = mapped_column(primary_key=True)
    author: Mapped[str] = mapped_column(primary_key=True)
    epoch: Mapped[str]  # names what was begun from, and when
    sitting: Mapped[str]  # the browser page that drew last: an older one may not go on
    revision: Mapped[int]  # of the draft, counted up by every message that is taken
    start_file: Mapped[str | None]  # what it began from; None: nothing
    file: Mapped[str | None]  # the contour; None: nothing is drawn
    outside_file: Mapped[str | None]  # of scribbles: what was drawn as not the target
    sittings: Mapped[dict[str, Any]]  # by name: times and actions, see `drafts`
    begun_at: Mapped[datetime]
    saved_at: Mapped[datetime]


class ContourSaveRow(Base):
    """The evidence of one save, which nothing changes: what was drawn, how, and how long it took.

    Everything measured here was computed on the server, from the stored masks and the times.
    """

    __tablename__ = "contour_saves"

    id: Mapped[int] = mapped_column(primary_key=True)
    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.round_id"), index=True)
    case_id: Mapped[str] = mapped_column(ForeignKey("cases.case_id"), index=True)
    purpose: Mapped[str]
    task_id: Mapped[int | None] = mapped_column(ForeignKey("annotation_tasks.id"))
    author: Mapped[str]
    start_file: Mapped[str | None]  # what it began from; None: nothing
    file: Mapped[str]
    mask_sha256: Mapped[str]  # as `click_store.mask_sha256`
    sittings: Mapped[dict[str, Any]]
    active_s: Mapped[float]
    model_wait_s: Mapped[float]
    wall_s: Mapped[float]
    revision_degree_percent: Mapped[float | None]  # None: there was nothing to revise
    slice_degrees_percent: Mapped[dict[str, Any]]  # by slice index, where anything was drawn
    added_path_length_mm: Mapped[float | None]
    saved_at: Mapped[datetime]


class SignatureRow(Base):
    """An electronic signature under the contour of one review; nothing changes it."""

    __tablename__ = "signatures"

    id: Mapped[int] = mapped_column(primary_key=True)
    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.round_id"))
    case_id: Mapped[str] = mapped_column(ForeignKey("cases.case_id"), index=True)
    username: Mapped[str]
    person_name: Mapped[str]  # as DICOM writes it, Family^Given
    meaning: Mapped[str]  # the sentence that was signed
    method: Mapped[str]  # how it was made sure who signs: password | oidc
    mask_sha256: Mapped[str]
    signed_at: Mapped[datetime]
    export_id: Mapped[int | None] = mapped_column(ForeignKey("exports.id"))
    sent_at: Mapped[datetime | None]  # to the PACS


class BlindedReadingRow(Base):
    """One contour to be judged by somebody who does not know what made it."""

    __tablename__ = "blinded_readings"
    __table_args__ = (UniqueConstraint("reading", "place"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    reading: Mapped[str] = mapped_column(index=True)  # the name of the set
    place: Mapped[int]  # in the order of showing
    case_id: Mapped[str] = mapped_column(ForeignKey("cases.case_id"))
    reader: Mapped[str]
    seed: Mapped[int]
    allocation_sealed: Mapped[bytes] = mapped_column(LargeBinary)  # which contour it is
    opened_at: Mapped[datetime | None]  # when it was shown first
    likert: Mapped[int | None]
    verdict: Mapped[str | None]
    active_s: Mapped[float | None]
    wall_s: Mapped[float | None]
    read_at: Mapped[datetime | None]


class AccountRow(Base):
    """Somebody who may use the pages."""

    __tablename__ = "accounts"

    username: Mapped[str] = mapped_column(primary_key=True)
    display_name: Mapped[str]
    person_name: Mapped[str]  # as DICOM writes it, Family^Given; signs contours
    roles: Mapped[list[str]]  # annotator | reviewer | it | lead
    password_hash: Mapped[str | None]  # argon2id; None: signs in through OIDC
    oidc_subject: Mapped[str | None] = mapped_column(unique=True)
    disabled: Mapped[bool]
    failures: Mapped[int]  # wrong passwords since the last right one
    locked_until: Mapped[datetime | None]
    created_at: Mapped[datetime]


class SignInRow(Base):
    """One browser that is signed in; only the hash of its token is kept."""

    __tablename__ = "sign_ins"

    token_sha256: Mapped[str] = mapped_column(primary_key=True)
    username: Mapped[str] = mapped_column(ForeignKey("accounts.username"), index=True)
    signed_in_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]


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


class ReleaseMemoryRow(Base):
    """Whom a report that left is about; see `release_memory`. Its entry names its SHA-256."""

    __tablename__ = "release_memories"

    sequence: Mapped[int] = mapped_column(
        ForeignKey("ledger.sequence"), primary_key=True, autoincrement=False
    )
    memory: Mapped[dict[str, Any]]


def create_database(url: str | URL) -> None:
    """Make the tables, when a site's home is made and at no other time.

    An empty database in place of a lost one would pass for a site from which nothing ever left.
    Tables that are there already stay as they are.
    """
    from site_agent.schema import upgrade  # with alembic, which other commands do without

    upgrade(make_url(url))


def open_database(url: str | URL) -> Engine:
    """Open the database at `url`, with write-ahead logging on SQLite.

    Raises:
        DataError: when its file is missing, its driver is not installed, its server does not
            answer, or its tables are of another version.
    """
    location = make_url(url)
    if location.get_backend_name() == "sqlite" and not Path(location.database or "").is_file():
        raise DataError(
            f"{location.database}: the site's database is missing: restore it from a backup"
        )
    engine = connect(location)
    try:
        with answering(location), engine.connect() as connection:
            _refuse_another_schema(location, schema_of(connection))
    except BaseException:
        engine.dispose()
        raise
    return engine


def schema_of(connection: Connection) -> str | None:
    """Return the revision of the tables: "" before revisions were kept, None without tables."""
    tables = inspect(connection).get_table_names()
    if VERSION_TABLE in tables:
        found = connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").scalar()  # noqa: S608
        if found is not None:
            return str(found)
    return "" if CaseRow.__tablename__ in tables else None


def place(location: URL) -> str:
    """Name a database to a person; without its password."""
    if location.get_backend_name() == "sqlite":
        return str(location.database)
    return location.render_as_string(hide_password=True)


def is_newer(found: str) -> bool:
    """Say whether a revision is of a later version of this program, or none of its own."""
    return not found.isdigit() or int(found) > int(SCHEMA)


def refuse_unknown_schema(location: URL, found: str | None) -> None:
    """Refuse tables of which this version does not know what they hold; older ones it knows.

    Raises:
        DataError: there are none, or they are of a newer version.
    """
    if found is None:
        raise DataError(
            f"{place(location)}: the database holds no tables of a site: restore it from a backup"
        )
    if found and is_newer(found):
        raise DataError(
            f"{place(location)}: the database is of a newer version (schema {found}, this one has "
            f"{SCHEMA}): install the newer fedgtv again, or restore the backup from before it"
        )


def _refuse_another_schema(location: URL, found: str | None) -> None:
    refuse_unknown_schema(location, found)
    if found != SCHEMA:
        raise DataError(
            f"{place(location)}: the database needs an upgrade (schema {found or 'before 0001'}, "
            f"this version has {SCHEMA}): make a backup, then run 'fedgtv-site database upgrade'"
        )


def connect(location: URL, *, foreign_keys: bool = True) -> Engine:
    """Make an engine without looking at the tables; `foreign_keys` off is for migrations only.

    Raises:
        DataError: the driver is not installed.
    """
    if location.drivername == "postgresql":
        location = location.set(drivername="postgresql+psycopg")
    try:
        # What PostgreSQL cannot store as JSON is refused on SQLite too.
        engine = create_engine(location, json_serializer=partial(json.dumps, allow_nan=False))
    except ImportError as error:
        raise DataError(
            f"site.toml: key 'database_url': '{location.drivername}' needs the Python package "
            f"'{error.name}', which is not installed: install it, or leave the key out"
        ) from None
    if engine.dialect.name == "sqlite":
        pragmas = (
            f"busy_timeout={1000 * BUSY_TIMEOUT_S}",
            "journal_mode=WAL",
            f"foreign_keys={'ON' if foreign_keys else 'OFF'}",
            "secure_delete=ON",  # what is deleted is overwritten, for `erasure`
        )

        @event.listens_for(engine, "connect")
        def _prepare_sqlite(connection: Any, _record: Any) -> None:
            connection.isolation_level = None  # or the driver begins late, and never before DDL
            for pragma in pragmas:
                connection.execute(f"PRAGMA {pragma}").close()

    elif engine.dialect.name == "postgresql":

        @event.listens_for(engine, "connect")
        def _prepare_postgresql(connection: Any, _record: Any) -> None:
            connection.execute(f"SET lock_timeout = '{BUSY_TIMEOUT_S}s'").close()
            connection.commit()

    event.listen(engine, "begin", _begin)
    return engine


def _begin(connection: Connection) -> None:
    """Let one writer in at a time; readers see what was committed when they began to read."""
    writes = connection.get_execution_options().get(_WRITES, False)
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
    elif connection.dialect.name == "postgresql" and writes:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ONE_WRITER})")


@contextmanager
def answering(location: URL) -> Iterator[None]:
    """Say that a server does not answer; the driver's own words may hold the password.

    Raises:
        DataError: it does not.
    """
    try:
        yield
    except OperationalError:
        if location.get_backend_name() == "sqlite":
            raise
        raise DataError(
            f"site.toml: key 'database_url': no database answers at {place(location)}: start its "
            "server, or correct the key or the password"
        ) from None


def writing(engine: Engine) -> Engine:
    """Return `engine` such that its transactions keep other writers out from their beginning."""
    return engine.execution_options(**{_WRITES: True})


@contextmanager
def transaction(engine: Engine) -> Iterator[Session]:
    """Yield a session whose work is committed as one, or not at all.

    No other process writes meanwhile: a file written inside it has its row before anybody looks
    for files without one.
    """
    with Session(writing(engine), expire_on_commit=False) as session, session.begin():
        session.connection()  # begins now, not with the first statement
        yield session


def unreadable_row(session: Session, table: type[Base]) -> str | None:
    """Name the first row whose bytes cannot even be read, None where all can."""
    (key,) = inspect(table).primary_key
    try:
        values = list(session.scalars(select(key).order_by(key)))
    except (ValueError, DBAPIError):
        return "whose number cannot be read"
    for value in values:
        try:
            session.get(table, value)
        except (ValueError, DBAPIError):
            return str(value)
    return None


def utc_now() -> datetime:
    """Return the time now, UTC, without a zone mark, as the database stores it."""
    return datetime.now(UTC).replace(tzinfo=None)
