"""What the coordinator knows: sites, packages, deliveries, reports and what happened.

A change of state and the event that explains it are one transaction.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from sqlalchemy import (
    URL,
    BigInteger,
    Connection,
    Engine,
    create_engine,
    delete,
    inspect,
    make_url,
    select,
    update,
)
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.types import JSON

from algorithms.contracts.canonical_json import canonical_json, sha256_hex
from algorithms.contracts.errors import DataError
from algorithms.contracts.messages import SiteStatus
from algorithms.contracts.model_package import Manifest
from algorithms.contracts.site_report import SiteReport
from coordinator.config import CoordinatorConfig
from coordinator.lease_holder import is_gone
from coordinator.study_workflow import Goal, SiteEvent, SiteProgress, next_progress


class Base(DeclarativeBase):
    """Declarative base of the coordinator's tables."""

    type_annotation_map = {dict[str, Any]: JSON}  # noqa: RUF012


DELIVERY_STALLED = "delivery_stalled"  # the rule of the watchdog
SCHEMA = 1  # of the tables below: who changes one raises it, and looks at `coordinator.schema`


class SchemaRow(Base):
    """Which schema the tables are of: one row."""

    __tablename__ = "study_schema"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


class SiteRow(Base):
    """A site of the study: what it said last, and how many bytes crossed."""

    __tablename__ = "sites"

    site: Mapped[str] = mapped_column(primary_key=True)
    role: Mapped[str]  # source | target
    status: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    last_seen_at: Mapped[datetime | None]
    last_failure: Mapped[str | None]  # class name or code, never a text from the site
    bytes_to_site: Mapped[int] = mapped_column(default=0)
    bytes_from_site: Mapped[int] = mapped_column(default=0)


class PublishedRow(Base):
    """A signed package; the newest is the study's.

    Attributes:
        from_site: whose it is; "" where it is an average of several.
    """

    __tablename__ = "packages"

    package_id: Mapped[str] = mapped_column(primary_key=True)
    model_version: Mapped[str]
    from_site: Mapped[str]
    published_at: Mapped[datetime] = mapped_column(index=True)


class DeliveryRow(Base):
    """How far one site is with one package.

    Attributes:
        changed_at: when it was brought further last: its progress, or the bytes at the site.
        stalled_at: when it was noticed that it is not; None while it is.
    """

    __tablename__ = "deliveries"

    site: Mapped[str] = mapped_column(primary_key=True)
    package_id: Mapped[str] = mapped_column(primary_key=True)
    progress: Mapped[str]
    refused_by_rule: Mapped[str | None]
    changed_at: Mapped[datetime]
    stalled_at: Mapped[datetime | None] = mapped_column(default=None)


class TransferRow(Base):
    """A package on its way to one site: who sends it now, and what is known of the way.

    Attributes:
        holder: who has the lease, see `coordinator.lease_holder`; None when nobody sends.
        expires_at: the lease is over then, whatever became of its holder.
        bytes_held: how much of the package's stream the site said it has.
        part_bytes: how much is sent at a time; 0 before anything was learned of the link.
    """

    __tablename__ = "transfers"

    site: Mapped[str] = mapped_column(primary_key=True)
    package_id: Mapped[str] = mapped_column(primary_key=True)
    holder: Mapped[str | None]
    expires_at: Mapped[datetime]
    bytes_held: Mapped[int] = mapped_column(BigInteger, default=0)
    part_bytes: Mapped[int] = mapped_column(default=0)


class ReportRow(Base):
    """A site's report about one package, as it came in."""

    __tablename__ = "reports"

    site: Mapped[str] = mapped_column(primary_key=True)
    package_id: Mapped[str] = mapped_column(primary_key=True)
    report: Mapped[dict[str, Any]]
    sha256: Mapped[str]
    received_at: Mapped[datetime]


