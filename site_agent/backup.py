"""One archive of a site, made while it works; `supervision.archive` has its form.

In it are configuration, cases, packages, models, rounds and ledger, and secrets and keys if asked
for. Only an erasure removes a file that a row names, and it waits for a backup. Of the ledger only
what the snapshot names is taken, or the copies would be more than the entries.
"""

import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from sqlalchemy import URL, create_engine, make_url, select
from sqlalchemy.orm import Session

from algorithms.contracts.configuration import has_password_in_query
from algorithms.contracts.errors import DataError
from site_agent.config import CONFIG_FILE, SiteHome
from site_agent.database import LedgerRow, answering, connect, refuse_unknown_schema, schema_of
from site_agent.egress import named_copies
from site_agent.postgresql_tools import dump
from site_agent.schema import read_schema
from site_agent.site_lock import nothing_erased
from supervision import archive
from supervision.archive import DATABASE, FILES, ArchivedFile, ArchiveManifest
from supervision.sqlite_copy import copy_sqlite

CROSSWALK_KEY = "secrets/crosswalk.key"
# Made anew, not a site's own, or holding what no backup may: who waits is not pseudonymous yet.
_LEFT_OUT = ("database-copies", "spool", "progress.json", "logs", "run", "flower")
_SECRET = ("secrets", "keys")
_COMES_AND_GOES = ("rounds", "source-training")  # checkpoints; the steps do without them


class BackupManifest(ArchiveManifest):
    """What an archive of a site is.

    Attributes:
        site: whose it is.
    """

    site: str

    @property
    def has_secrets(self) -> bool:
        """Say whether contours can be returned to the PACS with what is in the archive."""
        return f"{FILES}/{CROSSWALK_KEY}" in self.files


@dataclass(frozen=True)
class _Snapshot:
    """A database at one moment: its copy, its tables' revision and what it says had left."""

    file: Path
    db_schema: str
    ledger: list[LedgerRow]


def backup(home: SiteHome, target: Path, *, with_secrets: bool, now: datetime) -> BackupManifest:
    """Write a site into one archive that only its owner may read; a worker may go on meanwhile.

    Args:
        home: of the site.
        target: file to write; it appears when it is whole.
        with_secrets: take the keys along; whoever has the archive then knows every patient.
        now: UTC.

    Raises:
        DataError: the target exists or lies in the home, the database is damaged or of a newer
            version, an erasure is under way, a file that is named is missing, or the configuration
            holds a password that was not asked for.
    """
    if not with_secrets:
        _refuse_a_password(home)
    with archive.new_archive(target, home.folder) as folder:
        part = folder / "archive"
        with nothing_erased(home), _snapshot(home, folder / DATABASE) as snapshot:
            return _write_archive(home, part, snapshot, with_secrets=with_secrets, now=now)


def unpack(file: Path, folder: Path) -> BackupManifest:
    """Write the files of a site's archive below `folder`, each compared with its hash.

    Raises:
        DataError: naming the first file that is damaged, missing or not the archive's own.
    """
    return archive.unpack(file, folder, BackupManifest, config_file=CONFIG_FILE)


def _refuse_a_password(home: SiteHome) -> None:
    """The configuration is in every archive; a password in it is a secret like the keys."""
    file = home.folder / CONFIG_FILE
    url = str(tomllib.loads(file.read_text("utf-8")).get("database_url", ""))
    # The environment may give another one, so that nobody has looked at this.
    if url and (make_url(url).password or has_password_in_query(url)):
        raise DataError(
            f"{file}: key 'database_url': holds a password, which would be in the archive: give "
            "the key as FEDGTV_SITE_DATABASE_URL or the password in ~/.pgpass, or back up with "
            "--with-secrets"
        )


@contextmanager
def _snapshot(home: SiteHome, copy: Path) -> Iterator[_Snapshot]:
    location = home.database_url
    # An older one is taken as it is: a backup comes before an upgrade. Ledgers are alike so far.
    refuse_unknown_schema(location, read_schema(location))
    if location.get_backend_name() == "sqlite":
        copy_sqlite(Path(location.database or ""), copy)
        engine = create_engine(URL.create("sqlite", database=str(copy)))
        with engine.connect() as connection:
            yield _read_snapshot(Session(connection), copy)
        engine.dispose()
        return
    engine = connect(location)
    copy.touch(0o600)
    repeatable = engine.execution_options(isolation_level="REPEATABLE READ")
    with answering(location), repeatable.connect() as connection:
        name = str(connection.exec_driver_sql("SELECT pg_export_snapshot()").scalar_one())
        dump(location, copy, snapshot=name)
        snapshot = _read_snapshot(Session(connection), copy)
    engine.dispose()
    yield snapshot


def _read_snapshot(session: Session, copy: Path) -> _Snapshot:
    with session:
        ledger = list(session.scalars(select(LedgerRow).order_by(LedgerRow.sequence)))
        session.expunge_all()
        return _Snapshot(copy, schema_of(session.connection()) or "", ledger)


def _write_archive(
    home: SiteHome, part: Path, snapshot: _Snapshot, *, with_secrets: bool, now: datetime
) -> BackupManifest:
    def describe(files: Mapping[str, ArchivedFile]) -> BackupManifest:
        return BackupManifest(
            fedgtv=version("fedgtv"),
            made_at=f"{now.isoformat(timespec='seconds')}Z",
            site=home.config.name,
            database="sqlite" if _is_sqlite(home) else "postgresql",
            db_schema=snapshot.db_schema,
            files=dict(files),
        )

    published = _identity(home.source_package)
    manifest = archive.write_archive(
        part,
        snapshot.file,
        home.folder,
        _files(home, named_copies(home, snapshot.ledger), with_secrets),
        describe,
        come_and_go=_COMES_AND_GOES,
    )
    if _identity(home.source_package) != published:
        raise DataError("a source package was made while the backup was: run it again")
    return manifest


def _is_sqlite(home: SiteHome) -> bool:
    return home.database_url.get_backend_name() == "sqlite"


def _identity(folder: Path) -> int | None:
    """Return what tells a folder from another one that took its place."""
    return folder.stat().st_ino if folder.exists() else None


def _files(home: SiteHome, ledger: frozenset[Path], with_secrets: bool) -> Iterator[Path]:
    """Yield what belongs into an archive: the ledger's copies, and all else of the home.

    Raises:
        DataError: a copy that the ledger names is missing.
    """
    for file in sorted(ledger):
        if not file.is_file():
            raise DataError(
                f"{file}: missing, but the ledger names it: see 'fedgtv-site ledger verify'"
            )
        yield file
    left_out = {*_LEFT_OUT, *(() if with_secrets else _SECRET), home.ledger.name}
    yield from archive.home_files(
        home.folder, left_out=left_out, database=home.database_url.database
    )
