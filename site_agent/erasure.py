"""Take a patient out of a site for good: the only file that removes cases.

Everything that points at a case through foreign keys goes with it, whatever tables are added. First
the rows go, in one transaction with an audit entry for each case, then the files that no row names
any more: a kill leaves at worst unnamed files, which the next run removes. Then the database is
written anew, so that nothing can be read from its free pages.

What stays, and why, is in docs/adr, "Erasure and retention".
"""

import shutil
import sqlite3
from collections.abc import Iterable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import Column, ColumnElement, Engine, delete, false, func, or_, select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.sql.schema import Table

from algorithms.contracts.case import Split
from algorithms.contracts.errors import DataError
from algorithms.contracts.messages import RoundState
from site_agent import audit_log
from site_agent.case_store import CaseStore, case_set_sha256
from site_agent.config import SiteHome
from site_agent.database import Base, CaseRow, PackageRow, RoundRow, transaction, utc_now
from site_agent.site_lock import only_eraser, only_fetch, spool_alone

CASES = CaseRow.__table__
_KEY = "pseudonym.key"
_LEARNING = (
    RoundState.RECEIVED,
    RoundState.AWAITING_ANNOTATION,
    RoundState.TRAINING,
    RoundState.FAILED,
)

_HELD_ON_POSTGRESQL = ("55P03", "40P01")  # a lock was not to be had, or two waited for each other


@dataclass
class Erased:
    """What was removed, as counts.

    Attributes:
        patients: how many.
        rows: by table.
        files: images and masks.
        spooled: images that waited to be taken in.
        copies: of the database, from before its upgrades.
        complete: the database was written anew; if not, somebody was reading it.
    """

    patients: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    files: int = 0
    spooled: int = 0
    copies: int = 0
    complete: bool = True


def find_patient(home: SiteHome, store: CaseStore, identifier: str) -> str | None:
    """Return the pseudonym of a patient by pseudonym or original id; None if there is no such.

    A patient of whom only images wait to be taken in is found too.

    Raises:
        SiteBusyError: it has to look through images that are being fetched.
        DataError: the key to pseudonyms is missing.
    """
    named = identifier.strip()
    if not named or _is_held(store, named):
        return named or None
    of_original = _pseudonym(home, named)
    if _is_held(store, of_original):
        return of_original
    with only_fetch(home), spool_alone(home):
        return next((one for one in (named, of_original) if _spooled(home, one)), None)


def _is_held(store: CaseStore, patient: str) -> bool:
    with Session(store.engine) as session:
        known = select(CaseRow.case_id).where(CaseRow.patient_id == patient).limit(1)
        return session.scalars(known).first() is not None


def count_rows(store: CaseStore, patients: Iterable[str]) -> dict[str, int]:
    """Return how many rows there are of these patients, by table."""
    chosen = list(patients)
    with Session(store.engine) as session:
        counts = {
            table.name: session.scalar(
                select(func.count()).select_from(table).where(_of_patients(table, chosen))
            )
            for table in Base.metadata.sorted_tables
        }
    return {name: count for name, count in counts.items() if count}


def erase(home: SiteHome, store: CaseStore, patients: Iterable[str], *, actor: str) -> Erased:
    """Remove everything of these patients, given by pseudonym.

    Raises:
        DataError: a worker or a fetch runs, a backup is being made, or images wait and the key that
            tells whose they are is missing.
    """
    erased = Erased()
    with only_eraser(home):
        for patient in patients:
            erased.spooled += _erase_spooled(home, patient)  # or they would be taken in again
            for name, count in _erase_rows(home, store.engine, patient, actor).items():
                erased.rows[name] = erased.rows.get(name, 0) + count
            erased.patients += 1
        _finish(home, store.engine, erased)
    return erased


def sweep(home: SiteHome, store: CaseStore) -> Erased:
    """Finish what a killed erasure or intake left: unnamed files, free pages of the database.

    Raises:
        DataError: a worker runs or a backup is being made.
    """
    erased = Erased()
    with only_eraser(home):
        _finish(home, store.engine, erased)
    return erased