class SiteKeyRow(Base):
    """What one enrolment or renewal certified for a site; times are UTC.

    A site has a row for each certificate that it was ever given: all of them can be revoked.
    """

    __tablename__ = "site_keys"

    certificate_serial: Mapped[str] = mapped_column(primary_key=True)  # hexadecimal
    site: Mapped[str] = mapped_column(index=True)
    signing_public_key_hex: Mapped[str]  # Ed25519
    encryption_public_key_hex: Mapped[str]  # X25519
    node_public_key: Mapped[str]  # OpenSSH
    not_after: Mapped[datetime]
    request_sha256: Mapped[str] = mapped_column(unique=True)
    requested_at: Mapped[datetime]
    issued_at: Mapped[datetime]
    answer: Mapped[dict[str, Any]]
    revoked_at: Mapped[datetime | None] = mapped_column(default=None)


class BundleRow(Base):
    """A bundle written for a site, and its answer; see `bundle_records`. Times are UTC.

    Attributes:
        sha256: None while it is being written.
        answer_sha256: of the answer that was taken in; None before.
        answer_done: whether all that the answer says was acted on.
    """

    __tablename__ = "bundles"

    site: Mapped[str] = mapped_column(primary_key=True)
    sequence: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    sha256: Mapped[str | None]
    created_at: Mapped[datetime]
    answer_sha256: Mapped[str | None] = mapped_column(default=None)
    answer_done: Mapped[bool] = mapped_column(default=False)


class SignedPlanRow(Base):
    """A federation plan that the study lead signed; see `plan_records`."""

    __tablename__ = "plans"

    plan_number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    plan_sha256: Mapped[str] = mapped_column(unique=True)
    package_id: Mapped[str]
    signed: Mapped[str]  # a `SignedPlan` in JSON, as it is sent
    signed_at: Mapped[datetime]


class PlanAnswerRow(Base):
    """What one site said about one plan: its signature, or the rule that refused it."""

    __tablename__ = "plan_answers"

    site: Mapped[str] = mapped_column(primary_key=True)
    plan_sha256: Mapped[str] = mapped_column(primary_key=True)
    refused_by_rule: Mapped[str | None]
    approval: Mapped[str | None]  # a `PlanApproval` in JSON, as it came
    answered_at: Mapped[datetime]


class ModelUpdateRow(Base):
    """A site's model update for one package; its bytes are kept until they are averaged.

    Attributes:
        averaged_into: the package that it went into; the bytes are deleted then, the hash stays.
    """

    __tablename__ = "model_updates"

    site: Mapped[str] = mapped_column(primary_key=True)
    package_id: Mapped[str] = mapped_column(primary_key=True)
    offer: Mapped[dict[str, Any]] = mapped_column(JSON)  # a `ModelUpdateOffer`, as it came
    received_at: Mapped[datetime]
    averaged_into: Mapped[str | None]


class EventRow(Base):
    """Something that happened; rows are added, never changed."""

    __tablename__ = "events"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    event: Mapped[str]
    site: Mapped[str]
    detail: Mapped[dict[str, Any]]


_RUNS_NEWEST_FIRST = (
    select(EventRow).where(EventRow.event == "run_finished").order_by(EventRow.id.desc())
)


@dataclass(frozen=True)
class SiteRecord:
    """What a person is shown about one site; times are UTC.

    Attributes:
        no_progress_since: when the package on its way to it came further last; None without one.
        stalled: whether that is longer ago than the study allows; not for who is revoked or waits
            for a person with a disk.
        certificate_not_after: with its zone; None when not enrolled.
    """

    site: str
    role: str
    progress: SiteProgress | None
    status: SiteStatus | None
    last_seen_at: datetime | None
    last_failure: str | None
    refused_by_rule: str | None
    bytes_to_site: int
    bytes_from_site: int
    certificate_not_after: datetime | None
    revoked: bool
    bytes_held: int
    no_progress_since: datetime | None
    stalled: bool


class StudyStore:
    """The only writer of the study database."""

    def __init__(self, database_url: str | URL, config: CoordinatorConfig) -> None:
        self._config = config
        self._engine = _open_database(database_url)
        with self._transaction() as session:
            for site in config.sites:
                if session.get(SiteRow, site) is None:
                    role = "source" if site == config.source_site else "target"
                    session.add(SiteRow(site=site, role=role))
        package_id = self.current_package()
        if package_id is not None:
            self._add_late_deliveries(package_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def engine(self) -> Engine:
        """The study database, for the rooms beside this one."""
        return self._engine

    def close(self) -> None:
        """Give the database connections back."""
        self._engine.dispose()

    def current_package(self) -> str | None:
        """Return the id of the study's package, None before one is published."""
        newest = select(PublishedRow.package_id).order_by(PublishedRow.published_at.desc())
        with Session(self._engine) as session:
            return session.scalars(newest).first()

    def packages(self) -> list[PublishedRow]:
        """Return every package that was the study's, oldest first."""
        with Session(self._engine) as session:
            return list(session.scalars(select(PublishedRow).order_by(PublishedRow.published_at)))

    def model_version(self, package_id: str) -> str:
        """Return the model version of a published package."""
        with Session(self._engine) as session:
            return session.get_one(PublishedRow, package_id).model_version

    def add_package(self, manifest: Manifest, *, from_site: str) -> None:
        """Make a package the study's and every target site's delivery pending; idempotent.

        `from_site` is "" for an average of several.
        """
        package_id, now = manifest.package_id, _now()
        with self._transaction() as session:
            if session.get(PublishedRow, package_id) is not None:
                return
            session.add(
                PublishedRow(
                    package_id=package_id,
                    model_version=manifest.model_version,
                    from_site=from_site,
                    published_at=now,
                )
            )
            session.add_all(_pending(site, package_id, now) for site in self._config.target_sites)
            detail = {"package_id": package_id, "model_version": manifest.model_version}
            session.add(EventRow(at=now, event="package_published", site=from_site, detail=detail))

    def progress(self, package_id: str) -> dict[str, SiteProgress]:
        """Return how far each target site is with a package."""
        mine = select(DeliveryRow).where(DeliveryRow.package_id == package_id)
        with Session(self._engine) as session:
            return {row.site: SiteProgress(row.progress) for row in session.scalars(mine)}

    def apply(
        self, site: str, package_id: str, event: SiteEvent, *, rule: str | None = None
    ) -> SiteProgress:
        """Apply an event to a delivery and return the progress after it.

        Raises:
            DataError: when the package was never to be delivered to `site`.
        """
        with self._transaction() as session:
            return _apply(session, site, package_id, event, rule)

    def take_lease(
        self, site: str, package_id: str, holder: str, *, lease_s: float
    ) -> TransferRow | None:
        """Become the only one who sends a package to a site; None when somebody else does.

        A lease that is over, or whose holder is gone, is free. `keep_lease` makes it last longer.
        """
        lease = {"holder": holder, "expires_at": _now() + timedelta(seconds=lease_s)}
        with Session(self._engine) as session:
            row = session.get(TransferRow, (site, package_id))
        if row is not None and row.holder is not None and _is_valid(row.holder, row.expires_at):
            return None
        try:
            with self._transaction() as session:
                if row is None:
                    session.add(TransferRow(site=site, package_id=package_id, **lease))
                    session.flush()
                elif not self._change(session, site, package_id, row.holder, lease):
                    return None  # another process was faster
                return session.get_one(TransferRow, (site, package_id))
        except IntegrityError:  # another process was faster
            return None

    def keep_lease(
        self,
        site: str,
        package_id: str,
        holder: str,
        *,
        lease_s: float,
        bytes_held: int,
        part_bytes: int,
    ) -> bool:
        """Keep how far a site is, and the lease for longer; False when somebody else has it now.

        More bytes than before are progress, and end what `note_stalled` noticed.
        """
        values = {
            "expires_at": _now() + timedelta(seconds=lease_s),
            "bytes_held": bytes_held,
            "part_bytes": part_bytes,
        }
        with self._transaction() as session:
            before = session.get_one(TransferRow, (site, package_id)).bytes_held
            if not self._change(session, site, package_id, holder, values):
                return False
            if bytes_held > before:
                _note_progress(session, session.get_one(DeliveryRow, (site, package_id)))
        return True

    def note_stalled(self) -> list[SiteRecord]:
        """Keep which deliveries do not come further, and return those that were not noticed yet."""
        package_id, noticed = self.current_package(), []
        for record in self.sites():
            if not record.stalled:
                continue
            with self._transaction() as session:
                row = session.get_one(DeliveryRow, (record.site, package_id))
                if row.stalled_at is not None:
                    continue
                row.stalled_at = _now()
                detail = {
                    "package_id": package_id,
                    "since": row.changed_at.isoformat(),
                    "bytes_held": record.bytes_held,
                    "failure": record.last_failure,
                }
                session.add(
                    EventRow(
                        at=row.stalled_at, event=DELIVERY_STALLED, site=row.site, detail=detail
                    )
                )
            noticed.append(record)
        return noticed

    def end_lease(self, site: str, package_id: str, holder: str) -> None:
        """Give a lease back; one that somebody else has by now stays theirs."""
        with self._transaction() as session:
            self._change(session, site, package_id, holder, {"holder": None})

    @staticmethod
    def _change(
        session: Session, site: str, package_id: str, holder: str | None, values: Mapping[str, Any]
    ) -> bool:
        """Change a transfer if it is still held by `holder`, and say so."""
        mine = (
            TransferRow.site == site,
            TransferRow.package_id == package_id,
            TransferRow.holder.is_not_distinct_from(holder),
        )
        changing = update(TransferRow).where(*mine).values(**values).returning(TransferRow.site)
        return session.scalars(changing).first() is not None

    def add_report(self, report: SiteReport) -> bool:
        """Keep a site's report; return False when it is here already."""
        fields = report.model_dump(mode="json")
        with self._transaction() as session:
            if session.get(ReportRow, (report.site, report.package_id)) is not None:
                return False
            session.add(
                ReportRow(
                    site=report.site,
                    package_id=report.package_id,
                    report=fields,
                    sha256=sha256_hex(canonical_json(fields)),
                    received_at=_now(),
                )
            )
            _apply(session, report.site, report.package_id, SiteEvent.REPORT_RECEIVED, None)
        return True

    def reports(self, package_id: str) -> list[SiteReport]:
        """Return the reports about a package, in order of site."""
        mine = select(ReportRow).where(ReportRow.package_id == package_id).order_by(ReportRow.site)
        with Session(self._engine) as session:
            return [SiteReport.model_validate(row.report) for row in session.scalars(mine)]

    def record_status(self, status: SiteStatus) -> None:
        """Keep what a site said last."""
        with self._transaction() as session:
            row = session.get_one(SiteRow, status.site)
            row.status = status.model_dump(mode="json")
            row.last_seen_at, row.last_failure = _now(), None

    def record_failure(self, site: str, failure: str) -> None:
        """Keep why a site gave no usable answer: a class name or a rule."""
        with self._transaction() as session:
            row = session.get_one(SiteRow, site)
            if row.last_failure != failure:
                detail = {"failure": failure}
                session.add(EventRow(at=_now(), event="site_failed", site=site, detail=detail))
            row.last_failure = failure

    def record_traffic(self, to_sites: Mapping[str, int], from_sites: Mapping[str, int]) -> None:
        """Add the bytes that crossed."""
        with self._transaction() as session:
            for site in self._config.sites:
                row = session.get_one(SiteRow, site)
                row.bytes_to_site += to_sites.get(site, 0)
                row.bytes_from_site += from_sites.get(site, 0)

    def record_run(self, tick_id: str, goal: Goal, *, reached: bool) -> None:
        """Keep that a run ended in good order; its starter looks for `tick_id`.

        Unlike what happened to a site, a run is forgotten after a day: there are thousands.
        """
        detail = {"tick_id": tick_id, "until": goal.value, "reached": reached}
        old = (EventRow.event == "run_finished", EventRow.at < _now() - timedelta(days=1))
        with self._transaction() as session:
            session.execute(delete(EventRow).where(*old))
            session.add(EventRow(at=_now(), event="run_finished", site="", detail=detail))

    def run_finished(self, tick_id: str) -> bool:
        """Say whether the run with this id, one of the last hundred, ended in good order."""
        with Session(self._engine) as session:
            ends = session.scalars(_RUNS_NEWEST_FIRST.limit(100))
            return any(row.detail["tick_id"] == tick_id for row in ends)

    def last_run_at(self) -> datetime | None:
        """Return when a run ended last in good order, UTC; None when none did."""
        with Session(self._engine) as session:
            last = session.scalars(_RUNS_NEWEST_FIRST.limit(1)).first()
        return None if last is None else last.at

    def site_key(self, site: str) -> SiteKeyRow | None:
        """Return the newest keys of a site that are not revoked; None when there are none."""
        valid = [row for row in self.site_keys() if row.site == site and row.revoked_at is None]
        return valid[-1] if valid else None

    def site_keys(self) -> list[SiteKeyRow]:
        """Return everything that was ever certified, oldest first."""
        ordered = select(SiteKeyRow).order_by(SiteKeyRow.issued_at, SiteKeyRow.requested_at)
        with Session(self._engine) as session:
            return list(session.scalars(ordered))

    def revoked_sites(self) -> frozenset[str]:
        """Return the sites that were enrolled and are not any more."""
        rows = self.site_keys()
        valid = {row.site for row in rows if row.revoked_at is None}
        return frozenset(row.site for row in rows) - valid

    def add_site_key(self, row: SiteKeyRow, *, replaces: bool) -> None:
        """Keep what was certified for a site; revoke what was before where it `replaces` that."""
        site, detail = row.site, {"certificate_serial": row.certificate_serial}
        event = "site_enrolled" if replaces else "site_renewed"
        with self._transaction() as session:
            if replaces:
                _revoke(session, site, row.issued_at)
            session.add(EventRow(at=row.issued_at, event=event, site=site, detail=detail))
            session.add(row)

    def revoke_site(self, site: str, now: datetime) -> int:
        """Revoke all that was certified for a site; return how many certificates that were."""
        with self._transaction() as session:
            return _revoke(session, site, now)

    def sites(self) -> list[SiteRecord]:
        """Return what is known about every site, the source first."""
        package_id, revoked = self.current_package(), self.revoked_sites()
        late = _now() - timedelta(seconds=self._config.delivery_stalled_after_s)
        watched = set(self._config.connected_sites) - revoked
        with Session(self._engine) as session:
            return [
                _record(
                    session.get_one(SiteRow, site),
                    session.get(DeliveryRow, (site, package_id)) if package_id else None,
                    session.get(TransferRow, (site, package_id)) if package_id else None,
                    self.site_key(site),
                    revoked=site in revoked,
                    stalled_before=late if site in watched else None,
                )
                for site in self._config.sites
            ]

    def events(self) -> list[EventRow]:
        """Return what happened, oldest first."""
        with Session(self._engine) as session:
            return list(session.scalars(select(EventRow).order_by(EventRow.id)))

    def _add_late_deliveries(self, package_id: str) -> None:
        """Add what is due to sites that the configuration named after the package was published."""
        with self._transaction() as session:
            for site in self._config.target_sites:
                if session.get(DeliveryRow, (site, package_id)) is None:
                    now, detail = _now(), {"package_id": package_id}
                    session.add(_pending(site, package_id, now))
                    session.add(EventRow(at=now, event="delivery_added", site=site, detail=detail))

    @contextmanager
    def _transaction(self) -> Iterator[Session]:
        with Session(self._engine, expire_on_commit=False) as session, session.begin():
            yield session


def _is_valid(holder: str, expires_at: datetime) -> bool:
    return expires_at > _now() and not is_gone(holder)


def _pending(site: str, package_id: str, now: datetime) -> DeliveryRow:
    return DeliveryRow(
        site=site,
        package_id=package_id,
        progress=SiteProgress.PENDING.value,
        refused_by_rule=None,
        changed_at=now,
    )


def _revoke(session: Session, site: str, now: datetime) -> int:
    mine = select(SiteKeyRow).where(SiteKeyRow.site == site, SiteKeyRow.revoked_at.is_(None))
    rows = list(session.scalars(mine))
    for row in rows:
        row.revoked_at = now
        detail = {"certificate_serial": row.certificate_serial}
        session.add(EventRow(at=now, event="certificate_revoked", site=site, detail=detail))
    return len(rows)


def _apply(
    session: Session, site: str, package_id: str, event: SiteEvent, rule: str | None
) -> SiteProgress:
    row = session.get(DeliveryRow, (site, package_id))
    if row is None:
        raise DataError(f"site {site}: no package is on its way to it: see 'status'")
    before = SiteProgress(row.progress)
    after = next_progress(before, event)
    if after is not before:
        row.progress, row.refused_by_rule = after.value, rule
        _note_progress(session, row)
        detail = {"package_id": package_id, "progress": after.value, "rule": rule}
        session.add(EventRow(at=row.changed_at, event=event.value, site=site, detail=detail))
    return after


def _note_progress(session: Session, row: DeliveryRow) -> None:
    row.changed_at = _now()
    if row.stalled_at is not None:
        row.stalled_at, detail = None, {"package_id": row.package_id}
        session.add(
            EventRow(at=row.changed_at, event="delivery_goes_on", site=row.site, detail=detail)
        )


def _record(
    row: SiteRow,
    delivery: DeliveryRow | None,
    transfer: TransferRow | None,
    key: SiteKeyRow | None,
    *,
    revoked: bool,
    stalled_before: datetime | None,
) -> SiteRecord:
    under_way = delivery is not None and delivery.progress == SiteProgress.PENDING.value
    since = delivery.changed_at if delivery is not None and under_way else None
    return SiteRecord(
        site=row.site,
        role=row.role,
        progress=SiteProgress(delivery.progress) if delivery is not None else None,
        status=SiteStatus.model_validate(row.status) if row.status is not None else None,
        last_seen_at=row.last_seen_at,
        last_failure=row.last_failure,
        refused_by_rule=delivery.refused_by_rule if delivery is not None else None,
        bytes_to_site=row.bytes_to_site,
        bytes_from_site=row.bytes_from_site,
        certificate_not_after=key.not_after.replace(tzinfo=UTC) if key is not None else None,
        revoked=revoked,
        bytes_held=transfer.bytes_held if transfer is not None else 0,
        no_progress_since=since,
        stalled=bool(since and stalled_before and since < stalled_before),
    )


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def create_database(url: str | URL) -> None:
    """Make the tables, when a home is made and at no other time.

    An empty database in place of a lost one would pass for a study in which nothing happened yet.
    Tables that are there already stay as they are.
    """
    from coordinator.schema import create

    create(make_url(url))


def _open_database(url: str | URL) -> Engine:
    location = make_url(url)
    refuse_missing(location)
    engine = connect(location)
    try:
        with engine.connect() as connection:
            found = schema_of(connection)
        refuse_unknown_schema(location, found)
        if found != SCHEMA:
            raise DataError(
                f"{place(location)}: the study's database needs an upgrade (schema {found}, this "
                f"version has {SCHEMA}): make a backup, then run 'fedgtv-coordinator database "
                "upgrade'"
            )
    except BaseException:
        engine.dispose()
        raise
    return engine


def schema_of(connection: Connection) -> int | None:
    """Return the schema of the tables: 0 before it was kept, None without tables of a study."""
    tables = inspect(connection).get_table_names()
    if SchemaRow.__tablename__ in tables:
        found = connection.execute(select(SchemaRow.number)).scalar()
        if found is not None:
            return found
    return 0 if SiteRow.__tablename__ in tables else None


def refuse_missing(location: URL) -> None:
    """Refuse a database whose file is not there.

    Raises:
        DataError: it is not.
    """
    if location.get_backend_name() == "sqlite" and not Path(location.database or "").is_file():
        raise DataError(
            f"{location.database}: the study's database is missing: restore it from a backup"
        )


def refuse_unknown_schema(location: URL, found: int | None) -> None:
    """Refuse tables of which this version does not know what they hold; older ones it knows.

    Raises:
        DataError: there are none, or they are of a newer version.
    """
    if found is None:
        raise DataError(
            f"{place(location)}: the database holds no tables of a study: restore it from a backup"
        )
    if found > SCHEMA:
        raise DataError(
            f"{place(location)}: the study's database is of a newer version (schema {found}, this "
            f"one has {SCHEMA}): install the newer fedgtv again; with it 'fedgtv-coordinator "
            "database rollback' goes back"
        )


def place(location: URL) -> str:
    """Name a database to a person; without its password."""
    if location.get_backend_name() == "sqlite":
        return str(location.database)
    return location.render_as_string(hide_password=True)


def connect(location: URL) -> Engine:
    """Make an engine without looking at the tables."""
    engine = create_engine(location)
    if engine.dialect.name == "sqlite":

        @sqlalchemy_event.listens_for(engine, "connect")
        def _pragmas(connection: Any, _record: Any) -> None:
            cursor = connection.cursor()
            for pragma in ("journal_mode=WAL", "foreign_keys=ON", "busy_timeout=30000"):
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()

    return engine