def outdated_patients(store: CaseStore, *, older_than_days: int, now: datetime) -> list[str]:
    """Return the patients whose every case came in before, and whom no round under way needs.

    A round under way is one of a package in use, or not yet approved, that is not reported. All of
    its study's patients stay, and whoever has something stored about it.

    Args:
        store: of the site.
        older_than_days: at least so long ago.
        now: UTC.
    """
    before = now - timedelta(days=older_than_days)
    newest = func.max(CaseRow.ingested_at)
    statement = (
        select(CaseRow.patient_id)
        .group_by(CaseRow.patient_id)
        .having(newest < before)
        .order_by(CaseRow.patient_id)
    )
    with Session(store.engine) as session:
        return [p for p in session.scalars(statement) if p not in _needed_patients(session)]


def _needed_patients(session: Session) -> set[str]:
    under_way = list(
        session.scalars(
            select(RoundRow.round_id)
            .join(PackageRow, PackageRow.package_id == RoundRow.package_id)
            .where(RoundRow.state != RoundState.REPORTED.value, PackageRow.state != "retired")
        )
    )
    if not under_way:
        return set()
    needed: ColumnElement[bool] = CaseRow.split != Split.UNASSIGNED.value
    for table in Base.metadata.sorted_tables:
        if {"case_id", "round_id"} <= set(table.columns.keys()):
            inside = select(table.c.case_id).where(table.c.round_id.in_(under_way))
            needed = or_(needed, CaseRow.case_id.in_(inside))
    return set(session.scalars(select(CaseRow.patient_id).where(needed)))


# -- rows ---------------------------------------------------------------------------------------


def _of_patients(table: Table, patients: list[str]) -> ColumnElement[bool]:
    """Say which rows of a table are about these patients: cases, and what points at them."""
    if table is CASES:
        return CaseRow.patient_id.in_(patients)
    conditions: list[ColumnElement[bool]] = []
    for key in table.foreign_keys:
        target: Column[object] = key.column
        if target.table is not table and _leads_to_cases(target.table):
            about = select(target).where(_of_patients(target.table, patients))
            conditions.append(key.parent.in_(about))
    return or_(false(), *conditions)


def _leads_to_cases(table: Table) -> bool:
    others = {key.column.table for key in table.foreign_keys if key.column.table is not table}
    return table is CASES or any(_leads_to_cases(other) for other in others)


def _erase_rows(home: SiteHome, engine: Engine, patient: str, actor: str) -> dict[str, int]:
    removed: dict[str, int] = {}
    with transaction(engine) as session:
        rows = list(session.scalars(select(CaseRow).where(CaseRow.patient_id == patient)))
        case_ids = sorted(row.case_id for row in rows)
        before = case_set_sha256(session)
        learnt_from = {Split.TRAINING.value, Split.VALIDATION.value}
        if learnt_from & {row.split for row in rows}:
            _forget_training(home, session, before)
        session.expunge_all()
        for table in reversed(Base.metadata.sorted_tables):
            gone = session.execute(delete(table).where(_of_patients(table, [patient])))
            if count := gone.rowcount:  # type: ignore[attr-defined]
                removed[table.name] = count
        # The same rounds go on, or stay reported, without the patient.
        session.execute(
            update(RoundRow)
            .where(RoundRow.case_set_sha256 == before)
            .values(case_set_sha256=case_set_sha256(session))
        )
        for case_id in case_ids:
            audit_log.append(
                session, actor=actor, event="case_erased", subject=case_id, detail={}, at=utc_now()
            )
    return removed


def _forget_training(home: SiteHome, session: Session, case_set: str) -> None:
    """Remove the weights of rounds that are still learning: they begin to learn again without."""
    learning = select(RoundRow.round_id).where(
        RoundRow.case_set_sha256 == case_set, RoundRow.state.in_([s.value for s in _LEARNING])
    )
    for round_id in session.scalars(learning):
        shutil.rmtree(home.rounds / round_id, ignore_errors=True)


# -- files and pages ------------------------------------------------------------------------------


def _finish(home: SiteHome, engine: Engine, erased: Erased) -> None:
    erased.files += _remove_unnamed_files(home, engine)
    for copy in home.database_copies.glob("*"):
        copy.unlink()
        erased.copies += 1
    erased.complete = _write_anew(engine)


def _remove_unnamed_files(home: SiteHome, engine: Engine) -> int:
    """Remove the folders of cases that are gone, and masks that no row names; return how many.

    Within a transaction: whoever writes a file and then its row is kept out meanwhile.
    """
    removed = 0
    with transaction(engine) as session:
        named = {
            home.folder / file
            for table in Base.metadata.sorted_tables
            for column in table.columns
            if column.name.endswith("file")
            for file in session.scalars(select(column).where(column.is_not(None)))
        }
        cases = set(session.scalars(select(CaseRow.case_id)))
        for folder in home.cases.glob("*"):
            files = [file for file in folder.rglob("*") if file.is_file()]
            if folder.name in cases:
                masks = (file for file in files if file.match("mask-*.npy") and file not in named)
                unnamed = [*masks, *(file for file in files if file.suffix == ".part")]
                for file in unnamed:
                    file.unlink()
                removed += len(unnamed)
            else:
                shutil.rmtree(folder)
                removed += len(files)
    return removed


def _write_anew(engine: Engine) -> bool:
    """Rewrite the database without its free pages; False when others were busy with it."""
    try:
        if engine.dialect.name == "sqlite":
            return _write_sqlite_anew(engine)
        alone = engine.execution_options(isolation_level="AUTOCOMMIT")
        with alone.connect() as connection:
            for table in Base.metadata.sorted_tables:
                connection.exec_driver_sql(f"VACUUM (FULL) {table.name}")
    except OperationalError as error:
        if not _in_the_way(error.orig):
            raise
        return False
    return True


def _in_the_way(error: BaseException | None) -> bool:
    """Say whether others held the database; a full disk is no such thing."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    held = getattr(error, "sqlstate", "") in _HELD_ON_POSTGRESQL
    return held or code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _write_sqlite_anew(engine: Engine) -> bool:
    with closing(engine.raw_connection()) as connection:
        cursor = connection.cursor()
        try:
            cursor.execute("VACUUM")
            # The log still holds pages from before: it is emptied into the file and cut off.
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            row = cursor.fetchone()
        except sqlite3.OperationalError as error:
            if not _in_the_way(error):
                raise
            return False
        finally:
            cursor.close()
    return row is not None and row[0] == 0  # the first figure: somebody was in the way


# -- images that wait ---------------------------------------------------------------------------


def _erase_spooled(home: SiteHome, patient: str) -> int:
    """Remove the images of a patient that wait to be taken in; return how many.

    A listener moves what waits to and fro while the site is busy, and goes on receiving: it is kept
    from the one, and because of the other this looks until nothing is found.
    """
    removed = 0
    with spool_alone(home):
        while found := _spooled(home, patient):
            for file in found:
                with suppress(FileNotFoundError):  # a file cut off, which got its name meanwhile
                    file.unlink()
                    removed += 1
    return removed


def _spooled(home: SiteHome, patient: str) -> list[Path]:
    """List the images of a patient that wait to be taken in; others' are not touched.

    Raises:
        DataError: something waits, and without the key nobody can say whose it is.
    """
    from pydicom import dcmread

    from site_agent.deidentification import pseudonym

    waiting = [file for file in sorted(home.spool.rglob("*")) if _may_be_image(file)]
    if not waiting:
        return []
    if not home.has_secret(_KEY):
        raise DataError(
            f"{len(waiting)} files wait in {home.spool}, and without secrets/{_KEY} nobody can say "
            "whose they are: restore the key from a backup, or empty that folder first"
        )
    key = home.secret(_KEY)
    found = []
    for file in waiting:
        with suppress(Exception):  # half a file, or none of DICOM: of nobody we know
            header = dcmread(file, stop_before_pixels=True, specific_tags=["PatientID"], force=True)
            if pseudonym(str(header.PatientID), key) == patient:
                found.append(file)
    return found


def _may_be_image(file: Path) -> bool:
    """Say whether it is a file that is no empty marker and no note beside a refused series."""
    with suppress(FileNotFoundError):
        return file.is_file() and file.stat().st_size > 0 and not file.match("refused/case-*.txt")
    return False


def _pseudonym(home: SiteHome, identifier: str) -> str:
    from site_agent.deidentification import pseudonym

    return pseudonym(identifier, home.secret(_KEY))


def unknown_patient() -> DataError:
    """Say that nobody is known so, without repeating what may be somebody's id."""
    return DataError(
        "no patient is known here by this pseudonym or id: see 'fedgtv-site cases'; what a killed "
        "erasure left is removed by 'fedgtv-site database compact'"
    )
